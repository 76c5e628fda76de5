"""Wavelet scattering moduli in torch, differentiable, periodic boundaries.

Morlet wavelets on dyadic scales and equally spaced orientations (Bruna & Mallat 2013; bandwidths as
in Cheng et al. 2020). First order `U1 = |x * psi_{j,l}|`, second order `U2 = |U1 * psi_{j',l'}|`
with `j' > j`. Wavelets of scale `j >= 2` are evaluated on a grid thinned by `2^(j-1)` by cropping
in Fourier space: their band ends below the thinned Nyquist frequency. A `thinned` bank has grids
thinned by `2^j`, which cut off outer parts of the bands: half of the work, other statistics.
"""

import math
from collections.abc import Sequence
from copy import copy
from functools import cache
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps

MIN_MODULUS = 1e-3  # of model range: keeps logarithms of empty bands finite
TINY = 1e-12  # square of a modulus whose gradient is still finite


@final
class Scattering:
    """Filter bank for maps of `size` rows and `width` columns, square without a width."""

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
        self.scales, self.orientations = scales, orientations
        strides = [2 ** (j if thinned else max(0, j - 1)) for j in range(scales)]
        self._sides = tuple((size // stride, width // stride) for stride in strides)
        full = [morlet_bank(size, j, orientations, width) for j in range(scales)]
        thin = [_half_bank(_thinned(b, *n)) for b, n in zip(full, self._sides, strict=True)]
        self._banks = tuple(thin)

    def log_moments(self, maps: Maps) -> Float[Tensor, "n f"]:
        """Log means and log spreads of first-order, log means of second-order moduli.

        Channels are concatenated: `f = c (2 J L + L^2 J (J-1) / 2)`.
        """
        n, c = maps.shape[:2]
        found = _Moments.apply(  # type: ignore[no-untyped-call]
            maps.reshape(n * c, 1, *maps.shape[-2:]), self._sides, *self._banks
        )
        means, energies = found[: self.scales], torch.cat(found[self.scales :], dim=1)
        first = torch.cat([mean[:, 0] for mean in means], dim=1)
        variance = (energies - first * first).clamp_min(0)
        by_pair = [
            means[k][:, 1 + j * self.orientations : 1 + (j + 1) * self.orientations].flatten(1)
            for j in range(self.scales)
            for k in range(j + 1, self.scales)
        ]
        logs = torch.log(torch.cat([first, *by_pair], dim=1) + MIN_MODULUS)
        spreads = 0.5 * torch.log(variance + MIN_MODULUS**2)
        count = first.shape[1]
        parts = [logs[:, :count], spreads, logs[:, count:]]
        return torch.cat(parts, dim=1).reshape(n, -1)

    def to(self, device: torch.device | str) -> "Scattering":
        """Move the filters to a device."""
        moved = copy(self)
        moved._banks = tuple(bank.to(device) for bank in self._banks)
        return moved


class _Moments(torch.autograd.Function):
    """Mean moduli `(n, inputs, l)` of every scale, then mean energies `(n, l)` of first order.

    Inputs of a scale are the map and the moduli of all finer ones, so that all that lies on one
    grid is filtered at once. A real map and a filter with a real transform `B` give
    `F^-1(S Be) + i F^-1(-i S Bo)`, with the even and odd parts of `B`: two real transforms, of half
    the modes. The adjoint of a filter is the filter with conjugate modes, so with `y` and `u = |y|`
    the gradient is

        sum over parts and filters of  F^-1( conj(B) F(dL/du y / u) )

    which takes a third of the launches of autograd and keeps nothing in between.
    """

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, sides: Sequence[tuple[int, int]], *banks: Tensor
    ) -> tuple[Tensor, ...]:
        kept, means, energies = [], [], []
        modes = torch.fft.rfft2(maps, norm="forward")
        for scale, (side, bank) in enumerate(zip(sides, banks, strict=True)):
            modes = _cut(modes, *side)
            y = torch.fft.irfft2(modes[:, :, None, None] * bank, s=side, norm="forward")
            real, imaginary = y.unbind(2)
            energy = torch.addcmul(real.square().add_(TINY), imaginary, imaginary)
            energies.append(energy[:, 0].mean((-2, -1)))
            u = energy.sqrt_()
            means.append(u.mean((-2, -1)))
            kept += [y, u]
            if scale + 1 < len(banks):
                modes = torch.cat([modes, torch.fft.rfft2(u[:, 0], norm="forward")], dim=1)
        ctx.save_for_backward(*kept, *banks)
        ctx.sides, ctx.shape = sides, maps.shape[-2:]
        return (*means, *energies)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scales = len(grads) // 2
        saved, banks = ctx.saved_tensors[: 2 * scales], ctx.saved_tensors[2 * scales :]
        above: Tensor | None = None  # gradient by the modes of the inputs of the next scale
        for scale in reversed(range(scales)):
            y, u, bank = saved[2 * scale], saved[2 * scale + 1], banks[scale]
            side, inputs = ctx.sides[scale], u.shape[1]
            pixels = side[0] * side[1]
            pull = (grads[scale] / pixels)[..., None, None] / u
            pull[:, 0] += (grads[scales + scale] * (2 / pixels))[..., None, None]
            if above is not None:
                wider = _widened(above, ctx.sides[scale + 1], side)
                pull[:, 0].addcdiv_(torch.fft.irfft2(wider[:, inputs:], s=side), u[:, 0])
            modes = torch.fft.rfft2(y * pull[:, :, None])
            modes = (modes * bank.conj()).sum((2, 3))
            above = modes if above is None else modes.add_(wider[:, :inputs])
        assert above is not None, "there are scales"
        wider = _widened(above, ctx.sides[0], ctx.shape)
        return torch.fft.irfft2(wider, s=ctx.shape), None, *(None for _ in banks)


def _thinned(bank: Float[Tensor, "l y x"], height: int, width: int) -> Float[Tensor, "l y x"]:
    """The modes of a thinned grid, without its Nyquist modes: each stands for two of the full."""
    modes = crop(bank, height, width).clone()
    if height % 2 == 0 and height < bank.shape[-2]:
        modes[:, height // 2] = 0
    if width % 2 == 0 and width < bank.shape[-1]:
        modes[:, :, width // 2] = 0
    return modes


def _half_bank(bank: Float[Tensor, "l y x"]) -> Tensor:
    """Half-spectrum factors of the real and the imaginary part of a response, `(2, l, y, half)`."""
    turned = bank.flip((-2, -1)).roll((1, 1), (-2, -1))
    even, odd = (bank + turned) / 2, (bank - turned) / 2
    both = torch.stack([torch.complex(even, 0 * even), torch.complex(0 * odd, -odd)])
    return both[..., : bank.shape[-1] // 2 + 1].contiguous()


def _cut(modes: Tensor, height: int, width: int) -> Tensor:
    """Keep the lowest modes of a half spectrum: those of a grid of so many rows and columns."""
    size, columns = modes.shape[-2], width // 2 + 1
    if height == size:
        return modes[..., :columns]
    low = (height + 1) // 2
    rows = [modes[..., :low, :columns], modes[..., size - height // 2 :, :columns]]
    return torch.cat(rows, dim=-2)


def _widened(modes: Tensor, here: Sequence[int], finer: Sequence[int]) -> Tensor:
    """Place the half spectrum of one grid in that of a finer one, whose other modes are 0."""
    if tuple(here) == tuple(finer):
        return modes
    low, (height, width) = (here[0] + 1) // 2, finer
    wide = modes.new_zeros(*modes.shape[:-2], height, width // 2 + 1)
    wide[..., :low, : modes.shape[-1]] = modes[..., :low, :]
    wide[..., height - here[0] // 2 :, : modes.shape[-1]] = modes[..., low:, :]
    return wide


def scattering_features(maps: Maps) -> Float[Tensor, "n f"]:
    """Return the log-scattering moments of maps; of an oblong map, of its first square."""
    size = min(maps.shape[-2:])
    return _filters(size).log_moments(maps[..., :size, :size].float())


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
