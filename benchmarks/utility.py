"""What synthetic maps are worth on tasks whose labels are not measured on the map itself.

    python -m benchmarks.utility --out runs/slopes --samples 480
    python -m benchmarks.utility --colours runs/demo --limb runs/sun
    python -m benchmarks.utility --perfect

Of log-normal fields the label is their slope, which is known; of Hubble cut-outs, which are grey,
whether the source is bluer than half of the fit targets (`examples/targets/hubble-bands.fits`, 64
fit and 128 held-out ones); of squares of the Sun their distance from the middle of the disc.

Log-normal targets are 32 px fields `exp(g)` with `P(k) ~ k^-slope`, slopes 2, 2.5 and 3 in turn,
each brought to one mean and spread of the logarithm, so that brightness tells nothing: 48 to fit
to, 240 held out. The shipped base makes the samples, with the default method. The others take runs
of `examples/hubble.yaml`, as `make demo` makes, and `examples/sun.yaml`. `farfield utility`
compares training sets, samples labelled by their parents. One row per training set; the last line
says what the report says. `--perfect` runs nothing and puts further real maps in the place of the
synthetic ones: what a perfect generator would be worth.
"""

import argparse
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from astropy.io import fits

from flows.runs.lifecycle import make_run
from flows.settings import parse
from flows.tools.downstream import keep_utility, measure_utility
from ood_core.evaluation.downstream import (
    MULTIPLES,
    DownstreamResult,
    Labelled,
    Task,
    downstream_gain,
)
from ood_core.numerics.random import Root
from ood_core.store.run import RunStore

SIDE, GRID, SLOPES = 32, 96, (2.0, 2.5, 3.0)
FIT, HELD_OUT = 48, 240
DISC_CENTRE, DISC_RADIUS = (1764.0, 2047.0), 628.5  # pixels: `examples/make_sky_targets.py`


def field(number: int) -> np.ndarray:
    """Field `number`, of slope `number % 3`."""
    white = np.random.default_rng([11, number]).standard_normal((GRID, GRID))
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(GRID), np.fft.fftfreq(GRID)))
    k[0, 0] = np.inf
    g = np.fft.ifft2(np.fft.fft2(white) * k ** (-SLOPES[number % 3] / 2)).real[:SIDE, :SIDE]
    return np.exp(0.7 * (g - g.mean()) / g.std()).astype(np.float32)


def main() -> None:
    """Make targets, make a run, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--samples", type=int, default=480)
    parser.add_argument("--colours", type=Path)
    parser.add_argument("--limb", type=Path)
    parser.add_argument("--perfect", action="store_true")
    arguments: Any = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    print("commit", commit.stdout.strip(), time.strftime("%Y-%m-%d"), flush=True)
    if arguments.perfect:
        show(perfect())
        return
    if arguments.colours is not None:
        show(labelled_by("blueness", blueness(), arguments.colours, 2))
    if arguments.limb is not None:
        show(labelled_by("distance from the disc's middle", limb(), arguments.limb, None))
    if arguments.out is None:
        return
    maps, labels = arguments.out.with_suffix(".npy"), arguments.out.with_suffix(".txt")
    maps.parent.mkdir(parents=True, exist_ok=True)
    np.save(maps, np.stack([field(i) for i in range(FIT + HELD_OUT)]))
    labels.write_text("slope\n" + "".join(f"{SLOPES[i % 3]}\n" for i in range(FIT + HELD_OUT)))
    settings = parse(
        {
            "name": "slopes",
            "base": "models/dead-leaves-32",
            "targets": {
                "path": str(maps), "transform": "log", "symmetries": ["flip", "rotate90"],
                "held_out": HELD_OUT,
            },
            "generation": {"samples": arguments.samples, "shard_size": 48},
            "execution": {"pool": "inline", "orchestrator": "none"},
        }
    )  # fmt: skip
    make_run(settings, str(arguments.out))
    run = RunStore.open(str(arguments.out))
    found = measure_utility(run, str(labels), None)
    keep_utility(run, found)
    show(found)


def blueness() -> np.ndarray:
    """Log ratio of blue to red in the middle of Hubble cut-outs; NaN where no bands are at hand."""
    bands = fits.getdata("examples/targets/hubble-bands.fits").astype(float)
    found = np.full(len(fits.getdata("examples/targets/hubble.fits")), np.nan)
    middle = bands[..., 8:24, 8:24].sum((-2, -1))
    found[: len(bands)] = np.log(middle[:, 2] / middle[:, 0])
    return found


def limb() -> np.ndarray:
    """Distances of squares of the Sun from the middle of the disc, in radii."""
    places = fits.getdata("examples/targets/sun.fits", "CUTOUTS")
    row, column = DISC_CENTRE
    found: np.ndarray = np.hypot(places["Y"] - row, places["X"] - column) / DISC_RADIUS
    return found


def labelled_by(name: str, labels: np.ndarray, folder: Path, parts: int | None) -> DownstreamResult:
    """Compare training sets of a run by a label per target."""
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "labels.txt"
        file.write_text(f"{name}\n" + "".join(f"{label}\n" for label in labels))
        return measure_utility(RunStore.open(str(folder)), str(file), parts)


def perfect() -> DownstreamResult:
    """The same comparison with further real maps for synthetic ones; nothing is run."""
    count = MULTIPLES[-1] * FIT

    def labelled(numbers: range) -> Labelled:
        logs = np.log(np.stack([field(i) for i in numbers])[:, None])
        kinds = [i % 3 for i in numbers]
        return Labelled(torch.from_numpy(logs), torch.tensor(kinds, dtype=torch.float64))

    real, held_out = labelled(range(FIT)), labelled(range(FIT, FIT + HELD_OUT))
    more = labelled(range(10_000, 10_000 + count))
    task = Task("slope", tuple(map(str, SLOPES)))
    root = Root.of("slopes")
    return downstream_gain(task, real, held_out, more, ("flip", "rotate90"), root, samples=count)


def show(found: DownstreamResult) -> None:
    """Print a Markdown table."""
    print("| probe | trained on | maps | accuracy | 95 % | gain | 95 % |")
    print("|---|---|---|---|---|---|---|")
    for row in found.training_sets:
        print(
            f"| {row.probe} | {row.title} | {row.maps} | {row.score:.3f} | {row.low:.3f} to "
            f"{row.high:.3f} | {row.gain:+.3f} | {row.gain_low:+.3f} to {row.gain_high:+.3f} |"
        )
    print(found.summary)


if __name__ == "__main__":
    main()
