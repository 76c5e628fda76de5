"""How well a set of samples meets what was wished of it, and what that cost.

Every statistic is measured on the samples, on samples of the same method without wishes, and on
held-out maps. Samples that were steered are meant to differ from held-out maps.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ood_core.config.steer import SteerSpec
from ood_core.errors import InputError
from ood_core.metrics.wished import WISHED
from ood_core.numerics.random import SeedRange
from ood_core.synthesis.pipeline import Pipeline
from ood_core.synthesis.preference import WishedFor, load_reward, measured
from ood_core.synthesis.sampler import Sampler

UNSTEERED = 64  # samples without wishes that a set is compared with


@final
@dataclass(frozen=True, slots=True)
class Sets:
    """Mean and standard deviation of one statistic over a set of maps.

    `within` is the share of maps that are no further from the value than the width; None of a
    reward, which has neither.
    """

    mean: float
    spread: float
    within: float | None


@final
@dataclass(frozen=True, slots=True)
class Reached:
    """One wish and what became of it; `value` and `width` are None for a reward.

    `statistic` is its name, or that of the function; `above` the pixel value that is exceeded.
    """

    statistic: str
    title: str
    value: float | None
    width: float | None
    above: float | None
    samples: Sets
    unsteered: Sets
    held_out: Sets


@final
@dataclass(frozen=True, slots=True)
class Met:
    """Every wish, and the cost of a sample.

    `candidates` ways were tried, whole ones if `whole`, else at every step. `evaluations` and
    `unsteered_evaluations` count those of the network for a sample, `seconds` and
    `unsteered_seconds` those by the clock to draw and to compute it; the first of each pair is None
    where it was not measured. `maps` samples were measured, `unsteered_maps` made without wishes.
    """

    reached: tuple[Reached, ...]
    candidates: int
    whole: bool
    maps: int
    unsteered_maps: int
    evaluations: float | None
    unsteered_evaluations: float
    seconds: float | None
    unsteered_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "reached": [asdict(one) for one in self.reached]}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Met":
        """Read what `to_json` gave."""
        reached = tuple(
            Reached(**{**r, **{n: Sets(**r[n]) for n in ("samples", "unsteered", "held_out")}})
            for r in record["reached"]
        )
        return cls(**{**record, "reached": reached})

    def __str__(self) -> str:
        return "\n".join(map(said, self.reached))


@final
@dataclass(frozen=True, slots=True, eq=False)
class Unsteered:
    """Samples of the same method without wishes, `(n, c, y, x)`, and what one cost."""

    maps: NDArray[np.float32]
    evaluations: float
    seconds: float


def unsteered(pipeline: Pipeline, sampler: Sampler, batch: int, count: int) -> Unsteered:
    """Make the samples 0 to `count` without wishes, in batches."""
    plain, made = sampler.preferring(None), []
    before, began = pipeline.base.nfe, time.monotonic()
    for first in range(0, count, batch):
        seeds = SeedRange(pipeline.root, first, first + batch)
        made.append(pipeline.physical(plain.sample(seeds).maps.cpu()))
    seconds, calls = time.monotonic() - began, pipeline.base.nfe - before
    maps = np.concatenate(made)
    return Unsteered(maps[:count], calls / len(maps), seconds / len(maps))


def meet(
    pipeline: Pipeline,
    samples: NDArray[np.float32],
    plain: Unsteered,
    cost: tuple[float | None, float | None] = (None, None),
) -> Met:
    """Measure what became of the wishes of a method, on samples in physical units.

    `cost` are evaluations of the network and seconds of a sample.

    Raises:
        InputError: a method without wishes, or no samples.
    """
    spec, held_out = pipeline.method.steer, pipeline.targets.held_out
    if spec is None or not len(samples):
        raise InputError(
            f"met: got {len(samples)} samples of a method that steers: {spec is not None}; "
            "expected samples of one that does"
        )
    reached = [*_wishes(pipeline, spec, samples, plain.maps, held_out)]
    if spec.reward is not None:
        reward = load_reward(spec)
        sets = (_of(np.asarray(reward(maps))) for maps in (samples, plain.maps, held_out))
        name = spec.reward
        reached.append(Reached(name, name.partition(":")[2], None, None, None, *sets))
    return Met(
        tuple(reached), pipeline.method.candidates, bool(spec.wishes), len(samples),
        len(plain.maps), cost[0], plain.evaluations, cost[1], plain.seconds,
    )  # fmt: skip


def _wishes(pipeline: Pipeline, spec: SteerSpec, *sets: NDArray[np.float32]) -> Iterator[Reached]:
    for wish in spec.wishes:
        width = WishedFor(pipeline, wish).width
        found = [_of(measured(wish, maps), wish.value, width) for maps in sets]
        title = WISHED[wish.statistic].title
        yield Reached(wish.statistic, title, wish.value, width, wish.above, *found)


def _of(values: NDArray[Any], value: float | None = None, width: float | None = None) -> Sets:
    within = None
    if value is not None and width is not None:
        within = float((np.abs(values - value) <= width).mean())
    return Sets(float(values.mean()), float(values.std()), within)


def said(one: Reached) -> str:
    """One line for people."""
    level = "" if one.above is None else f" above {one.above:g}"
    width = float(f"{one.width or 0:.3g}")
    wish = "more of it" if one.value is None else f"{one.value:g} +- {width:g}"
    return (
        f"{one.title}{level}: wished {wish}, reached {one.samples.mean:.5g} +- "
        f"{one.samples.spread:.5g}, unsteered {one.unsteered.mean:.5g}, "
        f"held out {one.held_out.mean:.5g}"
    )
