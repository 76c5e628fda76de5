"""Can two sets of latents be told apart by a direction that was found on others?

Zhu et al. (arXiv 2310.09213) say that inverted out-of-domain latents are a Gaussian of their own,
separable from in-domain ones. With fewer rows than dimensions any labels are separable on the rows
that a classifier has learned from, so only rows that are left out count. Here the direction is the
difference of the training means, and the score is the area under the ROC curve of the others:

    AUC = P(a score of the one set < one of the other) + P(equal) / 2

averaged over folds. For `N(0, I)` and `N(delta, I)` in `d` dimensions, with `n` and `m` training
rows, it is about `Phi( |delta|^2 / (2 (|delta|^2 + d/n + d/m))^1/2 )`, which grows to the best
possible `Phi(|delta| / 2^1/2)`. The null distribution is that of the same number under exchanged
labels, and gives an exact p-value where all rows are exchangeable.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ood_core.arrays import PerSample
from ood_core.errors import TargetError

FOLDS = 5
PERMUTATIONS = 499


@final
@dataclass(frozen=True, slots=True)
class Separation:
    """Held-out AUC, the middle 95 % of the same under exchanged labels, and the p-value."""

    auc: float
    null_low: float
    null_high: float
    p_value: float


def separation(
    a: Float[Tensor, "n f"],
    b: Float[Tensor, "m f"],
    rng: np.random.Generator,
    permutations: int = PERMUTATIONS,
) -> Separation:
    """Return how far the second set can be told from the first along the difference of means.

    Raises:
        TargetError: a set has fewer than two rows.
    """
    if min(len(a), len(b)) < 2:
        raise TargetError(f"got {min(len(a), len(b))} rows in a set; expected 2 or more to divide")
    rows = torch.cat([a, b]).double()
    rows = rows - rows.mean(dim=0)
    gram = rows @ rows.T
    labels = np.repeat([0, 1], [len(a), len(b)])
    found = _held_out(gram, labels)
    null = np.array([_held_out(gram, rng.permutation(labels)) for _ in range(permutations)])
    low, high = np.quantile(null, [0.025, 0.975])
    p_value = (1 + int((null >= found - 1e-12).sum())) / (1 + permutations)
    return Separation(found, float(low), float(high), p_value)


def auc(above: PerSample, below: PerSample) -> float:
    """Probability that a value of the first exceeds one of the second; ties count half."""
    labels = np.repeat([1, 0], [len(above), len(below)])
    return float(roc_auc_score(labels, torch.cat([above, below]).numpy()))


def _held_out(gram: Float[Tensor, "r r"], labels: np.ndarray) -> float:
    """Mean AUC over folds; row `i` of either label is left out of fold `i` modulo their number."""
    rows = [np.flatnonzero(labels == k) for k in (0, 1)]
    folds = min(FOLDS, len(rows[0]), len(rows[1]))
    found = []
    for fold in range(folds):
        below, above = (r[fold::folds] for r in rows)
        kept = [np.setdiff1d(r, out) for r, out in zip(rows, (below, above), strict=True)]
        first, second = (gram[:, torch.from_numpy(r)].mean(dim=1) for r in kept)
        score = second - first
        found.append(auc(score[torch.from_numpy(above)], score[torch.from_numpy(below)]))
    return float(np.mean(found))
