"""Single copies: is any one sample a copy of a fit target, and what kinds of copies would be seen?

A limit is set per space by the distances of held-out maps to the fit targets, far below any of them
(`ood_core.numerics.tails`), such that a set of real maps of the same number has a sample within any
limit with a probability of about `FALSE_ALARMS`. Fewer than a tenth of the held-out maps that are
copies of fit targets themselves (duplicates in the data) cannot bring the limit to 0; they are
listed. More can: no copy would be seen then, and the power says so.

Power is measured with planted copies of `KINDS`. A kind whose copies lie no nearer than real maps
do, as small pieces of smooth maps, is a kind that this search does not see on these targets.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.fft import dctn, idctn
from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates
from torch import Tensor
from torch.nn import functional

from ood_core.evaluation.features import AnyMaps, FeatureExtractor, Features
from ood_core.evaluation.results import Copy
from ood_core.numerics.random import Root
from ood_core.numerics.symmetry import orbit_size, transform
from ood_core.numerics.tails import limit

FALSE_ALARMS = 0.01  # probability that a set of real maps has a sample within a limit
SPACES = {
    "pixels": "shifted", "whole": "whole", "window": "window", "piece": "piece", "waves": "waves",
    "registered": "registered",
}  # fmt: skip
"""Features by space: over group and shifts; at every angle; by what is shared after a move, two
sizes; by long waves alone; after a smooth warp, whole maps and halves of them."""
ROUNDING, PIECE_ROUNDING = 1e-5, 3e-3  # of distances of equal pixels, and of equal pieces
PLANTED = 20  # copies of each kind
WARP = 0.0375  # of a side: standard deviation of displacements in each direction
LONG = 5.5  # half waves per side, at which the detail of another map has half the amplitude

Pixels = np.ndarray[Any, Any]
Plant = Callable[[Pixels, Pixels, np.random.Generator], Pixels]


@final
@dataclass(frozen=True, slots=True)
class CopyLimits:
    """Distances within which a sample is a copy, by space."""

    limits: Mapping[str, float]

    @classmethod
    def calibrate(cls, held_out: Features, count: int) -> "CopyLimits":
        """Set the limits for a set of `count` samples by the features of held-out maps."""
        rarity = FALSE_ALARMS / (max(count, 1) * len(SPACES))
        return cls({space: limit(held_out[name], rarity) for space, name in SPACES.items()})

    def nearness(self, features: Features) -> Float[Tensor, "n spaces"]:
        """Distances in parts of the limits.

        Equal pixels are a copy within any limit. Pieces that are equal in real maps, as where maps
        have two values, tell nothing: there is no such space then.
        """
        columns = []
        for space, name in SPACES.items():
            near, within = features[name].double(), self.limits[space]
            parts = near / max(within, 1e-300)
            if space == "pixels":
                parts = torch.where(near > ROUNDING, parts, 0)
            elif within < PIECE_ROUNDING:
                parts = torch.full_like(parts, math.inf)
            columns.append(parts)
        return torch.stack(columns, dim=1)

    def within(self, features: Features) -> Bool[Tensor, " n"]:
        """Whether each map is a copy in any space."""
        return self.nearness(features).amin(1) <= 1

    def copies(self, features: Features, start: int = 0) -> list[Copy]:
        """Return the copies among maps, which are numbered from `start`."""
        nearness, space = self.nearness(features).min(1)
        names = list(SPACES)
        return [
            Copy(
                start + row,
                int(features[f"{SPACES[names[int(space[row])]]}_target"][row]),
                names[int(space[row])],
                float(nearness[row]),
            )
            for row in (nearness <= 1).nonzero()[:, 0].tolist()
        ]


def copy_power(extractor: FeatureExtractor, limits: CopyLimits, root: Root) -> dict[str, float]:
    """Return the share of planted copies that are found, by kind."""
    found = _planted_features(extractor, root)
    return {kind: float(limits.within(f).double().mean()) for kind, f in found.items()}


@lru_cache(maxsize=1)  # many sets are held against the same targets in `benchmarks.judge`
def _planted_features(extractor: FeatureExtractor, root: Root) -> dict[str, Features]:
    return {kind: extractor.copy_distances(planted(extractor, kind, root)) for kind in KINDS}


def planted(
    extractor: FeatureExtractor, kind: str, root: Root, count: int = PLANTED, number: int = 0
) -> AnyMaps:
    """Return copies of fit targets of one kind of `KINDS`; `number` tells apart sets.

    Quadrants are set into held-out maps, which supply the rest.
    """
    rng = root.child("planted", kind).generator(number)
    rows = rng.permutation(len(extractor.fit))[:count]
    others = rng.integers(len(extractor.held_out), size=len(rows))
    made = []
    for row, other in zip(rows, others, strict=True):
        target, real = extractor.fit[int(row)], extractor.held_out[int(other)]
        if kind in TURNED:
            element = int(rng.integers(orbit_size(extractor.symmetries)))
            target = transform(target[None], element, extractor.symmetries)[0]
        made.append(KINDS[kind](target.numpy(), real.numpy(), rng))
    return torch.from_numpy(np.stack(made).astype(np.float32))


def _shifted(target: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    shift = [int(rng.integers(side)) for side in target.shape[-2:]]
    return np.roll(target, shift, (-2, -1))


def _noised(target: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    spread = target.std((-2, -1), keepdims=True)
    noised: Pixels = target + 0.1 * spread * rng.standard_normal(target.shape)
    return noised


def _contrasted(target: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    other: Pixels = target * rng.uniform(0.6, 1.6) + target.std() * rng.uniform(-1, 1)
    return other


def _inverted(target: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    mean = target.mean((-2, -1), keepdims=True)
    other: Pixels = mean - rng.uniform(0.6, 1.6) * (target - mean)
    return other


def _window(target: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    """Move by a quarter side both ways; what comes into view mirrors what is there."""
    height, width = target.shape[-2:]
    dy, dx = (int(rng.choice([-1, 1])) * (side // 4) for side in (height, width))
    pads = [(0, 0), (max(dy, 0), max(-dy, 0)), (max(dx, 0), max(-dx, 0))]
    framed = np.pad(target, pads, mode="symmetric")
    top, left = max(-dy, 0), max(-dx, 0)
    moved: Pixels = framed[:, top : top + height, left : left + width]
    if height != width:
        return moved
    turned = np.rot90(moved, int(rng.integers(4)), (-2, -1))
    return turned if rng.random() < 0.5 else turned[..., ::-1]


def _quadrant(target: Pixels, real: Pixels, rng: np.random.Generator) -> Pixels:
    half = [side // 2 for side in target.shape[-2:]]
    corners = [
        (y, x) for y in (0, target.shape[-2] - half[0]) for x in (0, target.shape[-1] - half[1])
    ]
    (y, x), (top, left) = (corners[int(rng.integers(4))] for _ in range(2))
    made = real.copy()
    made[:, top : top + half[0], left : left + half[1]] = target[
        :, y : y + half[0], x : x + half[1]
    ]
    return made


def _rotated(target: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    angle = float(np.deg2rad(rng.choice([-1, 1]) * rng.uniform(3, 20)))
    turn = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    return _mapped(target, np.array(turn))


def _rescaled(target: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    return _mapped(target, np.eye(2) / rng.uniform(1.03, 1.3))


def _squeezed(target: Pixels, real: Pixels, rng: np.random.Generator) -> Pixels:
    """Shrink to half the width, beside a real map that is shrunk in the same way."""
    width = target.shape[-1]
    parts = [
        functional.interpolate(torch.from_numpy(m)[None], (m.shape[-2], w), mode="area")[0].numpy()
        for m, w in ((target, width // 2), (real, width - width // 2))
    ]
    return np.concatenate(parts[:: int(rng.choice([-1, 1]))], -1)


def _other_detail(target: Pixels, real: Pixels, _: np.random.Generator) -> Pixels:
    """Give long waves of cosines, by a smooth filter, the rest of another map."""
    modes, others = (dctn(maps, axes=(-2, -1), norm="ortho") for maps in (target, real))
    p, q = (np.arange(side) for side in target.shape[-2:])
    kept = 0.5 ** (((p[:, None] ** 2 + q**2) / LONG**2) ** 4)
    mixed: Pixels = idctn(kept * modes + (1 - kept) * others, axes=(-2, -1), norm="ortho")
    return mixed


def _warped(target: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    """Move pixels by smooth random displacements."""
    shape = target.shape[-2:]
    places = np.indices(shape).astype(float)
    for axis, side in enumerate(shape):
        by = gaussian_filter(rng.standard_normal(shape), side / 6, mode="mirror")
        places[axis] += WARP * side * by / max(by.std(), 1e-12)
    return np.stack([map_coordinates(c, places, order=3, mode="mirror") for c in target])


def _mapped(target: Pixels, matrix: np.ndarray[Any, Any]) -> Pixels:
    """Take every pixel from `matrix` times its place about the middle, by cubic splines."""
    middle = (np.array(target.shape[-2:]) - 1) / 2
    offset = middle - matrix @ middle
    return np.stack([affine_transform(c, matrix, offset, order=3, mode="mirror") for c in target])


TURNED = ("symmetry", "shift", "noise", "contrast", "inversion")
"""Kinds that are planted under a random element of the group as well."""
KINDS: dict[str, Plant] = {
    "verbatim": lambda target, real, rng: target,
    "symmetry": lambda target, real, rng: target,
    "shift": _shifted,
    "noise": _noised,
    "contrast": _contrasted,
    "inversion": _inverted,
    "rotation": _rotated,
    "rescaling": _rescaled,
    "window": _window,
    "quadrant": _quadrant,
    "squeezed": _squeezed,
    "detail": _other_detail,
    "warp": _warped,
}
"""Kinds of copies: as it is; under the declared symmetries; with a periodic shift; with noise of a
tenth of its spread; of other contrast and brightness; with its sign inverted; turned by 3 to 20
degrees; enlarged by 3 to 30 %; a window moved by a quarter side both ways, turned or mirrored as
well; a quadrant set into another map; squeezed into half of a map; its waves of more than 0.37 of a
side with the detail of another map; warped smoothly by 0.0375 of a side in each direction."""
