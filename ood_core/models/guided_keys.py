"""Keys and shapes of guided-diffusion checkpoints: the network they tell of, layer by layer.

The network of Nichol & Dhariwal (2021), "Improved denoising diffusion probabilistic models", and
Dhariwal & Nichol (2021), "Diffusion models beat GANs on image synthesis".
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from ood_core.errors import BaseModelError


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """What keys and shapes tell; `widths` and `attention` are per level, finest first."""

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
    """Read the layout off the keys and shapes that tell it; the rest is left to be checked.

    Raises:
        BaseModelError: those are missing or contradict one another, or tell of a setting that
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
