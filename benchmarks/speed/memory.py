"""Peak memory of the driver for short and long runs of the same maps; prints one table.

    python benchmarks/speed/memory.py [--samples 2000 20000] [--pools inline ray]

Each run and each reading verb is a process of its own, a random base on 16 px maps. A driver whose
memory grows with the samples shows a ratio above 1 between the rows.
"""

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SIZE = 16
TARGETS = 40
SHARD = 50
VERBS = ("status", "verify", "inspect", "validate", "report")
MIB = 1024  # ru_maxrss is in KiB


def peak() -> float:
    """Largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB


def prepare(place: Path) -> None:
    """Write a base with random weights and random targets."""
    import numpy as np
    import torch

    from ood_core.models.networks import make_unet, save_base

    torch.manual_seed(0)
    save_base(make_unet(SIZE, 1, (8, 16), 1, (False, False), 4), "epsilon", place / "base")
    rng = np.random.default_rng(0)
    np.save(place / "targets.npy", rng.lognormal(size=(TARGETS, SIZE, SIZE)).astype(np.float32))


def run(place: Path, samples: int, pool: str) -> dict[str, float]:
    """Make a run; peak after each stage."""
    from flows.runs.lifecycle import make_run
    from flows.runs.stages import Stage, perform
    from flows.settings import RunSettings, parse
    from ood_core.store.run import RunStore

    settings = parse(
        {
            "name": "memory",
            "base": str(place / "base"),
            "targets": {"path": str(place / "targets.npy")},
            "method": {"steps": 2, "steering": {"steps": 1}, "calibration": {"draws": 1}},
            "generation": {"samples": samples, "shard_size": SHARD},
            "execution": {"pool": pool, "orchestrator": "none", "workers": 1},
        }
    )
    peaks: dict[str, float] = {}

    def watched(name: str, stage: Stage, store: RunStore, planned: RunSettings) -> str:
        note = perform(name, stage, store, planned)
        peaks[name] = peak()
        return note

    make_run(settings, str(place / f"{pool}-{samples}"), call=watched)
    return {name: peaks[name] for name in ("fit", "generate", "validate")}


def read(verb: str, folder: str) -> dict[str, float]:
    """Call one reading verb of the command line; peak at its end."""
    from flows.cli.main import main

    sys.argv = ["farfield", verb, folder, "--json"]
    code: Any = 0
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    if code:
        raise RuntimeError(f"{verb} of {folder} ended with exit code {code}")
    return {verb: peak()}


def apart(*arguments: str) -> dict[str, float]:
    """The same script in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", *arguments], stdout=subprocess.PIPE, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(task: str, place: str, *rest: str) -> dict[str, float]:
    """What a process of its own does."""
    match task:
        case "prepare":
            prepare(Path(place))
            return {}
        case "run":
            return run(Path(place), int(rest[0]), rest[1])
        case _:
            return read(task, place)


def main() -> None:
    """Measure all runs and print a table in MiB."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--pools", nargs="+", default=["inline", "ray"])
    parser.add_argument("--child", nargs="+")
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(*arguments.child)))
        return
    from flows.cli.console import show_rows

    rows: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as place:
        apart("prepare", place)
        for pool in arguments.pools:
            for samples in arguments.samples:
                found = apart("run", place, str(samples), pool)
                for verb in VERBS:  # `validate` is a stage too
                    found[f"farfield {verb}"] = apart(verb, f"{place}/{pool}-{samples}")[verb]
                rows.append([pool, samples, *(round(value) for value in found.values())])
    header = ["pool", "samples", "fit", "generate", "validate", *VERBS]
    show_rows("peak memory of the driver, MiB", header, rows)


if __name__ == "__main__":
    main()
