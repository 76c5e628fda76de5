"""Everything that is fitted to targets, in memory: made, kept as plain values, and put back.

Where samples are held to coarse maps (`Method.pyramid`), all is fitted to coarse targets first.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, final

import torch
from tqdm.auto import tqdm

from ood_core.arrays import Latents, row_major
from ood_core.config.identity import digest, identity_record, read_method
from ood_core.config.method import Method
from ood_core.denoising.calibrated import in_order
from ood_core.maps.target_set import TargetSet
from ood_core.models.loading import BaseModel
from ood_core.numerics.random import root_key
from ood_core.synthesis.pipeline import (
    Calibrator,
    ExpertPlan,
    FittedPrior,
    PatchMixtures,
    Pipeline,
    coarse_method,
    fit_mixtures,
    fit_prior_of,
    held_numbers,
    require_stack,
    with_pyramid,
)
from ood_core.synthesis.sampler import Sampler
from ood_core.synthesis.state import targets_of, targets_state

INVERSION_BATCH = 16
T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A pipeline, the prior of the latents and the sampler of both; `coarse` is that of means.

    `held` are the numbers of the fit targets whose round trip holds.
    """

    targets: TargetSet
    record: dict[str, Any]
    pipeline: Pipeline
    patches: PatchMixtures
    latents: Latents
    held: tuple[int, ...]
    prior: FittedPrior
    sampler: Sampler
    coarse: "Fit | None"

    @classmethod
    def to(
        cls, targets: TargetSet, model: BaseModel, method: Method, seed: int, progress: bool = False
    ) -> "Fit":
        """Fit a resolved method to targets; `progress` shows bars.

        Raises:
            TargetError: targets that the model or the method cannot take.
            PriorUnderdetermined: fewer targets than the prior needs.
        """
        model.check(targets)
        require_stack(model, method)
        method = with_pyramid(method, model, targets)
        coarse: Fit | None = None
        if method.factor > 1:
            means = targets.coarsened(method.factor)
            coarse = cls.to(means, model, coarse_method(method), seed, progress)
        record = identity_record(targets.record(), model.digest, method, seed)
        identity, seen = digest(record), _encoded(targets, model)
        plan: ExpertPlan | None = None
        mixtures: tuple[PatchMixtures, PatchMixtures, PatchMixtures] = ((), (), ())
        if (spec := method.calibration) is not None:
            plan = ExpertPlan.of(seen.fit_seen, targets.symmetries, spec, len(model.each))
            mixtures = fit_mixtures(seen.fit_seen, spec, targets.symmetries, identity)
        every, first, second = mixtures
        pipeline = Pipeline.of(
            model, seen, method, root_key(identity), model.device, plan=plan, patches=every
        )
        pipeline = pipeline if coarse is None else pipeline.above(coarse.pipeline)
        if plan is not None:
            calibrator = Calibrator(pipeline, (first, second))
            steps = shown(pipeline.timesteps.tolist(), "calibrating", progress)
            pipeline = pipeline.calibrated(
                calibrator.weights({t: calibrator.weights_at(t) for t in steps})
            )
        latents, error = _inverted(pipeline, len(targets.fit), progress)
        held = held_numbers(method, error, pipeline.targets.fit_ranged)
        kept = latents[list(held)]
        prior = fit_prior_of(method, kept, targets.symmetries, identity)
        return cls._joined(targets, record, pipeline, every, latents, held, prior, coarse)

    @property
    def state(self) -> dict[str, Any]:
        """Plain values, arrays and records, as `ood_core.synthesis.state` writes them."""
        return {
            "record": self.record,
            "targets": targets_state(self.targets),
            "plan": self.pipeline.plan,
            "patches": self.patches,
            "weights": self.pipeline.weights,
            "latents": self.latents,
            "held": list(self.held),
            "prior": self.prior,
            "coarse": self.coarse and self.coarse.state,
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any], model: BaseModel, place: str) -> "Fit":
        """Put together again what `state` told of, for a model of the same digest."""
        record, targets = state["record"], targets_of(state["targets"])
        plan, weights, patches = state["plan"], state["weights"], tuple(state["patches"])
        if plan is not None:
            weights = weights.by_name(plan.experts, place)
            plan = replace(plan, experts=in_order(plan.experts))
        pipeline = Pipeline.of(
            model, _encoded(targets, model), read_method(record), root_key(digest(record)),
            model.device, plan=plan, patches=patches, weights=weights,
        )  # fmt: skip
        below = state["coarse"] and cls.of_state(state["coarse"], model, place)
        pipeline = pipeline if below is None else pipeline.above(below.pipeline)
        return cls._joined(
            targets, record, pipeline, patches, state["latents"], tuple(state["held"]),
            state["prior"], below,
        )  # fmt: skip

    @classmethod
    def _joined(
        cls,
        targets: TargetSet,
        record: dict[str, Any],
        pipeline: Pipeline,
        patches: PatchMixtures,
        latents: Latents,
        held: tuple[int, ...],
        prior: FittedPrior,
        coarse: "Fit | None",
    ) -> "Fit":
        sampler = Sampler(
            pipeline, prior.prior, prior.geometry, latents[list(held)], held,
            coarse and coarse.sampler,
        )  # fmt: skip
        return cls(targets, record, pipeline, patches, latents, held, prior, sampler, coarse)


def _encoded(targets: TargetSet, model: BaseModel) -> TargetSet:
    codes = model.codes
    return targets.encoded(None if codes is None else codes.encode)


def _inverted(pipeline: Pipeline, count: int, progress: bool) -> tuple[Latents, torch.Tensor]:
    size = min(INVERSION_BATCH, count)
    latents, errors = [], []
    for first in shown(range(0, count, size), "inverting", progress, unit=f"batch of {size}"):
        stop = min(first + size, count)
        done = pipeline.invert(slice(first, stop), size)
        latents.append(done.latents[: stop - first].cpu())
        errors.append(done.error[: stop - first].cpu())
    return row_major((torch.cat(latents), torch.cat(errors)))


def shown(work: Sequence[T], what: str, progress: bool, unit: str = "timestep") -> Iterable[T]:
    """Go through work, with a bar of it if `progress`."""
    bar: Iterable[T] = tqdm(work, desc=what, unit=f" {unit}", disable=not progress, leave=False)
    return bar
