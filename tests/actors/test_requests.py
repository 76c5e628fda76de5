"""What a run costs an object store: requests, counted by a real server."""

import math
from collections import Counter
from dataclasses import replace

import pytest

from actors.workers import build
from benchmarks.speed.bucket import NoWork
from flows.runs import stages
from flows.runs.lease_guard import hold_lease
from ood_core.store import lease
from ood_core.store.files import write_atomic
from ood_core.store.objects import ObjectPlace
from ood_core.store.plan import ShardPlan
from ood_core.store.run import RunStore
from tests.contracts.pool import spec_of


@pytest.fixture
def stored(bucket, ready):
    """A run in a bucket that has everything but samples."""
    place = ObjectPlace(bucket, "run")
    for path in (path for path in ready.rglob("*") if path.is_file()):
        write_atomic(place / str(path.relative_to(ready)), path.read_bytes())
    return RunStore(place)


def test_a_shard_is_written_without_a_look_at_what_is_there(stored, ready, object_server):
    """Samples, maps, parents and statistics, the receipt, and the lease at most each second."""
    plan = stored.plan("generate")
    with hold_lease(stored, every=1000) as held:  # whose signs of life are not the worker's
        spec = replace(spec_of(ready), uri=str(stored.root), lease=held.number)
        object_server.reset()
        worker = build(spec)
        built = len(object_server.requests)
        for shard in plan:
            object_server.reset()
            worker.run(shard)
            kinds = Counter(request.split()[0] for request in object_server.requests)
            assert kinds.keys() <= {"PUT", "GET"} and kinds["PUT"] == 5 and kinds["GET"] <= 1
    assert built <= 20, object_server.requests


def test_the_driver_asks_nothing_of_the_store_for_a_receipt(
    stored, tiny, object_server, monkeypatch
):
    monkeypatch.setattr(stages, "pool_for", lambda _: NoWork())
    monkeypatch.setattr(lease, "PROOF_SECONDS", math.inf)  # else asked for every second
    counts = []
    with hold_lease(stored, every=1000):
        for shards in (50, 500):
            monkeypatch.setattr(RunStore, "plan", lambda *_, n=shards: ShardPlan(4 * n, 4))
            object_server.reset()
            stages._sharded(stored, "generate", tiny())
            counts.append(len(object_server.requests))
    assert counts[1] == counts[0]
