"""Quantization: how the targets' numbers were rounded and cut off, applied to samples as well.

Real maps are coarse data (Heitjan & Rubin 1991): counts are whole numbers, FITS scales integers,
ionised bubbles are at 0 mK and saturated pixels at the detector's largest number. A denoiser makes
all values between. Then a quiet region has peaks where a real one has equal pixels, and a bubble
has texture: such maps are told from real ones by that alone.

A *step* is found where all values of a channel are whole multiples of one number. A *plateau* is
the value at an end of the range where many pixels have it exactly. The targets say where a plateau
ends: next to none of their other pixels, a share of `EDGE`, lie nearer to it.
"""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

MIN_SHARE = 0.05
"""A value that fewer pixels of the targets share is no plateau."""
EDGE = 0.01
"""Share of the other pixels that lie between plateau and edge, and are lost to it."""
MIN_DIFFERENT = 8
"""Fewer different values than that are multiples of one number by chance."""
WITHIN = 0.02
"""Distance from a whole multiple, in steps, at most: 8 values are within by chance in 4e-9."""
ROUNDING = 1e-6
"""Of the largest value: values that are closer are one, as they come back from model range."""

Values = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Quantization:
    """Per channel: the step of its values, its lowest and highest, and the edges of their plateaus.

    A step of 0 is none, and an end without a plateau is its own edge. All of shape `(c, 1, 1)`, in
    physical units.
    """

    step: Values
    lowest: Values
    lower_edge: Values
    upper_edge: Values
    highest: Values

    @classmethod
    def measure(cls, targets: NDArray[np.float32]) -> "Quantization":
        """Find step and plateaus of maps of shape `(n, c, y, x)`; NaN is missing."""
        moved = np.moveaxis(targets.astype(np.float64), 1, 0)
        channels = [values[~np.isnan(values)] for values in moved]
        steps = [step_of(values) for values in channels]
        rounded = [_rounded(values, step) for values, step in zip(channels, steps, strict=True)]
        low = [_plateau(values) for values in rounded]
        high = [_plateau(-values) for values in rounded]
        return cls(
            step=_column(steps),
            lowest=_column([value for value, _ in low]),
            lower_edge=_column([edge for _, edge in low]),
            upper_edge=_column([-edge for _, edge in high]),
            highest=_column([-value for value, _ in high]),
        )

    @property
    def found(self) -> list[dict[str, float | None]]:
        """What was found in every channel, as plain numbers; None where there is nothing."""
        columns = (self.step, self.lowest, self.lower_edge, self.upper_edge, self.highest)
        rows = np.concatenate(columns, axis=1)[:, :, 0].tolist()
        return [
            {
                "step": step or None,
                "lowest_up_to": lower if lower > lowest else None,
                "highest_from": upper if upper < highest else None,
            }
            for step, lowest, lower, upper, highest in rows
        ]

    def __call__(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Round to the step, and set what lies beyond an edge to the plateau's value."""
        low, high = self.lower_edge > self.lowest, self.upper_edge < self.highest
        rounded = _rounded(maps.astype(np.float64), self.step)
        settled = np.where(low & (rounded < self.lower_edge), self.lowest, rounded)
        settled = np.where(high & (settled > self.upper_edge), self.highest, settled)
        kept = (self.step == 0) & ~(low | high)
        return np.where(kept, maps, settled).astype(np.float32)


def step_of(values: Values) -> float:
    """The number that all values are whole multiples of; 0 where there is none."""
    least = ROUNDING * float(np.abs(values).max())
    different = np.unique(values)
    different = different[np.append(True, np.diff(different) > least)]
    if len(different) < MIN_DIFFERENT:
        return 0.0
    gaps = np.diff(different)
    step = float(np.median(gaps[gaps < 1.5 * gaps.min()]))
    for share in (1 / 64, 1 / 8, 1):  # an error of the step grows with the multiple
        first = different[: max(MIN_DIFFERENT, round(share * len(different)))] - different[0]
        multiple = np.round(first / step)
        step = float(first @ multiple / (multiple @ multiple))
    step = _plain(step)
    off = np.abs(different / step - np.round(different / step)).max()
    return step if off < WITHIN else 0.0


def _plain(step: float) -> float:
    """The step as it was written: a decimal of five digits or one over a whole number."""
    near = [float(f"{step:.5g}"), *([1 / round(1 / step)] if step < 1 else [])]
    plain = min(near, key=lambda number: abs(number - step))
    return plain if abs(plain - step) < 1e-5 * step else step


def _rounded(values: Values, step: float | Values) -> Values:
    safe = np.where(np.asarray(step) > 0, step, 1.0)
    rounded: Values = np.where(np.asarray(step) > 0, np.round(values / safe) * safe, values)
    return rounded


def _plateau(values: Values) -> tuple[float, float]:
    """The lowest of some values, and the edge of its plateau: the same where it has none."""
    lowest = values.min()
    others = values[values > lowest]
    if not len(others) or len(others) > (1 - MIN_SHARE) * len(values):
        return float(lowest), float(lowest)
    middle = (float(lowest) + float(others.max())) / 2  # maps of two values have it for an edge
    return float(lowest), min(float(np.quantile(others, EDGE)), middle)


def _column(values: list[float]) -> NDArray[Any]:
    return np.array(values)[:, None, None]
