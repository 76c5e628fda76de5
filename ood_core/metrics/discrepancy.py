"""Are two sets of features draws of one distribution? The energy distance, with an exact p-value.

It is a quadratic form of the matrix `D` of distances over the pooled rows. With weights `w = 1/n`
on the first set and `-1/m` on the second,

    energy distance      -w' D w,   D_ij = |z_i - z_j|                       (Székely & Rizzo 2013)

It is 0 only for equal sets, and biased upwards for small ones. The p-value compares it with the
same form after `B` random exchanges of rows between
the sets, `p = (1 + number as large) / (1 + B)` (Phipson & Smyth 2010). If rows of both sets are
exchangeable, `P(p <= a) <= a` at every set size. Sets so small that they have no more than `B`
divisions are divided in every way instead.

Distances weigh features by their spread: whiten or standardise first (`distances.Whitening`).

Power of the energy test: how large must a difference be to be seen with so many maps?

A test that finds nothing says little unless it could have found something. Shifts are in standard
deviations of a statistic over maps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import false_discovery_control, permutation_test
from torch import Tensor

from ood_core.errors import TargetError

PERMUTATIONS = 999
BATCH = 256  # exchanges evaluated at once, which bounds the memory

Array = np.ndarray[Any, np.dtype[np.float64]]


@final
@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A distance of two sets and how often equal distributions would show one as large."""

    value: float
    p_value: float


def energy_test(
    a: Float[Tensor, "n f"],
    b: Float[Tensor, "m f"],
    rng: np.random.Generator,
    permutations: int = PERMUTATIONS,
) -> Discrepancy:
    """Test with the energy distance, in units of the features.

    Raises:
        TargetError: If a set has less than 2 rows.
    """
    fewest = min(len(a), len(b))
    if fewest < 2:
        raise TargetError(f"got {fewest} rows in a set; expected at least 2 to compare sets")
    rows = torch.cat([a, b])
    matrix = -row_distances(rows, rows).numpy()
    found = permutation_test(
        (np.arange(len(a)), np.arange(len(a), len(rows))),
        lambda first, second, axis: _form(matrix, first, second),
        vectorized=True,
        n_resamples=permutations,
        batch=BATCH,
        alternative="greater",
        rng=rng,
    )
    return Discrepancy(float(found.statistic), float(found.pvalue))


def energy_distance(a: Float[Tensor, "n f"], b: Float[Tensor, "m f"]) -> float:
    """Return the energy distance without the bias of small sets: 0 on average if they are alike.

    Means within a set are over pairs of different rows, so that it may fall below 0.

    Raises:
        TargetError: If a set has less than 2 rows.
    """
    fewest = min(len(a), len(b))
    if fewest < 2:
        raise TargetError(f"got {fewest} rows in a set; expected at least 2 to compare sets")
    within = [row_distances(rows, rows).sum() / (len(rows) * (len(rows) - 1)) for rows in (a, b)]
    return float(2 * row_distances(a, b).mean() - sum(within))


def row_distances(a: Float[Tensor, "n f"], b: Float[Tensor, "m f"]) -> Float[Tensor, "n m"]:
    """Return Euclidean distances in float64, 0 exactly for equal rows."""
    # The expanded square would leave equal rows apart by rounding.
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")


def median_distance(distance: Float[Tensor, "n n"]) -> float:
    """Return the median over pairs of different rows; 1 if more than half of them coincide."""
    above = torch.ones_like(distance, dtype=torch.bool).triu(diagonal=1)
    median = float(distance[above].median())
    return median or 1.0


def gaussian_kernel(distance: Float[Tensor, "n m"], width: float) -> Float[Tensor, "n m"]:
    """Return `exp(-distance^2 / (2 width^2))`."""
    return torch.exp(-(distance**2) / (2 * width**2))


def adjusted(p_values: Sequence[float], method: Literal["holm", "bh"] = "holm") -> list[float]:
    """Return p-values of several tests, raised for their number.

    Rejecting at `a` what `holm` returns wrongly rejects anything with a probability of at most `a`
    (Holm 1979), whatever the dependence of the tests. With `bh` at most a part `a` of what is
    rejected is wrong on average (Benjamini & Hochberg 1995), for independent tests.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if method == "bh":
        return [float(value) for value in false_discovery_control(p)]
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    back = np.empty_like(p)
    back[order] = raised
    return [float(value) for value in back]


def _form(matrix: Array, first: Array, second: Array) -> Array:
    """Quadratic form for many divisions of the rows, given as indices on the last axis."""
    weights = np.zeros((*first.shape[:-1], len(matrix)))
    np.put_along_axis(weights, first.astype(np.intp), 1 / first.shape[-1], axis=-1)
    np.put_along_axis(weights, second.astype(np.intp), -1 / second.shape[-1], axis=-1)
    return np.asarray(((weights @ matrix) * weights).sum(-1))


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

    Rows of one distribution are split at random into halves; one half is shifted along one feature,
    chosen at random, by so many of its standard deviations. The test sees a shift that lifts the
    distance above what all but a part `level` of unshifted splits have. Small shifts grow with
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
