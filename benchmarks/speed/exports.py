"""Peak memory and time of an export of many maps, in every format; prints a table.

    python -m benchmarks.speed.exports RUN [--samples 100000] [--formats fits zarr ...]

A copy of the finished run RUN is grown to so many samples without computing any: its first shard
again and again, with receipts that hold. `farfield export` then writes each format, in a process of
its own. `none` is what a process has that only asks for the status of RUN.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flows.cli.console import show_rows
from ood_core.exporting.formats import EXPORTERS
from ood_core.store.files import copy_tree, read_json, write_json
from ood_core.store.run import RunStore

PEAK = (
    "import resource; from flows.cli.main import main\n"
    "try: main()\n"
    "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
)
MIB = 1024  # ru_maxrss is in KiB


def grown(source: Path, folder: Path, samples: int) -> RunStore:
    """Copy a run and give it so many samples, all those of its first shard."""
    copy_tree(source, folder)
    run = RunStore.open(str(folder))
    plan, gate = read_json(folder / "plan.json"), read_json(folder / "gate.json")
    plan["generate"]["rows"] = gate["samples"] = samples
    write_json(folder / "plan.json", plan)
    write_json(folder / "gate.json", {**gate, "left_out": []})
    table, ledger, shards = run.table("generate"), run.ledger("generate"), run.plan("generate")
    first, receipt = table.rows(0, shards.shard_rows), ledger.read(shards[0])
    assert receipt is not None, "RUN is finished"
    table.grow(samples)
    for shard in shards:
        stop = shard.start + shards.shard_rows
        rows = {**first, "sample": np.arange(shard.start, stop)}
        held = replace(receipt, shard=shard.index, start=shard.start, stop=stop)
        ledger.write(replace(held, digest=table.write(shard, rows)))
    return run


def measured(*arguments: str) -> tuple[float, float]:
    """MiB and seconds of CPU of a command, in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments], stdout=subprocess.PIPE, check=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return int(done.stdout.split()[-1]) / MIB, seconds


def main() -> None:
    """Measure the formats that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--formats", nargs="+", default=list(EXPORTERS))
    arguments = parser.parse_args()
    rows: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as place:
        run = grown(arguments.run, Path(place) / "run", arguments.samples)
        rows.append(["none", *(round(x) for x in measured("status", str(arguments.run))), 0])
        for name in arguments.formats:
            dest = Path(place) / f"{name}{EXPORTERS[name].endings[0]}"
            began = time.monotonic()
            memory, seconds = measured("export", str(run.root), str(dest), "--format", name)
            wall = time.monotonic() - began
            print(f"{name}: {memory:.0f} MiB, {wall:.0f} s", file=sys.stderr, flush=True)
            size = sum(p.stat().st_size for p in (dest, *dest.rglob("*")) if p.is_file())
            rows.append([name, round(memory), round(seconds), round(size / 2**20)])
            subprocess.run(["rm", "-r", str(dest)], check=True)
    header = ["format", "peak, MiB", "CPU s", "written, MiB"]
    show_rows(f"export of {arguments.samples:,} maps in one file", header, rows)


if __name__ == "__main__":
    main()
