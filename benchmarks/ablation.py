"""What each part of the default method adds, as a Markdown table.

python benchmarks/ablation.py examples/hubble.yaml --out runs/ablation --samples 256 --skip 160

One run per row, each with one more part than the row before. Scores are against the held-out maps
after the first `--skip`, so that those may have been looked at while the method was tuned. Lower is
better; 0.5 is best for both classifiers and 1 for the nearest ratio. The last row has the first
held-out maps in place of samples: what real maps score.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from flows.runs.lifecycle import make_run
from flows.settings import RunSettings, load_settings
from ood_core.arrays import Maps
from ood_core.evaluation.evaluate import evaluate_maps
from ood_core.evaluation.results import EvaluationResult
from ood_core.maps.target_set import TargetSet
from ood_core.numerics.random import Root
from ood_core.store.run import RunStore
from ood_core.store.targets import load_targets

MEAN = [f"steering.{part}" for part in ("start=0", "steps=16", "rate=0.25", "sigma_max=16")]
NO_RINGS, ODE, NO_PATCHES = (
    [*MEAN, "steering.radial_bins=0"],
    ["solver=ddim", "t_min=0"],
    ["calibration.patches=0"],
)
FULL = ["quantization=false"]
ALIKE = [*FULL, "steering.low_k_weight=1"]
ALL = [*ALIKE, "calibration.prune_tolerance=0"]
COARSE = [*ALL, "calibration.min_variance=1e-3"]
NOISY = [*COARSE, "t_min=11"]  # sigma/alpha 0.05 of the shipped base
ROWS: dict[str, list[str]] = {
    "steered, ODE": [*NO_RINGS, *COARSE, *ODE, *NO_PATCHES],
    "+ mixtures of patches": [*NO_RINGS, *COARSE, *ODE],
    "+ ancestral solver": [*NO_RINGS, *NOISY],
    "+ rings": [*MEAN, *NOISY],
    "+ a random start, fewer steps and timesteps": NOISY,
    "+ less variance and less noise at least": ALL,
    "+ experts evaluated where they are missed": ALIKE,
    "+ largest waves counted three times": FULL,
    "+ numbers as coarse as the targets': the default": [],
}
SCORES = ("spectrum_error", "pixel_wasserstein", "fsd", "c2st", "nearest_ratio")
FAMILIES = ("bispectrum", "phases", "minkowski", "peaks")


def made(settings: RunSettings, out: Path) -> tuple[RunStore, float]:
    """Run a configuration, or take the run that is there; return seconds of generation too."""
    make_run(settings, str(out))
    run = RunStore.open(str(out))
    return run, run.timings["generate"]


def cells(found: EvaluationResult, samples: int) -> list[str]:
    """Scores, distances of the families that were not steered, and the classifier on them."""
    scores = {name: score.value for name, score in found.scores.items()}
    distances = {test.name: test.distance for test in found.tests.families}
    classifier = found.tests.classifier
    values = [scores[name] for name in SCORES] + [distances[name] for name in FAMILIES]
    last = "" if classifier is None else f"{classifier.accuracy:.2f}"
    return [str(samples), *[f"{value:.3g}" for value in values], last]


def scored(maps: Maps, targets: TargetSet, held_out: Maps) -> list[str]:
    """Score maps against the held-out ones that are left."""
    root = Root.of("ablation")
    found = evaluate_maps(maps, targets.fit_ranged, held_out, targets.symmetries, root)
    return cells(found, len(maps))


def main() -> None:
    """Print commit, then one row per variant as it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--last", type=int, default=len(ROWS), help="only so many rows")
    arguments: Any = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    names = ["run", "samples", *SCORES, *FAMILIES, "C2ST, unsteered", "s to generate"]
    say("commit", commit.stdout.strip(), time.strftime("%Y-%m-%d"))
    say(*names)
    say(*["---"] * len(names))
    for number, (name, changes) in list(enumerate(ROWS.items()))[-arguments.last :]:
        sets = [f"method.{change}" for change in changes]
        sets += [f"generation.samples={arguments.samples}", "execution.pool=inline"]
        settings = load_settings(arguments.config, sets)
        run, seconds = made(settings, arguments.out / str(number))
        targets = load_targets(run)
        held_out = targets.held_out_ranged[arguments.skip :]
        maps = run.table("generate").read("maps", slice(0, arguments.samples))
        back = targets.ranged(maps)
        say(name, *scored(back, targets, held_out), f"{seconds:.0f}")
    if arguments.skip >= 4:
        real = targets.held_out_ranged[: arguments.skip]
        say("real maps", *scored(real, targets, held_out), "")


def say(*values: str) -> None:
    """Print one row now."""
    sys.stdout.write("| " + " | ".join(values) + " |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
