"""Copies of the targets under their symmetries: the least of every distance, and nothing new."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from benchmarks.rivals.baseline import Made, draw_images
from ood_core.arrays import Maps
from ood_core.config.targets import Symmetry
from ood_core.numerics.random import SeedRange


@final
@dataclass(frozen=True, slots=True)
class Copies:
    """A random image of a random target."""

    def __call__(self, targets: Maps, symmetries: Sequence[Symmetry], seeds: SeedRange) -> Made:
        """Make one copy per seed; see `Baseline`."""
        return Made(draw_images(targets, symmetries, seeds)[:, 0])
