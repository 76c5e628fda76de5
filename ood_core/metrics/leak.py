"""Does a sample look like the base's own domain? The share of samples nearer to it than to targets.

A frozen base pulls samples towards what it was trained on. A row of features leaks if its nearest
row of the base's own samples is nearer than its nearest target. Held-out real maps leak too where
the domains overlap, so that only the excess over them says anything. Both reference sets are cut to
the same number of rows, since the larger of two sets is nearer by its number alone. The two shares
are compared by Fisher's exact test. The score is our own; features should be whitened first.
"""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from scipy.stats import fisher_exact
from torch import Tensor

from ood_core.errors import TargetError
from ood_core.metrics.discrepancy import row_distances


@final
@dataclass(frozen=True, slots=True)
class Leak:
    """Shares of samples and of held-out maps that look in-domain.

    `p_value` tells how often samples of the distribution of held-out maps would leak as much or
    more.
    """

    samples: float
    held_out: float
    p_value: float


def leak(
    samples: Float[Tensor, "n f"],
    held_out: Float[Tensor, "m f"],
    targets: Float[Tensor, "t f"],
    base: Float[Tensor, "b f"],
) -> Leak:
    """Compare leaks of samples and of held-out maps, which are neither targets nor fitted to.

    Rows of `targets` and `base` must be in random order: the longer of the two is cut.

    Raises:
        TargetError: If a set has no rows.
    """
    sets = {"samples": samples, "held-out maps": held_out, "targets": targets, "base": base}
    for name, rows in sets.items():
        if not len(rows):
            raise TargetError(f"got no rows of {name}; expected at least 1 to measure a leak")
    size = min(len(targets), len(base))
    own, other = (in_domain(rows, targets[:size], base[:size]) for rows in (samples, held_out))
    table = [[int(mask.sum()), int((~mask).sum())] for mask in (own, other)]
    p_value = fisher_exact(table, alternative="greater").pvalue
    return Leak(float(own.double().mean()), float(other.double().mean()), float(p_value))


def in_domain(
    rows: Float[Tensor, "n f"], targets: Float[Tensor, "t f"], base: Float[Tensor, "t f"]
) -> Tensor:
    """Return which rows are nearer to the base's samples than to the targets."""
    return row_distances(rows, base).amin(1) < row_distances(rows, targets).amin(1)
