"""What an importer of checkpoints makes of them."""

from dataclasses import dataclass
from typing import Any, final

from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class Imported:
    """A checkpoint of another library in the terms of diffusers.

    Attributes:
        unet: keyword arguments of `UNet2DModel`.
        state: all its weights, under its names.
        scheduler: keyword arguments of `DDPMScheduler`: noise schedule and prediction type.
    """

    unet: dict[str, Any]
    state: dict[str, Tensor]
    scheduler: dict[str, Any]
