"""Methods of the table: the project's own and the baselines, each made and clocked alike."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, assert_never, final, get_args

import numpy as np
import numpy.typing as npt
from typing_extensions import TypeIs

from benchmarks.rivals.baseline import Baseline
from benchmarks.rivals.closed_forms import MaskedPosterior, PatchComposites
from benchmarks.rivals.copies import Copies
from benchmarks.rivals.fine_tuning import FineTuning
from benchmarks.rivals.gaussian import GaussianDraws, GaussianField
from benchmarks.rivals.mixing import Mixing
from benchmarks.rivals.restart import Restart
from benchmarks.rivals.synthesis import Synthesis
from benchmarks.science.targets import BenchTargets
from flows.progress import Silent, listener
from flows.runs.lease_guard import hold_lease
from flows.runs.planning import inspect_inputs, plan_run
from flows.runs.stages import STAGES, perform
from flows.settings import Execution, RunSettings
from ood_core.config.gate import GateSpec
from ood_core.config.generation import GenerationSpec
from ood_core.config.identity import identity_record
from ood_core.config.method import DrawSpec, Method
from ood_core.models.loading import BaseModel
from ood_core.numerics.random import SeedRange, normal

BaselineName = Literal[
    "copies", "mixing", "gaussian-field", "gaussian-law", "patch-composites", "masked-posterior",
    "restart", "synthesis", "fine-tuning",
]  # fmt: skip
OwnName = Literal["discovery", "discovery-slerp", "cluster", "calibrated-unsteered", "calibrated"]
MethodName = BaselineName | OwnName
OWN: tuple[OwnName, ...] = get_args(OwnName)
BASELINES: tuple[BaselineName, ...] = get_args(BaselineName)
METHODS: tuple[MethodName, ...] = ("calibrated", *BASELINES, *OWN[:-1])
"""In the order in which they are made: fine-tuning may take as long as `calibrated` took."""

FITTED_WITHIN: dict[MethodName, MethodName] = {"fine-tuning": "calibrated"}
"""Methods whose budget is what another one took."""

SHARD = 64
PROBE_ROWS, PROBES = 16, 5


@final
@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Maps in physical units, network evaluations per map while they were made, CPU seconds."""

    maps: npt.NDArray[np.float32]
    nfe: float
    cpu_seconds: float
    notes: Mapping[str, float]


def is_own(name: MethodName) -> TypeIs[OwnName]:
    """Whether a method is one of the project's own."""
    return name in OWN


def baseline(name: BaselineName, base: BaseModel, evaluations: int = 1) -> Baseline:
    """The baseline of a name; `evaluations` is the budget of fine-tuning."""
    match name:
        case "copies":
            return Copies()
        case "mixing":
            return Mixing()
        case "gaussian-field":
            return GaussianField()
        case "gaussian-law":
            return GaussianDraws()
        case "patch-composites":
            return PatchComposites()
        case "masked-posterior":
            return MaskedPosterior()
        case "restart":
            return Restart(base=base.denoiser)
        case "synthesis":
            return Synthesis()
        case "fine-tuning":
            return FineTuning(base=base, evaluations=evaluations)
    assert_never(name)


def own_method(name: OwnName, configured: Method) -> Method:
    """The settings of one of the project's methods; `configured` are those of the configuration."""
    calibrated = configured if configured.calibration is not None else Method()
    match name:
        case "discovery":
            return Method.of("discovery")
        case "discovery-slerp":
            published = DrawSpec(sampler="slerp", share="grid", accept="latents")
            return Method.of("discovery", draw=published)
        case "cluster":
            return Method.of("cluster")
        case "calibrated-unsteered":
            return replace(calibrated, steering=None)
        case "calibrated":
            return calibrated
    assert_never(name)


def settled(name: MethodName, targets: BenchTargets, base: BaseModel) -> dict[str, Any]:
    """All settings that decide what a method makes, as plain values.

    One of the project's own has the method of its runs' identity. The budget of fine-tuning is
    measured, so the settings of the method that it is taken from stand for it.
    """
    if is_own(name):
        settings = own_settings(name, targets.settings)
        maps, model, method = inspect_inputs(settings)
        record = identity_record(maps.record(), model.digest, method, settings.generation.seed)
        found: dict[str, Any] = record["method"]
        return found
    how: Any = baseline(name, base)
    plain = {f.name: getattr(how, f.name) for f in fields(how) if f.name != "base"}
    plain["quantization"] = True
    if name == "fine-tuning":
        plain["evaluations"] = settled("calibrated", targets, base)
    return plain


def own_settings(name: OwnName, settings: RunSettings) -> RunSettings:
    """The configuration of a target set with one of the project's methods, run in this process."""
    changed = {
        "method": own_method(name, settings.method),
        "gate": GateSpec(),
        "execution": Execution(pool="inline", orchestrator="none", device="cpu"),
    }
    return settings.model_copy(update=changed)


def make_run(
    name: OwnName, targets: BenchTargets, n: int, seed: int, samples: int, work: Path
) -> Outcome:
    """Take one of the project's own methods from plan to samples in an empty folder."""
    settings = own_settings(name, targets.settings).model_copy(
        update={
            "targets": targets.write(n, seed, work / "targets.npy"),
            "generation": GenerationSpec(
                samples=samples, shard_size=min(SHARD, samples), seed=seed
            ),
        }
    )
    began, token = time.process_time(), listener.set(Silent())
    try:
        planned = plan_run(settings, str(work / "run"))
        with hold_lease(planned.run):
            planned.settle()
            for stage, work_of in STAGES:
                if stage != "validate":  # scored by the table itself
                    perform(stage, work_of, planned.run, settings)
    finally:
        listener.reset(token)
    run, plan = planned.run, planned.plans["generate"]
    nfe = sum(receipt.nfe for receipt in run.ledger("generate").all(plan))
    maps = run.table("generate").read("maps", slice(0, samples))
    seconds = time.process_time() - began
    notes = {f"{stage} wall seconds": spent for stage, spent in run.timings.items()}
    made = sum(shard.capacity for shard in plan)
    return Outcome(maps, nfe / made, seconds, notes)


def run_baseline(
    how: Baseline, targets: BenchTargets, n: int, seeds: SeedRange, seed: int
) -> Outcome:
    """Make maps with a baseline in the model range of the chosen targets."""
    chosen = targets.chosen_set(n, seed)
    began = time.process_time()
    made = how(chosen.fit_ranged, chosen.symmetries, seeds)
    seconds = time.process_time() - began
    # Rounded as a run's samples are, so that rounding does not tell baselines from real maps.
    maps = chosen.quantization(chosen.physical(made.maps))
    return Outcome(maps, made.nfe / len(seeds), seconds, dict(made.notes))


def budget(base: BaseModel, targets: BenchTargets, samples: int, cpu_seconds: float) -> int:
    """Network evaluations that fine-tuning may spend so that all of it takes so many CPU seconds.

    One evaluation is timed here and now; those of sampling are taken off.
    """
    shape = targets.maps.shape
    x, t = normal(SeedRange(0, 0, PROBE_ROWS), shape), len(base.denoiser.schedule) // 2
    spent = []
    for _ in range(PROBES):
        began = time.process_time()
        base.denoiser(x, t)
        spent.append((time.process_time() - began) / PROBE_ROWS)
    sampling = samples * (FineTuning(base=base, evaluations=1).sampling_steps + 1)
    return max(1, round(cpu_seconds / sorted(spent)[PROBES // 2]) - sampling)
