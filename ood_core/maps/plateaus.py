"""Plateaus: values at an end of the range that many pixels have exactly.

Ionised bubbles are at 0 mK, dry pixels of rain maps at 0 mm, saturated ones at the detector's
largest number. A denoiser comes near such a value and never to it, so that a plateau has texture,
and peaks that no real map has. The targets say where the plateau ends: next to none of their other
pixels, a share of `EDGE`, lie nearer to it. Samples' pixels there are on the plateau.
"""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

LEAST = 0.05
"""A value that fewer pixels of the targets share is no plateau."""
EDGE = 0.01
"""Share of the other pixels that lie between plateau and edge, and are lost to it."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Plateaus:
    """Lowest and highest value per channel, and the edges up to which values are taken to them.

    An end without a plateau has its own value for an edge. All of shape `(c, 1, 1)`, in physical
    units.
    """

    lowest: NDArray[np.float32]
    below: NDArray[np.float32]
    above: NDArray[np.float32]
    highest: NDArray[np.float32]

    @classmethod
    def measure(cls, targets: NDArray[np.float32]) -> "Plateaus":
        """Find the plateaus of maps of shape `(n, c, y, x)`."""
        channels = np.moveaxis(targets, 1, 0).reshape(targets.shape[1], -1)
        low = [_plateau(values) for values in channels]
        high = [_plateau(-values) for values in channels]
        return cls(
            lowest=_column([value for value, _ in low]),
            below=_column([edge for _, edge in low]),
            above=_column([-edge for _, edge in high]),
            highest=_column([-value for value, _ in high]),
        )

    def settle(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take what lies beyond an edge to the plateau there; other values stay as they are."""
        low, high = self.below > self.lowest, self.above < self.highest
        settled = np.where(low & (maps < self.below), self.lowest, maps)
        return np.where(high & (maps > self.above), self.highest, settled)


def _plateau(values: NDArray[np.float32]) -> tuple[float, float]:
    """The lowest of some values, and the edge of its plateau: the same where it has none."""
    lowest = values.min()
    others = values[values > lowest]
    if not len(others) or len(others) > (1 - LEAST) * len(values):
        return float(lowest), float(lowest)
    middle = (float(lowest) + float(others.max())) / 2  # maps of two values have it for an edge
    return float(lowest), min(float(np.quantile(others, EDGE)), middle)


def _column(values: list[float]) -> NDArray[Any]:
    return np.array(values, dtype=np.float32)[:, None, None]
