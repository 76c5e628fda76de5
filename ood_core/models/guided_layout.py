"""Checkpoints of improved DDPM and guided diffusion, as weights of diffusers' `UNet2DModel`.

The network of Nichol & Dhariwal (2021), "Improved denoising diffusion probabilistic models", and
Dhariwal & Nichol (2021), "Diffusion models beat GANs on image synthesis". Keys and shapes tell its
widths, blocks, attention, conditioning and resampling. They do not tell the image size, how
attention splits into heads, or the noise schedule: those are arguments. Nor do they tell a
six-channel network from one that upsamples three-channel images and learns their variance.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import Tensor

from ood_core.errors import BaseModelError
from ood_core.models.guided_keys import Layer, Layout, expected_layers, read_layout
from ood_core.models.imported import Imported

GuidedSchedule = Literal["linear", "cosine"]

# Image sizes that the published networks have with these multipliers of the channels.
_USUAL_SIZES: dict[tuple[float, ...], int] = {
    (1, 1, 2, 2, 4, 4): 256,
    (1, 1, 2, 3, 4): 128,
    (1, 2, 3, 4): 64,
    (1, 2, 2, 2): 32,
}
_LISTED = 12  # misfits that an error spells out


def is_guided(state: Mapping[str, Tensor]) -> bool:
    """Whether names are of this layout, complete or not."""
    return any(key.startswith("input_blocks.") for key in state)


def from_guided(
    state: Mapping[str, Tensor],
    size: int | None = None,
    *,
    head_channels: int = 64,
    heads: int | None = None,
    new_attention_order: bool = False,
    noise_schedule: GuidedSchedule = "linear",
    steps: int = 1000,
) -> Imported:
    """Rename, and where needed reorder, the weights of an unconditional network.

    Where the network also learns a variance (`learn_sigma`), that half of its output is dropped:
    the probability-flow ODE has no use for it.

    Args:
        state: weights by name, such as `input_blocks.1.0.in_layers.0.weight`.
        size: side of the training images in pixels; by default that of the published network with
            the same multipliers.
        head_channels: channels per attention head (`num_head_channels`). Nothing in the weights
            tells a wrong number, which makes another network of them.
        heads: attention heads (`num_heads`), for networks that fix their number instead.
        new_attention_order: whether queries, keys and values are split before the heads
            (`use_new_attention_order`) and not within each.
        noise_schedule: linear (betas from 1e-4 to 0.02 at 1000 steps) or cosine.
        steps: length of the noise schedule; the network must have been trained on its indices
            as they are (with other than 1000 steps, `rescale_timesteps=False`).

    Raises:
        BaseModelError: missing, surplus or ill-shaped weights, a setting that `UNet2DModel` cannot
            express, or an argument that does not suit the weights.
    """
    layout = read_layout(state)
    layers = list(expected_layers(layout))
    _refuse_misfits(state, layers)
    head = _head_channels(layout, head_channels, heads)
    converted: dict[str, Tensor] = {}
    for layer in layers:
        for part in ("weight", "bias"):
            value = state[f"{layer.theirs}.{part}"]
            if layer.theirs.endswith(".qkv"):
                split = _split(value, head, new_attention_order)
                converted |= {f"{layer.ours}.{to}.{part}": rows for to, rows in split.items()}
            else:
                converted[f"{layer.ours}.{part}"] = _plain(layer, value, layout)
    return Imported(
        unet=_unet(layout, _size(layout, size), head),
        state=converted,
        scheduler=_scheduler(noise_schedule, steps),
    )


def _refuse_misfits(state: Mapping[str, Tensor], layers: list[Layer]) -> None:
    expected = {f"{layer.theirs}.weight": layer.shape for layer in layers}
    expected |= {f"{layer.theirs}.bias": layer.shape[:1] for layer in layers}
    misfits = [f"{key} is missing" for key in expected if key not in state]
    misfits += [
        f"{key} has shape {tuple(state[key].shape)}, not {shape}"
        for key, shape in expected.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    misfits += [f"{key} has no place" for key in state if key not in expected]
    if misfits:
        more = ["..."] if len(misfits) > _LISTED else []
        raise BaseModelError(
            f"got {len(misfits)} weights that do not fit: {'; '.join(misfits[:_LISTED] + more)}; "
            "expected those of an unconditional guided-diffusion network: check that the "
            "checkpoint is complete"
        )


def _head_channels(layout: Layout, head_channels: int, heads: int | None) -> int:
    """Return channels per head, the one number that `UNet2DModel` has for all levels."""
    levels = zip(layout.widths, layout.attention, strict=True)
    # The middle block always attends.
    widths = sorted({layout.widths[-1]} | {width for width, attends in levels if attends})
    if heads is None:
        if head_channels < 1 or any(width % head_channels for width in widths):
            raise BaseModelError(
                f"got head_channels={head_channels}; expected a divisor of the widths with "
                f"attention, {widths} (num_head_channels of the training; if it was -1, give heads)"
            )
        return head_channels
    if heads < 1 or any(width % heads for width in widths):
        raise BaseModelError(
            f"got heads={heads}; expected a divisor of the widths with attention, {widths}"
        )
    if len(widths) > 1:
        raise BaseModelError(
            f"got heads={heads} for attention at widths {widths} (num_heads with "
            "num_head_channels=-1); expected one width: UNet2DModel cannot express heads whose "
            "channels differ from level to level"
        )
    return widths[0] // heads


def _size(layout: Layout, size: int | None) -> int:
    multiples = tuple(width / layout.widths[0] for width in layout.widths)
    side = _USUAL_SIZES.get(multiples) if size is None else size
    if side is None:
        raise BaseModelError(
            f"got no size, and none is usual for widths {layout.widths}; expected the side of "
            "the training images in pixels: give size"
        )
    coarsest = 2 ** (len(layout.widths) - 1)
    if side < 1 or side % coarsest:
        raise BaseModelError(f"got size {side}; expected a multiple of {coarsest} pixels")
    return side


def _plain(layer: Layer, value: Tensor, layout: Layout) -> Tensor:
    if layer.theirs == "out.2":
        return value[: layout.channels].clone()  # the mean comes first, then the variance
    if layer.theirs.endswith(".proj_out"):
        return value.flatten(1) if value.ndim > 1 else value  # pointwise convolution as a matrix
    return value


def _split(value: Tensor, head: int, new_attention_order: bool) -> dict[str, Tensor]:
    """Part `(3c, ...)` rows into queries, keys and values of `(c, ...)`, head by head in each."""
    width, columns = value.shape[0] // 3, value.shape[1:2]
    if new_attention_order:
        grouped = value.reshape(3, width // head, head, *columns)
    else:
        grouped = value.reshape(width // head, 3, head, *columns).transpose(0, 1)
    parts = (part.reshape(width, *columns).clone() for part in grouped)
    return dict(zip(("to_q", "to_k", "to_v"), parts, strict=True))


def _unet(layout: Layout, size: int, head: int) -> dict[str, Any]:
    down, up = ("ResnetDownsample", "ResnetUpsample") if layout.residual else ("Down", "Up")
    return {
        "sample_size": size,
        "in_channels": layout.channels,
        "out_channels": layout.channels,
        "layers_per_block": layout.blocks,
        "block_out_channels": list(layout.widths),
        "down_block_types": [f"{'AttnDown' if a else down}Block2D" for a in layout.attention],
        "up_block_types": [f"{'AttnUp' if a else up}Block2D" for a in reversed(layout.attention)],
        "downsample_type": "resnet" if layout.residual else "conv",
        "upsample_type": "resnet" if layout.residual else "conv",
        "downsample_padding": 1,
        "resnet_time_scale_shift": "scale_shift" if layout.scale_shift else "default",
        "attention_head_dim": head,
        "norm_num_groups": 32,
        "attn_norm_num_groups": 32,
        "norm_eps": 1e-5,
        "time_embedding_type": "positional",
        "flip_sin_to_cos": True,  # cosines first
        "freq_shift": 0,  # frequencies 10000^(-i / half)
    }


def _scheduler(noise_schedule: GuidedSchedule, steps: int) -> dict[str, Any]:
    if noise_schedule not in get_args(GuidedSchedule):
        raise BaseModelError(
            f"got noise_schedule {noise_schedule!r}; expected one of {get_args(GuidedSchedule)}"
        )
    if steps <= 20:  # where the last beta of the linear schedule reaches 1
        raise BaseModelError(f"got {steps} steps; expected more than 20, such as 1000")
    common = {"num_train_timesteps": steps, "prediction_type": "epsilon", "clip_sample": False}
    if noise_schedule == "cosine":
        return common | {"beta_schedule": "squaredcos_cap_v2"}
    # Betas are rates per step of a fixed whole (Nichol & Dhariwal 2021, section 3.4).
    scale = 1000 / steps
    return common | {
        "beta_schedule": "linear",
        "beta_start": 1e-4 * scale,
        "beta_end": 0.02 * scale,
    }
