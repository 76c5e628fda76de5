"""Networks of bases: built, saved, and read from their folders."""

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ood_core.arrays import Maps
from ood_core.config.pretraining import Prediction
from ood_core.errors import BaseModelError
from ood_core.limits import BASE_BYTES
from ood_core.models.weights import read_weights, require_exactly, weights_file

PATCH_KEY = "patch_size"
AUTOENCODERS = ("AutoencoderKL", "VQModel")


@final
class Patched(nn.Module):
    """A network on squares of `patch` x `patch` pixels folded into channels (Shi et al. 2016)."""

    def __init__(self, unet: nn.Module, patch: int) -> None:
        super().__init__()
        self.unet, self.patch = unet, patch

    def forward(self, x_t: Maps, t: Tensor | int) -> Any:
        """Return the network's output record, its `sample` of the shape of `x_t`."""
        output = self.unet(nn.functional.pixel_unshuffle(x_t, self.patch), t)
        output.sample = nn.functional.pixel_shuffle(output.sample, self.patch)
        return output


def make_unet(
    size: int,
    channels: int,
    widths: tuple[int, ...],
    layers: int,
    attention: tuple[bool, ...],
    norm_groups: int,
    patch: int = 1,
) -> nn.Module:
    """Build an untrained unconditional `UNet2DModel`; one width and attention flag per level.

    With `patch` above 1 the network works on squares of that many pixels folded into channels, so
    that little of its cost lies at the finest level.
    """
    from diffusers import UNet2DModel

    unet = cast(
        nn.Module,
        UNet2DModel(
            sample_size=size // patch,
            in_channels=channels * patch**2,
            out_channels=channels * patch**2,
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
    return unet if patch == 1 else Patched(unet, patch)


def save_base(network: nn.Module, prediction: Prediction, folder: Path) -> None:
    """Write a diffusers folder: float16 safetensors, network and scheduler configuration."""
    scheduler = {
        "num_train_timesteps": 1000,
        "beta_schedule": "linear",
        "prediction_type": prediction,
        "clip_sample": False,
    }
    unet: Any = copy.deepcopy(network.unet if isinstance(network, Patched) else network).half()
    if isinstance(network, Patched):
        unet.register_to_config(**{PATCH_KEY: network.patch})
    save_network(unet, scheduler, folder)


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


def read_network(
    unet_dir: Path,
    config: dict[str, Any],
    weights: Path,
    source: str,
    max_bytes: int = BASE_BYTES,
) -> nn.Module:
    """Read an unconditional `UNet2DModel`, in float32.

    It may have twice as many output as input channels: means first, then learned variances.

    Raises:
        BaseModelError: another class of network, one with classes or other channels, or weights
            that cannot be read, are more than `max_bytes`, or do not fit.
    """
    if config.get("_class_name") != "UNet2DModel":
        raise BaseModelError(
            f"{source}: got a {config.get('_class_name')}; expected an unconditional UNet2DModel"
        )
    state = read_weights(weights, source, max_bytes)
    outline = _outline("UNet2DModel", config, f"{source}: {unet_dir.name}", len(state))
    found = cast(Any, outline).config
    if found.class_embed_type is not None or found.num_class_embeds is not None:
        raise BaseModelError(
            f"{source}: got a UNet2DModel with classes (class_embed_type {found.class_embed_type}, "
            f"num_class_embeds {found.num_class_embeds}); expected an unconditional UNet2DModel"
        )
    if found.out_channels not in (found.in_channels, 2 * found.in_channels):
        raise BaseModelError(
            f"{source}: got {found.in_channels} input and {found.out_channels} output channels; "
            "expected as many, or twice as many where the network gives variances too"
        )
    patch = int(config.get(PATCH_KEY, 1))
    if patch < 1 or found.in_channels % patch**2:
        raise BaseModelError(
            f"{source}: got {PATCH_KEY} {patch} and {found.in_channels} channels; expected a "
            f"multiple of {patch**2} channels"
        )
    require_exactly(outline, state, source)
    network = _build("UNet2DModel", config, state)
    return network if patch == 1 else Patched(network, patch)


def read_autoencoder(
    folder: Path, config: dict[str, Any], source: str, max_bytes: int = BASE_BYTES
) -> nn.Module:
    """Read an `AutoencoderKL` or `VQModel`, in float32, frozen.

    Raises:
        BaseModelError: another class of network, or weights that cannot be read, are more than
            `max_bytes`, or do not fit.
    """
    name = config.get("_class_name")
    if name not in AUTOENCODERS:
        raise BaseModelError(
            f"{source}: got a {name} in {folder.name}/; expected one of {', '.join(AUTOENCODERS)}"
        )
    state = read_weights(weights_file(folder, source), source, max_bytes)
    where = f"{source}: {folder.name}"
    require_exactly(_outline(name, config, where, len(state)), state, where)
    return _build(name, config, state).eval().requires_grad_(False)


def _outline(name: str, config: dict[str, Any], source: str, tensors: int) -> nn.Module:
    """Build a network with shapes and without memory, of not many more tensors than there are."""
    try:
        with torch.device("meta"), _at_most(4 * tensors + 100):
            return _from_config(name, config)
    except Exception as error:  # what a wrong setting does inside the library, nobody has listed
        raise BaseModelError(
            f"{source}: got a config.json that makes no {name} ({error}); expected that of a "
            "network which diffusers can build"
        ) from error


def _build(name: str, config: dict[str, Any], state: dict[str, Tensor]) -> nn.Module:
    """Build a network whose outline fits its weights."""
    network = _from_config(name, config)
    network.load_state_dict(state)
    return network


def _from_config(name: str, config: dict[str, Any]) -> nn.Module:
    import diffusers

    known = {key: value for key, value in config.items() if key != PATCH_KEY}
    return cast(nn.Module, getattr(diffusers, name).from_config(known))


@contextmanager
def _at_most(parameters: int) -> Iterator[None]:
    """Stop a network of more parameters while it is built: layers take memory by themselves."""
    left = parameters

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError("far more layers than there are weights")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
