"""What bookkeeping and shards cost in an object store: a real S3 server that answers late.

No model and no actors: a pool answers at once, so that all that is measured is what the driver asks
of the store for a receipt, two listings of them, and how long a shard of samples takes to be
stored. `scale` gives these costs to the model of the dispatcher.
"""

import argparse
import json
import os
import time
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import numpy as np

from actors.workers import WorkerSpec, store_rows
from benchmarks.record import Figure
from flows.runs import stages
from flows.runs.lease_guard import hold_lease
from flows.settings import parse
from ood_core.store.arrays import Table
from ood_core.store.ledger import Receipt
from ood_core.store.plan import ShardPlan
from ood_core.store.run import RunStore
from ood_core.store.schema import sample_columns, statistics_columns


class NoWork:
    """A pool in this process whose model does nothing."""

    def run(self, spec: WorkerSpec, shards: Any) -> Any:
        """Answer at once."""
        for shard in shards:
            yield Receipt(spec.stage, shard.index, shard.start, shard.stop, "", 0, 0.0, "")

    def standing(self) -> Any:
        """Nothing stands."""
        return nullcontext(self)


def storing(run: RunStore, shards: int, server: Any) -> tuple[float, float]:
    """Seconds and requests of storing a shard of 64 samples of 32 px, with its receipt."""
    plan, tables, rng = ShardPlan(64 * shards, 64), [], np.random.default_rng(0)
    columns = sample_columns((1, 32, 32), "1"), statistics_columns(400, "float32")
    for path, made in zip((run.table("generate").path, run.statistics.path), columns, strict=True):
        writer = Table.create(path, "sample", plan.rows, plan.shard_rows, made, {}).writer()
        rows = {c.name: rng.integers(1, 99, (64, *c.shape)).astype(c.dtype) for c in made}
        tables.append((writer, rows))
    server.reset()
    began = time.perf_counter()
    for shard in plan:
        digest, *_ = store_rows(run.root, shard, tables)
        run.ledger("stored").write(
            Receipt("stored", shard.index, shard.start, shard.stop, digest, 1, 1.0, "x:1")
        )
    return (time.perf_counter() - began) / shards, len(server.requests) / shards


def measure(shards: int, delay: float) -> dict[str, Figure]:
    """Shards per second and requests per shard of a stage, and of reading all its receipts."""
    from tests.object_server import ObjectServer

    server = ObjectServer()
    os.environ.update(server.environment)
    run, plan, none = RunStore.at(f"{server.bucket()}/run"), ShardPlan(shards, 1), ShardPlan(0, 1)
    plans = {"calibrate": none, "invert": none, "generate": plan}
    run.write_plan({}, {"name": "bucket"}, plans, "float32")
    settings = parse({"name": "bucket", "base": "none", "targets": {"path": "none"}})
    made, stages.pool_for = stages.pool_for, lambda _: NoWork()
    with hold_lease(run):
        server.delay = delay
        server.reset()
        began = time.perf_counter()
        stages._sharded(run, "generate", settings)
        wall, asked = time.perf_counter() - began, len(server.requests)
        stages.pool_for, server.delay = made, 0.0
        for shard in plan:
            run.ledger("generate").write(
                Receipt("generate", shard.index, shard.start, shard.stop, "ab" * 32, 1, 1.0, "x:1")
            )
        time.sleep(1.1)  # clocks of object stores count whole seconds
        run.ledger("generate").seal(plan)
    server.delay = delay
    server.reset()
    began = time.perf_counter()
    assert not run.ledger("generate").missing(plan)
    read, listed = time.perf_counter() - began, len(server.requests)
    seconds, requests = storing(run, 20, server)
    server.stop()
    return {
        "bookkeeping, shards per second": Figure(shards / wall, ratio=False),
        "bookkeeping, requests per shard": _cost(asked / shards),
        "receipts read per second": Figure(shards / read, ratio=False),
        "reading, requests per receipt": _cost(listed / shards),
        "a shard of samples stored, seconds": _cost(seconds),
        "a shard of samples, requests": _cost(requests),
    }


def _cost(value: float) -> Figure:
    return Figure(value, ratio=False, higher_is_better=False)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=2048)
    parser.add_argument("--delay", type=float, default=0.02, help="seconds of every answer")
    arguments = parser.parse_args()
    found = measure(arguments.shards, arguments.delay)
    print(json.dumps({name: asdict(figure) for name, figure in found.items()}, indent=1))


if __name__ == "__main__":
    main()
