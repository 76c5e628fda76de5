"""The one signature of all baselines, and the draw of targets that most of them begin with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.config.targets import Symmetry
from ood_core.errors import TargetError
from ood_core.numerics.random import SeedRange, Stream, generator
from ood_core.numerics.symmetry import orbit

BATCH = 64  # maps that are made at once, which bounds the memory


@final
@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """Maps in model range, and what they took.

    `nfe` counts network evaluations of single maps while they were made, not while anything was
    fitted. `notes` are figures of the fit for readers of the table.
    """

    maps: Maps
    nfe: int = 0
    notes: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Baseline(Protocol):
    """A way from targets to maps; its settings are its fields."""

    def __call__(self, targets: Maps, symmetries: Sequence[Symmetry], seeds: SeedRange) -> Made:
        """Make one map per seed, from targets in model range.

        A map is a function of targets, symmetries, settings and its own seed: to rounding, it does
        not matter which other seeds are requested.

        Raises:
            TargetError: fewer targets than the method needs.
        """
        ...


def draw_images(
    targets: Maps, symmetries: Sequence[Symmetry], seeds: SeedRange, count: int = 1
) -> Float[Tensor, "n count c y x"]:
    """Draw `count` different targets per seed, each under a random element of the group.

    Where the field is declared periodic and stationary, images are shifted at random as well.

    Raises:
        TargetError: fewer targets than are to be drawn.
    """
    require_targets(targets, count)
    images = torch.stack(orbit(targets, symmetries))
    drawn_images = []
    for i in seeds:
        rng = generator(seeds.root, i, stream=Stream.STATISTIC)
        chosen = rng.permutation(len(targets))[:count]
        elements = rng.integers(len(images), size=count)
        drawn = images[torch.from_numpy(elements), torch.from_numpy(chosen)]
        if "translate" in symmetries:
            shifts = rng.integers(targets.shape[-2:], size=(count, 2)).tolist()
            turned = [m.roll(tuple(s), (-2, -1)) for m, s in zip(drawn, shifts, strict=True)]
            drawn = torch.stack(turned)
        drawn_images.append(drawn)
    return torch.stack(drawn_images)


def require_targets(targets: Maps, least: int) -> None:
    """Refuse a set that is too small.

    Raises:
        TargetError: fewer than `least` targets.
    """
    if len(targets) < least:
        raise TargetError(
            f"got {len(targets)} targets; expected at least {least} for this baseline: add targets"
        )


def parts(seeds: SeedRange, size: int = BATCH) -> list[SeedRange]:
    """Cut a range into ranges of at most `size` seeds."""
    starts = range(seeds.start, seeds.stop, size)
    return [SeedRange(seeds.root, start, min(start + size, seeds.stop)) for start in starts]
