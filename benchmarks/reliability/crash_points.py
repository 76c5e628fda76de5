"""A crash at every operation on the disk of a small run, each resumed; prints one table.

    python -m benchmarks.reliability.crash_points

Counted are the openings for writing, renames, links, removals and folders that the interpreter
sees of one run from planning to report, those of Zarr included. The disk before each of them is a
state, and so is every file that was just opened, empty and cut to half. Each distinct state is
resumed and must end in the bytes of the unbroken run, with nothing finished computed again, nothing
unfinished marked done and no litter; the last column counts those that do not.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from shutil import copytree, ignore_patterns

from benchmarks.speed.memory import prepare
from flows.cli.console import show_rows
from flows.runs import stages
from flows.settings import RunSettings, parse
from tests.faults.crash_points import (
    Moment,
    distinct,
    drive,
    once,
    record,
    resume,
    survive,
    with_torn,
)

HEADER = ("stage", "operations", "with torn files", "distinct states", "resumed", "lost")
STAGES = ("planning", "calibrate", "invert", "fit", "generate", "validate")


def small(place: Path) -> RunSettings:
    """Two timesteps, one batch of targets, two shards of samples."""
    prepare(place)
    return parse(
        {
            "name": "crashes",
            "base": str(place / "base"),
            "targets": {"path": str(place / "targets.npy"), "held_out": 32},
            "method": {
                "steps": 1,
                "steering": {"steps": 1, "neighbours": 1},
                "calibration": {"draws": 1, "bands": 3, "n_clusters": 2},
            },
            "generation": {"samples": 6, "shard_size": 4},
            "execution": {"pool": "inline", "orchestrator": "none"},
        }
    )


def survives(moment: Moment, root: Path, settings: RunSettings, clean: Path) -> bool:
    """Whether a run that dies at this moment ends as the unbroken one.

    Only deaths while validating are followed by a validation, which takes most of the time.
    """
    validate = moment.stage == "validate"
    unbroken = clean if validate else clean.with_name("without-validation")
    try:
        survive(moment, root, lambda r: resume(r, settings, validate), unbroken)
    except Exception as error:  # of any type: all are losses
        sys.stderr.write(f"{moment}: {type(error).__name__}: {error}\n")
        return False
    return True


def main() -> None:
    """Record, resume from every state, print a table; exit with 1 if anything was lost."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1, help="one state in so many")
    every = parser.parse_args().every
    # Slow, and a function of what is stored.
    stages.evaluate_features = once(stages.evaluate_features)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        settings, clean = small(place), place / "clean"
        moments = record(clean, drive, settings)
        bare = ignore_patterns("domain.zarr.zip")  # the base's own maps, drawn to validate
        copytree(clean, clean.with_name("without-validation"), ignore=bare)
        torn = with_torn(moments)
        states = distinct(torn, "all")
        chosen, lost = states[::every], Counter[str]()
        for number, moment in enumerate(chosen):
            lost[moment.stage] += not survives(moment, place / str(number), settings, clean)
            sys.stderr.write(f"{number + 1}/{len(chosen)} {moment.stage}\n")
    counts = [Counter(m.stage for m in found) for found in (moments, torn, states, chosen)]
    rows = [[stage, *(count[stage] for count in counts), lost[stage]] for stage in STAGES]
    rows.append(["all", *(count.total() for count in counts), lost.total()])
    show_rows("crashes at every operation on the disk", HEADER, rows)
    sys.exit(1 if lost.total() else 0)


if __name__ == "__main__":
    main()
