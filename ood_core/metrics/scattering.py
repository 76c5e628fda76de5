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
        sides = [size // stride for stride in self._strides]
        thin = [_half_bank(_thinned(b, n)) for b, n in zip(full, sides, strict=True)]
        of_grid = {-1: size, **dict(enumerate(sides))}
        self._banks = {  # of all coarser scales: a thinned transform has the sum of fewer pixels
            grid: [thin[j] * (sides[j] / of_grid[grid]) ** 2 for j in range(grid + 1, scales)]
            for grid in range(-1, scales - 1)
        }

    def log_moments(self, maps: Maps) -> Float[Tensor, "n f"]:
        """Log means and log spreads of first-order, log means of second-order moduli.

        Channels are concatenated: `f = c (2 J L + L^2 J (J-1) / 2)`.
        """
        n, c = maps.shape[:2]
        moduli = self._moduli(maps.reshape(n * c, *maps.shape[-2:]), -1)
        means = [u.mean((-2, -1)) for u in moduli]
        spreads = [
            0.5 * torch.log((u.square().mean((-2, -1)) - mean**2).clamp_min(0) + FLOOR**2)
            for u, mean in zip(moduli, means, strict=True)
        ]
        for j, u in enumerate(moduli[:-1]):
            means += [v.mean((-2, -1)) for v in self._moduli(u, j)]
        logs = [torch.log(mean + FLOOR) for mean in means]
        features = [*logs[: self.scales], *spreads, *logs[self.scales :]]
        return torch.cat([f.reshape(n * c, -1) for f in features], dim=1).reshape(n, -1)

    def to(self, device: torch.device | str) -> "Scattering":
        """Move the filters to a device."""
        moved = copy(self)
        moved._banks = {g: [b.to(device) for b in banks] for g, banks in self._banks.items()}
        return moved

    def _moduli(self, maps: Tensor, grid: int) -> tuple[Tensor, ...]:
        """`|maps * psi|` in pixels by all wavelets of coarser scales than that of a grid.

        `grid` is -1 for maps themselves.
        """
        found: tuple[Tensor, ...] = _Moduli.apply(maps, *self._banks[grid])  # type: ignore[no-untyped-call]
        return found


class _Moduli(torch.autograd.Function):
    """Moduli of real maps `(..., y, x)` in each of several banks, `(..., l, y', x')`.

    A real map and a filter with a real transform `B` give `F^-1(S Be) + i F^-1(-i S Bo)`, with the
    even and odd parts of `B`: two real transforms, contiguous and of half the modes. The adjoint
    of a filter is the filter with conjugate modes, so that with `y` and `u = |y|` the gradient is

        sum over parts and filters of  F^-1( conj(B) F(dL/du y / u) )

    and no intermediate of it is kept.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, *banks: Tensor) -> tuple[Tensor, ...]:
        modes = torch.fft.rfft2(maps)[..., None, None, :, :]
        parts, moduli = [], []
        for bank in banks:
            side = bank.shape[-2]
            y = torch.fft.irfft2(_cut(modes, side) * bank, s=(side, side))
            first, second = y.unbind(-4)
            moduli.append(torch.addcmul(first.square().add_(TINY), second, second).sqrt_())
            parts.append(y)
        ctx.save_for_backward(*parts, *moduli, *banks)
        ctx.size = maps.shape[-2:]
        return tuple(moduli)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved, count = ctx.saved_tensors, len(grads)
        height, width = ctx.size
        total: Tensor | None = None
        for grad, y, u, bank in zip(
            grads, saved[:count], saved[count : 2 * count], saved[2 * count :], strict=True
        ):
            back = torch.fft.rfft2(y * (grad / u).unsqueeze(-4))
            back = (back * bank.conj()).sum((-4, -3))
            side = bank.shape[-2]
            back = back * (height / side) ** 2  # both transforms divide by their own pixels
            if total is None:
                total = back.new_zeros(*back.shape[:-2], height, width // 2 + 1)
            low, columns = (side + 1) // 2, side // 2 + 1
            total[..., :low, :columns] += back[..., :low, :]
            total[..., height - side // 2 :, :columns] += back[..., low:, :]
        assert total is not None, "there are banks"
        return torch.fft.irfft2(total, s=(height, width)), *(None for _ in range(count))


def _thinned(bank: Float[Tensor, "l y x"], side: int) -> Float[Tensor, "l y x"]:
    """The modes of a thinned grid, without its Nyquist modes: each stands for two of the full."""
    modes = crop(bank, side).clone()
    if side % 2 == 0 and side < bank.shape[-1]:
        modes[:, side // 2] = 0
        modes[:, :, side // 2] = 0
    return modes


def _half_bank(bank: Float[Tensor, "l y x"]) -> Tensor:
    """Half-spectrum factors of the real and the imaginary part of a response, `(2, l, y, half)`."""
    side = bank.shape[-1]
    turned = bank.flip((-2, -1)).roll((1, 1), (-2, -1))
    even, odd = (bank + turned) / 2, (bank - turned) / 2
    return torch.stack([torch.complex(even, 0 * even), torch.complex(0 * odd, -odd)])[
        ..., : side // 2 + 1
    ].contiguous()


def _cut(modes: Tensor, side: int) -> Tensor:
    """Keep the lowest modes of a half spectrum: those of a grid of `side` pixels."""
    if side == modes.shape[-2]:
        return modes
    rows = [modes[..., : (side + 1) // 2, :], modes[..., modes.shape[-2] - side // 2 :, :]]
    return torch.cat(rows, dim=-2)[..., : side // 2 + 1]


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
    low, high = (side + 1) // 2, size - side // 2
    rows = torch.cat([spectrum[..., :low, :], spectrum[..., high:, :]], dim=-2)
    return torch.cat([rows[..., :low], rows[..., high:]], dim=-1)
