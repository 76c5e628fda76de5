"""From a configuration to a finished run, and from a finished run to a larger one.

`flows.orchestration` does the same under Prefect.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from actors.loading import require_base
from flows.progress import listener
from flows.runs.lease_guard import hold_lease
from flows.runs.planning import RunPlan, plan_run
from flows.runs.stages import STAGES, Stage, is_judged, is_stored, perform, summary
from flows.runs.worker_pool import require_workers, shared_pool
from flows.settings import RunSettings, parse_open
from ood_core.errors import IdentityRefused
from ood_core.models.loading import load_model
from ood_core.store.files import exists, read_json, sweep
from ood_core.store.lease import BEAT_SECONDS
from ood_core.store.run import GATE, RunStore, grow, require_room
from ood_core.store.series import record_version

Call = Callable[[str, Stage, RunStore, RunSettings], str]


def make_run(
    settings: RunSettings,
    out: str,
    call: Call = perform,
    beat: float = BEAT_SECONDS,
    plan: Callable[[RunSettings, str], RunPlan] = plan_run,
) -> dict[str, Any]:
    """Plan or resume a run and take it through every stage; return its summary.

    Every `beat` seconds a sign of life is written for other drivers. A run that has nothing left to
    do calls no stage.

    Raises:
        InputError: unusable targets, base or settings; nothing is written.
        IdentityRefused: another run lives at `out`.
        InUse: another driver works on it, or took it over.
        RunIncomplete: some shards of a stage failed for good; later stages are not begun.
        StoreUnwritable: the disk is full or read-only, or permission is missing.
        ServiceLost: the Ray cluster cannot be joined; nothing is written.
    """
    planned = plan(settings, out)
    if not planned.run.exists:
        require_workers(settings.execution)
        if planned.growth is not None:
            listener.get().say(str(planned.growth))
    with hold_lease(planned.run, beat):
        planned.settle()
        if settings.targets.grow:
            record_version(planned.run)
        perform_stages(planned.run, settings, call)
        if settings.targets.grow:
            record_version(planned.run)
    return summary(planned.run)


def perform_stages(run: RunStore, settings: RunSettings, call: Call = perform) -> None:
    """Take a planned run, held by this driver, through every stage; none where all is done."""
    if is_stored(run) and is_judged(run, settings):
        return
    *worked, (name, stage) = STAGES
    with shared_pool(settings.execution):
        for earlier in worked:
            call(*earlier, run, settings)
    if not is_judged(run, settings):
        call(name, stage, run, settings)  # by this process, with the memory that workers had


def extend_run(run: RunStore, settings: RunSettings, call: Call = perform) -> dict[str, Any]:
    """Grow a run to `settings.generation.samples` and take it through every stage.

    Nothing is done where so many samples are finished already. After a crash the same call goes on.

    Raises:
        InputError: fewer samples than are planned, or no such base.
        IdentityRefused: another base, or another number type.
        InUse: another driver works on the run.
        RunIncomplete: some shards failed for good; the others are stored.
    """
    samples = settings.generation.samples
    _require_same(run, settings)
    require_room(run, samples)
    finished = run.state not in ("planned", "incomplete", "running")
    if finished and samples == run.plan("generate").rows:
        return {**summary(run), "note": f"has {samples} samples already; nothing to do"}
    with hold_lease(run):
        sweep(run.root)
        before = grow(run, samples)
        note = f"grown from {before} to {samples}" if samples > before else f"went on to {samples}"
        perform_stages(run, settings, call)
    return {**summary(run), "note": f"{note} samples"}


def stored_settings(run: RunStore, overrides: Sequence[str] = ()) -> RunSettings:
    """The settings that planned a run, with the gate that was last decided.

    `overrides` may name the base's path, the gate and the execution, which no identity holds.

    Raises:
        ConfigError: another key, or an impossible value.
    """
    content = run.record["settings"]
    gate = run.root / GATE
    if exists(gate):
        content = {**content, "gate": read_json(gate)["gate"]}
    return parse_open(content, overrides)


def with_samples(settings: RunSettings, samples: int) -> RunSettings:
    """Return the settings of a run of so many samples."""
    generation = replace(settings.generation, samples=samples)
    return settings.model_copy(update={"generation": generation})


def _require_same(run: RunStore, settings: RunSettings) -> None:
    """Refuse another base or number type than the run's, before anything is written."""
    base = load_model(settings.base, max_bytes=settings.execution.max_base_bytes)
    require_base(base, run.record)
    dtype = run.dtype
    if settings.execution.number_type != dtype:
        raise IdentityRefused(
            f"execution.dtype: got {settings.execution.number_type}; expected {dtype}, as the "
            f"samples at {run.root} were made: one set is never of two number types"
        )
