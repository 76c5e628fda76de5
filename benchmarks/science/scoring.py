"""Scores of a cell: those of the report, by the same code, as one record of plain values."""

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.science.targets import BenchTargets
from ood_core.evaluation.evaluate import evaluate_features
from ood_core.evaluation.results import Score
from ood_core.metrics.novelty import Reference, distance_ratio
from ood_core.metrics.spectra import octave_ratios
from ood_core.numerics.random import Root

SCORES = ("fsd", "spectrum_error", "pixel_wasserstein", "c2st")


def scored(
    maps: npt.NDArray[np.float32],
    targets: BenchTargets,
    fitted: npt.NDArray[np.float32],
    root: Root,
) -> dict[str, Any]:
    """Compare maps in physical units with the held-out maps of a set.

    Novelty is measured against `fitted`, the maps that the cell was fitted to; all else is
    whitened by the configured fit targets.
    """
    extractor, ranged = targets.extractor, targets.ranged(maps)
    features = extractor.extract(ranged)
    result = evaluate_features(extractor, [features], len(ranged), root)
    held_out = extractor.extract(extractor.held_out)
    octaves = octave_ratios(features["power"], held_out["power"])
    classifier = result.tests.classifier
    near = Reference(targets.ranged(fitted), extractor.symmetries).nearest
    return {
        "scores": {name: _plain(result.scores[name]) for name in SCORES},
        "octaves": octaves.abs().amax(0).expm1().tolist(),
        "families": {
            test.name: {"value": test.distance, "real": test.real_distance, "p": test.adjusted}
            for test in result.tests.families
            if not test.steered
        },
        "unsteered_c2st": classifier
        and {"value": classifier.accuracy, "real": classifier.real_accuracy},
        "nearest_ratio": distance_ratio(near(ranged).distance, near(extractor.held_out).distance),
    }


def _plain(score: Score) -> dict[str, float]:
    return {"value": score.value, "real": score.real, "low": score.low, "high": score.high}
