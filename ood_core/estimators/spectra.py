"""Numbers per Fourier mode, averaged over annuli: what isotropy leaves of a spectrum."""

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from ood_core.arrays import Map, Maps
from ood_core.numerics.covariance import wavenumbers

SPECTRUM_FLOOR = 1e-4  # of the mean power: keeps empty bands invertible


def radial_mean(power: Map, width: float = 1.0) -> Map:
    """Mean over annuli `width` modes wide of a number per mode, linear between their mean radii."""
    radius = wavenumbers(*power.shape[1:])
    band, profile = annular_profile(power, width)
    count = torch.bincount(band.flatten()).clamp_min(1)
    centre = torch.bincount(band.flatten(), weights=radius.flatten()) / count
    return torch.stack([_interpolate(radius, centre, row) for row in profile])


def annular_profile(
    power: Map, width: float = 1.0
) -> tuple[Int[Tensor, "y x"], Float[Tensor, "c annuli"]]:
    """Number of each mode's annulus, `width` modes wide, and the mean of each annulus."""
    c, y, x = power.shape
    band = (wavenumbers(y, x) * min(y, x) / width).round().long()
    count = torch.bincount(band.flatten()).clamp_min(1)
    profile = torch.zeros(c, len(count))
    profile.index_add_(1, band.flatten(), power.reshape(c, -1))
    return band, profile / count


def carried_power(modes: Maps, variances: Float[Tensor, " r"]) -> Map:
    """Power per Fourier mode of independent factors along `modes`."""
    carried = torch.zeros(modes.shape[1:])
    for mode, variance in zip(modes, variances, strict=True):
        carried += variance * (torch.fft.fft2(mode, norm="ortho").abs() ** 2)
    return carried


def _interpolate(
    at: Float[Tensor, "y x"], knots: Float[Tensor, " b"], values: Float[Tensor, " b"]
) -> Float[Tensor, "y x"]:
    above = torch.searchsorted(knots.contiguous(), at.contiguous()).clamp(1, len(knots) - 1)
    low, high = knots[above - 1], knots[above]
    share = ((at - low) / (high - low)).clamp(0, 1)
    return values[above - 1] * (1 - share) + values[above] * share


BLOCK = 32
"""Maps that are transformed at once: whole sets of large maps would not fit into memory."""
Power = Complex[Tensor, "c c y x"]


def mode_powers(maps: Maps, mean: Map) -> Power:
    """Mean over maps of `F_a(k) F_b(k)^*` about a mean, unitary transform, double precision."""
    y, x = mean.shape[-2:]
    half = torch.zeros(len(mean), len(mean), y, x // 2 + 1, dtype=torch.complex128)
    for block in maps.split(BLOCK):
        modes = torch.fft.rfft2(block - mean, norm="ortho")
        half += torch.einsum("nayx,nbyx->abyx", modes, modes.conj())
    return _whole(half / len(maps), x)


def _whole(half: Tensor, x: int) -> Power:
    """All modes of real maps from those of non-negative `kx`: `P(-k)` is the conjugate."""
    rest = torch.arange(x // 2 + 1, x)
    mirror = half[..., x - rest].flip(-2).roll(1, -2).conj()
    return torch.cat([half, mirror], dim=-1)
