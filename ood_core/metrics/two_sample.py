"""Classifier two-sample test: can a linear classifier tell two sets of features apart?

The score is the cross-validated accuracy of a logistic regression (Lopez-Paz & Oquab 2017): one
half when the sets cannot be told apart, 1 when they always can. Folds share their training rows, so
that a count of right answers over all folds is not binomial, and the score has no p-value of its
own. The test therefore trains on one half of the rows and asks the other half once. If both sets
have one distribution, the labels of that half are in random order whatever was learned, and the
table of labels and answers is hypergeometric, as in Fisher's exact test: `P(p <= a) <= a`.

Can two sets of latents be told apart by a direction that was found on others?

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
from scipy.stats import fisher_exact
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ood_core.arrays import PerSample
from ood_core.errors import TargetError
from ood_core.metrics.discrepancy import Discrepancy

FOLDS = 5
PENALTY = 0.1  # inverse strength: firm, because features may outnumber rows


def classifier_accuracy(a: Float[Tensor, "n f"], b: Float[Tensor, "m f"]) -> float:
    """Return the balanced accuracy over folds taken in the order of the rows, at least two a set.

    Rows must be in random order: shuffling is left to the caller, who owns the seed.
    """
    fewest = min(len(a), len(b))
    if fewest < 2:
        raise TargetError(f"got {fewest} rows in a set; expected at least 2 to cross-validate")
    rows = np.concatenate([a.double().numpy(), b.double().numpy()])
    labels = np.repeat([0, 1], [len(a), len(b)])
    folds = StratifiedKFold(min(FOLDS, fewest))
    scores = cross_val_score(_classifier(), rows, labels, cv=folds, scoring="balanced_accuracy")
    return float(scores.mean())


def classifier_test(a: Float[Tensor, "n f"], b: Float[Tensor, "m f"]) -> Discrepancy:
    """Return the balanced accuracy on the latter half of each set after training on the former.

    Rows must be in random order, and at least four a set.

    Raises:
        TargetError: If a set has less than 4 rows.
    """
    fewest = min(len(a), len(b))
    if fewest < 4:
        raise TargetError(f"got {fewest} rows in a set; expected at least 4 to train and test on")
    seen, asked = ([x[: len(x) // 2] for x in (a, b)], [x[len(x) // 2 :] for x in (a, b)])
    classifier = _classifier()
    classifier.fit(torch.cat(seen).double().numpy(), np.repeat([0, 1], [len(x) for x in seen]))
    said_b = [int(classifier.predict(x.double().numpy()).sum()) for x in asked]
    table = [[said, len(x) - said] for said, x in zip(said_b, asked, strict=True)]
    right = 1 - said_b[0] / len(asked[0]), said_b[1] / len(asked[1])
    p_value = fisher_exact(table, alternative="less").pvalue
    return Discrepancy(sum(right) / 2, float(p_value))


def _classifier() -> Pipeline:
    return make_pipeline(
        StandardScaler(), LogisticRegression(C=PENALTY, class_weight="balanced", max_iter=500)
    )


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
    gap = above[:, None] - below
    return float(((gap > 0).double() + (gap == 0).double() / 2).mean())


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
