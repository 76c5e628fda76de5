"""The loss of the denoiser that is shown examples, and what it is on worlds that it never saw.

Worlds for validation are of the families that training sees, from other seeds, and of families that
were held out of it; the latter say what the network will do with a real kind.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor
from torch.nn import functional

from ood_core.arrays import Maps, PerSample
from ood_core.models.in_context import Examples, InContextDenoiser
from ood_core.numerics.random import Stream, generator, root_key
from ood_core.pretraining.in_context_batches import (
    LOG_NOISE_MEAN,
    LOG_NOISE_SPREAD,
    Batch,
    InContextSpec,
)
from ood_core.pretraining.worlds import draw_world

VALIDATION_WORLDS, VALIDATION_MAPS, VALIDATION_EXAMPLES = 32, 8, 8
BANDS = {"low": (-math.inf, -1.2), "middle": (-1.2, 0.7), "high": (0.7, math.inf)}

Losses = dict[str, dict[str, float]]


def errors(network: InContextDenoiser, batch: Batch) -> PerSample:
    """Mean squared error of `v` of every map."""
    alpha = torch.rsqrt(1 + torch.exp(2 * batch.log_noise))[:, None, None, None]
    sigma = torch.exp(batch.log_noise)[:, None, None, None] * alpha
    noised = alpha * batch.x0 + sigma * batch.eps
    device = noised.device.type
    with torch.autocast(device, torch.bfloat16, device == "cuda"):
        kinds = len(batch.examples)
        context = network.context(batch.examples) if batch.shown else network.null_context(kinds)
        v = network(noised, batch.log_noise, context)
    wrong = functional.mse_loss(v.float(), alpha * batch.eps - sigma * batch.x0, reduction="none")
    return wrong.mean(dim=(1, 2, 3))


def moved(batch: Batch, device: torch.device) -> Batch:
    """Return a batch on a device."""
    parts = (batch.x0, batch.eps, batch.log_noise, batch.examples)
    x0, eps, log_noise, examples = (part.to(device, non_blocking=True) for part in parts)
    return Batch(x0, eps, log_noise, examples, batch.shown)


@final
@dataclass(frozen=True, slots=True)
class Group:
    """Worlds for validation: kinds of one name, their maps and examples."""

    name: str
    x0: Maps
    examples: Examples


def validation_groups(spec: InContextSpec, worlds: int = VALIDATION_WORLDS) -> list[Group]:
    """Draw worlds of the families that training sees, from other seeds, and of each held out."""
    each = worlds // max(1, len(spec.held_out))
    chosen = [("seen", None, worlds), *((name, name, each) for name in spec.held_out)]
    return [_group(spec, name, family, count) for name, family, count in chosen]


def _group(spec: InContextSpec, name: str, family: str | None, count: int) -> Group:
    need = VALIDATION_MAPS + VALIDATION_EXAMPLES
    drawn = []
    for index in range(count):
        seed = root_key(f"{spec.seed} validation {name} {index}")
        world = draw_world(seed, family, spec.seen)
        drawn.append(torch.from_numpy(world.maps(need, spec.size, 0)))
    maps = torch.stack(drawn)[:, :, None]
    return Group(name, maps[:, :VALIDATION_MAPS].flatten(0, 1), maps[:, VALIDATION_MAPS:])


@torch.no_grad()
def validate(spec: InContextSpec, network: InContextDenoiser, groups: Sequence[Group]) -> Losses:
    """Return losses by group, with and without examples, in all and by noise level.

    `held_out` is the mean over the groups of held-out families. Noise is the same every time, its
    levels the quantiles of what training draws.
    """
    losses: Losses = {}
    for group in groups:
        levels = _levels(len(group.x0))
        shown, unshown = (_group_errors(spec, network, group, levels, s) for s in (True, False))
        losses[group.name] = {"with": float(shown.mean()), "without": float(unshown.mean())}
        for band, (low, high) in BANDS.items():
            part = (levels >= low) & (levels < high)
            losses[group.name][f"with_{band}"] = float(shown[part].mean())
            losses[group.name][f"without_{band}"] = float(unshown[part].mean())
    held = [losses[name] for name in spec.held_out if name in losses]
    if held:
        losses["held_out"] = {key: float(np.mean([one[key] for one in held])) for key in held[0]}
    return losses


def _levels(count: int) -> PerSample:
    """Quantiles of the distribution of noise levels, spread evenly over the kinds."""
    order = generator(0, count, attempt=4, stream=Stream.TRAINING).permutation(count)
    quantiles = LOG_NOISE_MEAN + LOG_NOISE_SPREAD * ndtri((order + 0.5) / count)
    return torch.from_numpy(quantiles.astype(np.float32))


def _group_errors(
    spec: InContextSpec, network: InContextDenoiser, group: Group, levels: PerSample, shown: bool
) -> PerSample:
    device = next(network.parameters()).device
    rng = generator(spec.seed, 0, attempt=5, stream=Stream.TRAINING)
    eps = torch.from_numpy(rng.standard_normal(tuple(group.x0.shape), dtype=np.float32))
    parts: list[Tensor] = []
    for first in range(0, len(group.examples), spec.kinds):
        rows = slice(first * VALIDATION_MAPS, (first + spec.kinds) * VALIDATION_MAPS)
        examples = group.examples[first : first + spec.kinds]
        batch = Batch(group.x0[rows], eps[rows], levels[rows], examples, shown)
        parts.append(errors(network, moved(batch, device)).cpu())
    return torch.cat(parts)
