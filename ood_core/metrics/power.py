"""Power of the energy test: how large must a difference be to be seen with so many maps?

A test that finds nothing says little unless it could have found something. Shifts are in standard
deviations of a statistic over maps.
"""

from collections.abc import Callable
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.errors import TargetError
from ood_core.metrics.discrepancy import row_distances

LARGEST = 64.0  # standard deviations: no test of two sets needs more
MAX_ROWS = 128  # that are split in halves, which bounds the time


def detectable_difference(
    rows: Float[Tensor, "k f"],
    n: int,
    m: int,
    rng: np.random.Generator,
    splits: int = 200,
    power: float = 0.8,
    level: float = 0.05,
    steps: int = 10,
) -> tuple[float, float]:
    """Return the least shift of one feature that the energy test sees in real rows.

    The second number is by how much it raises the energy distance.

    Rows of one law are split at random into halves; one half is shifted along one feature, chosen
    at random, by so many of its standard deviations. The test sees a shift that lifts the distance
    above what all but a part `level` of unshifted splits have. Small shifts grow with
    `(1/n + 1/m)^1/2` for a given power, and energy distances with its square; by this both are
    brought from halves to sets of `n` and `m`. Both are infinite if no shift is seen.

    Raises:
        TargetError: If there are less than 4 rows.
    """
    if len(rows) < 4:
        raise TargetError(f"got {len(rows)} rows; expected at least 4 to split in halves")
    rows = rows[rng.permutation(len(rows))[:MAX_ROWS]].double()
    trials = _Splits(rows, splits, rng)
    unshifted = trials.distances(0)
    critical = unshifted.quantile(1 - level)

    def reached(shift: float) -> bool:
        return bool((trials.distances(shift) > critical).double().mean() >= power)

    shift = _least(reached, 0.125, steps)
    if shift >= LARGEST:
        return float("inf"), float("inf")
    scale = (1 / n + 1 / m) / (2 / (len(rows) // 2))
    return shift * scale**0.5, float((trials.distances(shift) - unshifted).mean()) * scale


@final
class _Splits:
    """Random halves of rows, one of which is to be shifted along a feature of its own choice."""

    def __init__(self, rows: Float[Tensor, "k f"], count: int, rng: np.random.Generator) -> None:
        orders = [torch.from_numpy(rng.permutation(len(rows))) for _ in range(count)]
        left, right = torch.stack(orders)[:, : len(rows) // 2 * 2].chunk(2, dim=1)
        along = torch.from_numpy(rng.integers(rows.shape[1], size=(count, 1)))
        apart, spread = row_distances(rows, rows), rows.std(0)
        self._squared = apart[left[:, :, None], right[:, None]].square()
        self._ahead = rows[right, along][:, None] - rows[left, along][:, :, None]
        self._spread = spread[along][:, None]
        halves = (apart[half[:, :, None], half[:, None]].mean((1, 2)) for half in (left, right))
        self._within = torch.stack(list(halves)).sum(0)

    def distances(self, shift: float) -> Float[Tensor, " count"]:
        """Energy distances after a shift in units of spread; only pairs across halves change."""
        step = shift * self._spread
        across = (self._squared + step * (2 * self._ahead + step)).clamp(min=0).sqrt()
        return 2 * across.mean((1, 2)) - self._within


def _least(reached: Callable[[float], bool], low: float, steps: int) -> float:
    """Bisect the least shift that is reached, from a bound that is doubled until it is."""
    high = 2 * low
    while high < LARGEST and not reached(high):
        low, high = high, 2 * high
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high
