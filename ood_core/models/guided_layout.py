"""Checkpoints of improved DDPM and guided diffusion, as weights of diffusers' `UNet2DModel`.

The network of Nichol & Dhariwal (2021), "Improved denoising diffusion probabilistic models", and
Dhariwal & Nichol (2021), "Diffusion models beat GANs on image synthesis". Keys and shapes say its
widths, blocks, attention, conditioning and resampling. They do not tell the image size, how
attention splits into heads, or the noise schedule: those are arguments. Nor do they tell a
six-channel network from one that upsamples three-channel images and learns their variance.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, final, get_args

from torch import Tensor

from ood_core.errors import BaseModelError
from ood_core.models.imported import Imported
from ood_core.models.weights import differences


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """What keys and shapes say; `widths` and `attention` are per level, finest first."""

    channels: int
    outputs: int
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]
    scale_shift: bool
    residual: bool  # resampling inside residual blocks (`resblock_updown`), not by convolutions


@final
@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with weight and bias: its two names and the shape of the weight as it comes."""

    theirs: str
    ours: str
    shape: tuple[int, ...]


def read_layout(state: Mapping[str, Tensor]) -> Layout:
    """Read the layout off keys and shapes; the rest is left to be checked.

    Raises:
        BaseModelError: those are missing or contradict one another, or need a setting that
            `UNet2DModel` cannot express.
    """
    if any(key.startswith("label_emb.") for key in state):
        raise BaseModelError(
            "got a class-conditional checkpoint (class_cond=True, it has label_emb.weight); "
            "expected an unconditional one"
        )
    per_level, levels = _levels(state)
    widths = tuple(
        _shape(state, f"input_blocks.{1 + level * per_level}.0.in_layers.2.weight", 4)[0]
        for level in range(levels)
    )
    stem, channels = _shape(state, "input_blocks.0.0.weight", 4)[:2]
    model = _shape(state, "time_embed.0.weight", 2)[1]
    if not model == stem == widths[0]:
        raise BaseModelError(
            f"got {model} channels in the time embedding, {stem} after the first convolution and "
            f"{widths[0]} in the first level; expected one number: UNet2DModel cannot express a "
            "channel_mult that does not start with 1"
        )
    outputs = _shape(state, "out.2.weight", 4)[0]
    if outputs not in (channels, 2 * channels):
        raise BaseModelError(
            f"got a network from {channels} to {outputs} channels; expected as many, or twice as "
            "many (learn_sigma=True): networks that upsample a smaller image are not supported"
        )
    return Layout(
        channels=channels,
        outputs=outputs,
        widths=widths,
        blocks=per_level - 1,
        attention=_attention_levels(state, per_level, levels),
        scale_shift=_shape(state, "middle_block.0.emb_layers.1.weight", 2)[0] == 2 * widths[-1],
        residual=bool(_numbers(state, r"output_blocks\.(\d+)\.[12]\.in_layers\.")),
    )


def _levels(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return output blocks per level, of which only the last upsamples, and levels."""
    inputs = _numbers(state, r"input_blocks\.(\d+)\.")
    outputs = _numbers(state, r"output_blocks\.(\d+)\.")
    if not inputs or not outputs:
        raise BaseModelError(
            "got no input_blocks or no output_blocks; expected a guided-diffusion checkpoint"
        )
    for name, found in (("input_blocks", inputs), ("output_blocks", outputs)):
        gaps = sorted(set(range(max(found))) - set(found))
        if gaps:
            raise BaseModelError(
                f"got no weights for {name} {gaps}; expected some in every block: the checkpoint "
                "is incomplete, or was trained with conv_resample=False, which UNet2DModel cannot "
                "express"
            )
    ups = _numbers(state, r"output_blocks\.(\d+)\.[12]\.(?:conv|in_layers)\.")
    per_level = ups[0] + 1 if ups else len(outputs)
    if len(inputs) != len(outputs) or len(outputs) % per_level:
        raise BaseModelError(
            f"got {len(inputs)} input_blocks and {len(outputs)} output_blocks, the first "
            f"{per_level} of these in the coarsest level; expected equal numbers, and as many in "
            "every level: check that the checkpoint is complete"
        )
    return per_level, len(outputs) // per_level


def _attention_levels(state: Mapping[str, Tensor], per_level: int, levels: int) -> tuple[bool, ...]:
    inputs = set(_numbers(state, r"input_blocks\.(\d+)\.1\."))
    outputs = set(_numbers(state, r"output_blocks\.(\d+)\.1\.(?:norm|qkv|proj_out)\."))
    flags = []
    for level in range(levels):
        down, up = 1 + level * per_level, (levels - 1 - level) * per_level
        having = {block in inputs for block in range(down, down + per_level - 1)}
        having |= {block in outputs for block in range(up, up + per_level)}
        if len(having) > 1:
            raise BaseModelError(
                f"got attention in some blocks of level {level} and none in others; expected it in "
                "all or none (attention_resolutions): UNet2DModel cannot express the mixture"
            )
        flags.append(having == {True})
    return tuple(flags)


def _numbers(state: Mapping[str, Tensor], pattern: str) -> list[int]:
    """Return the block numbers of the keys that begin with a pattern, sorted."""
    matches = (re.match(pattern, key) for key in state)
    return sorted({int(match[1]) for match in matches if match})


def _shape(state: Mapping[str, Tensor], key: str, axes: int) -> tuple[int, ...]:
    if key not in state or state[key].ndim != axes:
        got = f"shape {tuple(state[key].shape)}" if key in state else "none"
        raise BaseModelError(
            f"got {got} for {key}; expected {axes} axes: the layout is read from it, check that "
            "this is a complete guided-diffusion checkpoint"
        )
    return tuple(state[key].shape)


def expected_layers(layout: Layout) -> Iterator[Layer]:
    """Yield every layer that the layout calls for."""
    first, last = layout.widths[0], layout.widths[-1]
    yield Layer("time_embed.0", "time_embedding.linear_1", (4 * first, first))
    yield Layer("time_embed.2", "time_embedding.linear_2", (4 * first, 4 * first))
    yield Layer("input_blocks.0.0", "conv_in", (first, layout.channels, 3, 3))
    yield from _down(layout)
    yield from _residual("middle_block.0", "mid_block.resnets.0", last, last, layout)
    yield from _attention("middle_block.1", "mid_block.attentions.0", last)
    yield from _residual("middle_block.2", "mid_block.resnets.1", last, last, layout)
    yield from _up(layout)
    yield Layer("out.0", "conv_norm_out", (first,))
    yield Layer("out.2", "conv_out", (layout.outputs, first, 3, 3))


def _down(layout: Layout) -> Iterator[Layer]:
    before = layout.widths[0]
    for level, width in enumerate(layout.widths):
        start, ours = 1 + level * (layout.blocks + 1), f"down_blocks.{level}"
        for i in range(layout.blocks):
            theirs = f"input_blocks.{start + i}"
            yield from _residual(f"{theirs}.0", f"{ours}.resnets.{i}", before, width, layout)
            if layout.attention[level]:
                yield from _attention(f"{theirs}.1", f"{ours}.attentions.{i}", width)
            before = width
        if level < len(layout.widths) - 1:
            theirs = f"input_blocks.{start + layout.blocks}.0"
            yield from _resampling(theirs, "op", f"{ours}.downsamplers.0", width, layout)


def _up(layout: Layout) -> Iterator[Layer]:
    """Output blocks, coarsest level first; each also takes the output of an input block."""
    levels = len(layout.widths)
    skips = [layout.widths[0]]
    for level, width in enumerate(layout.widths):
        skips += [width] * (layout.blocks + (level < levels - 1))
    before = layout.widths[-1]
    for step, level in enumerate(reversed(range(levels))):
        ours, width = f"up_blocks.{step}", layout.widths[level]
        for i in range(layout.blocks + 1):
            theirs, wide = f"output_blocks.{step * (layout.blocks + 1) + i}", before + skips.pop()
            yield from _residual(f"{theirs}.0", f"{ours}.resnets.{i}", wide, width, layout)
            if layout.attention[level]:
                yield from _attention(f"{theirs}.1", f"{ours}.attentions.{i}", width)
            before = width
        if level:
            last = (step + 1) * (layout.blocks + 1) - 1
            theirs = f"output_blocks.{last}.{1 + layout.attention[level]}"
            yield from _resampling(theirs, "conv", f"{ours}.upsamplers.0", width, layout)


def _residual(theirs: str, ours: str, before: int, width: int, layout: Layout) -> Iterator[Layer]:
    conditions = 2 * width if layout.scale_shift else width
    yield Layer(f"{theirs}.in_layers.0", f"{ours}.norm1", (before,))
    yield Layer(f"{theirs}.in_layers.2", f"{ours}.conv1", (width, before, 3, 3))
    embedding = 4 * layout.widths[0]
    yield Layer(f"{theirs}.emb_layers.1", f"{ours}.time_emb_proj", (conditions, embedding))
    yield Layer(f"{theirs}.out_layers.0", f"{ours}.norm2", (width,))
    yield Layer(f"{theirs}.out_layers.3", f"{ours}.conv2", (width, width, 3, 3))
    if before != width:
        yield Layer(f"{theirs}.skip_connection", f"{ours}.conv_shortcut", (width, before, 1, 1))


def _attention(theirs: str, ours: str, width: int) -> Iterator[Layer]:
    yield Layer(f"{theirs}.norm", f"{ours}.group_norm", (width,))
    yield Layer(f"{theirs}.qkv", ours, (3 * width, width, 1))
    yield Layer(f"{theirs}.proj_out", f"{ours}.to_out.0", (width, width, 1))


def _resampling(
    theirs: str, convolution: str, ours: str, width: int, layout: Layout
) -> Iterator[Layer]:
    if layout.residual:
        yield from _residual(theirs, ours, width, width, layout)
    else:
        yield Layer(f"{theirs}.{convolution}", f"{ours}.conv", (width, width, 3, 3))


GuidedSchedule = Literal["linear", "cosine"]

# Image sizes that the published networks have with these multipliers of the channels.
_USUAL_SIZES: dict[tuple[float, ...], int] = {
    (1, 1, 2, 2, 4, 4): 256,
    (1, 1, 2, 3, 4): 128,
    (1, 2, 3, 4): 64,
    (1, 2, 2, 2): 32,
}


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
) -> Imported:
    """Rename, and where needed reorder, the weights of an unconditional network.

    Where the network also learns a variance (`learn_sigma`), that half of its output is dropped:
    the probability-flow ODE has no use for it.

    Args:
        state: weights by name, such as `input_blocks.1.0.in_layers.0.weight`.
        size: side of the training images in pixels; by default that of the published network with
            the same multipliers.
        head_channels: channels per attention head (`num_head_channels`). A wrong number cannot
            be seen from the weights, and makes another network of them.
        heads: attention heads (`num_heads`), for networks that fix their number instead.
        new_attention_order: whether queries, keys and values are split before the heads
            (`use_new_attention_order`) and not within each.
        noise_schedule: linear (betas from 1e-4 to 0.02) or cosine, of 1000 steps.

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
        scheduler=_scheduler(noise_schedule),
    )


def _refuse_misfits(state: Mapping[str, Tensor], layers: list[Layer]) -> None:
    expected = {f"{layer.theirs}.weight": layer.shape for layer in layers}
    expected |= {f"{layer.theirs}.bias": layer.shape[:1] for layer in layers}
    if wrong := differences(expected, state):
        raise BaseModelError(
            f"got weights that do not fit: {wrong}; expected those of an unconditional "
            "guided-diffusion network: check that the checkpoint is complete"
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


def _scheduler(noise_schedule: GuidedSchedule) -> dict[str, Any]:
    if noise_schedule not in get_args(GuidedSchedule):
        raise BaseModelError(
            f"got noise_schedule {noise_schedule!r}; expected one of {get_args(GuidedSchedule)}"
        )
    common = {"num_train_timesteps": 1000, "prediction_type": "epsilon", "clip_sample": False}
    if noise_schedule == "cosine":
        return common | {"beta_schedule": "squaredcos_cap_v2"}
    return common | {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
