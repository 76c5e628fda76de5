"""Mixtures over the targets' patches on disk: of all targets, and of either half of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from ood_core.diffusion.patches import PatchMixture
from ood_core.store.bundle import read_bundle, write_bundle
from ood_core.store.run import RunStore

AXES = {
    "weights": ("gaussian",),
    "means": ("gaussian", "pixel"),
    "values": ("gaussian", "mode"),
    "vectors": ("gaussian", "pixel", "mode"),
}
Mixtures = tuple[PatchMixture, ...]


@final
@dataclass(frozen=True, slots=True, eq=False)
class PatchLaws:
    """One mixture per shape of patches; half `p` has not seen the targets `p::2`."""

    every: Mixtures
    halves: tuple[Mixtures, Mixtures]


def write_patches(run: RunStore, laws: PatchLaws) -> None:
    """Write all mixtures of a run at once."""
    arrays: dict[str, tuple[tuple[str, ...], NDArray[Any]]] = {}
    for place, mixtures in _places(laws):
        for mixture in mixtures:
            name = f"{place}_{mixture.side}x{mixture.scale}"
            for part, axes in AXES.items():
                named = tuple(axis + f"_{name}" for axis in axes)  # xarray wants one size per name
                arrays[f"{name}_{part}"] = (named, getattr(mixture, part).numpy())
    shapes = [[mixture.side, mixture.scale] for mixture in laws.every]
    strides = [mixture.stride for mixture in laws.every]
    write_bundle(run.root / "patches.zarr", arrays, {"shapes": shapes, "strides": strides})


def read_patches(run: RunStore) -> PatchLaws:
    """Read what `write_patches` wrote."""
    arrays, attributes = read_bundle(run.root / "patches.zarr")
    shapes, strides = attributes["shapes"], attributes["strides"]

    def mixtures(place: str) -> Mixtures:
        return tuple(
            PatchMixture(
                **{
                    part: torch.from_numpy(np.array(arrays[f"{place}_{side}x{scale}_{part}"]))
                    for part in AXES
                },
                side=side,
                scale=scale,
                stride=stride,
            )
            for (side, scale), stride in zip(shapes, strides, strict=True)
        )

    return PatchLaws(mixtures("every"), (mixtures("without_even"), mixtures("without_odd")))


def _places(laws: PatchLaws) -> Iterator[tuple[str, Mixtures]]:
    yield "every", laws.every
    yield from zip(("without_even", "without_odd"), laws.halves, strict=True)
