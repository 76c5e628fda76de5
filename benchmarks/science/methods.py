"""Methods of the table: the lines of the project and the baselines, each made and clocked alike."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, assert_never, final, get_args

import numpy as np
import numpy.typing as npt
from typing_extensions import TypeIs

from benchmarks.rivals.baseline import Baseline
from benchmarks.rivals.copies import Copies
from benchmarks.rivals.fine_tuning import FineTuning
from benchmarks.rivals.gaussian import GaussianField, GaussianLaw
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
    "copies", "mixing", "gaussian-field", "gaussian-law", "restart", "synthesis", "fine-tuning"
]
LineName = Literal["discovery", "discovery-slerp", "cluster", "calibrated-unsteered", "calibrated"]
MethodName = BaselineName | LineName
LINES: tuple[LineName, ...] = get_args(LineName)
BASELINES: tuple[BaselineName, ...] = get_args(BaselineName)
METHODS: tuple[MethodName, ...] = ("calibrated", *BASELINES, *LINES[:-1])
"""In the order in which they are made: fine-tuning may take as long as the calibrated line took."""

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


def is_line(name: MethodName) -> TypeIs[LineName]:
    """Whether a method is one of the project's own lines."""
    return name in LINES


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
            return GaussianLaw()
        case "restart":
            return Restart(base=base.denoiser)
        case "synthesis":
            return Synthesis()
        case "fine-tuning":
            return FineTuning(base=base, evaluations=evaluations)
    assert_never(name)


def line_spec(name: LineName, own: Method) -> Method:
    """The method of a line; `own` is that of the configuration."""
    calibrated = own if own.calibration is not None else Method()
    match name:
        case "discovery":
            return Method.of("discovery")
        case "discovery-slerp":
            published = DrawSpec(construct="slerp", share="grid", accept="latents")
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

    A line is named as in its runs' identity. The budget of fine-tuning is measured, so it is named
    by the line that it is taken from.
    """
    if is_line(name):
        settings = line_settings(name, targets.settings)
        maps, model, method = inspect_inputs(settings)
        record = identity_record(maps, model.digest, method, settings.generation.seed)
        found: dict[str, Any] = record["method"]
        return found
    how: Any = baseline(name, base)
    plain = {f.name: getattr(how, f.name) for f in fields(how) if f.name != "base"}
    plain["quantization"] = True
    if name == "fine-tuning":
        plain["evaluations"] = settled("calibrated", targets, base)
    return plain


def line_settings(name: LineName, settings: RunSettings) -> RunSettings:
    """The configuration of a target set with the method of a line, run in this process."""
    changed = {
        "method": line_spec(name, settings.method),
        "gate": GateSpec(),
        "execution": Execution(pool="inline", orchestrator="none", device="cpu"),
    }
    return settings.model_copy(update=changed)


def make_run(
    name: LineName, targets: BenchTargets, n: int, seed: int, samples: int, work: Path
) -> Outcome:
    """Take a line from plan to samples in an empty folder."""
    settings = line_settings(name, targets.settings).model_copy(
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
    # Told apart by how their numbers are rounded they should not be, any more than the line's.
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
