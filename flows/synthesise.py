"""The line as plain Python; `flows.prefect_flows` runs the same line under Prefect."""

from collections.abc import Callable
from typing import Any

from flows.planning import prepare
from flows.settings import RunSettings
from flows.stages import LINE, Stage, perform, summary
from ood_core.store.run import RunStore

Call = Callable[[str, Stage, RunStore, RunSettings], str]


def run_line(settings: RunSettings, out: str, call: Call = perform) -> dict[str, Any]:
    """Plan or resume a run and take it through every stage; return its summary."""
    return go_on(prepare(settings, out), settings, call)


def go_on(run: RunStore, settings: RunSettings, call: Call = perform) -> dict[str, Any]:
    """Take a planned run through every stage; return its summary."""
    try:
        for name, stage in LINE:
            call(name, stage, run, settings)
    finally:
        run.rest()
    return summary(run)
