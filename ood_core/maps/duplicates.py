"""Near duplicates across the splits: held-out maps that are fit targets, or nearly so.

Every map is averaged down to `GRID` pixels and brought to its own mean and spread, so that contrast
does not matter. Its distance from a target is `(2 - 2 r)^1/2`; `r` is the highest correlation with
the images under all flips and quarter turns, declared or not, and periodic shifts. A held-out map
is a near duplicate within the limit that real maps set (`ood_core.numerics.tails`), and at most
`MOST`; within `SURELY`, unless all maps are that much alike.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ood_core.numerics.symmetry import orbit
from ood_core.numerics.tails import limit

GRID = 32  # pixels of a side that are compared
CANDIDATES = 4  # images that are shifted, those of the most alike moduli
FALSE_ALARMS = 0.01  # probability that a set of different maps has a near duplicate
MOST = 0.3  # a correlation of 0.955
SURELY = 0.02  # noise of two per cent of a map's spread
ALIKE = 0.2  # median distance under which all maps are alike


def near_duplicates(values: NDArray[np.float32], fit: int) -> list[tuple[int, int]]:
    """Return pairs of a held-out map and the fitted one that it nearly is, by row."""
    own = _own_units(_shrunk(torch.from_numpy(values)))
    distance, target = _nearest(own[fit:], own[:fit])
    within = min(MOST, limit(distance, FALSE_ALARMS / len(distance)))
    if float(distance.median()) > ALIKE:
        within = max(within, SURELY)
    rows = (distance <= within).nonzero()[:, 0].tolist()
    return [(fit + row, int(target[row])) for row in rows]


def turned_copies(values: NDArray[np.float32], fit: int) -> list[tuple[int, int]]:
    """Return pairs of maps of one split of which the second is the first, mirrored or turned.

    Identical ones are not among them. Sums of the stored bits do not depend on the order of pixels,
    so only maps of equal sums are compared.
    """
    found: list[tuple[int, int]] = []
    known: dict[tuple[int, ...], list[int]] = {}
    for row, maps in enumerate(values):
        bits = maps.view(np.uint32).astype(np.uint64).reshape(len(maps), -1)
        sums = (row < fit, *bits.sum(1).tolist(), *(bits * bits).sum(1).tolist())
        images = _images(maps)
        same = (n for n in known.get(sums, []) if _is_among(values[n], images))
        first = next(same, None)
        if first is None:
            known.setdefault(sums, []).append(row)
        elif not np.array_equal(values[first], maps):
            found.append((first, row))
    return found


def _images(maps: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [np.rot90(m, k, (1, 2)) for m in (maps, maps[:, :, ::-1]) for k in range(4)]


def _is_among(maps: NDArray[np.float32], images: list[NDArray[np.float32]]) -> bool:
    return any(np.array_equal(maps, image) for image in images)


def _shrunk(maps: Tensor) -> Tensor:
    factor = max(1, min(maps.shape[-2:]) // GRID)
    blocks = [
        torch.nn.functional.avg_pool2d(m[None].double(), factor) if factor > 1 else m[None].double()
        for m in maps
    ]
    return torch.cat(blocks)


def _own_units(maps: Tensor) -> Tensor:
    rest = maps - maps.mean((-2, -1), keepdim=True)
    scale = rest.abs().amax((-2, -1), keepdim=True).clamp(min=1e-300)
    rest = rest / scale  # so that squares of huge and tiny values stay finite
    spread = rest.square().mean((-2, -1), keepdim=True).sqrt()
    return torch.where(spread > 0, rest / spread, 0)


def _nearest(held: Tensor, fit: Tensor) -> tuple[Float[Tensor, " m"], Tensor]:
    if held.shape[-1] == held.shape[-2]:
        images = torch.cat(orbit(fit, ("flip", "rotate90")))
    else:
        images = torch.cat([*orbit(fit, ("flip",)), *orbit(fit.flip(-2), ("flip",))])
    own, others = torch.fft.rfft2(held), torch.fft.rfft2(images)
    bounds = own.abs().flatten(1) @ others.abs().flatten(1).T
    likely = bounds.topk(min(CANDIDATES, len(images)), dim=1).indices
    size, pixels = held.shape[-2:], held[0].numel()
    best, which = [], []
    for row, columns in enumerate(likely):
        matches = torch.fft.irfft2((own[row] * others[columns].conj()).sum(1), s=size)
        height, at = (matches.flatten(1).amax(1) / pixels).max(0)
        best.append(2 - 2 * height)
        which.append(int(columns[at]) % len(fit))
    return torch.stack(best).clamp(min=0).sqrt(), torch.tensor(which)
