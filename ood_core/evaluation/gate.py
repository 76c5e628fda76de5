"""The gate: whether a data set may be published, by its scores on held-out targets.

Copies come first: samples that are copies of targets are left out of the set, and a set of which
too many are is quarantined; so is one of which too many repeat others, unless held-out maps do.
A set that meets all conditions, but whose copies could not have been seen, is undecided. A gate
that asks nothing of quality publishes nothing: the set is complete. Too few held-out targets are
an outcome of their own, never a pass; so are tests that could not have failed.
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
    quality = {
        "spectrum_error": (gate.spectrum_error, "at most"),
        "pixel_wasserstein": (gate.pixel_wasserstein, "at most"),
        "c2st": (gate.c2st, "at most"),
        "nearest_ratio": (gate.nearest_ratio, "at least"),
        "unsteered_p": (gate.unsteered_p, "at least"),
    }
    asked = {name: (limit, word) for name, (limit, word) in quality.items() if limit is not None}
    rates = [check.p_value for check in result.memorization if check.space == COPIES]
    values = {name: score.value for name, score in result.scores.items()}
    values |= {"unsteered_p": result.tests.min_p, "copies_p": min(rates, default=1.0)}
    values |= {"copies": float(result.near_copies)}
    most = max(1, int(gate.copies * result.count)) if gate.copies else 0
    limits = {"copies": (float(most), "at most"), "copies_p": (gate.copies_p, "at least")}
    repeats = 0 if result.copies.real_repeats else result.copies.repeats
    if repeats:
        values["repeats"], limits["repeats"] = float(repeats), (float(most), "at most")
    lines = {name: _line(name, values[name], *rule) for name, rule in {**asked, **limits}.items()}
    copied = tuple(reason for name, (good, reason) in lines.items() if name in limits and not good)
    left_out = (f"left out: {_named(result)}",) if result.near_copies else ()
    # a copy is one, however few maps there are to compare
    if max(result.near_copies, repeats) > most:
        return Decision("quarantined", (*copied, *left_out))
    if not asked and not copied:
        nothing = "the gate asks nothing of quality, so nothing is published"
        return Decision("complete", (nothing, *left_out))
    if unable := _unable(gate, result, held_out):
        return Decision("undecided", (unable, *left_out))
    reasons = tuple(reason for _, reason in lines.values())
    if not all(good for good, _ in lines.values()):
        return Decision("quarantined", (*reasons, *left_out))
    if unseen := _unseen(gate, result, bool(rates)):
        return Decision("undecided", (unseen, *left_out))
    power = (*_partly(gate, result), *_waived(gate, result))
    return Decision("published", (*reasons, *power, *left_out))


def _unable(gate: GateSpec, result: EvaluationResult, held_out: int) -> str | None:
    """Say why no decision can be made; None where it can."""
    if held_out < gate.min_held_out:
        return f"{held_out} held-out targets; the gate needs {gate.min_held_out} to decide"
    tests = result.tests
    if tests.block > 1 and tests.effective < gate.min_held_out:
        return (
            "held-out targets that are neighbours are alike: all are worth "
            f"{tests.effective:.0f} independent ones; the gate needs {gate.min_held_out} to decide"
        )
    attainable = tests.attainable_p
    if gate.unsteered_p is not None and attainable >= gate.unsteered_p:
        return (
            f"so few maps give p {attainable:.2g} or more; the gate asks for {gate.unsteered_p:g}"
        )
    return None


def _unseen(gate: GateSpec, result: EvaluationResult, rates: bool) -> str | None:
    """Say which kinds of copies the search would miss; None if none that the gate asks for."""
    power = {kind: result.copies.power.get(kind) for kind in gate.copy_kinds}
    if not rates or None in power.values():
        return "the scores hold no search for copies of the kinds that the gate asks for"
    weak = [
        f"{kind} ({p:.2f})" for kind, p in power.items() if p is not None and p < gate.copy_power
    ]
    if weak:
        return (
            f"the search for copies would not see {', '.join(weak)}: of planted ones it finds less "
            f"than {gate.copy_power:g}. Small, smooth or overlapping maps hide them; "
            "gate.copy_kinds says which kinds must be seen"
        )
    return None


def _waived(gate: GateSpec, result: EvaluationResult) -> tuple[str, ...]:
    """Say which kinds of copies the search misses that the gate does not ask for."""
    power = result.copies.power.items()
    weak = [f"{kind} ({p:.2f})" for kind, p in power if p < gate.copy_power]
    return (f"not asked, and would not be seen: copies of kind {', '.join(weak)}",) if weak else ()


def _partly(gate: GateSpec, result: EvaluationResult) -> tuple[str, ...]:
    """Say of which kinds the search finds most planted copies and not all: others may be left."""
    power = result.copies.power.items()
    part = [f"{kind} ({p:.2f})" for kind, p in power if gate.copy_power <= p < 1]
    return (f"not all planted copies are found of kind {', '.join(part)}",) if part else ()


def _line(name: str, value: float, limit: float, word: str) -> tuple[bool, str]:
    good = value <= limit if word == "at most" else value >= limit
    verdict = "met" if good else "not met"
    return good, f"{name} is {value:.3g}, asked {word} {limit:g}: {verdict}"


def _named(result: EvaluationResult) -> str:
    """The first few copies in words."""
    shown = [f"sample {c.sample} of target {c.target} ({c.space})" for c in result.copies.found[:5]]
    more = len(result.copies.found) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
