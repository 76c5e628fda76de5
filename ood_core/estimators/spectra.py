"""Stationary covariances under the declared symmetries, channels with their cross-spectra.

Shifts average any covariance to one that is diagonal in Fourier space, a Hermitian matrix of
channels per mode. The finite symmetries average that over modes. What is left of the noise is
lowered by drawing every mode towards the mean over its annulus:

    P(k) = (1 - share) <F(k) F(k)^*>  +  share <F F^*>(|k|)

With `share = 1` the law is isotropic. How much the modes may differ from that, the likelihood of
left-out maps says. Each mode alone has `n` draws per image of it, an annulus many times that.

Numbers per Fourier mode, averaged over annuli: what isotropy leaves of a spectrum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from ood_core.arrays import Map, Maps
from ood_core.config.targets import Symmetry
from ood_core.numerics.covariance import CrossStationary, Stationary, wavenumbers
from ood_core.numerics.symmetry import invariant

ROUNDING = 1e-6  # of the power of a mode: eight times the rounding of single precision
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


@final
@dataclass(frozen=True, slots=True, eq=False)
class Spectra:
    """Cross-powers per mode, and their means over annuli, which are real."""

    modes: Power
    annuli: Power

    @classmethod
    def measure(cls, maps: Maps, mean: Map, symmetries: Sequence[Symmetry]) -> "Spectra":
        """Measure about a mean over maps and images, without bias.

        That mean takes `1 / n` of the power of what the symmetries leave alone, and nothing else:
        under translations the zero mode's alone.
        """
        n, c = len(maps), maps.shape[1]
        still = torch.cat([invariant(block - mean, symmetries) for block in maps.split(BLOCK)])
        taken = mode_powers(still, torch.zeros_like(mean)) / max(1, n - 1)
        modes = symmetrised(mode_powers(maps, mean) + taken, symmetries)
        profile = radial_mean(modes.real.flatten(0, 1).float())
        return cls(modes, profile.reshape(c, c, *mean.shape[-2:]).to(modes))

    def at(self, share: float) -> Stationary | CrossStationary:
        """Return the law at a share of the annuli; a plain spectrum where there is one channel."""
        power = torch.lerp(self.modes, self.annuli, share)
        floor = SPECTRUM_FLOOR * float(power.diagonal().real.mean())
        if len(power) == 1:
            return Stationary(power[0].real.float().clamp_min(floor))
        return CrossStationary(_floored(power, floor).to(torch.complex64))


def _floored(power: Power, floor: float) -> Power:
    """Raise eigenvalues below the floor to it; the factorisation is a quick test for any.

    No mode is more singular than single precision holds, in which the law is kept.
    """
    matrices = power.permute(2, 3, 0, 1)
    trace = matrices.diagonal(dim1=-2, dim2=-1).real.sum(-1)
    least = (ROUNDING * trace).clamp_min(floor)
    lowered = matrices - least[..., None, None] * torch.eye(len(power)).to(matrices)
    if not bool(torch.linalg.cholesky_ex(lowered).info.any()):
        return power
    values, vectors = torch.linalg.eigh(matrices)
    kept: Tensor = (vectors * values.clamp(min=least[..., None])[..., None, :]) @ vectors.mH
    return kept.permute(2, 3, 0, 1)


def mode_powers(maps: Maps, mean: Map) -> Power:
    """Mean over maps of `F_a(k) F_b(k)^*` about a mean, unitary transform, double precision."""
    y, x = mean.shape[-2:]
    half = torch.zeros(len(mean), len(mean), y, x // 2 + 1, dtype=torch.complex128)
    for block in maps.split(BLOCK):
        modes = torch.fft.rfft2(block - mean, norm="ortho")
        half += torch.einsum("nayx,nbyx->abyx", modes, modes.conj())
    return _whole(half / len(maps), x)


def symmetrised(power: Power, symmetries: Sequence[Symmetry]) -> Power:
    """Mean over the powers of all images of a map; the phases of images cancel in powers."""
    images = [power]
    if "rotate90" in symmetries:
        for _ in range(3):
            images.append(_mirrored(images[-1].transpose(-2, -1)))
    if "flip" in symmetries:
        images += [_mirrored(image) for image in images]
    return torch.stack(images).mean(dim=0)


def whitened(maps: Maps, mean: Map, law: Stationary | CrossStationary) -> Maps:
    """Return `C^(-1/2) (maps - mean)`, in blocks."""
    root, made = law.power_of(-0.5), torch.empty_like(maps)
    for start in range(0, len(maps), BLOCK):
        rows = slice(start, start + BLOCK)
        made[rows] = root.apply(maps[rows] - mean)
    return made


def _whole(half: Tensor, x: int) -> Power:
    """All modes of real maps from those of non-negative `kx`: `P(-k)` is the conjugate."""
    rest = torch.arange(x // 2 + 1, x)
    mirror = half[..., x - rest].flip(-2).roll(1, -2).conj()
    return torch.cat([half, mirror], dim=-1)


def _mirrored(power: Power) -> Power:
    """Turn `kx` into `-kx` on the grid of an unshifted transform."""
    return power.flip(-1).roll(1, -1)
