"""Wavelet scattering moduli in torch, differentiable, periodic boundaries.

Morlet wavelets on dyadic scales and equally spaced orientations (Bruna & Mallat 2013; bandwidths as
in Cheng et al. 2020). First order `U1 = |x * psi_{j,l}|`, second order `U2 = |U1 * psi_{j',l'}|`
with `j' > j`. Wavelets of scale `j >= 2` are evaluated on a grid thinned by `2^(j-1)` by cropping
in Fourier space: their band ends below the thinned Nyquist frequency. A `thinned` bank has grids
thinned by `2^j`, which cut off outer parts of the bands: half of the work, other statistics.
"""

import math
from copy import copy
from functools import cache
from itertools import pairwise
from typing import final

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from ood_core.arrays import Maps

MIN_MODULUS = 1e-3  # of model range: keeps logarithms of empty bands finite
TINY = 1e-6  # least modulus: gradients by what is smaller stay finite
BLOCK_PIXELS = 2**14  # measured at once: their responses fit into the cache of a CPU

Responses = list[tuple[Tensor, Tensor]]
"""Of every scale the complex responses `(n, inputs, l, y, x)` and their moduli."""


@final
class Scattering:
    """Filter bank for maps of `size` rows and `width` columns, square without a width.

    `first` says which of the `count` mean moduli are of first order. `energies` are weights of the
    squared modes of a map, whose sums are the mean squares of these moduli (Parseval).
    """

    def __init__(
        self,
        size: int,
        scales: int = 3,
        orientations: int = 4,
        thinned: bool = False,
        width: int | None = None,
    ) -> None:
        width = width or size
        if min(size, width) < 2 ** (scales + 1):
            raise ValueError(
                f"got size {size} x {width} for {scales} scales; expected {2 ** (scales + 1)}+"
            )
        strides = [2 ** (j if thinned else max(0, j - 1)) for j in range(scales)]
        self._sides = tuple((size // stride, width // stride) for stride in strides)
        full = [morlet_bank(size, j, orientations, width) for j in range(scales)]
        self._banks = tuple(_thinned(b, *n) for b, n in zip(full, self._sides, strict=True))

        grids = [torch.arange(y * x).view(y, x) for y, x in ((size, width), *self._sides)]
        pairs = zip(grids, self._sides, strict=False)
        self._places = tuple(crop(finer, *side).flatten() for finer, side in pairs)
        halves = [_in_half(*pair) for pair in pairwise(self._sides)]
        self._halves = tuple(place for place, _ in halves)
        self._signs = tuple(signs for _, signs in halves)
        energies, place = [], grids[0]
        for bank, side in zip(self._banks, self._sides, strict=True):
            place = crop(place, *side)
            squares = torch.zeros(orientations, size * width)
            squares[:, place.flatten()] = bank.flatten(1).square()
            energies.append(squares)
        self.energies = torch.cat(energies).view(-1, size, width)

        inputs = [1 + orientations * j for j in range(scales)]
        self._counts = tuple(orientations * count for count in inputs)
        starts = torch.tensor((0, *self._counts[:-1])).cumsum(0)
        self.count = sum(self._counts)
        self.first = (starts[:, None] + torch.arange(orientations)).flatten()

    def log_moments(self, maps: Maps) -> Float[Tensor, "n f"]:
        """Log means and log spreads of first-order, log means of second-order moduli.

        Channels are concatenated: `f = c (2 J L + L^2 J (J-1) / 2)`. Second orders are in order of
        the finer scale.
        """
        modes = torch.fft.fft2(maps.flatten(0, 1), norm="forward")
        found, _ = self.means(modes)
        first, second = found[:, self.first], found.index_select(1, self._second())
        squares = torch.view_as_real(modes).square().sum(-1).flatten(1)
        variance = (squares @ self.energies.flatten(1).T - first * first).clamp_min(0)
        logs = torch.log(torch.cat([first, second], dim=1) + MIN_MODULUS)
        spreads = 0.5 * torch.log(variance + MIN_MODULUS**2)
        count = first.shape[1]
        parts = [logs[:, :count], spreads, logs[:, count:]]
        return torch.cat(parts, dim=1).reshape(len(maps), -1)

    def means(self, modes: Complex[Tensor, "n y x"]) -> tuple[Float[Tensor, "n m"], Responses]:
        """Mean moduli of maps with these modes (`fft2` with the norm "forward").

        They go by scale, by what is filtered there (the map, then first-order moduli of all finer
        scales), and by orientation. All that lies on one grid is filtered at once. What is also
        returned is for `adjoint`.
        """
        inputs, found, responses = modes[:, None], [], []
        for scale, bank in enumerate(self._banks):
            y = torch.fft.ifft2(inputs[:, :, None] * bank, norm="forward")
            u = moduli(y)
            found.append(u.mean((-2, -1)).flatten(1))
            responses.append((y, u))
            if scale + 1 < len(self._banks):
                half = torch.fft.rfft2(u[:, 0], norm="forward").flatten(-2)
                whole = taken(half, self._halves[scale])
                torch.view_as_real(whole).mul_(self._signs[scale])
                lowest = inputs.flatten(-2)
                if self._sides[scale + 1] != self._sides[scale]:
                    lowest = taken(lowest, self._places[scale + 1])
                inputs = torch.cat([lowest, whole], 1).unflatten(-1, self._sides[scale + 1])
        return torch.cat(found, dim=1), responses

    def adjoint(self, responses: Responses, pull: Float[Tensor, "n m"]) -> Complex[Tensor, "n y x"]:
        """The gradient by the modes of maps, of which `pull` is that by their mean moduli.

        By a map it is the real part of the inverse transform (norm "forward"), over the number of
        pixels. A filter `B` has real modes, so it is its own adjoint: with `y` and `u = |y|`

            G = sum over filters of  B F( y / u (pull + Re F^-1(G of the next scale)) )

        where what a scale hands on to the next is cropped, so the gradient that comes back is
        widened by zeros. Autograd takes twice as long.
        """
        above: Tensor | None = None
        pulls = pull.split(self._counts, dim=1)
        for scale in reversed(range(len(self._banks))):
            y, u = responses[scale]
            ratio = pulls[scale].unflatten(1, (u.shape[1], -1))[..., None, None] / u
            if above is not None:
                wide = self._widened(above, scale)
                back = torch.fft.ifft2(wide[:, u.shape[1] :], norm="forward").real
                ratio[:, 0].addcdiv_(back, u[:, 0])
            modes = torch.fft.fft2(ratio.to(y.dtype).mul_(y), norm="forward")
            modes = modes.mul_(self._banks[scale]).sum(2)
            above = modes if above is None else modes.add_(wide[:, : u.shape[1]])
        assert above is not None, "there are scales"
        return self._widened(above, -1)[:, 0]

    def _widened(self, modes: Tensor, scale: int) -> Tensor:
        """Modes of the grid after that of `scale` among those of its grid (-1: of the maps)."""
        place = self._places[scale + 1]
        side = self.energies.shape[-2:] if scale < 0 else self._sides[scale]
        if modes.shape[-2:] == side:
            return modes
        wide = modes.new_zeros(*modes.shape[:-2], *side)
        wide.flatten(-2).index_copy_(-1, place, modes.flatten(-2))
        return wide

    def _second(self) -> Int[Tensor, " m"]:
        """Which mean moduli are of second order, in order of the finer scale."""
        scales, count = len(self._banks), self._banks[0].shape[0]
        blocks = torch.arange(count * count, device=self.first.device)
        starts = [sum(self._counts[:k]) + count for k in range(scales)]
        order = [(j, k) for j in range(scales) for k in range(j + 1, scales)]
        pairs = [starts[k] + j * count * count + blocks for j, k in order]
        return torch.cat([blocks[:0], *pairs])  # of one scale there are none

    def to(self, device: torch.device | str) -> "Scattering":
        """Move the filters to a device."""
        moved = copy(self)
        for name in ("energies", "first"):
            setattr(moved, name, getattr(self, name).to(device))
        for name in ("_banks", "_places", "_halves", "_signs"):
            setattr(moved, name, tuple(part.to(device) for part in getattr(self, name)))
        return moved


def moduli(values: Complex[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Moduli, `TINY` at least; on a CPU by NumPy, which has vector instructions for them."""
    if values.device.type != "cpu" or values.requires_grad:
        return values.abs().clamp_min(TINY)
    found = values.new_empty(values.shape, dtype=values.real.dtype)
    np.abs(values.numpy(), out=found.numpy())
    return found.clamp_min_(TINY)


def taken(values: Tensor, places: Int[Tensor, " k"]) -> Tensor:
    """Values at places of the last axis; on a CPU by NumPy, several times as fast as torch."""
    if values.device.type != "cpu" or values.requires_grad:
        return values.index_select(-1, places)
    return torch.from_numpy(np.take(values.numpy(), places.numpy(), axis=-1))


def _in_half(
    finer: tuple[int, int], side: tuple[int, int]
) -> tuple[Int[Tensor, " modes"], Float[Tensor, "modes 2"]]:
    """Where the lowest `side` modes of real maps are in the half spectrum of a `finer` grid.

    The other half are conjugates: second are signs of real and imaginary parts.
    """
    whole = [(torch.arange(n) + n // 2) % n - n // 2 for n in side]  # as of `fftfreq`
    y, x = (of.flatten() for of in torch.meshgrid(*whole, indexing="ij"))
    sign = torch.where(x < 0, -1, 1)
    place = (sign * y) % finer[0] * (finer[1] // 2 + 1) + sign * x
    return place, torch.stack([torch.ones_like(sign), sign], 1).float()


def _thinned(bank: Float[Tensor, "l y x"], height: int, width: int) -> Float[Tensor, "l y x"]:
    """The modes of a thinned grid, without its Nyquist modes: each stands for two of the full."""
    modes = crop(bank, height, width).clone()
    if height % 2 == 0 and height < bank.shape[-2]:
        modes[:, height // 2] = 0
    if width % 2 == 0 and width < bank.shape[-1]:
        modes[:, :, width // 2] = 0
    return modes


def scattering_features(maps: Maps) -> Float[Tensor, "n f"]:
    """Return the log-scattering moments of maps; of an oblong map, of its first square."""
    size = min(maps.shape[-2:])
    fields = maps[..., :size, :size].float().flatten(0, 1)[:, None]
    blocks = fields.split(max(1, BLOCK_PIXELS // size**2))
    found: Tensor = torch.cat([_filters(size).log_moments(block) for block in blocks])
    return found.reshape(len(maps), -1)


@cache
def _filters(size: int) -> Scattering:
    return Scattering(size, scales=min(3, size.bit_length() - 2))


def morlet_bank(
    size: int, scale: int, orientations: int, width: int | None = None
) -> Float[Tensor, "l y x"]:
    """Fourier transforms (real) of the Morlet wavelets of one scale, zero at zero frequency."""
    centre, spread = 0.75 * math.pi / 2**scale, 1 / (0.8 * 2**scale)
    slant = 4 / orientations
    angles = torch.arange(orientations, dtype=torch.float64) * math.pi / orientations
    rows, columns = (
        2 * math.pi * torch.fft.fftfreq(side, dtype=torch.float64) for side in (size, width or size)
    )
    bank = torch.zeros(orientations, len(rows), len(columns), dtype=torch.float64)
    mean = torch.zeros_like(bank)
    for shift_y in (-1, 0, 1):  # sum over aliases: the sampled wavelet is periodic in frequency
        for shift_x in (-1, 0, 1):
            ky = (rows + 2 * math.pi * shift_y)[:, None]
            kx = (columns + 2 * math.pi * shift_x)[None, :]
            cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None]
            along, across = cos * kx + sin * ky, cos * ky - sin * kx
            shape = (across * slant) ** 2
            bank += torch.exp(-((along - centre) ** 2 + shape) / (2 * spread**2))
            mean += torch.exp(-(along**2 + shape) / (2 * spread**2))
    ratio = bank[:, :1, :1] / mean[:, :1, :1]
    return (bank - ratio * mean).float()


def crop(spectrum: Tensor, side: int, width: int | None = None) -> Tensor:
    """Keep the lowest `side` x `width` frequencies of an unshifted spectrum."""
    for axis, kept in ((-2, side), (-1, width or side)):
        size = spectrum.shape[axis]
        if kept < size:
            low, high = (kept + 1) // 2, size - kept // 2
            ends = spectrum.narrow(axis, 0, low), spectrum.narrow(axis, high, size - high)
            spectrum = torch.cat(ends, dim=axis)
    return spectrum
