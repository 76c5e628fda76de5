"""The stream of training maps of a recipe: one domain, or equal parts of several.

Dead leaves: the procedural single domain of the shipped base.

Opaque leaves of random place, size, shape and shade fall on one another until they cover the frame
(Matheron 1968; as a training domain for image models: Baradad et al. 2021). Radii follow a power
law, which gives images the scale invariance of natural scenes (Lee, Mumford & Huang 2001). Leaves
here are ellipses with a linear shade and an edge softness drawn per image, so that the domain holds
both hard and diffuse boundaries. Infinite, licence-free and a function of the seed alone.

Mosaic: cut-outs of one large image as a training domain.

A cut-out is a random square of random zoom, averaged down to the requested size, turned and
flipped, with random contrast and offset. A function of the image, the seed and the batch number
alone.

Random fields: the procedural domain of clouds, filaments, regions and sources.

Each map starts from a Gaussian field with an elliptical power law, `P(k) = (k^2 + k0^2)^(-p/2)` of
random slope, corner and axis ratio, and is turned into one of five kinds: the Gaussian field
itself, a log-normal field (Coles & Jones 1991), filaments along its zero level, soft-edged regions
above a threshold, or shot noise of sources with power-law amplitudes. Some maps carry sources on
top of a field. A Gaussian beam and white noise follow, as in any instrument. Infinite, licence-free
and a function of the seed alone.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.config.pretraining import Domain, PretrainSpec
from ood_core.errors import InputError
from ood_core.numerics.random import Stream, generator

LEAVES = 64
RADIUS_EXPONENT = 2.5
SMALLEST_RADIUS, LARGEST_RADIUS = 0.03, 0.7  # of the image side


def dead_leaves(root: int, batch: int, n: int, size: int) -> Maps:
    """Draw `n` maps of `size` x `size` pixels in [-1, 1]: batch number `batch` of stream `root`."""
    rng = generator(root, batch, stream=Stream.TRAINING)
    raw = torch.from_numpy(rng.random((9, n, LEAVES), dtype="float32"))
    scene = torch.from_numpy(rng.random((3, n), dtype="float32"))
    softness = 0.02 + 0.98 * scene[0] ** 3
    cover, shade = _leaves(raw, softness, size)
    canvas = _composite(cover, shade)
    contrast = 0.35 + 0.65 * scene[1]
    offset = (1 - contrast) * (2 * scene[2] - 1)
    return (contrast[:, None, None] * canvas + offset[:, None, None]).clamp(-1, 1)[:, None]


def _leaves(
    raw: Float[Tensor, "9 n k"], softness: Float[Tensor, " n"], size: int
) -> tuple[Float[Tensor, "n k y x"], Float[Tensor, "n k y x"]]:
    """Coverage in [0, 1] and shade in [-1, 1] of every leaf at every pixel."""
    pixel = (torch.arange(size, dtype=torch.float32) + 0.5) / size
    dy = pixel[:, None] - (1.4 * raw[0, :, :, None, None] - 0.2)
    dx = pixel[None, :] - (1.4 * raw[1, :, :, None, None] - 0.2)
    power = 1 - RADIUS_EXPONENT
    low, high = SMALLEST_RADIUS**power, LARGEST_RADIUS**power
    radius = (low + raw[2] * (high - low)) ** (1 / power)
    axis_ratio = 0.4 + 0.6 * raw[3]
    angle = torch.pi * raw[4]
    cos, sin = angle.cos()[..., None, None], angle.sin()[..., None, None]
    along, across = cos * dx + sin * dy, cos * dy - sin * dx
    reach = torch.sqrt(along**2 + (across / axis_ratio[..., None, None]) ** 2)
    edge = (softness[:, None] * radius * 0.35 + 0.5 / size)[..., None, None]
    cover = torch.sigmoid(3 * (radius[..., None, None] - reach) / edge)
    slope = (2 * raw[6] - 1)[..., None, None] * along + (2 * raw[7] - 1)[..., None, None] * across
    shade = (2 * raw[5] - 1)[..., None, None] + 1.2 * raw[8][..., None, None] * slope
    return cover, shade.clamp(-1, 1)


def _composite(
    cover: Float[Tensor, "n k y x"], shade: Float[Tensor, "n k y x"]
) -> Float[Tensor, "n y x"]:
    """Front-to-back compositing; the last leaf lies at the bottom and covers everything."""
    cover = torch.cat([cover[:, :-1], torch.ones_like(cover[:, -1:])], dim=1)
    behind = torch.cumprod(1 - cover, dim=1)
    visible = torch.cat([torch.ones_like(behind[:, :1]), behind[:, :-1]], dim=1)
    return (visible * cover * shade).sum(dim=1)


LARGEST_ZOOM = 4
SMALLEST_CONTRAST = 0.1


def cut_outs(image: Float[Tensor, "y x"], root: int, batch: int, n: int, size: int) -> Maps:
    """Cut `n` maps of `size` x `size` pixels in [-1, 1] from an image in any scale.

    Raises:
        ValueError: the image is smaller than one cut-out.
    """
    if min(image.shape) < size:
        raise ValueError(f"got an image of {tuple(image.shape)}; expected at least {size} pixels")
    rng = generator(root, batch, stream=Stream.TRAINING)
    largest = min(LARGEST_ZOOM, min(image.shape) // size)
    maps = torch.stack([_one(image, rng.random(5).tolist(), size, largest) for _ in range(n)])
    scene = torch.from_numpy(rng.random((2, n, 1, 1, 1), dtype="float32"))
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    signed = 2 * (maps - low) / (high - low).clamp_min(1e-6) - 1
    contrast = SMALLEST_CONTRAST + (1 - SMALLEST_CONTRAST) * scene[0]
    return contrast * signed + (1 - contrast) * (2 * scene[1] - 1)


def _one(
    image: Float[Tensor, "y x"], chance: list[float], size: int, largest: int
) -> Float[Tensor, "1 y x"]:
    side = size * (1 + int(chance[0] * largest))
    top = int(chance[1] * (image.shape[0] - side + 1))
    left = int(chance[2] * (image.shape[1] - side + 1))
    square = image[None, None, top : top + side, left : left + side]
    cut = torch.nn.functional.avg_pool2d(square, side // size)[0]
    turned = torch.rot90(cut, int(4 * chance[3]), (1, 2))
    return turned.flip(2) if chance[4] < 0.5 else turned


KINDS = 5
OVERSIZE = 2  # fields are periodic: drawn on a larger square and cut, so that borders do not match

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


Draw = Callable[[int], Maps]
Part = Callable[[int, int], Maps]
"""From the number of a batch and the number of maps to these maps."""


def _mosaic(spec: PretrainSpec) -> Part:
    image = _read_mosaic(spec)
    return lambda batch, n: cut_outs(image, spec.seed, batch, n, spec.size)


DOMAINS: dict[Domain, Callable[[PretrainSpec], Part]] = {
    "dead_leaves": lambda spec: lambda batch, n: dead_leaves(spec.seed, batch, n, spec.size),
    "random_fields": lambda spec: lambda batch, n: random_fields(spec.seed, batch, n, spec.size),
    "mosaic": _mosaic,
}
"""Every training domain, by name."""


def training_stream(spec: PretrainSpec) -> Draw:
    """Return the function from batch number to `spec.batch` maps, equal parts of each domain.

    Raises:
        InputError: no such domain, or the mosaic cannot be read or is too small.
    """
    if unknown := [name for name in spec.domains if name not in DOMAINS]:
        raise InputError(f"domains: got {', '.join(unknown)}; expected {', '.join(DOMAINS)}")
    parts = [DOMAINS[name](spec) for name in spec.domains]
    return lambda batch: torch.cat([part(batch, spec.batch // len(parts)) for part in parts])


def _read_mosaic(spec: PretrainSpec) -> Float[Tensor, "y x"]:
    from PIL import Image

    try:
        with Image.open(spec.mosaic) as opened:
            grey = np.asarray(opened.convert("F"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"mosaic: cannot read {spec.mosaic} ({error}); expected an image file"
        ) from error
    band = round(len(grey) * spec.mosaic_margin)
    image = torch.from_numpy(grey[band : len(grey) - band].copy())
    if min(image.shape) < spec.size:
        raise InputError(
            f"mosaic: got {tuple(image.shape)} pixels inside its margins; expected {spec.size}"
        )
    return image
