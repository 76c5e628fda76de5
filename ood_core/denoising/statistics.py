"""Statistics of maps that decoding is steered towards, with gradients.

Log scattering moments, log band powers of the map and of what lies above several brightnesses,
mean, spread, skewness, means of groups of the sorted pixels and of sorted means of blocks, and
means of rings about the centre.

Power of a map alone does not say whether bright pixels are one object or many. That of the set of
pixels above a level does: at small scales it is the length of the set's boundary (Debye, Anderson &
Brumberger 1957, eq. 6), at larger ones how its pieces lie.

Many pixels of a real map may have one value exactly: an ionised bubble has 0 mK. Samples are set to
it where they come near (`ood_core.maps.quantization`), so statistics are those of the map that is
set, and one level lies between that value and all others. How far pixels lie beyond would else be
all that the steps see; the gradient passes as if nothing was set (Bengio et al. 2013).
"""

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ood_core.arrays import Map, Maps
from ood_core.denoising.hats import band_knots, hat_functions
from ood_core.denoising.plateaus import Plateaus
from ood_core.metrics.scattering import Scattering

GROUPS = 24
"""Groups of the sorted pixels. Every pixel is in one, where single quantiles would pull but a few:
maps whose brightest pixels are nearly even got outliers that nothing reached."""
BLOCKS, BLOCK_GROUPS = (2, 4), 16
"""Sides of the blocks whose means are sorted too, and groups of these.

Pixel values alone do not say that bright pixels lie together.
"""
BANDS = 9
LEVELS, EDGE = (-1.0, 2.0), 0.3
"""Brightnesses in a map's own sigma, about its mean, and the width of the soft step over them."""
LOW_K = {"bands": slice(3), "mean": slice(None)}
"""Statistics of the mean and of the lowest wavenumbers, and which of their numbers per channel."""
RING_GROWTH = 1.3  # ring `i` of `n` ends at `(i/n)^1.3` of the corner's distance


@final
@dataclass(frozen=True, slots=True, eq=False)
class Taper:
    """Maps that fade to a mean `(c, 1, 1)` at their borders, by `weights` `(y, x)` from 0 to 1.

    Powers and wavelets take maps to be periodic: the step from one border to the border opposite is
    part of what they see.
    """

    mean: Map
    weights: Float[Tensor, "y x"]

    def __call__(self, maps: Maps) -> Maps:
        """Fade maps."""
        return self.mean + self.weights * (maps - self.mean)

    def to(self, device: torch.device | str) -> "Taper":
        """Move to a device."""
        return Taper(self.mean.to(device), self.weights.to(device))


@final
class Statistics:
    """Differentiable summary of maps in model range, square ones without a `width`.

    With `plateaus`, maps are set to these first; with a `taper` they then fade at their borders.
    Rings are about the middle, or with `centred` about the pixel `side // 2` of each side.
    """

    def __init__(
        self,
        size: int,
        radial_bins: int = 0,
        width: int | None = None,
        plateaus: Plateaus | None = None,
        taper: Taper | None = None,
        centred: bool = False,
    ) -> None:
        shape = y, x = size, width or size
        self._scattering = Scattering(y, thinned=True, width=x)
        hats = hat_functions(band_knots(y, x, BANDS), y, x)
        hats = hats / hats.sum((-2, -1), keepdim=True) / (y * x)
        hats[:, 0, 0] = 0  # power about the mean
        self._bands = half_sums(hats)
        self._groups = group_means(y * x, GROUPS)
        self._block_groups = tuple(
            group_means((y // side) * (x // side), BLOCK_GROUPS) for side in BLOCKS
        )
        self._levels = torch.tensor(LEVELS)
        self._rings = ring_means(y, radial_bins, x, centred)
        self._shape, self._plateaus, self._taper = shape, plateaus, taper

    def __call__(self, maps: Maps) -> Float[Tensor, "n f"]:
        """Return the statistics of every map, channels concatenated."""
        return torch.cat([part.flatten(1) for part in self.by_name(maps).values()], dim=1)

    def low_k(self, channels: int) -> Bool[Tensor, " f"]:
        """Which statistics are those of `LOW_K`."""
        return self.those(LOW_K, channels)

    def those(self, names: Mapping[str, slice], channels: int) -> Bool[Tensor, " f"]:
        """Which statistics have these names, and which of their numbers per channel."""
        zeros = torch.zeros(1, channels, *self._shape, device=self._bands.device)
        marks = {name: torch.zeros(part.shape) for name, part in self.by_name(zeros).items()}
        for name, which in names.items():
            marks[name][..., which] = 1
        return torch.cat([mark.flatten(1) for mark in marks.values()], dim=1)[0] > 0

    def by_name(self, maps: Maps) -> dict[str, Tensor]:
        """Return the statistics of every map by their names, one row per map."""
        maps = maps if self._plateaus is None else self._plateaus(maps)
        maps = maps if self._taper is None else self._taper(maps)
        flat = maps.flatten(2)
        mean, spread = flat.mean(-1), flat.std(-1)
        standard = (flat - mean[..., None]) / spread[..., None].clamp_min(1e-3)
        heights = (standard[..., None, :] - self._levels[:, None]) / EDGE
        if self._plateaus is not None:
            heights = self._plateaus.heights(flat, heights)
        above = torch.sigmoid(heights).unflatten(-1, self._shape)
        excursions = self._log_power(above)[..., 1:]
        coarse = [
            avg_pool2d(maps, side).flatten(2).sort(dim=-1).values @ groups.T
            for side, groups in zip(BLOCKS, self._block_groups, strict=True)
        ]
        return {
            "scattering": self._scattering.log_moments(maps),
            "bands": self._log_power(maps),
            "excursions": excursions.flatten(2),
            "mean": mean,
            "spread": torch.log(spread + 1e-3),
            "skewness": (standard * standard * standard).mean(-1),
            "coarse": torch.cat(coarse, dim=-1),
            "pixels": flat.sort(dim=-1).values @ self._groups.T,
            "rings": flat @ self._rings.flatten(1).T,
        }

    def _log_power(self, maps: Float[Tensor, "*n y x"]) -> Float[Tensor, "*n bands"]:
        """Half the log of the power about the mean, per band."""
        modes = torch.fft.rfft2(maps)
        power = modes.real.square() + modes.imag.square()
        return 0.5 * torch.log(power.flatten(-2) @ self._bands.flatten(1).T + 1e-6)

    def to(self, device: torch.device | str) -> "Statistics":
        """Move to a device."""
        moved = copy(self)
        for name in ("_scattering", "_bands", "_groups", "_levels", "_rings"):
            setattr(moved, name, getattr(self, name).to(device))
        moved._block_groups = tuple(groups.to(device) for groups in self._block_groups)
        moved._plateaus = None if self._plateaus is None else self._plateaus.to(device)
        moved._taper = None if self._taper is None else self._taper.to(device)
        return moved


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


def half_sums(weights: Float[Tensor, "k y x"]) -> Float[Tensor, "k y half"]:
    """Weights of even functions of the modes, for sums over half of the spectrum alone."""
    width = weights.shape[-1]
    half = weights[..., : width // 2 + 1].clone()
    half[..., 1 : (width + 1) // 2] *= 2
    return half


def ring_means(
    size: int, count: int, width: int | None = None, centred: bool = False
) -> Float[Tensor, "rings y x"]:
    """Weights whose sums with a map are its means over rings about the centre, finer inside.

    The centre is the middle, or with `centred` the pixel `side // 2` of each side.
    """
    middle = [float(side // 2) if centred else (side - 1) / 2 for side in (size, width or size)]
    rows, columns = (
        torch.arange(side) - at for side, at in zip((size, width or size), middle, strict=True)
    )
    radius = torch.hypot(rows[:, None], columns[None, :])
    top = float(radius.max())
    number = (count * (radius / top) ** (1 / RING_GROWTH)).long().clamp(max=count - 1)
    inside = (number[None] == torch.arange(count)[:, None, None]).float()
    return inside / inside.sum((-2, -1), keepdim=True).clamp_min(1)
