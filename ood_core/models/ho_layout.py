"""Checkpoints of Ho et al. 2020 in their PyTorch layout, put in the terms of diffusers.

The networks are those of their appendix B: residual blocks with group norm, attention with one head
at 16 x 16 pixels and in the middle, strided convolutions padded at the lower right only. Levels
count from the finest, both on the way down and on the way up; diffusers counts its up blocks from
the coarsest.
"""

from collections.abc import Iterator

from torch import Tensor

from ood_core.errors import BaseModelError
from ood_core.models.imported import Imported

ATTENDED_SIDE = 16
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
}
NETWORK = {
    "time_embedding_type": "positional",
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "downsample_padding": 0,  # diffusers then pads at the lower right
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
    "attention_head_dim": None,  # one head, of all channels
}
OUTER = {
    "temb.dense.0": "time_embedding.linear_1",
    "temb.dense.1": "time_embedding.linear_2",
    "conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
IN_BLOCK = {
    "norm1": "norm1",
    "conv1": "conv1",
    "temb_proj": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "nin_shortcut": "conv_shortcut",
}
IN_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def is_ho(state: dict[str, Tensor]) -> bool:
    """Say whether the names are of this layout; whether none is missing is checked later."""
    return any(name.startswith(("temb.dense.", "down.0.block.")) for name in state)


def from_ho(state: dict[str, Tensor], size: int | None = None) -> Imported:
    """Convert weights; widths, depth and places of attention are read off their names and shapes.

    Names that are no part of the layout are kept, for `write_imported` to list as left over.

    Args:
        state: weights by name, without prefixes.
        size: side in pixels of the maps that the network was trained on; no weight depends on it.
            None: where one level has attention, the side that gives that level 16 pixels, as in
            all networks of the paper (32 for CIFAR-10, 256 for LSUN and CelebA-HQ).

    Raises:
        BaseModelError: no size given or derived, one that the levels do not divide, as many or more
            outputs than a mean has, or none of the weights that tell the network's form.
    """
    levels, layers = len(_children(state, "down.")), len(_children(state, "down.0.block."))
    attention = tuple(bool(_children(state, f"down.{i}.attn.")) for i in range(levels))
    channels, outputs = _shape(state, "conv_in.weight")[1], _shape(state, "conv_out.weight")[0]
    if outputs != channels:
        raise BaseModelError(
            f"got {outputs} output channels for {channels} input channels; expected as many: a "
            "network of this layout predicts the noise and no variances"
        )
    widths = [_shape(state, f"down.{i}.block.0.conv1.weight")[0] for i in range(levels)]
    unet = {
        **NETWORK,
        "sample_size": _side(size, attention),
        "in_channels": channels,
        "out_channels": channels,
        "layers_per_block": layers,
        "block_out_channels": widths,
        "down_block_types": ["AttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        "up_block_types": ["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)],
    }
    return Imported(unet, _renamed(state, levels, layers), dict(SCHEDULER))


def _children(state: dict[str, Tensor], prefix: str) -> set[str]:
    inside = (name.removeprefix(prefix) for name in state if name.startswith(prefix))
    return {name.partition(".")[0] for name in inside}


def _shape(state: dict[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in state or state[name].ndim != 4:
        got = f"of shape {tuple(state[name].shape)}" if name in state else "missing"
        raise BaseModelError(
            f"got {name} {got}; expected the kernels of a convolution, which tell the network's "
            "form; check that the checkpoint is whole"
        )
    return tuple(state[name].shape)


def _side(size: int | None, attention: tuple[bool, ...]) -> int:
    if size is None and sum(attention) != 1:
        raise BaseModelError(
            f"got attention at {sum(attention)} levels, which does not tell the side of the maps; "
            f"expected it at one, of {ATTENDED_SIDE} pixels; give the side (size)"
        )
    side = size if size is not None else ATTENDED_SIDE << attention.index(True)
    halvings = len(attention) - 1
    if side < 1 or side % 2**halvings:
        raise BaseModelError(
            f"got maps of {side} pixels; expected a multiple of {2**halvings}, since the network "
            f"halves them {halvings} times; give the side (size)"
        )
    return side


def _renamed(state: dict[str, Tensor], levels: int, layers: int) -> dict[str, Tensor]:
    names = dict(_modules(levels, layers))
    renamed = {}
    for name, value in state.items():
        module, _, kind = name.rpartition(".")
        known = f"{names[module]}.{kind}" if module in names else f"{name} (not of this layout)"
        # Attention has 1 x 1 convolutions here and matrices there.
        matrix = ".attentions." in known and value.ndim == 4
        renamed[known] = value.flatten(1) if matrix else value
    return renamed


def _modules(levels: int, layers: int) -> Iterator[tuple[str, str]]:
    """Names of all modules that a network may have, here and in diffusers."""
    yield from OUTER.items()
    yield from _parts("mid.block_1", "mid_block.resnets.0", IN_BLOCK)
    yield from _parts("mid.attn_1", "mid_block.attentions.0", IN_ATTENTION)
    yield from _parts("mid.block_2", "mid_block.resnets.1", IN_BLOCK)
    for i in range(levels):
        down, up = f"down_blocks.{i}", f"up_blocks.{levels - 1 - i}"
        yield f"down.{i}.downsample.conv", f"{down}.downsamplers.0.conv"
        yield f"up.{i}.upsample.conv", f"{up}.upsamplers.0.conv"
        for here, there, blocks in (("down", down, layers), ("up", up, layers + 1)):
            for j in range(blocks):
                yield from _parts(f"{here}.{i}.block.{j}", f"{there}.resnets.{j}", IN_BLOCK)
                yield from _parts(f"{here}.{i}.attn.{j}", f"{there}.attentions.{j}", IN_ATTENTION)


def _parts(here: str, there: str, names: dict[str, str]) -> Iterator[tuple[str, str]]:
    return ((f"{here}.{a}", f"{there}.{b}") for a, b in names.items())
