"""Which arrays each table of a run holds: names, axes, units."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, final

from ood_core.denoising.completed import KNOTS as POWER_KNOTS
from ood_core.denoising.completed import LIMITS
from ood_core.denoising.gate import BINS, KNOTS
from ood_core.store.arrays import Column

MAP_AXES = ("channel", "y", "x")
CODE_AXES = ("code_channel", "code_y", "code_x")  # xarray wants one size per name
Shape = tuple[int, int, int]
ShardedStage = Literal["calibrate", "invert", "generate"]


@final
@dataclass(frozen=True, slots=True)
class StageTable:
    """The table that a stage fills, shard by shard, and its first axis."""

    name: str
    axis: str


SHARDED: dict[ShardedStage, StageTable] = {
    "calibrate": StageTable("calibration.zarr", "timestep"),
    "invert": StageTable("latents.zarr", "row"),
    "generate": StageTable("dataset.zarr", "sample"),
}
"""Every stage that is done in shards, in the order of the work."""


def target_columns(
    shape: Shape,
    unit: str,
    code_shape: tuple[int, ...] | None = None,
    known: Collection[str] = (),
) -> list[Column]:
    """`targets.zarr`: maps, also in model range, the split, codes of a latent base.

    Missing pixels, which are filled in `values`, and places are there where they are `known`.
    """
    columns = [
        Column("target", (), (), "int64", "number of the target in file order"),
        Column("values", MAP_AXES, shape, "float32", "target in physical units", unit or "1"),
        Column("maps", MAP_AXES, shape, "float32", "target in model range"),
        Column("held_out", (), (), "int8", "1 where the target is held out, 0 where it is fitted"),
    ]
    if "place" in known:
        about = "where the target lies: number of the file, first row, first column"
        columns.append(Column("place", ("where",), (3,), "int64", about))
    if "missing" in known:
        about = "1 where the files lack the pixel, which is filled in values"
        columns.append(Column("missing", MAP_AXES, shape, "int8", about))
    if code_shape is not None:
        columns.append(Column("codes", CODE_AXES, code_shape, "float32", "code of the target"))
    return columns


def latent_columns(shape: Shape, code_shape: Shape) -> list[Column]:
    """`latents.zarr`: one latent per fit target, with its round trip.

    Both shapes are the same unless the base is a latent one.
    """
    axes = MAP_AXES if shape == code_shape else CODE_AXES
    return [
        Column("target", (), (), "int64", "number of the target in file order"),
        Column("latents", axes, code_shape, "float32", "latent of unit in-domain variance"),
        Column("round_trip", MAP_AXES, shape, "float32", "target inverted and decoded again"),
        Column("error", (), (), "float32", "round-trip root-mean-square error in model range"),
        Column("residual", (), (), "float32", "largest relative fixed-point residual of a step"),
    ]


def calibration_parts(bands: int, experts: int) -> dict[str, tuple[int, ...]]:
    """What is fitted at each timestep, by name, and its shape."""
    return {
        "weights": (bands, experts),
        "gate_edges": (BINS,),
        "gate_weights": (BINS, KNOTS, experts),
        "gate_offsets": (BINS,),
        "left": (POWER_KNOTS,),
        "kept": (POWER_KNOTS,),
        "gaps": (len(LIMITS),),
    }


def calibration_columns(bands: int, experts: int) -> list[Column]:
    """`calibration.zarr`: weights of experts per timestep and band, gate, what is left.

    All lie in one array, since each is a file per timestep; the attribute `layout` names the parts.
    The attributes `timesteps` and `noise_to_signal` say what the rows are.
    """
    numbers = sum(math.prod(shape) for shape in calibration_parts(bands, experts).values())
    about = "expert weights, gate and what they leave, in the order of `layout`"
    return [Column("fitted", ("number",), (numbers,), "float32", about)]


def sample_columns(shape: Shape, unit: str, sources: int = 0) -> list[Column]:
    """`dataset.zarr`: synthetic maps in physical units, and where each came from.

    `sources` is the number of latents that a draw is made of.
    """
    columns = [
        Column("sample", (), (), "int64", "number of the sample; with the root key, its seed"),
        Column("maps", MAP_AXES, shape, "float32", "synthetic map", unit or "1"),
        Column("parents", ("parent",), (2,), "int32", "targets whose statistics set the aim"),
    ]
    if sources:
        columns += [
            Column("sources", ("source",), (sources,), "int32", "targets whose latents made it"),
            Column("source_weights", ("source",), (sources,), "float32", "their coefficients"),
        ]
    return columns


def statistics_columns(parts: int, dtype: str) -> list[Column]:
    """`statistics.zarr`: what is known of every sample, in one array."""
    about = "features of the sample and how it was drawn; see the attribute layout"
    return [Column("statistics", ("statistic",), (parts,), dtype, about)]
