"""Networks of bases: built, saved, and read from their folders."""

import copy
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ood_core.errors import BaseModelError
from ood_core.specs import Prediction


def make_unet(
    size: int,
    channels: int,
    widths: tuple[int, ...],
    layers: int,
    attention: tuple[bool, ...],
    norm_groups: int,
) -> nn.Module:
    """Build an untrained unconditional `UNet2DModel`; one width and attention flag per level."""
    from diffusers import UNet2DModel

    return cast(
        nn.Module,
        UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=layers,
            block_out_channels=widths,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attention),
            up_block_types=tuple(
                "AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)
            ),
            norm_num_groups=norm_groups,
            attention_head_dim=16,
        ),
    )


def save_base(network: nn.Module, prediction: Prediction, folder: Path) -> None:
    """Write a diffusers folder: float16 safetensors, network and scheduler configuration."""
    scheduler = {
        "num_train_timesteps": 1000,
        "beta_schedule": "linear",
        "prediction_type": prediction,
        "clip_sample": False,
    }
    save_network(copy.deepcopy(network).half(), scheduler, folder)


def save_network(network: nn.Module, scheduler: dict[str, Any], folder: Path) -> None:
    """Write a diffusers folder: safetensors in the network's own precision, in one file."""
    from diffusers import DDPMPipeline, DDPMScheduler

    pipeline = DDPMPipeline(unet=network, scheduler=DDPMScheduler(**scheduler))
    pipeline.save_pretrained(str(folder), safe_serialization=True, max_shard_size="1TB")
    unet = folder / "unet"  # safetensors writes files that only their owner can read
    shutil.copymode(unet / "config.json", unet / "diffusion_pytorch_model.safetensors")


def outline_network(config: dict[str, Any]) -> nn.Module:
    """Build a `UNet2DModel` of a full configuration, with shapes and without memory.

    Raises:
        BaseModelError: a configuration that makes no network.
    """
    from diffusers import UNet2DModel

    try:
        with torch.device("meta"):
            return cast(nn.Module, UNet2DModel(**config))
    except (ValueError, RuntimeError, ArithmeticError) as error:
        raise BaseModelError(
            f"got layers that make no UNet2DModel ({error}); expected those of a whole network; "
            "check that the checkpoint is of the layout that it was taken for"
        ) from error


def read_network(unet_dir: Path, config: dict[str, Any], weights: Path, source: str) -> nn.Module:
    """Read an unconditional `UNet2DModel`.

    Raises:
        BaseModelError: another class of network, missing weights, or weights that do not fit.
    """
    from diffusers import UNet2DModel

    if config.get("_class_name") != "UNet2DModel":
        raise BaseModelError(
            f"{source}: got a {config.get('_class_name')}; expected an unconditional UNet2DModel"
        )
    if not weights.is_file():
        raise BaseModelError(f"{source}: no {weights.name}; expected safetensors weights")
    try:
        network = UNet2DModel.from_pretrained(
            str(unet_dir), torch_dtype=torch.float32, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise BaseModelError(f"{source}: weights do not fit the network: {error}") from error
    return cast(nn.Module, network)
