"""Wavelet scattering moduli in torch, differentiable, periodic boundaries.

Morlet wavelets on dyadic scales and equally spaced orientations (Bruna & Mallat 2013; bandwidths as
in Cheng et al. 2020). First order `U1 = |x * psi_{j,l}|`, second order `U2 = |U1 * psi_{j',l'}|`
with `j' > j`. Wavelets of scale `j >= 2` are evaluated on a grid thinned by `2^(j-1)` by cropping
in Fourier space: their band ends below the thinned Nyquist frequency. A `thinned` bank has grids
thinned by `2^j`, which cut off outer parts of the bands: half of the work, other statistics.
"""

import math
from functools import cache
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps

FLOOR = 1e-3  # of model range: keeps logarithms of empty bands finite
TINY = 1e-12  # square of a modulus whose gradient is still finite


@final
class Scattering:
    """Filter bank for square maps of `size` pixels."""

    def __init__(
        self, size: int, scales: int = 3, orientations: int = 4, thinned: bool = False
    ) -> None:
        if size < 2 ** (scales + 1):
            raise ValueError(f"got size {size} for {scales} scales; expected {2 ** (scales + 1)}+")
        self.size, self.scales, self.orientations = size, scales, orientations
        self._strides = tuple(2 ** (j if thinned else max(0, j - 1)) for j in range(scales))
        full = [morlet_bank(size, j, orientations) for j in range(scales)]
        thin = [crop(b, size // s) for b, s in zip(full, self._strides, strict=True)]
        self._banks = {  # of every pair of grids: a thinned spectrum has fewer, smaller modes
            (grid, scale): thin[scale] * (self._strides[grid] / self._strides[scale]) ** 2
            for scale in range(scales)
            for grid in range(scale + 1)
        }

    def log_moments(self, maps: Maps) -> Float[Tensor, "n f"]:
        """Log means and log spreads of first-order, log means of second-order moduli.

        Channels are concatenated: `f = c (2 J L + L^2 J (J-1) / 2)`.
        """
        n, c = maps.shape[:2]
        spectrum = torch.fft.fft2(maps.reshape(n * c, *maps.shape[-2:]))
        moduli = [self._modulus(spectrum, j, 0) for j in range(self.scales)]
        means = [u.mean((-2, -1)) for u in moduli]
        spreads = [
            0.5 * torch.log((u.square().mean((-2, -1)) - mean**2).clamp_min(0) + FLOOR**2)
            for u, mean in zip(moduli, means, strict=True)
        ]
        for j, u in enumerate(moduli[:-1]):
            inner = torch.fft.fft2(u)
            means += [
                self._modulus(inner, k, j).mean((-2, -1)) for k in range(j + 1, self.scales)
            ]
        logs = [torch.log(mean + FLOOR) for mean in means]
        features = [*logs[: self.scales], *spreads, *logs[self.scales :]]
        return torch.cat([f.reshape(n * c, -1) for f in features], dim=1).reshape(n, -1)

    def _modulus(self, spectrum: Tensor, scale: int, grid: int) -> Tensor:
        """`|spectrum * psi_scale|` in pixels, all orientations.

        The spectrum lies on the grid of wavelets of scale `grid`, 0 for the map itself.
        """
        side = self.size // self._strides[scale]
        modulus: Tensor = _Modulus.apply(
            crop(spectrum, side)[..., None, :, :], self._banks[grid, scale]
        )
        return modulus


class _Modulus(torch.autograd.Function):
    """`u = |F^-1(B S)|` of a spectrum `S` and a real bank `B`, with its gradient written out.

    With `y = F^-1(B S)` and a loss `L`, `dL/dS = sum_B B F(dL/du y/u) / N`: six launches where
    autograd would take twenty.
    """

    @staticmethod
    def forward(ctx: Any, spectrum: Tensor, bank: Tensor) -> Tensor:
        y = torch.fft.ifft2(spectrum * bank)
        u = y.real.square().add_(y.imag.square()).add_(TINY).sqrt_()
        ctx.save_for_backward(y, u, bank)
        return u

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        y, u, bank = ctx.saved_tensors
        modes = torch.fft.fft2(y * (grads[0] / u), norm="forward")
        return (modes * bank).sum(-3, keepdim=True), None


def scattering_features(maps: Maps) -> Float[Tensor, "n f"]:
    """Return the log-scattering moments of maps; of an oblong map, of its first square."""
    size = min(maps.shape[-2:])
    return _filters(size).log_moments(maps[..., :size, :size].float())


@cache
def _filters(size: int) -> Scattering:
    return Scattering(size, scales=min(3, size.bit_length() - 2))


def morlet_bank(size: int, scale: int, orientations: int) -> Float[Tensor, "l y x"]:
    """Fourier transforms (real) of the Morlet wavelets of one scale, zero at zero frequency."""
    centre, width = 0.75 * math.pi / 2**scale, 1 / (0.8 * 2**scale)
    slant = 4 / orientations
    angles = torch.arange(orientations, dtype=torch.float64) * math.pi / orientations
    freq = 2 * math.pi * torch.fft.fftfreq(size, dtype=torch.float64)
    bank = torch.zeros(orientations, size, size, dtype=torch.float64)
    mean = torch.zeros_like(bank)
    for shift_y in (-1, 0, 1):  # sum over aliases: the sampled wavelet is periodic in frequency
        for shift_x in (-1, 0, 1):
            ky = (freq + 2 * math.pi * shift_y)[:, None]
            kx = (freq + 2 * math.pi * shift_x)[None, :]
            cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None]
            along, across = cos * kx + sin * ky, cos * ky - sin * kx
            shape = (across * slant) ** 2
            bank += torch.exp(-((along - centre) ** 2 + shape) / (2 * width**2))
            mean += torch.exp(-(along**2 + shape) / (2 * width**2))
    ratio = bank[:, :1, :1] / mean[:, :1, :1]
    return (bank - ratio * mean).float()


def crop(spectrum: Tensor, side: int) -> Tensor:
    """Keep the lowest `side` x `side` frequencies of an unshifted spectrum."""
    size = spectrum.shape[-1]
    if side == size:
        return spectrum
    half = side // 2
    rows = torch.cat([spectrum[..., :half, :], spectrum[..., size - half :, :]], dim=-2)
    return torch.cat([rows[..., :half], rows[..., size - half :]], dim=-1)
