"""The gate: whether a data set may be published, by its scores on held-out targets.

A gate that asks nothing decides nothing: the set is complete, neither published nor quarantined.
Too few held-out targets are an outcome of their own, never a pass; so are tests that could not
have failed.
"""

from dataclasses import dataclass
from typing import Literal, final

from ood_core.config.gate import GateSpec
from ood_core.evaluation.results import ValidationReport

COPIES = "shifted"  # the level that `copies_p` is about; steering draws others near on purpose

Outcome = Literal["complete", "published", "quarantined", "undecided"]


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcome, with one line per condition that was asked."""

    outcome: Outcome
    reasons: tuple[str, ...]


def decide(gate: GateSpec, report: ValidationReport, held_out: int) -> Verdict:
    """Hold a report against a gate."""
    limits = {
        "spectrum_error": (gate.spectrum_error, "at most"),
        "c2st": (gate.c2st, "at most"),
        "nearest_ratio": (gate.nearest_ratio, "at least"),
        "unsteered_p": (gate.unsteered_p, "at least"),
        "copies_p": (gate.copies_p, "at least"),
    }
    asked = {name: rule for name, rule in limits.items() if rule[0] is not None}
    if not asked:
        return Verdict("complete", ("the gate asks for nothing, so nothing is published",))
    if held_out < gate.min_held_out:
        few = f"{held_out} held-out targets; the gate needs {gate.min_held_out} to decide"
        return Verdict("undecided", (few,))
    least = report.judgement.least_p
    if gate.unsteered_p is not None and least >= gate.unsteered_p:
        few = f"so few maps give p {least:.2g} or more; the gate asks for p {gate.unsteered_p:g}"
        return Verdict("undecided", (few,))
    copies = [check.p_value for check in report.copying if check.level == COPIES]
    if gate.copies_p is not None and not copies:
        return Verdict("undecided", ("nobody looked for copies in pixels",))
    values = {score.name: score.value for score in report.scores}
    values |= {"unsteered_p": report.judgement.smallest_p, "copies_p": min(copies, default=1.0)}
    reasons, passed = [], True
    for name, (limit, word) in asked.items():
        assert limit is not None, "filtered above"
        value = values[name]
        good = value <= limit if word == "at most" else value >= limit
        passed &= good
        reasons.append(
            f"{name} is {value:.3g}, asked {word} {limit:g}: {'met' if good else 'not met'}"
        )
    return Verdict("published" if passed else "quarantined", tuple(reasons))
