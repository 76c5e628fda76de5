"""Isotropic power and cross spectra of maps.

With `F` the unnormalised discrete Fourier transform of a map of `Y` by `X` pixels, the power of a
mode is `P(k) = |F(k)|^2 / (Y X)`. Then white noise of variance `v` has `P = v` at every `k`, and
Parseval reads `mean over all modes of P = mean over all pixels of x^2`. Modes are averaged over
annuli one fundamental wide, `j - 1/2 <= |k| min(Y, X) < j + 1/2` with `j = 1 ... min(Y, X) / 2`;
the mean of the map (`k = 0`) and the corners beyond the Nyquist wavenumber are left out. For maps
in units `u` power is in `u^2` times pixel area.

The cross power of channels `a` and `b` is `Re F_a F_b* / (Y X)`; the imaginary parts of `k` and
`-k` cancel. Coherence is its correlation coefficient, `C_ab / sqrt(P_a P_b)`: 1 for channels that
are multiples of one another, 0 for independent ones.

No window is applied: maps that are not periodic leak power of their edges, the same on both sides
of a comparison.
"""

from collections.abc import Callable

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from ood_core.arrays import Maps

BLOCK_PIXELS = 2**20  # transformed at once, which bounds the memory
MIN_POWER = 1e-12  # of the largest power: a band without power has no logarithm


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
    return _annular_means(maps, lambda modes: modes.abs().square())


def cross_spectrum(
    maps: Maps,
) -> tuple[Float[Tensor, " bins"], Float[Tensor, "n c c bins"], Int[Tensor, " bins"]]:
    """Return mean wavenumber, cross power of all pairs of channels, and number of modes."""
    channels = maps.shape[1]
    centre, cross, modes = _annular_means(maps, _pairs, copies=channels)
    return centre, cross.unflatten(1, (channels, channels)), modes


def coherence(cross: Float[Tensor, "n c c bins"]) -> Float[Tensor, "c c bins"]:
    """Return the correlation coefficient of the modes of channels, from rows of cross power.

    Rows are averaged first. It is 0 where a channel has no power.
    """
    mean = cross.mean(0)
    power = torch.diagonal(mean).T
    scale = (power[:, None] * power[None, :]).sqrt()
    return torch.where(scale > 0, mean / scale.clamp(min=torch.finfo(mean.dtype).tiny), 0.0)


def _pairs(modes: Complex[Tensor, "n c y x"]) -> Float[Tensor, "n cc y x"]:
    return (modes[:, :, None] * modes[:, None].conj()).real.flatten(1, 2)


def _annular_means(
    maps: Maps, product: Callable[[Tensor], Tensor], copies: int = 1
) -> tuple[Float[Tensor, " bins"], Float[Tensor, "n _ bins"], Int[Tensor, " bins"]]:
    """Average a product of the modes of every map over annuli, in blocks of bounded memory."""
    k, index, bins = annuli(*maps.shape[-2:])
    flat = index.flatten()
    modes = torch.bincount(flat, minlength=bins + 2)
    centre = torch.bincount(flat, weights=k.flatten(), minlength=bins + 2) / modes.clamp(min=1)
    rows = max(1, BLOCK_PIXELS // (maps.shape[1] * copies * flat.numel()))
    sums = []
    for block in torch.split(maps, rows):
        values = product(torch.fft.fft2(block.double())).flatten(-2) / flat.numel()
        empty = values.new_zeros((*values.shape[:2], bins + 2))
        sums.append(empty.index_add_(2, flat, values))
    inside = slice(1, bins + 1)
    mean = torch.cat(sums)[..., inside] / modes[inside].clamp(min=1)
    return centre[inside], mean, modes[inside]


def spectrum_distance(a: Float[Tensor, "n c bins"], b: Float[Tensor, "m c bins"]) -> float:
    """Return the mean over channels and annuli of `|ln(mean P_a / mean P_b)|`, from power rows."""
    mean_a, mean_b = a.mean(0), b.mean(0)
    floor = MIN_POWER * float(torch.maximum(mean_a, mean_b).max()) + torch.finfo(torch.float64).tiny
    ratio = mean_a.clamp(min=floor).log() - mean_b.clamp(min=floor).log()
    return float(ratio.abs().mean())


def octave_ratios(
    a: Float[Tensor, "n c bins"], b: Float[Tensor, "m c bins"]
) -> Float[Tensor, "c octaves"]:
    """Return `ln(mean P_a / mean P_b)` of the power in each octave of wavenumbers, from power rows.

    Octave `i` holds the annuli `2^i <= j < 2^(i+1)`, the last one the Nyquist annulus as well; an
    annulus counts by its wavenumber, as it has modes.
    """
    bins = a.shape[-1]
    number = torch.arange(1, bins + 1)
    octaves = max(1, (bins - 1).bit_length())
    index = number.double().log2().floor().long().clamp(max=octaves - 1)
    power = [rows.mean(0).double() * number for rows in (a, b)]
    sums = [p.new_zeros(len(p), octaves).index_add_(1, index, p) for p in power]
    floor = MIN_POWER * float(torch.maximum(*sums).max()) + torch.finfo(torch.float64).tiny
    return sums[0].clamp(min=floor).log() - sums[1].clamp(min=floor).log()
