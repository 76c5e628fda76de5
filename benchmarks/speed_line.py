"""A run with Ray, Prefect and storage beside the same computation in memory."""

import argparse
import json
import multiprocessing
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from psutil import NoSuchProcess, Process

from actors.line import load_line
from actors.workers import sample_rows
from benchmarks.record import FOLDER, Figure
from flows.hiring import worker_count
from flows.settings import PROJECT, load_settings
from flows.spent import shares
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
    workers = worker_count(settings.execution)
    place = FOLDER / "run"
    cpu = _run(arguments.config, sets, place)
    run = RunStore.open(str(place))
    wall, split = run.timings["generate"], run.splits["generate"]
    line = {"wall": arguments.samples / wall, "cpu": arguments.samples / cpu["generate"]}
    loops = _loops(str(place), settings.base, workers, arguments.repeats)
    figures = {}
    for loop in ("network", "decode"):
        for clock in ("wall", "cpu"):
            ratios = [line[clock] / one[loop][clock] for one in loops]
            figures[f"maps per {clock} second over the {loop} loop"] = Figure.of(ratios)
    figures["share of workers' seconds that compute"] = Figure(shares(split)["compute"])
    figures["share of workers' seconds in the network"] = Figure(shares(split)["network"])
    figures["maps per second"] = Figure(line["wall"], ratio=False)
    more = {"workers": workers, "samples": arguments.samples, "cpu_seconds": cpu}
    return figures, {**more, "timings": run.timings, "split": run.splits, "loops": loops}


def _run(config: str, sets: list[str], place: Path) -> dict[str, float]:
    """Run from targets to report; return seconds of CPU of all its processes, by stage."""
    subprocess.run(["rm", "-rf", str(place)], check=True)
    words = [word for one in sets for word in ("--set", one)]
    call = [sys.executable, "-m", "flows.cli", "run", config, "--out", str(place), *words, "--json"]
    child = subprocess.Popen(call, cwd=PROJECT, stdout=subprocess.DEVNULL)
    seen: dict[int, float] = {}
    by_stage: dict[str, float] = {}
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(child.pid, place, seen, by_stage, over))
    watch.start()
    code = child.wait()
    over.set()
    watch.join()
    if code not in (0, 3, 4):  # quarantined or undecided is as fast
        raise SystemExit(f"the run ended with exit code {code}")
    return by_stage


def _watch(
    pid: int, place: Path, seen: dict[int, float], by_stage: dict[str, float], over: Any
) -> None:
    """Add what the processes below `pid` take to the stage that the run is at."""
    while not over.wait(LOOK):
        stage = _stage(place)
        for process in _below(pid):
            try:
                times = process.cpu_times()
            except NoSuchProcess:
                continue
            took = times.user + times.system
            by_stage[stage] = by_stage.get(stage, 0.0) + took - seen.get(process.pid, 0.0)
            seen[process.pid] = took


def _below(pid: int) -> list[Process]:
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
    line = load_line(run, base, "cpu", run.dtype)
    rows = sample_rows(run, line)
    size = min(ROWS, run.plan("generate").shard_rows)
    latents = torch.randn(size, *line.targets.seen.shape[1:])
    calls = [int(t) for t in line.grid]
    if line.method.solver != "ancestral":
        calls = calls[1:]
    rows(Shard(0, 0, 2, 2))()  # warm-up

    def network() -> None:
        for t in calls:
            line.base(latents, t)

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
