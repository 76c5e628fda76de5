"""Dead leaves: the procedural single domain of the shipped base.

Opaque leaves of random place, size, shape and shade fall on one another until they cover the frame
(Matheron 1968; as a training domain for image models: Baradad et al. 2021). Radii follow a power
law, which gives images the scale invariance of natural scenes (Lee, Mumford & Huang 2001). Leaves
here are ellipses with a linear shade and an edge softness drawn per image, so that the domain holds
both hard and diffuse boundaries. Infinite, licence-free and a function of the seed alone.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps
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
