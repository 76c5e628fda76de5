"""Mosaic: cut-outs of one large image as a training domain.

A cut-out is a random square of random zoom, averaged down to the asked size, turned and flipped,
with random contrast and offset. A function of the image, the seed and the batch number alone.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.numerics.random import Stream, generator

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
