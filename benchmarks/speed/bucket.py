"""What the driver's bookkeeping costs in an object store: a real S3 server that answers late.

No model and no actors: a pool answers at once, so all that is measured is what the driver asks of
the store for a receipt, and two listings of them.
"""

import argparse
import json
import os
import time
from dataclasses import asdict

from benchmarks.record import Figure
from benchmarks.speed.scale import NoWork
from flows.runs import stages
from flows.runs.lease_guard import hold_lease
from flows.settings import parse
from ood_core.store.ledger import Receipt
from ood_core.store.plan import ShardPlan
from ood_core.store.run import RunStore
from tests.object_server import ObjectServer


def measure(shards: int, delay: float) -> dict[str, Figure]:
    """Shards per second and requests per shard of a stage, and of reading all its receipts."""
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
    figures = {
        "bookkeeping, shards per second": Figure(shards / wall, ratio=False),
        "bookkeeping, requests per shard": Figure(asked / shards, False, False),
        "receipts read per second": Figure(shards / (time.perf_counter() - began), ratio=False),
        "reading, requests per receipt": Figure(len(server.requests) / shards, False, False),
    }
    server.stop()
    return figures


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
