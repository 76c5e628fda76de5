"""Is a map, or a piece of it, one of a target: turned, mirrored, rescaled or moved?

A disc of radius `R` about the middle is expanded in functions `J_m(k_mn r / R) exp(i m a)` that
vanish at its edge. Turning the disc by `b` multiplies the coefficient of order `m` by
`exp(-i m b)`, and mirroring it conjugates, so that the correlation of two discs at every angle
follows from sums over `n` alone:

    r(b) = Re sum_m exp(i m b) c_m,      c_m = sum_n u_mn conj(v_mn)

Coefficients are whitened by those of the targets, order by order: else all smooth discs would be
alike. `sum_m |c_m|` bounds `r` at every angle; only pairs with the largest bounds are turned. The
distance of a map from the targets is `(2 - 2 max r)^1/2`, 0 for a copy and near to that of real
maps for any other. Discs without structure, such as empty sky, resemble nothing.

Discs about the middle see whole maps that are turned, mirrored or rescaled. Maps that share a part
with a target after a move are seen by `metrics.overlap`. Maps are averaged down to `GRID` pixels
first, so that the cost does not grow with their size. Targets that were warped, squeezed or given
other detail are seen by `metrics.registration`. All eight orientations of square maps are looked
for, whether they are declared or not.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import final

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from scipy.special import jn_zeros, jv
from torch import Tensor

from ood_core.config.targets import Symmetry
from ood_core.metrics.one_point import own_units
from ood_core.metrics.overlap import Found, OverlapSearch
from ood_core.metrics.registration import RegistrationSearch

GRID = 32  # pixels of a side that is searched
MAX_WAVENUMBER = 0.28  # cycles per pixel of functions: finer ones do not survive interpolation
NOISE = 0.01  # variance of white noise, in map's own units, that whitening does not blow up
ANGLES = 64
EMPTY = 0.1  # of the mean energy of discs: with less, discs are alike for want of structure
SCALES = (0.72, 0.76, 0.81, 0.86, 0.9, 0.95, 1.0, 1.05, 1.1, 1.16)
"""Of a target's disc relative to that of the map: below 1, the map is enlarged."""
PAIRS = 32  # pairs of discs that are turned, per map
MAX_TARGETS = 1024  # of which discs are kept; more are thinned evenly
WHITENED = 64  # targets, at most, that set the whitening
BLOCK = 16  # maps at once

AnyMaps = Float[Tensor, "_ _ _ _"]
Coefficients = Complex[Tensor, "discs functions"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Discs:
    """Discs of all targets, whitened and of unit length, with their targets.

    `parts` are real and imaginary parts by orders, a column for each disc.
    """

    radius: float
    channels: int
    whitening: tuple[Float[Tensor, "_ _"], ...]
    discs: Coefficients
    parts: tuple[Float[Tensor, "_ _"], ...]
    target: Int[Tensor, " discs"]

    @classmethod
    def of(cls, maps: AnyMaps) -> "_Discs":
        radius, channels = 0.44 * min(maps.shape[-2:]), maps.shape[1]
        some = maps[:: -(-len(maps) // WHITENED)]
        whitening = _whitening(_expanded(some, radius, 1).flatten(0, 1), radius, channels)
        parts = [
            _whitened(_expanded(maps, radius, 0, scale), whitening, radius) for scale in SCALES
        ]
        discs = torch.cat([part.flatten(0, 1) for part in parts])
        target = torch.cat(
            [torch.arange(len(maps)).repeat_interleave(part.shape[1]) for part in parts]
        )
        both = torch.cat([discs, discs.conj().resolve_conj()])
        orders = (both[:, columns] for columns in _orders(radius, channels))
        split = tuple(torch.cat([of.real, of.imag], 1).T.contiguous() for of in orders)
        return cls(radius, channels, whitening, both, split, target.repeat(2))

    def nearest(self, maps: AnyMaps) -> Found:
        """Search all targets' discs for the discs of each map."""
        own = _whitened(_expanded(maps, self.radius, 1), self.whitening, self.radius)
        bound = self._bounds(own.flatten(0, 1)).unflatten(0, own.shape[:2]).flatten(1)
        pairs = bound.topk(min(PAIRS, bound.shape[1]), dim=1).indices
        place, which = pairs // len(self.discs), pairs % len(self.discs)
        rows = torch.arange(len(maps))[:, None]
        products = own[rows, place] * self.discs[which].conj()
        heights = (products @ _turns(self.radius, self.channels)).real.amax(-1)
        height, pair = heights.max(1)
        target = self.target[which.gather(1, pair[:, None])[:, 0]]
        return Found((2 - 2 * height.double().clamp(max=1)).sqrt(), target)

    def _bounds(self, own: Coefficients) -> Float[Tensor, "rows discs"]:
        """Return `sum_m |c_m|` of all pairs, order by order."""
        total = torch.zeros(len(own), len(self.discs))
        for columns, parts in zip(_orders(self.radius, self.channels), self.parts, strict=True):
            a = own[:, columns]
            sides = torch.cat([a.real, a.imag], 1), torch.cat([a.imag, -a.real], 1)
            real, imag = (torch.cat(sides) @ parts).square_().chunk(2)
            total += real.add_(imag).sqrt_()
        return total


@final
@dataclass(frozen=True, slots=True, eq=False)
class PieceSearch:
    """Searches targets for maps and pieces of maps, by discs, by overlap and by registration."""

    discs: _Discs
    overlap: OverlapSearch
    registration: RegistrationSearch
    step: int = 1  # from one target that is searched to the next

    @classmethod
    def of(cls, targets: AnyMaps, symmetries: tuple[Symmetry, ...] = ()) -> "PieceSearch":
        """Prepare targets; of more than `MAX_TARGETS` evenly spaced ones."""
        step = -(-len(targets) // MAX_TARGETS)
        some = targets[::step]
        small = _shrunk(some)
        blurred = small.shape != some.shape
        square = small.shape[-2] == small.shape[-1]
        images: tuple[Symmetry, ...] = ("flip", "rotate90") if square else symmetries
        return cls(
            _Discs.of(small),
            OverlapSearch.of(small, images, blurred=blurred),
            RegistrationSearch.of(small, images),
            step,
        )

    def nearest(self, maps: AnyMaps) -> dict[str, Found]:
        """Return what is nearest to maps, to parts of them and after registration, by name."""
        small = _shrunk(maps)
        whole = _joined([self.discs.nearest(block) for block in small.split(BLOCK)])
        found = {
            "whole": whole, **self.overlap.nearest(small), **self.registration.nearest(small),
        }  # fmt: skip
        return {n: Found(one.distance, one.target * self.step) for n, one in found.items()}


def _joined(parts: list[Found]) -> Found:
    return Found(torch.cat([p.distance for p in parts]), torch.cat([p.target for p in parts]))


def _shrunk(maps: AnyMaps) -> AnyMaps:
    """Average pixels down to about `GRID` of a side, in units of each map's own."""
    factor = max(1, min(maps.shape[-2:]) // GRID)
    small = torch.nn.functional.avg_pool2d(maps.double(), factor) if factor > 1 else maps
    return own_units(small).float()


@cache
def _functions(radius: float) -> tuple[tuple[int, float], ...]:
    """Orders `m` and wavenumbers `k_mn` of the functions, in rising order of `m`."""
    most = 2 * math.pi * MAX_WAVENUMBER * radius
    found = []
    for m in range(int(most) + 1):
        zeros = jn_zeros(m, 32)
        found += [(m, float(zero)) for zero in zeros if zero <= max(most, 3.9)]
    return tuple(found)


@cache
def _orders(radius: float, channels: int) -> tuple[slice, ...]:
    """Columns of each order."""
    orders = [m for m, _ in _functions(radius) for _ in range(channels)]
    return tuple(
        slice(orders.index(m), orders.index(m) + orders.count(m)) for m in sorted(set(orders))
    )


@cache
def _turns(radius: float, channels: int) -> Complex[Tensor, "functions angles"]:
    orders = torch.tensor(
        [m for m, _ in _functions(radius) for _ in range(channels)], dtype=torch.float64
    )
    angles = 2 * math.pi * torch.arange(ANGLES, dtype=torch.float64) / ANGLES
    return torch.exp(1j * orders[:, None] * angles).to(torch.complex64)


@cache
def _filters(radius: float, scale: float, half: float) -> Complex[Tensor, "functions p p"]:
    """Functions on pixels about a point that lies `half` of a pixel off the middle one.

    Orders above 0 count twice, for their negative ones, so that products of coefficients are
    those of the discs.
    """
    reach = math.ceil(radius * scale)
    at = np.arange(-reach, reach + 1) - half
    y, x = np.meshgrid(at, at, indexing="ij")
    r, angle = np.hypot(y, x) / (radius * scale), np.arctan2(y, x)
    rows = []
    for m, zero in _functions(radius):
        row = np.where(r < 1, jv(m, zero * r), 0) * np.exp(-1j * m * angle)
        row = row * (2**0.5 if m else 1) / max(float(np.linalg.norm(row)), 1e-12)
        rows.append(row)
    return torch.from_numpy(np.stack(rows)).to(torch.complex64)


def _expanded(
    maps: AnyMaps, radius: float, reach: int, scale: float = 1.0
) -> Complex[Tensor, "n discs functions"]:
    """Coefficients of discs about the middle and the pixels around it."""
    height, width = maps.shape[-2:]
    reach = min(reach, (min(height, width) - 1) // 2)
    half = 0.5 if min(height, width) % 2 == 0 else 0.0
    bank = _filters(radius, scale, half)
    pad = bank.shape[-1] // 2
    framed = torch.nn.functional.pad(maps, (pad, pad, pad, pad), mode="replicate")
    flat = framed.reshape(-1, *framed.shape[-2:])
    middle, around = ((height - 1) // 2, (width - 1) // 2), range(-reach, reach + 1)
    points = [(middle[0] + dy, middle[1] + dx) for dy in around for dx in around]
    patches = torch.stack(
        [flat[:, y : y + 2 * pad + 1, x : x + 2 * pad + 1].flatten(1) for y, x in points], 1
    )
    coefficients = patches.to(bank.dtype) @ bank.flatten(1).T
    # Channels turn together: those of a function lie beside one another.
    several: Tensor = coefficients.unflatten(0, maps.shape[:2]).movedim(1, -1).flatten(-2)
    return several


def _whitening(
    every: Coefficients, radius: float, channels: int
) -> tuple[Float[Tensor, "_ _"], ...]:
    """Return, per order, the inverse root of the coefficients' covariance."""
    found = []
    for columns in _orders(radius, channels):
        rows = every[:, columns]
        # Real, as that of maps and their mirror images is.
        values, vectors = torch.linalg.eigh((rows.mH @ rows).real / len(rows))
        gain = (values.clamp(min=0) + NOISE).rsqrt()
        found.append((vectors * gain) @ vectors.T)
    return tuple(found)


def _whitened(
    coefficients: Complex[Tensor, "n discs functions"],
    whitening: tuple[Float[Tensor, "_ _"], ...],
    radius: float,
) -> Complex[Tensor, "n discs functions"]:
    """Whiten, and bring every disc to unit length."""
    channels = coefficients.shape[-1] // len(_functions(radius))
    parts = [
        coefficients[..., columns] @ matrix.to(coefficients.dtype)
        for columns, matrix in zip(_orders(radius, channels), whitening, strict=True)
    ]
    white = torch.cat(parts, dim=-1)
    energy = white.abs().square().sum(-1, keepdim=True)
    structured = energy > EMPTY * white.shape[-1]  # the mean over discs of the targets is 1 each
    unit: Tensor = torch.where(structured, white / energy.sqrt().clamp(min=1e-12), 0)
    return unit
