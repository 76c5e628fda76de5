"""Classifier two-sample test: can a linear classifier tell two sets of features apart?

The score is the cross-validated accuracy of a logistic regression (Lopez-Paz & Oquab 2017): one
half when the sets cannot be told apart, 1 when they always can.
"""

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ood_core.errors import TargetError

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
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(C=PENALTY, class_weight="balanced", max_iter=500)
    )
    folds = StratifiedKFold(min(FOLDS, fewest))
    scores = cross_val_score(classifier, rows, labels, cv=folds, scoring="balanced_accuracy")
    return float(scores.mean())
