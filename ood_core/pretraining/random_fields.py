"""Random fields: the procedural domain of clouds, filaments, regions and sources.

Each map starts from a Gaussian field with an elliptical power law, `P(k) = (k^2 + k0^2)^(-p/2)` of
random slope, corner and axis ratio, and is turned into one of five kinds: the Gaussian field
itself, a log-normal field (Coles & Jones 1991), filaments along its zero level, soft-edged regions
above a threshold, or shot noise of sources with power-law amplitudes. Some maps carry sources on
top of a field. A Gaussian beam and white noise follow, as in any instrument. Infinite, licence-free
and a function of the seed alone.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.numerics.random import Stream, generator

KINDS = 5
OVERSIZE = 2  # fields are periodic: drawn on a larger square and cut, so that borders do not match
SMALLEST_CONTRAST = 0.1

Field = Float[Tensor, "n y x"]
PerMap = Float[Tensor, "n 1 1"]


def random_fields(root: int, batch: int, n: int, size: int) -> Maps:
    """Draw `n` maps of `size` x `size` pixels in [-1, 1]: batch number `batch` of stream `root`."""
    rng = generator(root, batch, stream=Stream.TRAINING)
    side = OVERSIZE * size
    scene = torch.from_numpy(rng.random((16, n, 1, 1), dtype="float32"))
    white = torch.from_numpy(rng.standard_normal((2, n, side, side), dtype="float32"))
    chance = torch.from_numpy(rng.random((2, n, side, side), dtype="float32"))
    kind = torch.from_numpy(rng.integers(0, KINDS, (n, 1, 1)))
    field = _standard(_filtered(white[0], _power_law(side, scene)))
    sources = _sources(chance, scene)
    forms = torch.stack([field, *_transformed(field, scene), sources])
    canvas = forms.gather(0, kind[None].expand(1, n, side, side))[0]
    crowned = _unit(canvas) + (0.3 + scene[9]) * _unit(sources)
    canvas = torch.where(scene[10] < 0.3, crowned, canvas)
    canvas = _filtered(canvas, _beam(side, 1.2 * scene[11] ** 2))
    noise = 0.25 * scene[12] ** 3 * canvas.std(dim=(1, 2), keepdim=True)
    return _scaled((canvas + noise * white[1])[:, :size, :size], scene)


def _power_law(side: int, scene: Float[Tensor, "k n 1 1"]) -> Field:
    """Amplitude per mode of an elliptical power law; slopes 0.5 to 5, corners 0.5 to 8 cycles."""
    ky, kx = _modes(side)
    angle, ratio = math.pi * scene[0], 1 + 2.5 * scene[1] ** 3
    along = angle.cos() * kx + angle.sin() * ky
    across = angle.cos() * ky - angle.sin() * kx
    square = (along * ratio) ** 2 + across**2
    corner, slope = 0.5 * 16 ** scene[2], 0.5 + 4.5 * scene[3]
    amplitude = (square + corner**2) ** (-slope / 4)
    amplitude[:, 0, 0] = 0
    return amplitude


def _beam(side: int, width: PerMap) -> Field:
    """Transfer function of a Gaussian beam of `width` pixels standard deviation."""
    ky, kx = _modes(side)
    return torch.exp(-2 * (math.pi * width / side) ** 2 * (kx**2 + ky**2))


def _modes(side: int) -> tuple[Float[Tensor, "1 y 1"], Float[Tensor, "1 1 x"]]:
    """Cycles per side along y and, for a real transform, x."""
    ky = torch.from_numpy(np.fft.fftfreq(side, 1 / side).astype("float32"))
    kx = torch.from_numpy(np.fft.rfftfreq(side, 1 / side).astype("float32"))
    return ky[None, :, None], kx[None, None, :]


def _filtered(field: Field, transfer: Field) -> Field:
    filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(field) * transfer, s=field.shape[-2:])
    return filtered


def _transformed(field: Field, scene: Float[Tensor, "k n 1 1"]) -> tuple[Field, Field, Field]:
    log_normal = torch.exp((0.4 + 1.6 * scene[4]) * field)
    filaments = torch.exp(-field.abs() / (0.08 + 0.5 * scene[5]))
    edge = 0.03 + 0.5 * scene[7] ** 2
    regions = torch.sigmoid((field - 2 * (scene[6] - 0.5)) / edge)
    return log_normal, filaments, regions


def _sources(chance: Float[Tensor, "2 n y x"], scene: Float[Tensor, "k n 1 1"]) -> Field:
    """Sources at random pixels, amplitudes of index 1.5 to 3, discs of Gaussian profile."""
    side = chance.shape[-1]
    density = 10 ** (-3.2 + 2 * scene[8])
    amplitude = (1 - chance[1]).clamp_min(1e-4) ** (-1 / (1.5 + 1.5 * scene[4]))
    points = torch.where(chance[0] < density, amplitude, 0)
    compact = _filtered(points * (chance[1] > 0.5), _beam(side, 0.6 + scene[13]))
    extended = _filtered(points * (chance[1] <= 0.5), _beam(side, 1.2 + 4 * scene[14]))
    return compact + (1 + 3 * scene[5]) * extended


def _standard(field: Field) -> Field:
    spread = field.std(dim=(1, 2), keepdim=True).clamp_min(1e-6)
    return (field - field.mean(dim=(1, 2), keepdim=True)) / spread


def _unit(field: Field) -> Field:
    low, high = field.amin(dim=(1, 2), keepdim=True), field.amax(dim=(1, 2), keepdim=True)
    return (field - low) / (high - low).clamp_min(1e-6)


def _scaled(field: Field, scene: Float[Tensor, "k n 1 1"]) -> Maps:
    """Put each map somewhere into [-1, 1]: random contrast and offset, one in four reversed."""
    signed = 2 * _unit(field) - 1
    signed = torch.where(scene[15] < 0.25, -signed, signed)
    contrast = SMALLEST_CONTRAST + (1 - SMALLEST_CONTRAST) * scene[9]
    offset = (1 - contrast) * (2 * scene[12] - 1)
    return (contrast * signed + offset)[:, None]
