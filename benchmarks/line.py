"""Maps per second of the whole line beside the bare network, in one run; prints one table.

    python benchmarks/line.py [--samples 256]

The bare loop calls the base as often as decoding does, arrays in memory, one process with as many
threads as the line has workers. Ratios are what to quote: machines are noisy.
"""

import argparse
import json
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from flows.console import show_rows
from flows.settings import PROJECT, load_settings
from flows.stages import worker_count
from flows.synthesise import run_line
from ood_core.bases.loading import load_base
from ood_core.store.run import RunStore

BATCH = 64
STEPS = 12  # of the calibrated preset


def bare_seconds_per_map(source: str, steps: int, threads: int) -> float:
    """Seconds per map of `steps` network calls on batches in memory."""
    torch.set_num_threads(threads)
    base = load_base(source)
    x = torch.randn(BATCH, base.channels, base.size, base.size)
    base.denoiser(x, 500)  # warm-up
    began = time.perf_counter()
    for _ in range(steps):
        base.denoiser(x, 500)
    return (time.perf_counter() - began) / BATCH


def line_seconds(samples: int, overrides: list[str], folder: str) -> tuple[dict[str, float], int]:
    """Wall seconds per stage of a run of the demo's configuration, and its workers."""
    chosen = [f"generation.samples={samples}", "execution.orchestrator=none", *overrides]
    settings = load_settings(PROJECT / "examples" / "hubble.yaml", chosen)
    run_line(settings, folder)
    return RunStore.open(folder).timings, worker_count(settings.execution)


def main() -> None:
    """Measure both pools and the bare network; print a table and write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[list[Any]] = []
    for pool in ("ray", "inline"):
        with tempfile.TemporaryDirectory() as folder:
            seconds, workers = line_seconds(
                arguments.samples, [f"execution.pool={pool}"], f"{folder}/run"
            )
        rate = arguments.samples / seconds["generate"]
        rows.append([pool, workers, *(round(v, 2) for v in seconds.values()), round(rate, 2)])
    stages = list(seconds)
    settings = load_settings(PROJECT / "examples" / "hubble.yaml")
    bare = bare_seconds_per_map(settings.base, STEPS, worker_count(settings.execution))
    show_rows("seconds per stage", ["pool", "workers", *stages, "maps/s in generate"], rows)
    show_rows("bare network", ["calls per map", "maps/s"], [[STEPS, round(1 / bare, 2)]])
    if arguments.json:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
        record = {"commit": commit, "machine": platform.processor(), "rows": rows, "bare": bare}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
