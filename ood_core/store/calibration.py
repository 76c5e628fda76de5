"""Calibration of a run: the experts' weights per level and band."""

import torch

from ood_core.calibration import BandWeights
from ood_core.store.run import RunStore


def read_calibration(run: RunStore) -> BandWeights:
    """Read the band weights of a run."""
    table = run.table("calibrate")
    return BandWeights(
        noise_to_signal=torch.from_numpy(table.read("noise_to_signal")),
        knots=torch.tensor(table.attributes["knots"]),
        weights=torch.from_numpy(table.read("weights")),
    )
