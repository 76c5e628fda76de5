"""What `farfield plan` foretells beside what the run then takes, as a Markdown table.

    python -m benchmarks.plan [--set lognormal] [--sizes 32 64 128 48x80 45] [--samples 32]
        [--image SUN.jp2]

64 maps of a set of `benchmarks.sizes` are fitted to, cut to the size where that is no square. Plan
and run have a process and a thread of their own each, one after the other, so that neither warms
up or fills memory for the other. Seconds are those of the CPU, which other work on the machine
hardly changes: of everything before the first sample, and per sample with its statistics.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sizes import BASE, BATCH, FIT, SETS
from flows.settings import parse

HELD_OUT = 16


def settings(known: argparse.Namespace, size: str, place: Path) -> dict[str, Any]:
    """The configuration of a run whose targets are written to a folder."""
    height, width = ([int(side) for side in size.split("x")] * 2)[:2]
    make, transform = SETS[known.set]
    whole = make(-(-max(height, width) // 32) * 32, known.image)[: FIT + HELD_OUT]
    np.save(place / "targets.npy", whole[:, 0, :height, :width])
    square = height == width
    return {
        "name": "plan",
        "base": BASE,
        "targets": {
            "path": str(place / "targets.npy"),
            "transform": transform,
            "symmetries": ["flip", "rotate90"] if square else ["flip"],
            "held_out": HELD_OUT,
        },
        "generation": {"samples": known.samples, "shard_size": BATCH},
        "execution": {"pool": "inline", "orchestrator": "none", "workers": 1, "device": "cpu"},
    }


def foretold(config: dict[str, Any]) -> dict[str, float]:
    """What the plan says, and what planning itself took."""
    from flows.runs.cost import estimate_cost

    began = time.process_time()
    cost = estimate_cost(parse(config))
    stages = cost["stage_seconds"]
    return {
        "fit": sum(stages.values()) - stages["generate"],
        "map": stages["generate"] / config["generation"]["samples"],
        "MiB": cost["memory_bytes_per_worker"] / 2**20,
        "calls": cost["network_evaluations_per_map"],
        "plan": time.process_time() - began,
    }


def taken(config: dict[str, Any], place: str) -> dict[str, float]:
    """What the run takes up to its last sample."""
    from flows.runs.lifecycle import make_run
    from flows.runs.stages import Stage, perform
    from flows.settings import RunSettings
    from ood_core.store.run import RunStore

    seconds: dict[str, float] = defaultdict(float)

    def call(name: str, stage: Stage, run: RunStore, settings: RunSettings) -> str:
        if name not in ("calibrate", "invert", "fit", "generate"):
            return ""
        began = time.process_time()
        said = perform(name, stage, run, settings)
        seconds[name] = time.process_time() - began
        return said

    make_run(parse(config), place, call)
    samples, run = config["generation"]["samples"], RunStore.open(place)
    receipts = run.ledger("generate").all(run.plan("generate"))
    return {
        "fit": sum(seconds.values()) - seconds["generate"],
        "map": seconds["generate"] / samples,
        "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "calls": sum(receipt.nfe for receipt in receipts) / samples,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", choices=SETS, default="lognormal")
    parser.add_argument("--sizes", nargs="+", default=["32", "64", "128", "48x80", "45"])
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--image")
    known = parser.parse_args()
    header = ["set", "px", "fit s", "s per map", "MiB", "base calls per map", "s of planning"]
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|", flush=True)
    os.environ["LOKY_MAX_CPU_COUNT"] = "1"  # mixtures of patches are fitted on all CPUs
    fresh = multiprocessing.get_context("spawn")
    for size in known.sizes:
        with (
            tempfile.TemporaryDirectory() as folder,
            ProcessPoolExecutor(1, fresh, max_tasks_per_child=1) as pool,
        ):
            config = settings(known, size, Path(folder))
            said = pool.submit(foretold, config).result()
            took = pool.submit(taken, config, f"{folder}/run").result()
        pairs = [
            f"{said[n]:.3g} / {took[n]:.3g} = {said[n] / took[n]:.2f}"
            for n in ("fit", "map", "MiB")
        ]
        calls = f"{said['calls']:.3g} / {took['calls']:.3g}"
        cells = [known.set, size, *pairs, calls, f"{said['plan']:.0f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
