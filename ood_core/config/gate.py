"""Conditions on a set of samples before it is published: no part of a run's identity."""

from dataclasses import dataclass
from typing import final

from ood_core.errors import require


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class GateSpec:
    """What must hold on held-out targets before a set is published; no condition, no decision.

    Attributes:
        spectrum_error: most that the mean absolute log ratio of power spectra may be.
        nearest_ratio: least ratio of distances to the nearest fit target, samples to real maps; 1
            is as novel as real maps, below 0.9 is copying.
        c2st: most that the accuracy of the two-sample classifier may be; 0.5 is perfect.
        unsteered_p: least adjusted p-value of the tests by statistics that were not steered.
        copies_p: least p-value of so many samples near to a target in pixels.
        min_held_out: held-out maps that a decision needs; with fewer the outcome is undecided.
    """

    spectrum_error: float | None = None
    nearest_ratio: float | None = None
    c2st: float | None = None
    unsteered_p: float | None = None
    copies_p: float | None = None
    min_held_out: int = 30

    def __post_init__(self) -> None:
        require(self.min_held_out >= 2, "gate.min_held_out: expected 2 or more")
        for name in ("unsteered_p", "copies_p"):
            p = getattr(self, name)
            require(p is None or 0 < p < 1, f"gate.{name}: expected a number between 0 and 1")
