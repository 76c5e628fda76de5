"""The gate: whether a data set may be published, by its scores on held-out targets.

A gate without conditions decides nothing: the set is complete, neither published nor quarantined.
Too few held-out targets are an outcome of their own, never a pass; so are tests that could not
have failed.
"""

from dataclasses import dataclass
from typing import Literal, final

from ood_core.config.gate import GateSpec
from ood_core.evaluation.results import EvaluationResult

COPIES = (
    "pixels"  # where `copies_p` looks; in scattering moments steering draws maps near to others
)

Outcome = Literal["complete", "published", "quarantined", "undecided"]


@final
@dataclass(frozen=True, slots=True)
class Decision:
    """Outcome of the gate, with one line per condition."""

    outcome: Outcome
    reasons: tuple[str, ...]


def decide(gate: GateSpec, result: EvaluationResult, held_out: int) -> Decision:
    """Check the conditions of a gate on a result; `held_out` counts the held-out targets."""
    limits = {
        "spectrum_error": (gate.spectrum_error, "at most"),
        "c2st": (gate.c2st, "at most"),
        "nearest_ratio": (gate.nearest_ratio, "at least"),
        "unsteered_p": (gate.unsteered_p, "at least"),
        "copies_p": (gate.copies_p, "at least"),
    }
    conditions = {name: rule for name, rule in limits.items() if rule[0] is not None}
    if not conditions:
        return Decision("complete", ("the gate has no conditions, so nothing is published",))
    if held_out < gate.min_held_out:
        few = f"{held_out} held-out targets; the gate needs {gate.min_held_out} to decide"
        return Decision("undecided", (few,))
    attainable = result.tests.attainable_p
    if gate.unsteered_p is not None and attainable >= gate.unsteered_p:
        few = f"so few maps give p {attainable:.2g} or more; the gate asks for {gate.unsteered_p:g}"
        return Decision("undecided", (few,))
    copies = [check.p_value for check in result.memorization if check.space == COPIES]
    if gate.copies_p is not None and not copies:
        return Decision("undecided", ("the scores hold no check for copies in pixels",))
    values = {name: score.value for name, score in result.scores.items()}
    values |= {"unsteered_p": result.tests.min_p, "copies_p": min(copies, default=1.0)}
    reasons, passed = [], True
    for name, (limit, word) in conditions.items():
        assert limit is not None, "filtered above"
        value = values[name]
        good = value <= limit if word == "at most" else value >= limit
        passed &= good
        reasons.append(
            f"{name} is {value:.3g}, asked {word} {limit:g}: {'met' if good else 'not met'}"
        )
    return Decision("published" if passed else "quarantined", tuple(reasons))
