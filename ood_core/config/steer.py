"""What a user wishes of samples, and how much of the network that may cost."""

import math
import re
from dataclasses import dataclass
from typing import Literal, final

from ood_core.errors import require, require_counts

WishedStatistic = Literal[
    "mean", "flux", "spectrum_amplitude", "spectrum_slope", "peaks", "volume_fraction",
    "half_light_radius", "concentration",
]  # fmt: skip
"""What `ood_core.metrics.wished` measures, by name."""
OVER_A_LEVEL = ("peaks", "volume_fraction")
FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class WishSpec:
    """A statistic of single maps, in the targets' unit, and the value that samples shall have.

    Attributes:
        statistic: which one.
        value: that is wished for.
        width: how far from it a sample may well be, as a standard deviation; null takes a quarter
            of the fit targets' spread.
        above: for `peaks` and `volume_fraction`, the pixel value that is exceeded.
    """

    statistic: WishedStatistic
    value: float
    width: float | None = None
    above: float | None = None

    def __post_init__(self) -> None:
        numbers = [n for n in (self.value, self.width, self.above) if n is not None]
        require(all(map(math.isfinite, numbers)), "steer.wishes: expected finite numbers")
        require(self.width is None or self.width > 0, "steer.wishes: expected a width above 0")
        needed = self.statistic in OVER_A_LEVEL
        require(
            (self.above is not None) == needed,
            f"steer.wishes: got {self.statistic} and above {self.above}; expected it for "
            f"{' and '.join(OVER_A_LEVEL)}, and only there",
        )


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SteerSpec:
    """Samples that a user wishes for, by choices alone (`ood_core.synthesis.preference`).

    Attributes:
        wishes: statistics and the values that samples shall have.
        reward: `module:function` of a Python function that takes maps in the targets' unit,
            `(n, c, y, x)`, and gives a number for each, `(n,)`; more is better. It must depend on
            each map alone.
        strength: of the choice by the reward, in inverse standard deviations of the fit targets'.
        calls: most evaluations of the network for a sample. With wishes they buy whole ways down,
            `steps + 1` evaluations each, of which one is kept; with a reward alone ways to go on
            at every step.
        source: digest of the file of the function; filled when a run is planned.
    """

    wishes: tuple[WishSpec, ...] = ()
    reward: str | None = None
    strength: float = 2.0
    calls: int = 52
    source: str | None = None

    def __post_init__(self) -> None:
        require(bool(self.wishes or self.reward), "steer: expected wishes or a reward; got neither")
        require(
            self.reward is None or FUNCTION.fullmatch(self.reward) is not None,
            f"steer.reward: got {str(self.reward)[:100]!r}; expected module:function",
        )
        asked = [(wish.statistic, wish.above) for wish in self.wishes]
        require(len(set(asked)) == len(asked), "steer.wishes: got a statistic twice")
        require(0 <= self.strength <= 100, "steer.strength: expected 0 to 100")
        require_counts(self, "calls", most=10**6)

    def candidates(self, steps: int, coarse: int = 0) -> int:
        """Whole ways down, or ways to go on at each of so many steps, that calls suffice for.

        `coarse` evaluations are of the coarse map, of which every whole way has its own.
        """
        if self.wishes:
            return self.calls // (steps + 1 + coarse)
        return (self.calls - 1 - coarse) // steps
