"""Latents of the fit targets, and which of them may speak for their target."""

import torch

from ood_core.arrays import Latents
from ood_core.config.identity import read_method
from ood_core.invert import held
from ood_core.store.run import RunStore
from ood_core.store.targets import load_targets


def read_latents(run: RunStore) -> Latents:
    """Read the latents whose round trip holds: those that a prior is fitted to."""
    return all_latents(run)[held_targets(run)]


def all_latents(run: RunStore) -> Latents:
    """Read the latents of all fit targets, whatever their round trip."""
    return torch.from_numpy(run.table("invert").read("latents"))


def held_targets(run: RunStore) -> list[int]:
    """Numbers of the fit targets whose round trip holds: those of the rows of `read_latents`."""
    lost = set(failed_round_trips(run))
    return [row for row in range(run.plan("invert").rows) if row not in lost]


def failed_round_trips(run: RunStore) -> list[int]:
    """Numbers of the fit targets whose round trip fails by the rule of `held`."""
    limit = read_method(run.record["identity_record"]).round_trip_limit
    error = torch.from_numpy(run.table("invert").read("error"))
    spread = load_targets(run).fit_ranged.flatten(1).std(dim=1)
    good = held(error, spread, limit)
    return torch.nonzero(~good)[:, 0].tolist()
