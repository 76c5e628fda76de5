"""Runs as tests need them."""

from flows.runs.lease_guard import hold_lease
from flows.runs.planning import plan_run
from flows.settings import RunSettings
from ood_core.store.run import RunStore


def prepare(settings: RunSettings, out: str) -> RunStore:
    """Plan a run at `out` without working on it, or return the one that is there."""
    planned = plan_run(settings, out)
    with hold_lease(planned.run):
        planned.settle()
    return planned.run
