"""Where workers' seconds go: parts, what is left of the slots, and shares of them."""

from types import SimpleNamespace

import pytest

from flows import progress
from flows.progress import PARTS, WorkerSeconds, shares
from ood_core.store.run import RunStore


@pytest.fixture
def now(monkeypatch):
    """A clock that stands still."""
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: 100.0))
    return 100.0


def test_idle_is_what_parts_leave_of_the_slots(now):
    """Of two workers that were there from the beginning."""
    spent = WorkerSeconds(now - 10.0, since={"one": now - 10.0, "two": now - 10.0})
    spent.add("one", {"compute": 8.0, "network": 6.0, "write": 1.0})
    spent.add("two", {"compute": 4.0, "network": 3.0})
    split = spent.end()
    assert split["slots"] == 20.0
    assert split["idle"] == 20.0 - 13.0  # network is within compute
    assert shares(split)["network"] == pytest.approx(9.0 / split["slots"], abs=1e-4)


def test_a_worker_counts_from_its_first_shard_on(now):
    """Whose parts may have begun before the stage did: they count from its beginning."""
    spent = WorkerSeconds(now - 10.0)
    spent.add("late", {"compute": 2.0, "network": 2.0})
    spent.add("late", {"compute": 1.0})
    spent.add("early", {"build": 30.0, "compute": 1.0})
    assert spent.end()["slots"] == 2.0 + 10.0


def test_parts_that_overlap_leave_nothing(now):
    spent = WorkerSeconds(now - 1.0)
    spent.add("one", {"compute": 1.0, "encode": 1.0})
    assert spent.end()["idle"] == 0.0


def test_a_run_tells_where_its_workers_seconds_went(unbroken, farfield):
    run = RunStore(unbroken)
    for stage in ("calibrate", "invert", "generate"):
        split = run.splits[stage]
        receipts = run.ledger(stage).all(run.plan(stage))
        for part in ("compute", "network", "encode", "write"):
            assert split[part] == pytest.approx(sum(r.parts[part] for r in receipts))
        assert 0 < split["network"] < split["compute"]
        assert sum(split[part] for part in PARTS) <= split["slots"] + 1e-3  # rounded
    assert "generate build" in farfield("status", unbroken).out


def test_sessions_add_up(tmp_path):
    run = RunStore(tmp_path)
    run.add_split("generate", {"slots": 2.0, "compute": 1.0})
    run.add_split("generate", {"slots": 4.0, "compute": 2.0, "wait": 1.0})
    assert run.splits == {"generate": {"slots": 6.0, "compute": 3.0, "wait": 1.0}}
