"""A run with Ray, Prefect and storage beside the same computation in memory."""

import argparse
import json
import multiprocessing
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from psutil import AccessDenied, NoSuchProcess, Process

from actors.loading import load_pipeline
from actors.workers import sample_rows
from benchmarks.record import FOLDER, Figure
from flows.progress import shares
from flows.runs.worker_pool import worker_count
from flows.settings import PROJECT, load_settings
from ood_core.store.files import write_json
from ood_core.store.plan import Shard
from ood_core.store.run import RunStore

LOOK = 0.5
CHEAP = ("method.calibration.draws=1",)  # a run comes to its samples sooner, and decodes as fast
ROWS = 64
"""Maps of one turn of the loops in memory, in the run's own batch."""


def measure(arguments: argparse.Namespace) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Maps per second of the stage `generate` over those of both loops."""
    sets = [f"generation.samples={arguments.samples}", *CHEAP, *arguments.set]
    settings = load_settings(PROJECT / arguments.config, sets)
    workers, samples = worker_count(settings.execution), arguments.samples
    place = FOLDER / "run"
    cpu = _run(arguments.config, sets, place, arguments.again)["generate"]
    run = RunStore.open(str(place))
    wall, split = run.timings["generate"], run.splits["generate"]
    loops = _loops(str(place), settings.base, workers, arguments.repeats)
    rates = {"wall second": samples / wall, "CPU second of its workers": samples / cpu["workers"]}
    figures = {}
    for loop in ("network", "decode"):
        for name, rate in rates.items():
            over = [rate / one[loop]["wall" if "wall" in name else "cpu"] for one in loops]
            figures[f"maps per {name} over the {loop} loop"] = Figure.of(over)
    for part in ("compute", "network"):
        figures[f"share of workers' seconds, {part}"] = Figure(shares(split)[part])
    stored = sum(shares(split)[part] for part in ("encode", "write"))
    figures["share of workers' seconds, storing"] = Figure(stored, higher_is_better=False)
    for kind in ("driver", "Ray", "Prefect"):
        figures[f"CPU of {kind} per wall second"] = Figure(
            cpu.get(kind, 0.0) / wall, ratio=False, higher_is_better=False
        )
    figures["maps per second"] = Figure(rates["wall second"], ratio=False)
    more = {"workers": workers, "samples": samples, "cpu_seconds": cpu}
    return figures, {**more, "timings": run.timings, "split": run.splits, "loops": loops}


def _run(config: str, sets: list[str], place: Path, again: bool) -> dict[str, dict[str, float]]:
    """Run from targets to report, or samples again; seconds of CPU by stage and kind of process."""
    if again:
        _forget(RunStore.open(str(place)))
    else:
        shutil.rmtree(place, ignore_errors=True)
    overrides = [word for one in sets for word in ("--set", one)]
    call = [
        sys.executable,
        "-m",
        "flows.cli.main",
        "run",
        config,
        "--out",
        str(place),
        *overrides,
        "--json",
    ]
    child = subprocess.Popen(call, cwd=PROJECT, stdout=subprocess.DEVNULL)
    seen: dict[int, float] = {}
    spent: dict[str, dict[str, float]] = {}
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(child.pid, place, seen, spent, over))
    watch.start()
    code = child.wait()
    over.set()
    watch.join()
    if code not in (0, 3, 4):  # quarantined or undecided is as fast
        raise SystemExit(f"the run ended with exit code {code}")
    return spent


def _forget(run: RunStore) -> None:
    """Have a run make its samples again, with the clocks of that stage at zero."""
    for shard in run.plan("generate"):
        run.ledger("generate").revoke(shard)
    for name, found in (("timings.json", run.timings), ("split.json", run.splits)):
        kept = {key: value for key, value in found.items() if key not in ("generate", "validate")}
        write_json(run.root / name, kept)


def _watch(
    pid: int, place: Path, seen: dict[int, float], spent: dict[str, dict[str, float]], over: Any
) -> None:
    """Add what `pid` and its descendants take to the stage that the run is at."""
    while not over.wait(LOOK):
        stage = spent.setdefault(_stage(place), {})
        for process in _family(pid):
            try:
                times, kind = process.cpu_times(), _kind(process, pid)
            except (NoSuchProcess, AccessDenied):
                continue
            took = times.user + times.system
            stage[kind] = stage.get(kind, 0.0) + took - seen.get(process.pid, 0.0)
            seen[process.pid] = took


def _kind(process: Process, driver: int) -> str:
    command = " ".join(process.cmdline())
    if process.pid == driver:
        return "driver"
    if "ray::_Actor" in command:
        return "workers"
    return "Prefect" if "prefect" in command or "uvicorn" in command else "Ray"


def _family(pid: int) -> list[Process]:
    try:
        parent = Process(pid)
        return [parent, *parent.children(recursive=True)]
    except NoSuchProcess:
        return []


def _stage(place: Path) -> str:
    """The first stage that has no timing yet."""
    try:
        done = json.loads((place / "timings.json").read_text())
    except (OSError, ValueError):
        done = {}
    stages = ("calibrate", "invert", "fit", "generate", "validate")
    return next((stage for stage in stages if stage not in done), "end")


def _loops(uri: str, base: str, workers: int, repeats: int) -> list[dict[str, Any]]:
    """Maps per second of all workers together: network calls alone, and whole decodes, in turns."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(workers) as pool:
        barrier = manager.Barrier(workers)
        tasks = [(uri, base, number, repeats, barrier) for number in range(workers)]
        found = pool.starmap(_loop, tasks, chunksize=1)
    return [
        {
            loop: {
                "wall": sum(one[turn][loop]["wall"] for one in found),
                "cpu": sum(one[turn][loop]["cpu"] for one in found) / workers,
            }
            for loop in ("network", "decode")
        }
        for turn in range(repeats)
    ]


def _loop(uri: str, base: str, number: int, repeats: int, barrier: Any) -> list[dict[str, Any]]:
    """One worker's loops, at the same time as the others'."""
    torch.set_num_threads(1)
    run = RunStore.open(uri)
    pipeline = load_pipeline(run, base, "cpu", run.dtype)
    rows = sample_rows(run, pipeline)
    size = min(ROWS, run.plan("generate").shard_rows)
    latents = torch.randn(size, *pipeline.targets.fit_seen.shape[1:])
    calls = [int(t) for t in pipeline.timesteps]
    if pipeline.method.solver != "ancestral":
        calls = calls[1:]
    rows(Shard(0, 0, 2, 2))()()  # warm-up

    def network() -> None:
        for t in calls:
            pipeline.base(latents, t)

    def decode() -> None:
        rows(Shard(number, number * size, (number + 1) * size, size))()

    found = []
    for _ in range(repeats):
        turn = {}
        for name, call in (("network", network), ("decode", decode)):
            barrier.wait()
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            turn[name] = {"wall": size / wall, "cpu": size / cpu}
        found.append(turn)
    return found
