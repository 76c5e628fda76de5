"""Latents of the fit targets."""

import torch

from ood_core.arrays import Latents
from ood_core.store.run import RunStore


def read_latents(run: RunStore) -> Latents:
    """Read all latents of a run."""
    return torch.from_numpy(run.table("invert").read("latents"))
