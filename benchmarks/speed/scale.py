"""What the dispatcher costs, and where it would stop scaling; prints tables.

    farfield bench scale [--samples 1000000] [--shards 2048]

Measured here: the bookkeeping of a stage per shard without actors; plan, receipts and scheduler at
`--samples` planned samples; a Ray pool of one and two actors whose model does nothing, or sleeps.
The model of `dispatch_model` takes these costs, is held against the measured points, and predicts
10, 100 and 1,000 actors, in a folder and in an object store: driver, receipts and shards have there
the costs that `bucket` measures with 20 ms per answer, and the store takes 3,500 writes and 5,500
reads a second, which is what Amazon states for one prefix in S3.
"""

import argparse
import json
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

from actors import ray_pool
from actors.ray_pool import RayPool
from actors.scheduler import Arrival, Scheduler
from actors.workers import WorkerSpec
from benchmarks.compare import show_changes
from benchmarks.record import Figure, previous, save
from benchmarks.speed import bucket
from benchmarks.speed.bucket import NoWork
from benchmarks.speed.dispatch_model import Costs, Outcome, simulate, stops_at
from flows.cli.console import OUT, show_rows
from flows.runs import stages
from flows.runs.lease_guard import hold_lease
from flows.runs.worker_pool import shared_pool
from flows.settings import parse
from ood_core.store.files import as_bytes
from ood_core.store.ledger import SEGMENT, Receipt
from ood_core.store.plan import ShardPlan
from ood_core.store.run import RunStore

SHARD = 64
NAP = 0.05
WORK = {"20 s a shard": 20.0, "1 s a shard": 1.0}
WRITE_RATE, READ_RATE = 3500.0, 5500.0


def no_model(nap: float) -> Any:
    """An actor's body whose model does nothing, or sleeps; local, so that it travels by value."""

    class NoModel:
        def __init__(self, logs: str) -> None:
            self.turns = Lock()

        def prepare(self, turn: int, spec: WorkerSpec) -> Arrival:
            return Arrival("here", "")

        def run(self, shard: Any) -> Receipt:
            with self.turns:  # as a worker computes one shard at a time
                time.sleep(nap)
            return Receipt("generate", shard.index, shard.start, shard.stop, "", 0, nap, "")

    return NoModel


def receipts(folder: Path, samples: int) -> tuple[RunStore, ShardPlan]:
    """A run of so many samples with all receipts, and no arrays."""
    run, plan = RunStore.at(str(folder)), ShardPlan(samples, SHARD)
    nothing = ShardPlan(0, 1)
    plans = {"calibrate": nothing, "invert": nothing, "generate": plan}
    run.write_plan({}, {"name": "scale"}, plans, "float32")
    place = folder / "receipts" / "generate"
    place.mkdir(parents=True)
    for shard in plan:
        record = {
            "stage": "generate", "shard": shard.index, "start": shard.start,
            "stop": shard.start + SHARD, "digest": "ab" * 32, "nfe": 832, "seconds": 20.0,
            "writer": "here:1", "statistics": "cd" * 32,
        }  # fmt: skip
        (place / f"{shard.index:05d}.json").write_bytes(as_bytes(record))
    return run, plan


def stored(samples: int, figures: dict[str, Figure]) -> float:
    """Seconds and memory of plan and receipts at many samples; return seconds per receipt."""
    with tempfile.TemporaryDirectory() as folder:
        run, plan = receipts(Path(folder) / "run", samples)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.process_time()
        found = run.ledger("generate").missing(plan)
        listing = (time.process_time() - began) / len(plan)
        assert not found
        run.ledger("generate").seal(plan)
        began = time.process_time()
        assert None not in run.ledger("generate").scan(plan)
        figures["sealed receipts read, CPU s"] = _cost(time.process_time() - began)
        began = time.process_time()
        total = sum(len(shard) for shard in plan)
        figures["plan, CPU s"] = _cost(time.process_time() - began)
        assert total == samples
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    figures["receipts listed per CPU second"] = Figure(1 / listing, ratio=False)
    figures["MiB for receipts and plan"] = _cost(grown / 1024)
    return listing


def bookkeeping(shards: int, figures: dict[str, Figure]) -> None:
    """Shards per second through a stage, its lease and its failures, without actors."""
    settings = parse({"name": "scale", "base": "none", "targets": {"path": "none"}})
    with tempfile.TemporaryDirectory() as folder:
        run, plan = receipts(Path(folder) / "run", shards * SHARD)
        for shard in plan:
            run.ledger("generate").revoke(shard)
        with hold_lease(run), shared_pool(settings.execution):
            made, stages.pool_for = stages.pool_for, lambda _: NoWork()
            began = time.process_time(), time.perf_counter()
            try:
                stages._sharded(run, "generate", settings)
            finally:
                stages.pool_for = made
            cpu, wall = time.process_time() - began[0], time.perf_counter() - began[1]
    figures["bookkeeping, shards per CPU second"] = Figure(shards / cpu, ratio=False)
    figures["bookkeeping, shards per second"] = Figure(shards / wall, ratio=False)


def scheduler_rate(actors: int, steps: int = 20_000) -> float:
    """Shards per CPU second that the scheduler sends and lands."""
    scheduler = Scheduler(1)
    scheduler.join(range(actors))
    began = time.process_time()
    for shard in ShardPlan(steps, 1):
        while (actor := scheduler.idle(shard)) is None:
            scheduler.clear(scheduler.land(next(iter(scheduler.flying))))
        scheduler.send(shard.index, actor, shard)
    return steps / (time.process_time() - began)


def through_ray(actors: int, shards: int, nap: float) -> tuple[float, float]:
    """Shards per second of a Ray pool without a model, and seconds of the driver's thread each."""
    body, ray_pool._Actor = ray_pool._Actor, no_model(nap)
    spec = WorkerSpec("", "", "generate", "cpu", "float32", 1)
    try:
        with RayPool(workers=actors, cpus=0.1).standing() as group:
            list(group.run(spec, list(ShardPlan(4 * actors, 1))))  # actors start
            began = time.perf_counter(), time.thread_time()
            done = len(list(group.run(spec, list(ShardPlan(shards, 1)))))
            wall, cpu = time.perf_counter() - began[0], time.thread_time() - began[1]
    finally:
        ray_pool._Actor = body
    assert done == shards
    return shards / wall, cpu / shards


def _cost(value: float) -> Figure:
    return Figure(value, ratio=False, higher_is_better=False)


def main() -> None:
    """Measure, simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10**6)
    parser.add_argument("--shards", type=int, default=2 * SEGMENT)  # none is read by itself
    parser.add_argument("--out", type=Path, help="JSON to write; else a new file in runs/bench")
    parser.add_argument("--json", action="store_true", help="print the record for machines")
    arguments = parser.parse_args()
    figures: dict[str, Figure] = {}
    listing = stored(arguments.samples, figures)
    bookkeeping(arguments.shards, figures)
    rates = {actors: scheduler_rate(actors) for actors in (1, 1000)}
    figures["scheduler, shards per CPU second, 1,000 actors"] = Figure(rates[1000], ratio=False)
    figures["scheduler, 1,000 actors over 1"] = Figure(rates[1000] / rates[1])
    none = {n: through_ray(n, arguments.shards, 0.0) for n in (1, 2)}
    naps = {n: through_ray(n, max(100, arguments.shards // 10), NAP) for n in (1, 2)}
    there = bucket.measure(arguments.shards, 0.02)
    figures |= {f"bucket: {name}": figure for name, figure in there.items()}
    driver = none[2][1] + figures["bookkeeping, shards per CPU second"].value ** -1
    answer = max(0.0, 1 / none[1][0] - none[1][1])
    for n, (rate, _) in none.items():
        figures[f"Ray, no model, {n} actors, shards per second"] = Figure(rate, ratio=False)
    checks = []
    points = [(n, NAP, rate) for n, (rate, _) in naps.items()] + [(2, 0.0, none[2][0])]
    for n, work, rate in points:
        costs = Costs(work=work, land=none[1][1], answer=answer)
        predicted = simulate(n, max(100, arguments.shards // 10), costs).rate
        checks.append([n, work, rate, predicted, predicted / rate])
        figures[f"model over measured, {n} actors, {work:g} s a shard"] = Figure(predicted / rate)
    rows = []
    for name, work in WORK.items():
        folder = Costs(work, land=driver, answer=answer, listing=listing, passes=2)
        far = replace(
            folder,
            land=none[2][1] + there["bookkeeping, shards per second"].value ** -1,
            listing=max(1 / READ_RATE, there["receipts read per second"].value ** -1),
            store=there["a shard of samples stored, seconds"].value,
            requests=there["a shard of samples, requests"].value,
            store_rate=WRITE_RATE,
        )
        for place, costs in (("folder", folder), ("bucket", far)):
            found = [simulate(n, 20 * n, costs) for n in (1, 2, 10, 100, 1000)]
            rows += [_row(f"{name}, {place}", one) for one in (*found, stops_at(costs))]
    path = save("scale", figures, {"driver_seconds": driver, "model": rows}, arguments.out)
    if arguments.json:
        OUT.print_json(json.dumps(json.loads(path.read_text())))
        return
    listed = [[name, f.value, f.noise, f.ratio] for name, f in figures.items()]
    show_rows(f"scale, {path}", ["figure", "value", "noise", "ratio"], listed)
    show_rows(
        "model against measured",
        ["actors", "seconds of work", "measured", "predicted", "ratio"],
        checks,
    )
    header = ["work", "actors", "shards/s", "efficiency", "driver", "store", "limit"]
    show_rows("predicted; the last row of each is where efficiency falls below 0.9", header, rows)
    if (before := previous("scale", path)) is not None:
        show_changes(before, path)


def _row(name: str, found: Outcome) -> list[Any]:
    return [
        name,
        found.actors,
        found.rate,
        found.efficiency,
        found.driver,
        found.store,
        found.limit,
    ]


if __name__ == "__main__":
    main()
