"""Pools: the contract for each, and what only actors can suffer."""

import os
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from actors import ray_pool
from actors.pool import InlinePool, Notice
from actors.ray_cluster import require_grant
from actors.ray_pool import RayPool
from actors.workers import build
from flows.runs.worker_pool import worker_spec
from ood_core.errors import ConfigError, DeviceFull
from ood_core.store.ledger import Receipt
from ood_core.store.run import RunStore
from ood_core.synthesis.sampler import Sampler
from tests.contracts.pool import PoolContract, missing, of_shards, spec_of
from tests.contracts.store import answers, arrays, assert_honest, assert_kept, marks


class TestInlinePool(PoolContract):
    @pytest.fixture
    def pool(self):
        return InlinePool()


@pytest.mark.actors
class TestTwoActors(PoolContract):
    @pytest.fixture(scope="class")
    def pool(self, local_ray):
        """Two actors for all tests: each of them stops in its own way, and the next goes on."""
        with RayPool(workers=2).standing() as group:
            yield group


@pytest.mark.parametrize("stage", ["calibrate", "invert"])
def test_every_stage_gives_the_same_bytes_again(finished, unbroken, stage):
    run = RunStore(finished)
    for shard in run.plan(stage):
        run.ledger(stage).revoke(shard)
    list(InlinePool().run(spec_of(finished, stage), list(run.plan(stage))))
    assert answers(finished) == answers(unbroken)


def test_pools_give_workers_the_same_threads(tiny, unbroken):
    run = RunStore(unbroken)
    specs = {worker_spec(run, "generate", tiny(execution={"pool": p})) for p in ("ray", "inline")}
    assert len(specs) == 1


def test_another_number_of_threads_changes_rounding_only(ready, unbroken):
    try:
        list(InlinePool().run(replace(spec_of(ready), threads=2), missing(ready)))
    finally:
        torch.set_num_threads(1)
    maps = [RunStore(root).table("generate").read("maps") for root in (ready, unbroken)]
    np.testing.assert_allclose(*maps, rtol=0, atol=1e-3 * np.ptp(maps[1]))


def test_a_receipt_says_how_many_rows_were_computed_at_once(ready):
    worker, (first, second, *_) = build(spec_of(ready)), missing(ready)
    assert worker.run(first).micro_batch == 0
    worker.pipeline.memory.rows = 2
    assert worker.run(second).micro_batch == 2
    assert RunStore(ready).ledger("generate").read(second).micro_batch == 2


def test_memory_that_no_part_fits_into_ends_the_stage_with_one_error(ready, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. More.")

    worker, (first, *_) = build(spec_of(ready)), missing(ready)
    monkeypatch.setattr(Sampler, "_decoded", full)
    with pytest.raises(DeviceFull, match="one map alone"):
        worker.run(first)
    assert RunStore(ready).ledger("generate").read(first) is None


@pytest.mark.parametrize(("device", "gpus"), [("cuda", 0), ("cpu", 1)])
def test_an_actor_on_another_device_than_it_was_granted_refuses(device, gpus):
    require_grant("cuda", 1)
    require_grant("cpu", 0)
    with pytest.raises(ConfigError, match="gpus_per_worker"):
        require_grant(device, gpus)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_worker_refuses_a_device_that_is_not_there(ready):
    with pytest.raises(ConfigError, match="got cuda"):
        build(replace(spec_of(ready), device="cuda"))


def test_the_order_of_shards_does_not_change_bytes(ready, unbroken):
    list(InlinePool().run(spec_of(ready), missing(ready)[::-1]))
    assert answers(ready) == answers(unbroken)


@pytest.mark.actors
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(("workers", "queued"), [(1, 0), (3, 2)])
def test_neither_workers_nor_queue_change_bytes(ready, unbroken, workers, queued):
    """Shards queued at an actor are all that is fetched ahead."""
    pool = RayPool(workers=workers, cpus=0.5, queued=queued)
    list(pool.run(spec_of(ready), missing(ready)))
    assert answers(ready) == answers(unbroken)
    assert arrays(ready) == arrays(unbroken)


@pytest.mark.actors
@pytest.mark.usefixtures("local_ray")
def test_the_run_survives_a_killed_actor(ready, unbroken):
    outcomes = of_shards(RayPool(workers=1).run(spec_of(ready), missing(ready)))
    first = next(outcomes)
    assert isinstance(first, Receipt)
    before = {f"receipts/generate/{first.shard:05d}.json"}
    kept = {name: mark for name, mark in marks(ready).items() if name in before}
    os.kill(int(first.writer.rpartition(":")[2]), signal.SIGKILL)
    rest = list(outcomes)
    assert all(isinstance(outcome, Receipt) for outcome in rest)
    assert {first.writer} != {receipt.writer for receipt in rest}
    assert_kept(kept, ready)
    assert_honest(ready)
    assert answers(ready) == answers(unbroken)


@pytest.mark.actors
@pytest.mark.usefixtures("local_ray")
def test_a_worker_that_hangs_is_ended_and_its_shards_are_run_again(ready, unbroken, monkeypatch):
    """Its process is suspended, and the driver's clock runs fast until that is noticed."""
    late, fast = 0.0, False

    def monotonic():
        nonlocal late
        late += 1e5 * fast
        return time.monotonic() + late

    monkeypatch.setattr(ray_pool, "time", SimpleNamespace(monotonic=monotonic, sleep=time.sleep))
    pool = RayPool(workers=1, tries=2, queued=0, timeout=1e5, patience=1e12)
    outcomes = pool.run(spec_of(ready), missing(ready))
    first = next(of_shards(outcomes))
    hung = psutil.Process(int(first.writer.rpartition(":")[2]))
    hung.suspend()
    fast, rest = True, []
    for one in outcomes:
        rest.append(one)
        fast = fast and not (isinstance(one, Notice) and "no answer" in one.text)
    said = [one.text for one in rest if isinstance(one, Notice) and "no answer of" in one.text]
    assert [text.partition("for ")[2] for text in said] == [
        "100000 s; it is ended, and its shards are run again: 1"
    ]
    assert {type(outcome) for outcome in of_shards(rest)} == {Receipt}
    assert hung.wait(timeout=120) is None
    assert_honest(ready)
    assert answers(ready) == answers(unbroken)


@pytest.mark.actors
@pytest.mark.usefixtures("local_ray")
def test_a_stopped_consumer_leaves_no_actors(ready):
    import ray

    free = ray.cluster_resources()["CPU"]  # what others used may come back late
    outcomes = RayPool(workers=2).run(spec_of(ready), missing(ready))
    next(outcomes)
    outcomes.close()
    end = time.monotonic() + 120
    while ray.available_resources().get("CPU", 0) != free:
        assert time.monotonic() < end
        time.sleep(0.2)
    assert_honest(ready)


@pytest.mark.actors
@pytest.mark.usefixtures("local_ray")
def test_actors_stay_from_stage_to_stage(finished, unbroken):
    """Each stage is built anew in the processes of the one before; they are gone at the end."""
    run, writers = RunStore(finished), []
    with RayPool(workers=1).standing() as group:
        for stage in ("invert", "generate", "generate"):
            for shard in run.plan(stage):
                run.ledger(stage).revoke(shard)
            found = of_shards(group.run(spec_of(finished, stage), list(run.plan(stage))))
            writers += [receipt.writer for receipt in found]
        assert len(set(writers)) == 1
        process = psutil.Process(int(writers[0].rpartition(":")[2]))
        assert process.is_running()
    assert process.wait(timeout=120) is None
    assert answers(finished) == answers(unbroken)


@pytest.mark.actors
@pytest.mark.usefixtures("local_ray")
def test_an_actor_that_dies_between_stages_is_replaced_at_no_charge(ready, unbroken):
    shards = missing(ready)
    with RayPool(workers=1, tries=1).standing() as group:
        (first,) = of_shards(group.run(spec_of(ready), shards[:1]))
        os.kill(int(first.writer.rpartition(":")[2]), signal.SIGKILL)
        rest = list(of_shards(group.run(spec_of(ready), shards[1:])))
    assert [type(outcome) for outcome in rest] == [Receipt, Receipt]
    assert first.writer not in {receipt.writer for receipt in rest}
    assert answers(ready) == answers(unbroken)


@pytest.mark.actors
@pytest.mark.usefixtures("local_ray")
def test_a_stage_that_was_stopped_leaves_no_shard_to_the_next(ready, unbroken):
    with RayPool(workers=1).standing() as group:
        outcomes = group.run(spec_of(ready), missing(ready))
        first = next(of_shards(outcomes))
        outcomes.close()
        assert group.scheduler.actors == []
        rest = of_shards(group.run(spec_of(ready), missing(ready)))
        assert {receipt.shard for receipt in rest} <= {0, 1, 2} - {first.shard}
    assert answers(ready) == answers(unbroken)


@pytest.mark.parametrize("pool", [InlinePool(), RayPool(workers=2)])
def test_a_standing_pool_that_is_not_used_starts_nothing(pool):
    with pool.standing() as standing:
        assert list(standing.run(None, [])) == []
