"""Two drivers on one run: one goes on, the other stops, whichever of them was first."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from actors.pool import InlinePool
from flows.runs import stages
from flows.runs.lifecycle import make_run
from flows.runs.stages import perform
from ood_core.errors import InUse
from ood_core.store import lease
from ood_core.store.lease import Lease, Wait, driver, highest
from ood_core.store.run import RunStore
from tests.contracts.pool import missing, spec_of
from tests.contracts.store import assert_equal, assert_honest, marks
from tests.faults.drivers import (
    CONTEXT,
    IN_USE,
    Moment,
    ended,
    start,
    until,
    until_stopped,
    wake,
    without_validation,
)

BEAT = 2.0
"""Six of them without a sign of life: more than a busy machine keeps a process waiting."""


def everything(folder: Path) -> list:
    return sorted((str(p), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file())


def test_of_two_that_start_at_once_one_goes_on_and_the_other_stops(tmp_path, tiny, unbroken):
    """The winner waits inside, so the loser cannot find a run that is done already."""
    out, inside, go_on = tmp_path / "run", CONTEXT.Event(), CONTEXT.Event()
    both = [start(tiny(), out, beat=BEAT, inside=inside, go_on=go_on) for _ in range(2)]
    until(lambda: any(process.exitcode is not None for process in both), _Any(both))
    (loser,) = [process for process in both if process.exitcode is not None]
    (winner,) = [process for process in both if process is not loser]
    assert ended(loser) == IN_USE
    until(inside.is_set, winner)
    assert RunStore(out).state == "running"
    assert driver(out / "lease").pid == winner.pid
    go_on.set()
    assert ended(winner) == 0
    assert driver(out / "lease") is None
    assert_equal(out, unbroken)


class _Any:
    """Several drivers, alive as long as one of them is."""

    exitcode = None

    def __init__(self, processes) -> None:
        self.processes = processes

    def is_alive(self) -> bool:
        return any(process.is_alive() for process in self.processes)


def test_the_command_says_who_is_at_work_and_touches_nothing(tmp_path, tiny, config, farfield):
    out, inside, go_on = tmp_path / "run", CONTEXT.Event(), CONTEXT.Event()
    first = start(tiny(), out, beat=BEAT, inside=inside, go_on=go_on)
    until(inside.is_set, first)
    before = [row for row in everything(out) if "/lease/" not in row[0]]
    (out / "a.partial").write_text("what the first driver is at")
    answer = farfield("run", config(), "--out", out)
    assert answer.code == 1
    for word in (f"process {first.pid} on ", " since 20", "last sign of life 20", "--out"):
        assert word in answer.err
    assert "Traceback" not in answer.err
    assert (out / "a.partial").exists()
    (out / "a.partial").unlink()
    assert [row for row in everything(out) if "/lease/" not in row[0]] == before
    go_on.set()
    assert ended(first) == 0


def test_a_suspended_driver_that_wakes_up_late_stops(tmp_path, tiny):
    """SIGSTOP in the middle; another driver takes over, finishes; SIGCONT."""
    settings = tiny(generation={"samples": 24, "shard_size": 1})
    out = tmp_path / "run"
    first = start(settings, out, beat=0.2, moment=Moment(signal.SIGSTOP, (6,)))
    until_stopped(first)
    assert_honest(out)
    make_run(settings, str(out), call=without_validation, beat=0.2)
    wake(first)
    assert ended(first) == IN_USE
    assert highest(out / "lease") == 2
    whole = tmp_path / "whole"
    make_run(settings, str(whole), call=without_validation)
    assert_equal(out, whole)


def test_a_worker_that_outlived_its_driver_writes_nothing(ready, monkeypatch):
    """Its driver's lease has gone to another driver while it computed, some time ago."""
    monkeypatch.setattr(lease, "PROOF_SECONDS", 0.0)
    old = Lease.take(ready / "lease")
    spec = replace(spec_of(ready), lease=old.number)
    outcomes = InlinePool().run(spec, missing(ready))
    assert next(outcomes).shard == 0
    silent = iter([0.0, 1e9, 1e9])
    Lease.take(ready / "lease", wait=Wait(lambda: next(silent), lambda _: None))
    before = marks(ready)
    with pytest.raises(InUse, match="taken over"):
        next(outcomes)
    assert marks(ready) == before
    assert not (ready / "dataset.zarr" / "maps" / "c" / "1").exists()


@pytest.mark.parametrize("stage", ["calibrate", "invert", "fit", "generate", "validate"])
def test_a_driver_that_lost_the_run_begins_no_stage(ready, tiny, stage):
    def lose(name, function, run, settings):
        if name == stage:
            (run.lease / "00099.json").write_text("{}")
            before.extend(everything(run.root))
        return perform(name, function, run, settings)

    before = []
    with pytest.raises(InUse, match="taken over"):
        make_run(tiny(), str(ready), call=lose)
    assert everything(ready) == before


@pytest.mark.parametrize("stage", ["fit", "generate", "validate"])
def test_a_driver_that_loses_the_run_within_a_stage_writes_no_more(ready, tiny, stage, monkeypatch):
    """Lost after the stage began and before it stores anything."""

    def lose(function):
        def lost(*arguments, **keywords):
            (ready / "lease" / "00099.json").write_text("{}")
            before.extend(everything(ready))
            return function(*arguments, **keywords)

        return lost

    place = {"fit": "read_latents", "generate": "pool_for", "validate": "evaluate_features"}[stage]
    monkeypatch.setattr(stages, place, lose(getattr(stages, place)))
    if stage == "fit":
        (ready / "prior.zarr.zip").unlink()
    before = []
    with pytest.raises(InUse, match="taken over"):
        make_run(tiny(), str(ready))
    assert everything(ready) == before
