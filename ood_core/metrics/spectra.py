"""Isotropic power spectra of maps.

With `F` the unnormalised discrete Fourier transform of a map of `Y` by `X` pixels, the power of a
mode is `P(k) = |F(k)|^2 / (Y X)`. Then white noise of variance `v` has `P = v` at every `k`, and
Parseval reads `mean over all modes of P = mean over all pixels of x^2`. Modes are averaged over
annuli one fundamental wide, `j - 1/2 <= |k| min(Y, X) < j + 1/2` with `j = 1 ... min(Y, X) / 2`;
the mean of the map (`k = 0`) and the corners beyond the Nyquist wavenumber are left out.

No window is applied: maps that are not periodic leak power of their edges, the same on both sides
of a comparison.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ood_core.arrays import Maps

BLOCK_PIXELS = 2**20  # transformed at once, which bounds the memory
FLOOR = 1e-12  # of the largest power: a band without power has no logarithm


def annuli(height: int, width: int) -> tuple[Float[Tensor, "y x"], Int[Tensor, "y x"], int]:
    """Return wavenumbers (cycles per pixel), the annulus of each mode, and the number of annuli.

    Annulus 0 is the mean; modes beyond Nyquist share one number past the last annulus.
    """
    ky = torch.fft.fftfreq(height, dtype=torch.float64)
    kx = torch.fft.fftfreq(width, dtype=torch.float64)
    k = torch.hypot(ky[:, None], kx[None, :])
    side = min(height, width)
    index = torch.floor(k * side + 0.5).long().clamp(max=side // 2 + 1)
    return k, index, side // 2


def power_spectrum(
    maps: Maps,
) -> tuple[Float[Tensor, " bins"], Float[Tensor, "n c bins"], Int[Tensor, " bins"]]:
    """Return mean wavenumber (cycles per pixel), mean power and number of modes per annulus."""
    k, index, bins = annuli(*maps.shape[-2:])
    flat = index.flatten()
    modes = torch.bincount(flat, minlength=bins + 2)
    centre = torch.bincount(flat, weights=k.flatten(), minlength=bins + 2) / modes.clamp(min=1)
    rows = max(1, BLOCK_PIXELS // (maps.shape[1] * flat.numel()))
    blocks = [_annular_sums(block, flat, bins + 2) for block in torch.split(maps, rows)]
    sums = torch.cat(blocks) if blocks else maps.new_zeros((0, maps.shape[1], bins + 2))
    power = sums / modes.clamp(min=1)
    inside = slice(1, bins + 1)
    return centre[inside], power[..., inside], modes[inside]


def _annular_sums(maps: Maps, index: Int[Tensor, " modes"], bins: int) -> Float[Tensor, "n c b"]:
    pixels = maps.shape[-2] * maps.shape[-1]
    power = torch.fft.fft2(maps.double()).abs().square().flatten(-2) / pixels
    sums: Tensor = power.new_zeros((*maps.shape[:2], bins)).index_add_(2, index, power)
    return sums


def spectrum_distance(a: Float[Tensor, "n c bins"], b: Float[Tensor, "m c bins"]) -> float:
    """Return the mean over channels and annuli of `|ln(mean P_a / mean P_b)|`, from power rows."""
    mean_a, mean_b = a.mean(0), b.mean(0)
    floor = FLOOR * float(torch.maximum(mean_a, mean_b).max()) + torch.finfo(torch.float64).tiny
    ratio = mean_a.clamp(min=floor).log() - mean_b.clamp(min=floor).log()
    return float(ratio.abs().mean())


def log_spectrum_error(a: Maps, b: Float[Tensor, "m c y x"]) -> float:
    """Return the mean over annuli of `|ln(mean P_a / mean P_b)|`: 0.1 is ten per cent in power."""
    return spectrum_distance(power_spectrum(a)[1], power_spectrum(b)[1])
