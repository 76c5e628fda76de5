"""What is asked of a set of samples before it is published: no part of a run's identity."""

from dataclasses import dataclass
from typing import final

from ood_core.errors import require


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class GateSpec:
    """What must hold on held-out targets before a set is published; nothing asked, no verdict.

    `spectrum_error` and `c2st` are upper limits, `nearest_ratio` is a lower one (1 is as novel as
    real, below 0.9 is copying). `unsteered_p` is a lower limit on the smallest adjusted p-value of
    what was not steered, `copies_p` one on that of so many samples near to a target in pixels.
    Fewer held-out maps than `min_held_out` decide nothing.
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
