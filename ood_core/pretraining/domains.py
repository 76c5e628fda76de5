"""The stream of training maps of a recipe: one domain, or equal parts of several."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.config.pretraining import PretrainSpec
from ood_core.errors import InputError
from ood_core.pretraining.dead_leaves import dead_leaves
from ood_core.pretraining.mosaic import cut_outs
from ood_core.pretraining.random_fields import random_fields

Draw = Callable[[int], Maps]


def training_stream(spec: PretrainSpec) -> Draw:
    """Return the function from batch number to `spec.batch` maps, equal parts of each domain.

    Raises:
        InputError: the mosaic cannot be read or is too small.
    """
    image = _read_mosaic(spec) if "mosaic" in spec.domains else None
    parts = len(spec.domains)

    def draw(batch: int) -> Maps:
        maps = [_domain(spec, domain, image, batch, spec.batch // parts) for domain in spec.domains]
        return torch.cat(maps)

    return draw


def _domain(
    spec: PretrainSpec, domain: str, image: Float[Tensor, "y x"] | None, batch: int, n: int
) -> Maps:
    if domain == "dead_leaves":
        return dead_leaves(spec.seed, batch, n, spec.size)
    if domain == "random_fields":
        return random_fields(spec.seed, batch, n, spec.size)
    assert image is not None
    return cut_outs(image, spec.seed, batch, n, spec.size)


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
