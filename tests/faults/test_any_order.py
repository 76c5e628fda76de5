"""Serial equals parallel: any order of writing, crashing, resuming, growing and checking.

A state machine does to one run, with real workers on a tiny base, whatever drivers and faults may
do to it. At all times every receipt has the digest of the bytes that one long unbroken run has in
that shard, and in the end the sets are the same.
"""

import os
import shutil
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from actors.workers import build
from flows.report.inspection import verify_run
from flows.runs.lifecycle import make_run
from ood_core.store.files import sweep
from ood_core.store.run import RunStore, grow, settle
from tests.contracts.pool import spec_of
from tests.contracts.store import marks

MAX_SAMPLES = 22  # samples, in six shards of 4
FILES = 1 + 3 + 1  # renames of a shard: arrays of statistics and of samples, and the receipt
GROWTH = 1 + (1 + 1) + (3 + 1)  # of a growth: the plan, metadata of arrays and of their tables
places = st.integers(0, 5)


class Killed(BaseException):
    """The process is gone: nothing tidies up, as `except Exception` does not see this."""


@contextmanager
def at_rename(number, act):
    """Call `act` just before rename `number` is done."""
    rename, seen = os.replace, []

    def counted(source, target, **rest):
        seen.append(target)
        if len(seen) == number + 1:
            act()
        return rename(source, target, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", counted)
        yield


def kill():
    raise Killed


class AnyOrder(RuleBasedStateMachine):
    """Two workers and a driver on one run; `truth` is the unbroken run of `MAX_SAMPLES` samples."""

    def __init__(self, place, ready, truth, workers):
        super().__init__()
        self.root = place
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(ready, place)
        self.run = RunStore(place)
        self.truth = truth
        places = {
            "store": self.run,
            "table": self.run.table("generate").writer(),
            "statistics": self.run.statistics.writer(),
        }
        self.workers = [replace(worker, **places) for worker in workers]

    def shard(self, index):
        plan = self.run.plan("generate")
        return plan[index % len(plan)]

    @property
    def book(self):
        return self.run.ledger("generate")

    @rule(worker=st.integers(0, 1), index=places)
    def write(self, worker, index):
        """A worker does a shard; if it is done already, again."""
        receipt = self.workers[worker].run(self.shard(index))
        assert receipt == self.book.read(self.shard(index))

    @rule(index=places, number=st.integers(0, FILES - 1))
    def crash(self, index, number):
        """A worker dies before any of its renames; what another one finished stays whole."""
        with at_rename(number, kill), pytest.raises(Killed):
            self.workers[0].run(self.shard(index))

    @rule(index=places, number=st.integers(0, FILES - 1))
    def race(self, index, number):
        """Two workers have the same shard; one does all of it in the middle of the other's work."""
        shard = self.shard(index)
        with at_rename(number, lambda: self.workers[1].run(shard)):
            self.workers[0].run(shard)

    @rule()
    def resume(self):
        """A driver does what is missing, and nothing else."""
        before = marks(self.root)
        settle(self.run)
        for shard in self.book.missing(self.run.plan("generate")):
            self.workers[0].run(shard)
        after = marks(self.root)
        assert {name: after[name] for name in before} == before

    @rule(more=st.integers(0, 6))
    def extend(self, more):
        """The run grows; what has a receipt stays so."""
        before, rows = marks(self.root), self.run.plan("generate").rows
        assert grow(self.run, min(MAX_SAMPLES, rows + more)) == rows
        assert marks(self.root) == before

    @precondition(lambda self: self.run.plan("generate").rows < MAX_SAMPLES)
    @rule(number=st.integers(0, GROWTH - 1))
    def crash_of_a_growth(self, number):
        """A driver dies before it has planned, or between two tables."""
        with at_rename(number, kill), pytest.raises(Killed):
            grow(self.run, self.run.plan("generate").rows + 1)

    @rule()
    def verify(self):
        assert verify_run(self.run)["damaged"] == []

    @rule(index=places, place=st.floats(0, 1, exclude_max=True))
    def damage(self, index, place):
        """A byte of a finished shard changes on disk; it is found, and only this shard is lost."""
        shard = self.shard(index)
        if self.book.read(shard) is None:
            return
        file = self.root / "dataset.zarr" / "maps" / "c" / str(shard.index) / "0" / "0" / "0"
        content = bytearray(file.read_bytes())
        content[int(place * len(content))] ^= 0xFF
        file.write_bytes(bytes(content))
        assert set(verify_run(self.run)["damaged"]) <= {f"generate/{shard.index:05d}"}

    @rule()
    def sweep(self):
        sweep(self.root)

    @invariant()
    def receipts_tell_the_truth(self):
        table, theirs = self.run.table("generate"), self.truth.ledger("generate")
        for receipt in self.book.all(self.run.plan("generate")):
            wanted = theirs.read(self.truth.plan("generate")[receipt.shard])
            assert (receipt.digest, receipt.nfe) == (wanted.digest, wanted.nfe)
            assert table.digest(receipt) == wanted.digest

    def teardown(self):
        self.resume()
        rows = self.run.plan("generate").rows
        for name, array in self.run.table("generate").arrays():
            wanted = self.truth.table("generate").read(name, slice(0, rows))
            np.testing.assert_array_equal(np.asarray(array[:]), wanted)


@pytest.fixture(scope="module")
def truth(tmp_path_factory, tiny):
    root = tmp_path_factory.mktemp("truth") / "run"
    make_run(tiny(generation={"samples": MAX_SAMPLES}), str(root), call=but_validate)
    return RunStore(root)


def but_validate(name, stage, run, settings):
    return "" if name == "validate" else stage(run, settings)


def test_any_order_ends_in_the_unbroken_run(tmp_path, ready, truth):
    workers = [build(spec_of(ready)) for _ in range(2)]
    run_state_machine_as_test(
        lambda: AnyOrder(tmp_path / "run", ready, truth, workers),
        settings=settings(
            max_examples=10, stateful_step_count=14, deadline=None, derandomize=True, database=None
        ),
    )
