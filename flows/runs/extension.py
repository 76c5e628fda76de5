"""Growing a run: the line goes on with more samples, from the run's own folder alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from actors.line import require_base
from flows.runs.lease_guard import holding
from flows.runs.lifecycle import Call, go_on
from flows.runs.stages import perform, summary
from flows.settings import RunSettings, parse_open
from ood_core.errors import IdentityRefused
from ood_core.models.loading import load_base
from ood_core.store.files import exists, read_json, sweep
from ood_core.store.growth import grow, require_room
from ood_core.store.run import RunStore


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
    with holding(run):
        sweep(run.root)
        before = grow(run, samples)
        note = f"grown from {before} to {samples}" if samples > before else f"went on to {samples}"
        go_on(run, settings, call)
    return {**summary(run), "note": f"{note} samples"}


def stored_settings(run: RunStore, overrides: Sequence[str] = ()) -> RunSettings:
    """The settings that planned a run, with the gate it was last held against.

    `overrides` may name the base's place, the gate and the execution, which no identity holds.

    Raises:
        ConfigError: another key, or an impossible value.
    """
    content = run.record["settings"]
    verdict = run.root / "verdict.json"
    if exists(verdict):
        content = {**content, "gate": read_json(verdict)["gate"]}
    return parse_open(content, overrides)


def with_samples(settings: RunSettings, samples: int) -> RunSettings:
    """Return the settings of a run of so many samples."""
    generation = replace(settings.generation, samples=samples)
    return settings.model_copy(update={"generation": generation})


def _require_same(run: RunStore, settings: RunSettings) -> None:
    """Refuse what `prepare` would refuse, before anything is written."""
    base = load_base(settings.base, max_bytes=settings.execution.max_base_bytes)
    require_base(base, run.record)
    dtype = run.dtype
    if settings.execution.number_type != dtype:
        raise IdentityRefused(
            f"execution.dtype: got {settings.execution.number_type}; expected {dtype}, as the "
            f"samples at {run.root} were made: one set is never of two number types"
        )
