"""Plan a run and perform its stages; `flows.orchestration` does the same under Prefect."""

from collections.abc import Callable
from typing import Any

from flows.runs.lease_guard import holding
from flows.runs.planning import ask
from flows.runs.stages import LINE, Stage, perform, summary
from flows.runs.worker_pool import hiring
from flows.settings import RunSettings
from ood_core.store.lease import BEAT_SECONDS
from ood_core.store.run import RunStore

Call = Callable[[str, Stage, RunStore, RunSettings], str]


def run_line(
    settings: RunSettings, out: str, call: Call = perform, beat: float = BEAT_SECONDS
) -> dict[str, Any]:
    """Plan or resume a run and take it through every stage; return its summary.

    Other drivers are told every `beat` seconds that this one is alive.

    Raises:
        InputError: unusable targets, base or settings; nothing is written.
        IdentityRefused: another run lives at `out`.
        InUse: another driver works on it, or took it over.
        RunIncomplete: some shards of a stage failed for good; later stages are not begun.
        StoreUnwritable: the place is full, read-only or not ours.
    """
    asked = ask(settings, out)
    with holding(asked.run, beat):
        asked.settle()
        go_on(asked.run, settings, call)
    return summary(asked.run)


def go_on(run: RunStore, settings: RunSettings, call: Call = perform) -> None:
    """Take a planned run, held by this driver, through every stage."""
    *worked, (name, stage) = LINE
    with hiring(settings.execution):
        for earlier in worked:
            call(*earlier, run, settings)
    call(name, stage, run, settings)  # by this process, with the memory that workers had
