"""Classifier two-sample test: can a linear classifier tell two sets of features apart?

The score is the cross-validated accuracy of a logistic regression (Lopez-Paz & Oquab 2017): one
half when the sets cannot be told apart, 1 when they always can. Folds share their training rows, so
that a count of right answers over all folds is not binomial, and the score has no p-value of its
own. The test therefore trains on one half of the rows and asks the other half once. If both sets
have one law, the labels of that half are in random order whatever was learned, and the table of
labels and answers follows the hypergeometric law of Fisher's exact test: `P(p <= a) <= a`.
"""

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import fisher_exact
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

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
