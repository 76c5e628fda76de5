"""Is a piece of a map a piece of a target, turned, mirrored, moved or rescaled?

A disc of radius `R` about a pixel is expanded in functions `J_m(k_mn r / R) exp(i m a)` that vanish
at its edge. Turning the disc by `b` multiplies the coefficient of order `m` by `exp(-i m b)`, and
mirroring it conjugates, so that the correlation of two discs at every angle follows from sums over
`n` alone:

    r(b) = Re sum_m exp(i m b) c_m,      c_m = sum_n u_mn conj(v_mn)

Coefficients are whitened by those of the targets, order by order: else all smooth discs would be
alike. `sum_m |c_m|` bounds `r` at every angle; only pairs with the largest bounds are turned. The
distance of a map from the targets is `(2 - 2 max r)^1/2`, 0 for a copy and near to that of real
maps for any other. Discs without structure, such as empty sky, resemble nothing.

Three sizes are searched. A disc about the middle sees whole maps that are turned, mirrored or
rescaled. One of 3/8 of a side in radius is looked for everywhere: it sees windows that were moved
by a quarter side; one of a quarter sees quadrants that are pasted in, and windows that share no
more than a quarter of their pixels with a target. Maps are averaged down to `GRID` pixels first, so
that the cost does not grow with their size. Small discs have few functions: on maps of 16 pixels a
quarter is like any other, as the power that is measured says (`evaluation.memorization`).
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

from ood_core.metrics.one_point import own_units

GRID = 32  # pixels of a side that is searched
MAX_WAVENUMBER = 0.28  # cycles per pixel of functions: finer ones do not survive interpolation
NOISE = 0.01  # variance of white noise, in map's own units, that whitening does not blow up
ANGLES = 64
EMPTY = 0.1  # of the mean energy of discs: with less, discs are alike for want of structure
SCALES = (0.86, 0.9, 0.95, 1.0, 1.05, 1.1, 1.16)  # of a target's disc relative to that of the map
PAIRS = 32  # pairs of discs that are turned, per map
MAX_TARGETS = 1024  # of which discs are kept; more are thinned evenly
WHITENED = 64  # targets, at most, that set the whitening
BLOCK = 8  # maps at once

SIZES = ("whole", "window", "piece")
"""Names of the three sizes."""

AnyMaps = Float[Tensor, "_ _ _ _"]
Coefficients = Complex[Tensor, "discs functions"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Per map: distance to the nearest disc of a target, 0 to 2, and the number of that target."""

    distance: Float[Tensor, " n"]
    target: Int[Tensor, " n"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Discs:
    """Discs of all targets of one radius, whitened and of unit length, with their targets."""

    radius: float
    reach: int | None  # pixels that discs of a map may lie from the middle; None for everywhere
    channels: int
    whitening: tuple[Float[Tensor, "_ _"], ...]
    discs: Coefficients
    target: Int[Tensor, " discs"]

    @classmethod
    def of(
        cls, maps: AnyMaps, radius: float, reach: int | None, scales: tuple[float, ...]
    ) -> "_Discs":
        channels = maps.shape[1]
        some = maps[:: -(-len(maps) // WHITENED)]
        every = torch.cat([_expanded(m[None], radius, reach)[0] for m in some])
        whitening = _whitening(every, radius, channels)
        parts = [
            _whitened(
                _expanded(maps, radius, None if reach is None else 0, scale, keys=True),
                whitening,
                radius,
            )
            for scale in scales
        ]
        discs = torch.cat([part.flatten(0, 1) for part in parts])
        number = torch.arange(len(maps))
        target = torch.cat([number.repeat_interleave(part.shape[1]) for part in parts])
        both = torch.cat([discs, discs.conj().resolve_conj()])
        return cls(radius, reach, channels, whitening, both, target.repeat(2))

    def nearest(self, maps: AnyMaps) -> Found:
        """Search all targets' discs for the discs of each map."""
        own = _whitened(_expanded(maps, self.radius, self.reach), self.whitening, self.radius)
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
        for columns in _orders(self.radius, self.channels):
            a, b = own[:, columns], self.discs[:, columns]
            real = torch.cat([a.real, a.imag], 1) @ torch.cat([b.real, b.imag], 1).T
            imag = torch.cat([a.imag, -a.real], 1) @ torch.cat([b.real, b.imag], 1).T
            total += real.square_().addcmul_(imag, imag).sqrt_()
        return total


@final
@dataclass(frozen=True, slots=True, eq=False)
class PieceSearch:
    """Searches targets for pieces of maps, by discs of the sizes of `SIZES`."""

    discs: tuple[_Discs, ...]

    @classmethod
    def of(cls, targets: AnyMaps) -> "PieceSearch":
        """Expand the discs of targets; of more than `MAX_TARGETS` evenly spaced ones."""
        some = _shrunk(targets[:: -(-len(targets) // MAX_TARGETS)])
        side = min(some.shape[-2:])
        return cls(
            (
                _Discs.of(some, 0.44 * side, 1, SCALES),
                _Discs.of(some, max(3 * side / 8 - 0.5, 1.0), None, (1.0,)),
                _Discs.of(some, max(side / 4 - 0.5, 1.0), None, (1.0,)),
            )
        )

    def nearest(self, maps: AnyMaps) -> dict[str, Found]:
        """Return what discs of each size find, by name."""
        blocks = _shrunk(maps).split(BLOCK)
        return {
            name: _joined([discs.nearest(block) for block in blocks])
            for name, discs in zip(SIZES, self.discs, strict=True)
        }


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
    maps: AnyMaps, radius: float, reach: int | None, scale: float = 1.0, *, keys: bool = False
) -> Complex[Tensor, "n discs functions"]:
    """Coefficients of discs: about the middle, everywhere, or (`keys`) about five points."""
    height, width = maps.shape[-2:]
    if reach is not None:
        reach = min(reach, (min(height, width) - 1) // 2)
        half = 0.5 if min(height, width) % 2 == 0 else 0.0
        points = [
            ((height - 1) // 2 + dy, (width - 1) // 2 + dx)
            for dy in range(-reach, reach + 1)
            for dx in range(-reach, reach + 1)
        ]
    else:
        half, edge = 0.0, min(math.floor(radius), (min(height, width) - 1) // 2)
        low, tall, wide = edge, height - 1 - edge, width - 1 - edge
        if keys:
            middle = [(height // 2, width // 2)]
            points = [(low, low), (low, wide), (tall, low), (tall, wide), *middle]
        else:
            points = [(y, x) for y in range(low, tall + 1) for x in range(low, wide + 1)]
    bank = _filters(radius, scale, half)
    pad = bank.shape[-1] // 2
    framed = torch.nn.functional.pad(maps, (pad, pad, pad, pad), mode="replicate")
    channels = maps.shape[1]
    flat = framed.reshape(-1, 1, *framed.shape[-2:])
    if len(points) > 32:
        real = torch.view_as_real(bank).permute(0, 3, 1, 2).flatten(0, 1)[:, None]
        found = torch.nn.functional.conv2d(flat, real)
        y, x = (torch.tensor(values) for values in zip(*points, strict=True))
        found = found[..., y, x].unflatten(1, (-1, 2)).permute(0, 3, 1, 2).contiguous()
        coefficients = torch.view_as_complex(found)
    else:
        patches = torch.stack(
            [flat[:, 0, y : y + 2 * pad + 1, x : x + 2 * pad + 1].flatten(1) for y, x in points], 1
        )
        coefficients = patches.to(bank.dtype) @ bank.flatten(1).T
    # Channels turn together: those of a function lie beside one another.
    several: Tensor = coefficients.unflatten(0, (len(maps), channels)).movedim(1, -1).flatten(-2)
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
