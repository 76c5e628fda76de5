"""Coarse maps: means of a map under tents, which overlap by half, on the torus.

Means over blocks know nothing of what lies beyond a block's border, and what is held to them has
edges there; tents of twice the width (linear B-splines) leave none. Together they weigh all pixels
alike, so a coarse map has the mean of its map.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps


def tents(side: int, factor: int) -> Float[Tensor, "coarse side"]:
    """Weights of the means, one row per coarse pixel; `factor` must divide `side`.

    Each is a box of `factor` pixels convolved with another, of one more where that makes it
    symmetric about the middle of its `factor` pixels.
    """
    first, second = torch.ones(factor), torch.ones(factor + 1 - factor % 2)
    taps = torch.zeros(len(first) + len(second) - 1)
    for start in range(len(first)):
        taps[start : start + len(second)] += 1
    row = torch.zeros(side)
    start = (factor - len(taps)) // 2
    row.index_add_(0, torch.arange(start, start + len(taps)) % side, taps / taps.sum())
    return torch.stack([row.roll(factor * number) for number in range(side // factor)])


def lowered(maps: Maps, factor: int) -> Maps:
    """Coarse maps `(n, c, y / factor, x / factor)` of maps."""
    rows, columns = (tents(side, factor).to(maps) for side in maps.shape[-2:])
    return rows @ maps @ columns.T
