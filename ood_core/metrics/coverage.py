"""Fidelity and variety of a set of rows: precision, recall, density, coverage, Vendi score.

`B(x)` is the closed ball about a row that just reaches the `k`-th nearest other row of its set.

    precision   part of samples inside the ball of any real row           (Kynkäänniemi et al. 2019)
    recall      part of real rows inside the ball of any sample
    density     mean over samples of the number of real balls it is in / k (Naeem et al. 2020)
    coverage    part of real balls that hold a sample

For equal distributions density is 1 on average, and coverage, with `n` real rows and `m` samples,

    1 - [(n - 1) ... (n - k)] / [(n + m - 1) ... (n + m - k)]              (Naeem et al. 2020)

Precision and recall have no such value: compare them with those of real rows against real rows.
Distances weigh features by their spread: whiten or standardise first (`distances.Whitening`).
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.errors import TargetError
from ood_core.metrics.discrepancy import gaussian_kernel, row_distances

NEIGHBOURS = 5


@final
@dataclass(frozen=True, slots=True)
class Coverage:
    """Fidelity (precision, density) and variety (recall, coverage) of samples; fractions."""

    precision: float
    recall: float
    density: float
    coverage: float


def coverage(
    samples: Float[Tensor, "m f"], real: Float[Tensor, "n f"], k: int = NEIGHBOURS
) -> Coverage:
    """Measure samples against real rows, with balls to the `k`-th neighbour.

    Raises:
        TargetError: If a set has no more than `k` rows.
    """
    fewest = min(len(samples), len(real))
    if fewest <= k:
        raise TargetError(f"got {fewest} rows in a set; expected more than the {k} neighbours")
    apart = row_distances(real, samples)
    in_real = apart <= _reach(real, k)[:, None]
    in_samples = apart <= _reach(samples, k)
    return Coverage(
        precision=_mean(in_real.any(0)),
        recall=_mean(in_samples.any(1)),
        density=float(in_real.double().sum(0).mean()) / k,
        coverage=_mean(in_real.any(1)),
    )


def vendi(rows: Float[Tensor, "n f"], width: float) -> float:
    """Return the effective number of distinct rows, from 1 to `n` (Friedman & Dieng 2023).

    It is `exp(-sum_i l_i ln l_i)` with `l` the eigenvalues of `K / n`, and
    `K_ij = exp(-|z_i - z_j|^2 / (2 width^2))`. It grows as `width` falls: take one width for all
    sets that are compared, such as the median distance of real rows, and equal numbers of rows.

    Raises:
        TargetError: If there are no rows.
    """
    if not len(rows):
        raise TargetError("got no rows; expected at least 1 to count distinct ones")
    kernel = gaussian_kernel(row_distances(rows, rows), width)
    values = torch.linalg.eigvalsh(kernel / len(rows)).clamp(min=0)
    return float(torch.special.entr(values).sum().exp())


def _reach(rows: Float[Tensor, "n f"], k: int) -> Float[Tensor, " n"]:
    """Distance to the `k`-th nearest other row; the row itself is the first."""
    return row_distances(rows, rows).kthvalue(k + 1, dim=1).values


def _mean(mask: Tensor) -> float:
    return float(mask.double().mean())
