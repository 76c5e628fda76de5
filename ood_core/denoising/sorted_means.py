"""Means of groups of the sorted pixels of maps, and of the sorted means of their blocks.

A sorted number is one of the numbers, so the gradient of a group's mean is `1 / size` at each
number of the group, put back to where these came from.
"""

import math
from copy import copy
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ood_core.metrics.scattering import taken

GROUPS = 24
"""Groups of the sorted pixels. Every pixel is in one, where single quantiles would pull but a few:
maps whose brightest pixels are nearly even got outliers that nothing reached."""
BLOCKS, BLOCK_GROUPS = (2, 4), 16
"""Sides of the blocks whose means are sorted too, and groups of these; each divides the next.

Pixel values alone do not say that bright pixels lie together.
"""

Orders = list[Int[Tensor, "n k"]]
"""Where the sorted numbers came from: pixels first, then means of ever larger blocks."""


@final
class SortedMeans:
    """Means of groups of sorted numbers of maps `(n, y, x)`: of blocks, then of pixels.

    `shares` are the gradients by a number of a group, times the number of pixels; by a block's mean
    it is `side^2` of that by each of its pixels, which cancels.
    """

    def __init__(self, size: int, width: int) -> None:
        self._shapes = [(size // side, width // side) for side in (1, *BLOCKS)]
        self._ranks = [math.prod(shape) for shape in self._shapes]
        most = (GROUPS, *(BLOCK_GROUPS for _ in BLOCKS))
        groups = [group_means(*pair) for pair in zip(self._ranks, most, strict=True)]
        self._groups = tuple(part.T.contiguous() for part in groups)
        self.counts = (sum(len(part) for part in groups[1:]), len(groups[0]))
        starts = torch.tensor([0, *(len(part) for part in groups[1:])]).cumsum(0).roll(1)
        numbers = [part.argmax(0) + start for part, start in zip(groups, starts, strict=True)]
        self._numbers = torch.cat(numbers)
        areas = zip(groups, (1, *BLOCKS), strict=True)
        shares = [part.amax(1) * (size * width / side**2) for part, side in areas]
        self.shares = torch.cat([*shares[1:], shares[0]])

    def __call__(self, maps: Float[Tensor, "n y x"]) -> tuple[list[Float[Tensor, "n f"]], Orders]:
        """Return the means by size of blocks, pixels last, and what `adjoint` needs."""
        found, orders = [], []
        for step, groups in zip((1, *_steps()), self._groups, strict=True):
            maps = maps if step == 1 else avg_pool2d(maps, step)
            values, order = ascending(maps.flatten(1))
            found.append(values @ groups)
            orders.append(order)
        return [*found[1:], found[0]], orders

    def adjoint(self, orders: Orders, pull: Float[Tensor, "n f"]) -> Float[Tensor, "n y x"]:
        """The gradient by maps times their number of pixels.

        `pull` is that by the means, in one row, times `shares`.
        """
        by_rank = taken(pull, self._numbers).split(self._ranks, dim=1)
        coarser: Tensor | None = None
        for scale in reversed(range(len(orders))):
            ranks, order = by_rank[scale], orders[scale]
            maps = torch.empty_like(ranks).scatter_(1, order, ranks)
            maps = maps.unflatten(1, self._shapes[scale])
            if coarser is not None:
                step, (y, x) = _steps()[scale], coarser.shape[1:]
                blocks = maps[:, : step * y, : step * x].unflatten(2, (x, step))
                blocks.unflatten(1, (y, step)).add_(coarser[:, :, None, :, None])
            coarser = maps
        assert coarser is not None, "there are orders"
        return coarser

    def to(self, device: torch.device | str) -> "SortedMeans":
        """Move to a device."""
        moved = copy(self)
        moved._numbers, moved.shares = self._numbers.to(device), self.shares.to(device)
        moved._groups = tuple(groups.to(device) for groups in self._groups)
        return moved


def ascending(numbers: Float[Tensor, "n k"]) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Sorted rows and where their numbers were; of equal ones the first comes first.

    On a CPU NumPy sorts whole numbers of 64 bits with vector instructions, six times as fast as
    torch sorts: the bits of a float, ordered as it is, and its place behind them.
    """
    if numbers.device.type != "cpu" or numbers.dtype != torch.float32 or numbers.requires_grad:
        return numbers.sort(dim=1, stable=True)
    keys = torch.empty(numbers.shape, dtype=torch.int64)
    places, bits = keys.view(torch.int32).unflatten(1, (-1, 2)).unbind(2)
    places.copy_(torch.arange(numbers.shape[1]))
    bits.copy_(_ordered((numbers + 0.0).view(torch.int32)))  # -0 is 0
    keys.numpy().sort(axis=1)
    return _ordered(bits).view(torch.float32), places.long()


def _ordered(bits: Int[Tensor, "n k"]) -> Int[Tensor, "n k"]:
    """Bits of floats as whole numbers of the same order; its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _steps() -> list[int]:
    """How many times larger blocks are than the next smaller ones, or than pixels."""
    return [larger // smaller for smaller, larger in pairwise((1, *BLOCKS))]


def group_means(count: int, groups: int) -> Float[Tensor, "groups count"]:
    """Weights of so many sorted numbers, one at least, whose sums are means of groups.

    Groups are narrower at both ends. There are fewer where there are fewer numbers.
    """
    step = torch.arange(min(groups, count) + 1)
    ends = (count * torch.sin(math.pi / 2 * step / step[-1]).square()).round().long()
    ends = ends.clamp(min=step, max=count - step[-1] + step)
    number = torch.searchsorted(ends[1:], torch.arange(count), right=True)
    inside = (number[None] == step[:-1, None]).float()
    return inside / inside.sum(dim=1, keepdim=True)
