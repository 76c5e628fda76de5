"""Damaged and hostile files against every reader; prints one table, writes JSON.

    python -m benchmarks.reliability.fuzz [--inputs 20000] [--seed 0] [--minutes 60] [--json FILE]

Each input is a small valid file with a few changes: bits and bytes, pieces cut, doubled or moved,
numbers replaced by absurd ones, values of JSON and YAML replaced, packed contents changed and
packed again. It must be read, with finite maps within the limits, or be refused with an error of
the project. Any other exception, a crash or a minute of silence counts against the reader. Every
reader works in a process of its own; `MiB` is what its peak grew by over the inputs.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.hostile.readers import LIMITS, READERS, Silence, judge

SECONDS = 60
SHARES = {name: 1 if name.startswith("base") else 3 for name in READERS}
"""Loading a base takes longer than reading maps."""


def fuzz(name: str, inputs: int, seed: int, seconds: float) -> dict[str, Any]:
    """Give one reader so many inputs, or what it manages in so many seconds, in this process."""
    import warnings

    warnings.simplefilter("ignore")

    def stop(*_: Any) -> None:
        raise Silence

    signal.signal(signal.SIGALRM, stop)
    make, read = READERS[name]
    write, began = make(), time.monotonic()
    found: Counter[str] = Counter()
    first: dict[str, int] = {}
    before = 0
    for number in range(inputs):
        if time.monotonic() - began > seconds:
            break
        rng = random.Random(f"{seed}/{name}/{number}")
        with tempfile.TemporaryDirectory() as place:
            path = write(Path(place), rng)
            signal.alarm(SECONDS)
            outcome = judge(read, path)
            signal.alarm(0)
        found[outcome] += 1
        first.setdefault(outcome, number)
        if number == min(20, inputs - 1):  # libraries are loaded by now
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before if before else 0
    others = {k: [n, first[k]] for k, n in found.items() if k.startswith("other")}
    return {
        "reader": name,
        "inputs": sum(found.values()),
        "read": found["read"],
        "refused": found["refused"],
        "other": sum(n for n, _ in others.values()),
        "MiB": round(grown / 1024),
        "seconds": round(time.monotonic() - began),
        "others": others,
    }


def apart(name: str, *numbers: float) -> dict[str, Any]:
    """The same in a process of its own, so that a crash is seen."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.reliability.fuzz",
        "--child",
        name,
        *map(str, numbers),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        row = {"reader": name, "inputs": 0, "read": 0, "refused": 0, "other": 1}
        return {**row, "MiB": 0, "seconds": 0, "others": {f"exit {done.returncode}": [1, -1]}}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Fuzz all readers; exit with 1 if any input was neither read nor refused."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=4)
    arguments = parser.parse_args()
    if arguments.child:
        name, inputs, seed, seconds = arguments.child
        print(json.dumps(fuzz(name, int(inputs), int(seed), float(seconds))))
        return
    from flows.cli.console import show_rows

    parts = sum(SHARES[name] for name in arguments.readers)
    counts = {name: -(-arguments.inputs * SHARES[name] // parts) for name in arguments.readers}
    rows = []
    for name, count in counts.items():
        seconds = 60 * arguments.minutes * SHARES[name] / parts
        rows.append(apart(name, count, arguments.seed, seconds))
        sys.stderr.write(f"{rows[-1]}\n")
    header = ("reader", "inputs", "read", "refused", "other", "MiB", "seconds")
    show_rows(f"fuzz, seed {arguments.seed}", header, [[row[h] for h in header] for row in rows])
    if arguments.json:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
        record = {"commit": commit, "seed": arguments.seed, "limits": LIMITS, "readers": rows}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    sys.exit(1 if any(row["other"] for row in rows) else 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
