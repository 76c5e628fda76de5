"""Convolutional two-sample test: can a small network tell two sets of maps apart, and where?

No list of statistics decides what is looked at (Lopez-Paz & Oquab 2017). Three convolutions give a
logit at every second pixel, from the 9 x 9 px about it, and a map's logit is their mean: so the
same numbers say where in a map the network tells. It is trained on one half of each set and asked
the other half, both ways round. Each answer by itself has the distribution of Fisher's exact test
if both sets have one distribution (`ood_core.metrics.two_sample`); the two are not independent, so
the smaller p-value is doubled (Bonferroni).

Maps are turned by the declared symmetries and cropped while training, which 100 maps are too few to
do without.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import fisher_exact
from torch import Tensor, nn

from ood_core.arrays import Maps, PerSample
from ood_core.config.targets import Symmetry
from ood_core.errors import TargetError
from ood_core.metrics.discrepancy import Discrepancy
from ood_core.numerics.random import Root
from ood_core.numerics.symmetry import orbit_size, transform

WIDTH = 8  # channels of the first convolution, doubled after it
STEPS, ROWS, RATE = 100, 32, 5e-3  # of AdamW, rows of either set in each
CROP = 64  # px: larger maps are trained on windows
MIN_MAPS = 32  # maps of a set: with fewer to learn from, the answers are chance
MIN_SIDE = 12  # px


@final
@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """Balanced accuracy on maps not trained on, its p-value, and logits of maps of the first set.

    Positive logits say that a map is of the first set, or that the place does `where` they are: at
    every second pixel, but for the 4 px at the borders.
    """

    found: Discrepancy
    logits: PerSample
    where: Float[Tensor, "n y2 x2"]


def convolutional_test(
    first: Maps, second: Float[Tensor, "_ c y x"], symmetries: Sequence[Symmetry], root: Root
) -> Told:
    """Train on half of each set and ask the other, both ways; rows must be in random order.

    Raises:
        TargetError: a set has fewer than `MIN_MAPS` maps, or they are below `MIN_SIDE`.
    """
    if (side := min(first.shape[-2:])) < MIN_SIDE:
        raise TargetError(f"got maps of {side} pixels; expected at least {MIN_SIDE} a side")
    if min(len(first), len(second)) < MIN_MAPS:
        got = min(len(first), len(second))
        raise TargetError(f"got {got} maps in a set; expected at least {MIN_MAPS} to train on")
    sets = first.float(), second.float()
    right, p_values, where = [], [], [torch.empty(0), torch.empty(0)]
    for asked in (0, 1):
        folds = [(maps[: len(maps) // 2], maps[len(maps) // 2 :]) for maps in sets]
        seen = [fold[1 - asked] for fold in folds]
        with _one_thread():
            network = _trained(seen, symmetries, root.child("half", str(asked)))
            local = [_local(network, fold[asked]) for fold in folds]
        said = [int((logits.mean((1, 2)) > 0).sum()) for logits in local]
        table = [[count, len(logits) - count] for count, logits in zip(said, local, strict=True)]
        p_values.append(float(fisher_exact(table, alternative="greater").pvalue))
        right.append((said[0] / len(local[0]) + 1 - said[1] / len(local[1])) / 2)
        where[asked] = local[0]
    every = torch.cat(where)
    found = Discrepancy(float(np.mean(right)), min(1.0, 2 * min(p_values)))
    return Told(found, every.mean((1, 2)), every)


def _trained(sets: Sequence[Maps], symmetries: Sequence[Symmetry], root: Root) -> "nn.Sequential":
    """A network with a positive logit for maps of the first of two sets."""
    rng = torch.Generator().manual_seed(int(root.generator().integers(2**62)))
    pixels = torch.cat([maps.transpose(0, 1).flatten(1) for maps in sets], dim=1)
    network = _network(pixels.mean(1), pixels.std(1), rng)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    labels = torch.tensor([1.0, 0.0]).repeat_interleave(ROWS)
    for _ in range(STEPS):
        rows = [maps[torch.randint(len(maps), (ROWS,), generator=rng)] for maps in sets]
        batch = _window(torch.cat(rows), rng)
        element = int(torch.randint(orbit_size(symmetries), (1,), generator=rng))
        logits = network(transform(batch, element, symmetries)).mean((1, 2, 3))
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def _network(mean: Tensor, spread: Tensor, rng: torch.Generator) -> nn.Sequential:
    """Random convolutions of maps that are brought to mean 0 and spread 1 per channel."""
    channels = len(mean)
    scale = nn.Conv2d(channels, channels, 1, groups=channels)
    sizes = ((channels, WIDTH, 1), (WIDTH, 2 * WIDTH, 2), (2 * WIDTH, 2 * WIDTH, 1))
    layers: list[nn.Module] = [scale]
    for inside, outside, stride in sizes:
        layers += [nn.Conv2d(inside, outside, 3, stride=stride), nn.SiLU()]
    layers.append(nn.Conv2d(2 * WIDTH, 1, 1))
    for layer in layers[1:]:
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=rng)
            nn.init.zeros_(layer.bias)
    width = spread.clamp_min(1e-6)
    scale.weight.data = (1 / width).view_as(scale.weight)
    scale.bias = nn.Parameter(-mean / width)
    scale.requires_grad_(False)
    return nn.Sequential(*layers)


def _window(maps: Maps, rng: torch.Generator) -> Maps:
    """A random window of at most `CROP` px a side, the same of all maps."""
    corner = []
    for side in maps.shape[-2:]:
        free = max(0, side - CROP)
        corner.append(int(torch.randint(free + 1, (1,), generator=rng)))
    y, x = corner
    return maps[..., y : y + CROP, x : x + CROP]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Layers are so small that threads wait for one another longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def _local(network: nn.Sequential, maps: Maps) -> Float[Tensor, "n y2 x2"]:
    found: Tensor = torch.cat([network(some)[:, 0] for some in maps.split(64)])
    return found
