"""Pools: the contract for each, and what only actors can suffer."""

import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.pool import InlinePool
from actors.ray_pool import RayPool, _Crew
from flows.stages import _worker_spec
from ood_core.store.plan import ShardPlan
from ood_core.store.receipts import Receipt
from ood_core.store.run import RunStore
from tests.contracts.pool import PoolContract, missing, spec_of
from tests.contracts.store import answers, arrays, assert_honest, assert_kept, marks


class TestInlinePool(PoolContract):
    @pytest.fixture
    def pool(self):
        return InlinePool()


@pytest.mark.actors
@pytest.mark.usefixtures("local_ray")
class TestTwoActors(PoolContract):
    @pytest.fixture
    def pool(self):
        return RayPool(workers=2)


@pytest.mark.parametrize("stage", ["calibrate", "invert"])
def test_every_stage_gives_the_same_bytes_again(finished, unbroken, stage):
    run = RunStore(finished)
    for shard in run.plan(stage):
        run.receipts(stage).revoke(shard)
    list(InlinePool().run(spec_of(finished, stage), list(run.plan(stage))))
    assert answers(finished) == answers(unbroken)


def test_pools_give_workers_the_same_threads(tiny, unbroken):
    run = RunStore(unbroken)
    specs = {_worker_spec(run, "generate", tiny(execution={"pool": p})) for p in ("ray", "inline")}
    assert len(specs) == 1


def test_another_number_of_threads_changes_rounding_only(ready, unbroken):
    try:
        list(InlinePool().run(replace(spec_of(ready), threads=2), missing(ready)))
    finally:
        torch.set_num_threads(1)
    maps = [RunStore(root).table("generate").read("maps") for root in (ready, unbroken)]
    np.testing.assert_allclose(*maps, rtol=0, atol=1e-3 * np.ptp(maps[1]))


def test_the_order_of_shards_does_not_change_bytes(ready, unbroken):
    list(InlinePool().run(spec_of(ready), missing(ready)[::-1]))
    assert answers(ready) == answers(unbroken)


@pytest.mark.actors
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(("workers", "queued"), [(1, 0), (2, 2), (3, 1)])
def test_neither_workers_nor_queue_change_bytes(ready, unbroken, workers, queued):
    """Shards queued at an actor are all that is fetched ahead."""
    pool = RayPool(workers=workers, cpus=0.5, queued=queued)
    list(pool.run(spec_of(ready), missing(ready)))
    assert answers(ready) == answers(unbroken)
    assert arrays(ready) == arrays(unbroken)


@pytest.mark.actors
@pytest.mark.usefixtures("local_ray")
def test_the_run_survives_a_killed_actor(ready, unbroken):
    outcomes = RayPool(workers=1).run(spec_of(ready), missing(ready))
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
def test_a_bounded_number_of_shards_is_in_flight(ready):
    crew = _Crew(RayPool(workers=2, queued=1), spec_of(ready), size=2)
    shards = iter(ShardPlan(100, 1))
    shard = next(shards)
    while (actor := crew.idle(shard)) is not None:
        crew.send(actor, shard)
        shard = next(shards)
    assert len(crew.flying) == 2 * (1 + 1)
    owners = [id(actor) for actor, _ in crew.flying.values()]
    assert sorted(owners.count(id(actor)) for actor in crew.actors) == [2, 2]
    crew.dismiss()


@pytest.mark.actors
@pytest.mark.usefixtures("local_ray")
def test_a_shard_that_may_have_killed_an_actor_has_one_to_itself(ready):
    crew = _Crew(RayPool(workers=2, queued=1), spec_of(ready), size=2)
    first, second, suspect, later = ShardPlan(4, 1)
    crew.suspects = {suspect.index}
    crew.send(crew.actors[0], first)
    assert crew.idle(suspect) is crew.actors[1]
    crew.send(crew.actors[1], second)
    assert crew.idle(suspect) is None  # nobody is free, and it does not queue
    assert crew.idle(later) is not None
    crew.flying = {ref: pair for ref, pair in crew.flying.items() if pair[0] is crew.actors[0]}
    crew.send(crew.actors[1], suspect)
    crew.send(crew.actors[0], later)
    assert crew.idle(first) is None  # nobody queues behind it
    crew.dismiss()


@pytest.mark.actors
@pytest.mark.usefixtures("local_ray")
def test_a_stopped_consumer_leaves_no_actors(ready):
    import ray

    free = ray.cluster_resources()["CPU"]  # what others used may come back late
    outcomes = RayPool(workers=2).run(spec_of(ready), missing(ready))
    next(outcomes)
    outcomes.close()
    for _ in range(100):
        if ray.available_resources().get("CPU", 0) == free:
            break
        time.sleep(0.2)
    assert ray.available_resources().get("CPU", 0) == free
    assert_honest(ready)
