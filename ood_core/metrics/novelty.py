"""Distance to the nearest target over the declared symmetries: is a sample a copy?

The distance of a map from a target is the root mean square of their pixel difference, least over
the images of the target under the group of `ood_core.numerics.symmetry.orbit`. `nearest` searches
no shifts. Samples as novel as real maps lie as far from the fit targets as held-out real maps do,
so the ratio of the medians is 1; copies bring it to 0.

`nearest_shifted` searches all periodic shifts as well. The least squared distance of `a` and shifts
of `b` is `(|a|^2 + |b|^2 - 2 max_s (a * b)_s) / d` with the cross-correlation `a * b`, a product of
transforms. Since `(a * b)_s <= sum_k |F_a| |F_b| / N` at every shift, the distance of moduli bounds
it from below, at the price of one product of matrices. Only the images with the least bounds are
correlated: the bound of a copy is its noise, so that copies are among them, while the distance of a
map that is no copy may come out too large, never too small.

Images of targets are not made: `|q - g t| = |g^-1 q - t|`, so the few queries are turned instead of
the targets, whose transforms are kept (`Reference`). The search is in float32; the distance of what
it found is measured anew in float64, so that a copy is at distance 0 exactly. Of images that are
equally near to seven digits either may be found.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.config.targets import Symmetry
from ood_core.errors import TargetError
from ood_core.numerics.symmetry import inverse, orbit, orbit_size, turned_shift

Targets = Float[Tensor, "targets c y x"]
BLOCK_VALUES = 2**21  # of turned queries that are held at once, times a few: near to the cache
CANDIDATES = 8  # images that are correlated with a map


@final
@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """Per query: distance (RMS per pixel), index of the nearest target, and group element.

    The query resembles `transform(targets[target], element, symmetries)`.
    """

    distance: Float[Tensor, " n"]
    target: Int[Tensor, " n"]
    element: Int[Tensor, " n"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Shifted:
    """Per query, the nearest image of a target under group and periodic shifts.

    The query resembles `transform(targets[target], element, symmetries)` rolled by `shift` (y, x).
    """

    distance: Float[Tensor, " n"]
    target: Int[Tensor, " n"]
    element: Int[Tensor, " n"]
    shift: Int[Tensor, "n 2"]


@final
class Reference:
    """Targets as they are searched, on their device: prepared once, asked many times.

    Raises:
        TargetError: there are no targets.
    """

    def __init__(self, targets: Targets, symmetries: Sequence[Symmetry]) -> None:
        if not len(targets):
            raise TargetError("got no targets; expected at least 1 to measure novelty against")
        self._targets, self._symmetries = targets, tuple(symmetries)
        self._turns = [inverse(g, symmetries) for g in range(orbit_size(symmetries))]
        # Centring keeps the expanded square |q|^2 - 2 q.t + |t|^2 from cancelling.
        self._centre = targets.double().mean()

    def nearest(self, queries: Maps, block_values: int = BLOCK_VALUES) -> Nearest:
        """Search all targets under all group elements."""
        rows = max(1, block_values // self._targets[0].numel() // len(self._turns))
        found = [self._nearest(block) for block in queries.split(rows)]
        return Nearest(*(torch.cat(column) for column in zip(*found, strict=True)))

    def nearest_shifted(self, queries: Maps, block_values: int = BLOCK_VALUES) -> Shifted:
        """Search targets under group and shifts."""
        rows = max(1, block_values // self._targets[0].numel() // len(self._turns))
        found = [self._shifted(block) for block in queries.split(rows)]
        return Shifted(*(torch.cat(column) for column in zip(*found, strict=True)))

    def _centred(self, maps: Maps) -> Maps:
        return (maps.double() - self._centre).float()

    @cached_property
    def _flat(self) -> tuple[Float[Tensor, "targets d"], Float[Tensor, " targets"]]:
        """Centred targets in rows, and their squares."""
        flat = self._centred(self._targets).flatten(1)
        return flat, flat.square().sum(1)

    @cached_property
    def _modes(self) -> Tensor:
        """Half spectra of centred targets, `(targets, c, y, half)`."""
        modes: Tensor = torch.fft.rfft2(self._centred(self._targets))
        return modes

    @cached_property
    def _moduli(self) -> tuple[Float[Tensor, "targets d"], Float[Tensor, " targets"]]:
        moduli = self._moduli_of(self._modes)
        return moduli, moduli.square().sum(1)

    def _moduli_of(self, modes: Tensor) -> Tensor:
        """Moduli in rows, scaled so that squares add up to those over the whole plane."""
        twice = torch.full(modes.shape[-1:], math.sqrt(2), device=modes.device)
        width = self._targets.shape[-1]
        twice[:: width // 2 if width % 2 == 0 else width] = 1  # no mode but itself is its conjugate
        return (modes.abs() * twice).flatten(1)

    def _turned(self, maps: Maps) -> Float[Tensor, "elements n c y x"]:
        """Image `g` of all maps is turned back by element `g`."""
        images = orbit(maps, self._symmetries)
        return torch.stack([images[turn] for turn in self._turns])

    def _nearest(self, queries: Maps) -> tuple[Tensor, ...]:
        flat, square = self._flat
        turned = self._turned(self._centred(queries)).flatten(2)
        apart = square - 2 * turned @ flat.T  # (elements, n, targets)
        best = apart.transpose(0, 1).flatten(1).argmin(1)
        element, target = best // len(flat), best % len(flat)
        gap = self._pairs(queries, element) - self._targets[target].double()
        return gap.square().flatten(1).mean(1).sqrt(), target, element

    def _shifted(self, queries: Maps) -> tuple[Tensor, ...]:
        count, size = len(self._targets), queries.shape[-2:]
        turned = self._turned(self._centred(queries))
        modes = torch.fft.rfft2(turned)
        moduli, square = self._moduli
        bound = square - 2 * self._moduli_of(modes.flatten(0, 1)) @ moduli.T
        bound = bound.unflatten(0, (len(turned), -1)).transpose(0, 1).flatten(1)
        most = min(CANDIDATES, bound.shape[1])
        seen = bound.topk(most, dim=1, largest=False, sorted=False).indices.sort(dim=1).values
        element, target = seen // count, seen % count
        row = torch.arange(len(queries), device=queries.device)
        product = modes[element, row[:, None]] * self._modes[target].conj()
        match = torch.fft.irfft2(product.sum(2), s=size).flatten(-2)  # channels shift together
        height, place = match.max(-1)
        best = (self._flat[1][target] - 2 * height).argmin(1, keepdim=True)
        place, element, target = (x.gather(1, best)[:, 0] for x in (place, element, target))
        shift = torch.stack([place // size[1], place % size[1]], dim=1)
        gap = self._pairs(queries, element) - rolled(self._targets[target].double(), shift)
        distance = gap.square().flatten(1).mean(1).sqrt()
        ways = [turned_shift(shift, g, self._symmetries) for g in range(len(self._turns))]
        turned_back = torch.stack(ways)[element, row] % torch.tensor(size, device=shift.device)
        return distance, target, element, turned_back

    def _pairs(self, queries: Maps, element: Int[Tensor, " n"]) -> Float[Tensor, "n c y x"]:
        """Every query turned back by its own element, float64."""
        places = self._places[element][:, None].expand(-1, queries.shape[1], -1)
        return queries.double().flatten(2).gather(2, places).view(queries.shape)

    @cached_property
    def _places(self) -> Int[Tensor, "elements pixels"]:
        """Pixels of a map in the order of its images, `_turned`."""
        height, width = self._targets.shape[-2:]
        pixels = torch.arange(height * width, device=self._targets.device)
        return self._turned(pixels.view(1, 1, height, width)).flatten(1)


def rolled(maps: Maps, shift: Int[Tensor, "n 2"]) -> Maps:
    """Roll every map by its own shift (y, x)."""
    height, width = maps.shape[-2:]
    y = (torch.arange(height, device=maps.device) - shift[:, :1]) % height
    x = (torch.arange(width, device=maps.device) - shift[:, 1:]) % width
    row = torch.arange(len(maps), device=maps.device)[:, None, None]
    return maps[row, :, y[:, :, None], x[:, None, :]].movedim(-1, 1)


def nearest(
    queries: Maps,
    targets: Targets,
    symmetries: Sequence[Symmetry],
    block_values: int = BLOCK_VALUES,
) -> Nearest:
    """Search all targets under all group elements, in blocks of bounded memory.

    Raises:
        TargetError: there are no targets.
    """
    return Reference(targets, symmetries).nearest(queries, block_values)


def distance_ratio(samples: Float[Tensor, " n"], held_out: Float[Tensor, " m"]) -> float:
    """Return the ratio of two medians of nearest distances.

    Held-out maps that are themselves copies of targets leave nothing to compare with: the ratio is
    then infinite, or 1 if the samples are copies too.
    """
    above, below = (float(d.double().quantile(0.5)) for d in (samples, held_out))
    if below == 0:
        return 1.0 if above == 0 else float("inf")
    return above / below
