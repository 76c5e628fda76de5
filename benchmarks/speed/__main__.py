"""How fast a run is: beside the bare network, and beside what people use; prints tables.

    farfield bench speed [--samples 256] [--repeats 3] [--only network rivals run parts]

`network`: the base's FLOP/s over this machine's matrix product, and its best batch.
`rivals`: maps per second of a run's decode (network, experts, steering) against the published
protocol (80 calls a map, one by one; 159 with an inversion for each), the DDIM pipeline of
diffusers at 50 steps in batches, and scattering synthesis; one thread, in memory, in turns.
`run`: a run with Ray, Prefect and storage, against two loops in memory, one process per worker: of
the network calls alone, and of the whole decode. Seconds of CPU are counted beside wall seconds,
as they bear other work on the machine better. `--again` makes the samples of the last run again.
`parts`: drawing, codecs, the command line.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.compare import show_changes
from benchmarks.record import Figure, previous, save
from benchmarks.speed import network, parts, rivals, run
from flows.cli.console import OUT, show_rows

Measure = Callable[[argparse.Namespace], tuple[dict[str, Figure], dict[str, Any]]]
PARTS: dict[str, Measure] = {
    "run": run.measure,  # the others use its run
    "network": network.measure,
    "rivals": rivals.measure,
    "parts": parts.measure,
}


def main() -> None:
    """Measure, print one table, write JSON, and say what changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=256, help="maps of the runs of `run`")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--config", default="examples/hubble.yaml")
    parser.add_argument("--set", action="append", default=[], help="override for the run")
    parser.add_argument("--again", action="store_true", help="samples of the last run again")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, help="JSON to write; else a new file in runs/bench")
    parser.add_argument("--json", action="store_true", help="print the record for machines")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Figure] = {}
    details: dict[str, Any] = {}
    for name in arguments.only:
        found, more = PARTS[name](arguments)
        figures |= {f"{name}: {key}": figure for key, figure in found.items()}
        details[name] = more
    path = save("speed", figures, {"details": details}, arguments.out)
    if arguments.json:
        OUT.print_json(json.dumps(json.loads(path.read_text())))
        return
    rows = [[name, f.value, f.noise, f.ratio] for name, f in figures.items()]
    show_rows(f"speed, {path}", ["figure", "value", "noise", "ratio"], rows)
    if (before := previous("speed", path)) is not None:
        show_changes(before, path)


if __name__ == "__main__":
    main()
