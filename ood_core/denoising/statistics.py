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

Gradients are in closed form (`Statistics.vjp`), which takes half of the operators of autograd. They
are for `p`, the number of pixels, times the gradient by a pixel: then the inverse of the transform
`F` (norm "forward") is its adjoint. Of a statistic with the pull `g` they are

    mean, ring with weights w        g,  p g w
    sum of w |F x|^2                 Re F^-1(2 g w F x),  with g / (2 sum) for half its log
    mean modulus of wavelets         `Scattering.adjoint`
    mean of z^3, by z                3 g z^2,  z = (x - mean) / spread
    s = sigmoid((z - l) / e), by z   g s (1 - s) / e
    any h by z                       (h - mean(h) - p / (p - 1) mean(h z) z) / spread
    spread                           p / (p - 1) g z
    mean of sorted numbers           `SortedMeans.adjoint`
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from ood_core.arrays import Map, Maps
from ood_core.denoising.hats import band_knots, hat_functions
from ood_core.denoising.plateaus import Plateaus
from ood_core.denoising.sorted_means import Orders, SortedMeans
from ood_core.metrics.scattering import MIN_MODULUS, Responses, Scattering

BANDS = 9
LEVELS, EDGE = (-1.0, 2.0), 0.3
"""Brightnesses in a map's own sigma, about its mean, and the width of the soft step over them."""
LOW_K = {"bands": slice(3), "mean": slice(None)}
"""Statistics of the mean and of the lowest wavenumbers, and which of their numbers per channel."""
MIN_SPREAD = 1e-3  # of model range; so much is added before the logarithm, too
MIN_POWER = 1e-6
SPREAD_FLOOR = 0.02  # of a log unit or of model range: no statistic is held tighter than this
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
        self._shape = y, x = size, width or size
        self._plateaus, self._taper = plateaus, taper
        self._scattering, self._sorted = Scattering(y, thinned=True, width=x), SortedMeans(y, x)
        self._depths = -torch.tensor(LEVELS)[:, None] / EDGE
        rings = ring_means(y, radial_bins, x, centred).flatten(1)
        self._rings, pixels = rings.T.contiguous(), float(y * x)
        self._places = torch.cat([torch.ones(1, y * x), pixels * rings])

        hats = hat_functions(band_knots(y, x, BANDS), y, x)
        hats = hats / hats.sum((-2, -1), keepdim=True) * pixels
        hats[:, 0, 0] = 0  # power about the mean
        powers = torch.cat([hats, even(self._scattering.energies)])
        self._powers = half_sums(powers).flatten(1).repeat_interleave(2, dim=1).T.contiguous()
        self._power_gradients = 2 * powers[..., : x // 2 + 1].flatten(1)

        moduli, first = self._scattering.count, len(self._scattering.first)
        above, least = len(LEVELS) * (BANDS - 1), (MIN_MODULUS, MIN_MODULUS**2, MIN_POWER)
        self._logs = logs = (moduli, first, BANDS + above, 1)  # variances of moduli, powers, spread
        self._added = repeated((*least, MIN_SPREAD), logs)
        self._factors = repeated((1.0, 0.5, 0.5, 1.0), logs)
        coarse, sorted_pixels = self._sorted.counts
        self._sizes = {
            "scattering": moduli + first, "bands": BANDS, "excursions": above, "spread": 1,
            "mean": 1, "rings": radial_bins, "skewness": 1, "coarse": coarse,
            "pixels": sorted_pixels,
        }  # fmt: skip
        _, variances, bands, _ = torch.arange(sum(logs)).split(logs)
        own, *others = bands[1:].split([BANDS - 1] * (1 + len(LEVELS)))
        none = bands.new_full((1 + first,), -1)
        rows = [torch.cat([bands[:1], own, variances])]
        rows += [torch.cat([none[:1], some, none[1:]]) for some in others]
        columns = torch.cat(rows)  # of the logs, those of the powers of the map and of its steps
        self._columns, self._felt = columns.clamp_min(0), (columns >= 0).float()
        self._parts = (sum(logs), 1 + radial_bins, 1, coarse + sorted_pixels)
        linear = repeated((1.0, 3.0), self._parts[1:3])
        self._gains = torch.cat([self._factors, linear, self._sorted.shares]) / pixels

    def __call__(self, maps: Maps) -> Float[Tensor, "n f"]:
        """Return the statistics of every map, channel by channel."""
        return torch.cat(list(self.by_name(maps).values()), dim=2).flatten(1)

    def low_k(self, channels: int) -> Bool[Tensor, " f"]:
        """Which statistics are those of `LOW_K`."""
        return self.those(LOW_K, channels)

    def those(self, names: Mapping[str, slice], channels: int) -> Bool[Tensor, " f"]:
        """Which statistics have these names, and which of their numbers per channel."""
        zeros = torch.zeros(1, channels, *self._shape, device=self._depths.device)
        marks = {name: torch.zeros(part.shape) for name, part in self.by_name(zeros).items()}
        for name, which in names.items():
            marks[name][..., which] = 1
        return torch.cat(list(marks.values()), dim=2).flatten(1)[0] > 0

    def by_name(self, maps: Maps) -> dict[str, Float[Tensor, "n c k"]]:
        """Return the statistics of every map and channel by their names."""
        values, _ = self._measured(maps)
        parts = values.unflatten(0, maps.shape[:2]).split(list(self._sizes.values()), dim=2)
        return dict(zip(self._sizes, parts, strict=True))

    def vjp(self, maps: Maps) -> tuple[Float[Tensor, "n f"], Callable[[Tensor], Maps]]:
        """Return the statistics, and what gives gradients by maps of gradients by statistics."""
        values, seen = self._measured(maps)

        def by_maps(pull: Float[Tensor, "n f"]) -> Maps:
            found = self._adjoint(seen, pull.view_as(values)).view_as(maps)
            return found if self._taper is None else found * self._taper.weights

        return values.view(len(maps), -1), by_maps

    def _measured(self, maps: Maps) -> tuple[Float[Tensor, "m f"], "Seen"]:
        """Statistics of channels, a row for each, and what their gradients need."""
        channels = maps.shape[1]
        maps = maps if self._plateaus is None else self._plateaus(maps)
        maps = maps if self._taper is None else self._taper(maps)
        fields = maps.flatten(0, 1)
        flat = fields.flatten(1)
        mean = flat.mean(1, keepdim=True)
        centred = flat - mean
        spread = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
        spread = spread * (flat.shape[1] - 1) ** -0.5
        scale = spread.clamp_min(MIN_SPREAD)
        z = centred / scale
        square = z * z
        heights = torch.add(self._depths, z[:, None], alpha=1 / EDGE)
        if self._plateaus is not None:
            shape = (-1, channels)
            heights = self._plateaus.heights(flat.unflatten(0, shape), heights.unflatten(0, shape))
            heights = heights.flatten(0, 1)
        above = torch.sigmoid(heights)

        both = torch.cat([fields[:, None], above.unflatten(2, self._shape)], dim=1)
        modes = torch.fft.rfft2(both, norm="forward")
        power = torch.view_as_real(modes).square().flatten(2) @ self._powers
        moduli, responses = self._scattering.means(torch.fft.fft2(fields, norm="forward"))
        first = moduli.index_select(1, self._scattering.first)
        variance = torch.addcmul(power[:, 0, BANDS:], first, first, value=-1).clamp_min(0)
        powers = power[:, 0, :BANDS], power[:, 1:, 1:BANDS].flatten(1)
        logs = torch.cat([moduli, variance, *powers, spread], dim=1) + self._added
        means, orders = self._sorted(fields)
        rings, skewness = flat @ self._rings, (square * z).mean(1, keepdim=True)
        values = torch.cat([logs.log() * self._factors, mean, rings, skewness, *means], dim=1)
        return values, Seen(
            channels, scale, z, square, above, modes, responses, first, logs, orders
        )

    def _adjoint(self, seen: "Seen", pull: Float[Tensor, "m f"]) -> Float[Tensor, "m p"]:
        """The gradient by channels, of which `pull` is that by their statistics.

        What is held at a least value, a spread or a variance of moduli, has here the gradient of
        what is not.
        """
        pull, pixels = pull * self._gains, seen.z.shape[1]
        logs, places, skewness, means = pull.split(self._parts, dim=1)
        logs = logs / seen.logs
        moduli, variance, _, spread = logs.split(self._logs, dim=1)
        by_first = seen.first * variance
        by_moduli = moduli.index_add(1, self._scattering.first, by_first, alpha=-2)
        by_power = logs.index_select(1, self._columns) * self._felt
        by_power = by_power.unflatten(1, (1 + len(LEVELS), -1))
        by_modes = (by_power @ self._power_gradients).view_as(seen.modes) * seen.modes
        by_both = torch.fft.irfft2(by_modes, s=self._shape, norm="forward").flatten(2)
        by_modes = self._scattering.adjoint(seen.responses, by_moduli)
        found = by_both[:, 0] + torch.fft.ifft2(by_modes, norm="forward").real.flatten(1)

        by_height = torch.ops.aten.sigmoid_backward(by_both[:, 1:], seen.above)
        if self._plateaus is not None:
            by_height = by_height.unflatten(0, (-1, seen.channels))
            direct, by_height = self._plateaus.heights_adjoint(by_height)
            found, by_height = found + direct.flatten(0, 1), by_height.flatten(0, 1)
        by_z = torch.add(seen.square * skewness, by_height.sum(1), alpha=1 / EDGE)
        along, mean = (by_z * seen.z).mean(1, keepdim=True), by_z.mean(1, keepdim=True)
        along = torch.addcmul(along, spread, seen.scale, value=-1)
        by_z = torch.addcmul(by_z, seen.z, along, value=-pixels / (pixels - 1))
        places[:, :1].addcdiv_(mean, seen.scale, value=-1)
        found = torch.addmm(found.addcdiv_(by_z, seen.scale), places, self._places)
        return found.add_(self._sorted.adjoint(seen.orders, means).flatten(1))

    def to(self, device: torch.device | str) -> "Statistics":
        """Move to a device."""
        moved = copy(self)
        for name, value in vars(self).items():
            if hasattr(value, "to"):
                setattr(moved, name, value.to(device))
        return moved


@final
@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What `Statistics` measured on the way to its values; rows are channels of maps."""

    channels: int
    scale: Float[Tensor, "m 1"]
    z: Float[Tensor, "m p"]
    square: Float[Tensor, "m p"]
    above: Float[Tensor, "m levels p"]
    modes: Complex[Tensor, "m k y half"]
    responses: Responses
    first: Float[Tensor, "m l"]
    logs: Float[Tensor, "m k"]
    orders: Orders


def repeated(values: Sequence[float], counts: Sequence[int]) -> Float[Tensor, " n"]:
    """Every value so many times."""
    return torch.tensor(values).repeat_interleave(torch.tensor(counts))


def even(weights: Float[Tensor, "k y x"]) -> Float[Tensor, "k y x"]:
    """The even part of functions of the modes, which is all that sums over real maps see."""
    return (weights + weights.flip((-2, -1)).roll((1, 1), (-2, -1))) / 2


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
