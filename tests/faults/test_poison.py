"""Shards that cannot be done: isolated, listed, tried again alone; everything else lands."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from actors import ray_pool
from actors.pool import InlinePool, ShardFailure
from actors.ray_pool import RayPool
from flows.runs import planning
from flows.runs.lifecycle import make_run
from flows.runs.stages import summary
from ood_core.errors import RunIncomplete
from ood_core.store.arrays import ShardWriter
from ood_core.store.files import read_json
from ood_core.store.ledger import Receipt
from ood_core.store.plan import ShardPlan
from ood_core.store.run import RunStore
from tests.contracts.pool import missing, spec_of
from tests.contracts.store import (
    assert_equal,
    assert_honest,
    assert_kept,
    marks,
)
from tests.faults.drivers import without_validation
from tests.runs import prepare


def block(root, shard):
    """Put a folder where the shard's file must go."""
    obstacle = root / "dataset.zarr" / "maps" / "c" / str(shard) / "0" / "0" / "0" / "in the way"
    obstacle.mkdir(parents=True)

    def clear():
        obstacle.rmdir()
        obstacle.parent.rmdir()

    return clear


@pytest.fixture
def discovery(tiny, monkeypatch):
    """Seven targets in shards of two; nothing is fitted to targets before they are inverted."""
    monkeypatch.setattr(planning, "INVERSION_SHARD", 2)
    method = {"preset": "discovery", "steps": 2, "t_max": 300}
    return tiny(method={**method, "calibration": None, "steering": None})


def store_targets(root, maps):
    """Write other maps where the run keeps its targets."""
    table = RunStore(root).targets
    rows = {name: table.read(name) for name in ("target", "held_out")}
    table.write(ShardPlan(len(maps), len(maps))[0], {**rows, "maps": maps})


def poison(root, target):
    """Damage a stored target so that its inversion is not finite; return the good maps."""
    good = RunStore(root).targets.read("maps")
    bad = good.copy()
    bad[target, 0, 3, 3] = np.nan
    store_targets(root, bad)
    return good


def test_a_target_that_cannot_be_inverted_is_named_and_the_others_are(
    tmp_path, discovery, farfield
):
    out = tmp_path / "run"
    run = prepare(discovery, str(out))
    poison(out, 3)
    with pytest.raises(RunIncomplete) as error:
        make_run(discovery, str(out), call=without_validation)
    assert "invert: 1 of 4 shards failed" in str(error.value)
    assert "targets fields:2, fields:3" in str(error.value)
    assert "latents: not finite in rows 3" in str(error.value)
    assert [shard.index for shard in missing(out, "invert")] == [1]
    assert np.isfinite(run.table("invert").read("latents", slice(4, 7))).all()
    assert_honest(out)
    assert not (out / "prior.zarr.zip").exists()  # later stages need all targets
    assert len(missing(out)) == 3
    found = json.loads(farfield("status", out, "--json").out)
    assert found["state"] == "incomplete"
    (failure,) = found["failures"]
    assert failure == {
        "stage": "invert", "shard": 1, "start": 2, "stop": 4, "tried": 3,
        "error": "FloatingPointError: latents: not finite in rows 3",
        "targets": ["fields:2", "fields:3"],
    }  # fmt: skip
    assert "fields:3" in farfield("status", out).out


def test_what_failed_is_tried_alone_and_struck_off_when_it_succeeds(tmp_path, discovery):
    whole, out = tmp_path / "whole", tmp_path / "run"
    make_run(discovery, str(whole), call=without_validation)
    prepare(discovery, str(out))
    good = poison(out, 0)
    for session in (1, 2):
        with pytest.raises(RunIncomplete, match=rf"tried {3 * session} times"):
            make_run(discovery, str(out), call=without_validation)
    before = marks(out)
    assert len(before) == 3
    store_targets(out, good)
    make_run(discovery, str(out), call=without_validation)
    assert_kept(before, out)
    assert_equal(out, whole)
    assert list((out / "failures").rglob("*.json")) == []
    assert summary(RunStore(out))["failures"] == []


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_the_setting_says_how_often_a_shard_is_tried(ready, tiny, attempts):
    block(ready, 1)
    settings = tiny(execution={"attempts": attempts})
    with pytest.raises(RunIncomplete, match=rf"shard 1: .*\(tried {attempts} times\)"):
        make_run(settings, str(ready), call=without_validation)
    record = read_json(ready / "failures" / "generate" / "00001.json")
    assert (record["tried"], record["start"], record["stop"]) == (attempts, 4, 8)
    assert record["targets"] == []


def test_a_set_that_lacks_shards_is_not_judged(ready, tiny, unbroken, farfield, config):
    clear = block(ready, 2)
    answer = farfield("run", config(), "--out", ready)
    assert answer.code == 5
    assert "shard 2: " in answer.err
    assert "Traceback" not in answer.err
    assert not (ready / "report").exists()
    assert not (ready / "gate.json").exists()
    assert RunStore(ready).state == "incomplete"
    before = marks(ready)
    clear()
    make_run(tiny(), str(ready), call=without_validation)
    assert_kept(before, ready)
    assert_equal(ready, unbroken)


def test_a_list_that_is_out_of_date_or_torn_is_not_shown(finished):
    """The driver was killed after the shard succeeded; or while it was writing the list."""
    run = RunStore(finished)
    folder = finished / "failures" / "generate"
    folder.mkdir(parents=True)
    record = {"stage": "generate", "shard": 0, "start": 0, "stop": 4, "error": "e", "tried": 3}
    (folder / "00000.json").write_text(json.dumps(record))
    (folder / "00001.json").write_text('{"stage": "gen')
    assert summary(run)["failures"] == []
    for index in (0, 1):
        run.ledger("generate").revoke(run.plan("generate")[index])
    assert [failure["shard"] for failure in summary(run)["failures"]] == [0]


def test_a_failing_shard_is_tried_again_after_the_others(ready, monkeypatch):
    block(ready, 0)
    write, order = ShardWriter.write, []

    def recorded(self, shard, rows):
        if self.path.name == "dataset.zarr":
            order.append(shard.index)
        return write(self, shard, rows)

    monkeypatch.setattr(ShardWriter, "write", recorded)
    *others, failure = InlinePool(tries=3).run(spec_of(ready), missing(ready))
    assert order == [0, 1, 2, 0, 0]
    assert [receipt.shard for receipt in others] == [1, 2]
    assert isinstance(failure, ShardFailure)
    assert (failure.shard, failure.tries) == (0, 3)


def deadly():
    """An actor's body that dies of one shard; local, so that it travels by value.

    It loads no torch, so that the next one is soon there.
    """

    import ray

    from actors.scheduler import Arrival

    class Deadly:
        def __init__(self, logs):
            pass

        def prepare(self, turn, spec):
            return Arrival("here", ray.get_runtime_context().get_node_id())

        def run(self, shard):
            if shard.index == 1:
                os._exit(1)
            return Receipt("generate", shard.index, shard.start, shard.stop, "", 0, 0.0, "")

    return Deadly


@pytest.mark.actors
@pytest.mark.usefixtures("local_ray")
def test_a_shard_that_kills_its_worker_takes_no_other_with_it(monkeypatch):
    """The shards queued behind it on the same actor are done by the next one, at no charge."""
    monkeypatch.setattr(ray_pool, "_Actor", deadly())
    spec = SimpleNamespace(uri="run", stage="generate", device="cpu")
    found = list(RayPool(workers=1, tries=2, queued=3).run(spec, ShardPlan(5, 1)))
    failures = [outcome for outcome in found if isinstance(outcome, ShardFailure)]
    assert [(failure.shard, failure.tries) for failure in failures] == [(1, 2)]
    assert "worker died" in failures[0].reason
    landed = [outcome.shard for outcome in found if isinstance(outcome, Receipt)]
    assert sorted(landed) == [0, 2, 3, 4]
