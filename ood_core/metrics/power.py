"""Power of a test: how large must a difference be to be seen with so many maps?

A test that finds nothing says little unless it could have found something. Shifts are in standard
deviations of a statistic over maps.
"""

from collections.abc import Callable
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.stats import f, ncf
from torch import Tensor

from ood_core.errors import TargetError
from ood_core.metrics.discrepancy import energy_test, row_distances
from ood_core.numerics.random import Stream, generator

LARGEST = 64.0  # standard deviations: no test of two sets needs more
MAX_ROWS = 128  # that are split in halves, which bounds the time


def mean_power(shift: float, n: int, m: int, level: float = 0.05) -> float:
    """Return how often the two-sided t-test of `n` and `m` normal values sees a shift of means.

    The square of `t` follows the F law of 1 and `n + m - 2` degrees of freedom, noncentral by
    `shift^2 / (1/n + 1/m)`.

    Raises:
        TargetError: If a set has less than 2 rows.
    """
    if min(n, m) < 2:
        raise TargetError(f"got {min(n, m)} rows in a set; expected at least 2 to compare means")
    freedom = n + m - 2
    return float(ncf.sf(f.isf(level, 1, freedom), 1, freedom, shift**2 / (1 / n + 1 / m)))


def detectable_mean_shift(n: int, m: int, power: float = 0.8, level: float = 0.05) -> float:
    """Return the least shift of means that the t-test sees in a part `power` of all cases.

    For large sets it is `(z_(1-level/2) + z_power) (1/n + 1/m)^1/2`, with normal quantiles `z`.

    Raises:
        TargetError: If a set has less than 2 rows.
    """
    high = (1 / n + 1 / m) ** 0.5
    while mean_power(high, n, m, level) < power:
        high *= 2
    return float(brentq(lambda d: mean_power(d, n, m, level) - power, 0.0, high))


def energy_power(
    shift: float,
    n: int,
    m: int,
    rng: np.random.Generator,
    features: int = 1,
    trials: int = 200,
    level: float = 0.05,
) -> float:
    """Return the part of simulated trials in which the energy test sees a shift of one feature.

    Features are independent and standard normal; its standard error is at most
    `1 / (2 trials^1/2)`.
    """
    permutations = round(4 / level) - 1  # `level` is then one of the values that p can take
    seen = 0
    for _ in range(trials):
        rows = torch.from_numpy(rng.standard_normal((n + m, features)))
        rows[n:, 0] += shift
        seen += energy_test(rows[:n], rows[n:], rng, permutations).p_value <= level
    return seen / trials


def detectable_energy_shift(
    n: int,
    m: int,
    root: int,
    features: int = 1,
    trials: int = 200,
    power: float = 0.8,
    level: float = 0.05,
    steps: int = 6,
) -> float:
    """Return the least shift of one feature that the energy test sees in a part `power` of trials.

    The shift is bisected with the same draws at every step, between the least that the t-test of
    means sees and a bound that is doubled until the power is reached.
    """

    def reached(shift: float) -> bool:
        rng = generator(root, 0, stream=Stream.RESAMPLE)
        return energy_power(shift, n, m, rng, features, trials, level) >= power

    return _least(reached, 0.5 * detectable_mean_shift(n, m, power, level), steps)


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
