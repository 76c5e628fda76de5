"""Scores of a cell: those of the report, by the same code, as one record of plain values."""

from typing import Any

import numpy as np
import numpy.typing as npt

from flows.science.targets import BenchTargets
from ood_core.evaluation.evaluate import compare
from ood_core.evaluation.results import Score
from ood_core.metrics.novelty import nearest_ratio
from ood_core.metrics.spectra import octave_ratios

SCORES = ("fsd", "spectrum_error", "pixel_wasserstein", "c2st")


def scored(
    maps: npt.NDArray[np.float32], targets: BenchTargets, fitted: npt.NDArray[np.float32], root: int
) -> dict[str, Any]:
    """Hold maps in physical units against the judges of a set.

    Novelty is measured against `fitted`, the maps that the cell was fitted to; all else is
    whitened by the configured fit targets.
    """
    ruler, ranged = targets.ruler, targets.ranged(maps)
    rows = ruler.measure(ranged)
    found = compare(ruler, [rows], len(ranged), root)
    judges = ruler.measure(ruler.held_out)
    octaves = octave_ratios(rows["power"], judges["power"])
    judgement, told = found.judgement, found.judgement.classifier
    chosen = targets.ranged(fitted)
    return {
        "scores": {s.name: _plain(s) for s in found.scores if s.name in SCORES},
        "octaves": octaves.abs().amax(0).expm1().tolist(),
        "families": {
            test.name: {"value": test.distance, "real": test.real_distance, "p": test.adjusted}
            for test in judgement.families
            if not test.steered
        },
        "unsteered_c2st": told and {"value": told.accuracy, "real": told.real_accuracy},
        "nearest_ratio": nearest_ratio(ranged, ruler.held_out, chosen, ruler.symmetries),
    }


def _plain(score: Score) -> dict[str, float]:
    return {"value": score.value, "real": score.real, "low": score.low, "high": score.high}
