"""What the method costs and is worth by the size of maps, as a Markdown table with pictures.

python -m benchmarks.sizes [--sets lognormal reionisation sun bands] [--sides 32 64 128]
    [--image SUN.jp2] [--samples 64] [--pictures FOLDER]

64 maps of every set are fitted to and others held out, all cut anew at every side:

- lognormal: `exp(g)`, `g` Gaussian of spectrum `k^-2.5` on a grid of four times the side;
- reionisation: planes of boxes that are ionised where the smoothed density is high on any scale
  (excursion sets: Furlanetto, Zaldarriaga & Hernquist 2004, ApJ 613, 1), half of the volume;
- sun: squares of the solar disc (`examples/targets/README.md` tells of the image), the left half
  fitted, the right one held out; from 128 px on they overlap;
- bands: three bands of the Hubble eXtreme Deep Field about its sources, which overlap beyond 32 px.

A row is one set at one side, in a process and thread of its own:

- fit, map: CPU seconds of `Synthesizer.fit` and of every map; MiB: the process at its peak;
- calls: of the base per map;
- power: mean power of samples over that of held-out maps, per octave of waves per map, and the
  same of the fit targets, which samples follow;
- fsd, classifier, beside those of held-out maps against one another;
- coarse: classifier and largest error of power in an octave of maps averaged to 32 px, whether
  large structures fail; first: the same of a run that was fitted to the averaged targets;
- minkowski, peaks, phases, bispectrum, detail: distances in what nothing was steered by, and
  channels and colours for several bands;
- nearest: the nearest-target ratio; copies: samples that are copies of a target.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy import fft, ndimage

import ood_core as ff
from ood_core.metrics.spectra import octave_ratios, power_spectrum
from ood_core.report.pictures import Stretch

FIT, HELD_OUT = 64, 64
BATCH = 16
BASE = "models/dead-leaves-32"
SHOWN = 6
COARSE = 32
FAMILIES = ("minkowski", "peaks", "phases", "bispectrum", "detail", "channels", "colours")
Values = NDArray[np.float32]


def lognormal(side: int, image: str | None) -> Values:
    """Independent log-normal fields `(n, 1, y, x)`."""
    grid = 4 * side
    k = np.hypot(np.fft.fftfreq(grid)[:, None], np.fft.fftfreq(grid)) * grid
    k[0, 0] = np.inf
    gain = (k / 4) ** -1.25
    gain /= np.sqrt((gain**2).mean())
    made = []
    for number in range(FIT + HELD_OUT):
        white = np.random.default_rng((7, number)).standard_normal((grid, grid))
        log = fft.ifft2(fft.fft2(white) * gain).real[:side, :side]
        made.append(np.exp(log - 0.5)[None])
    return np.float32(made)


def reionisation(side: int, image: str | None) -> Values:
    """Planes of boxes, in mK: four of each box, `side / 4` cells apart at 128 px and less."""
    shape = (side, side, min(side, 128))
    k = np.sqrt(sum(f**2 for f in np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij")))
    k = k[..., : shape[2] // 2 + 1]
    gain = np.where(k > 0, np.where(k > 0, k, 1) ** -1.2 * np.exp(-((3 * k) ** 2)), 0)
    planes = []
    for seed in range((FIT + HELD_OUT) // 4):
        white = np.random.default_rng((8, seed)).standard_normal(shape, dtype=np.float32)
        modes = fft.rfftn(white) * gain.astype(np.float32)
        density = fft.irfftn(modes, s=shape)
        scale, height = density.std(), np.full(shape, -np.inf, np.float32)
        for radius in np.geomspace(2, 16, 7):
            smooth = fft.irfftn(modes * np.exp(-((2 * np.pi * k * radius) ** 2) / 10), s=shape)
            # The barrier of a scale falls as fewer of its halos collapse: linear in its spread.
            np.maximum(height, smooth + 0.6 * smooth.std(), out=height)
        neutral = height < np.median(height)
        box = 27 * np.clip(1 + 0.5 * density / scale, 0, None) * neutral
        step = shape[2] // 4
        planes += [box[:, :, i * step] for i in range(4)]
    return np.float32(planes)[:, None]


def sun(side: int, image: str | None) -> Values:
    """Squares of the disc: the left half first."""
    if image is None:
        raise SystemExit("sizes: the set sun needs --image, see examples/targets/README.md")
    with Image.open(image) as opened:
        field = np.asarray(opened)
    row, column, radius = 3072 - 1308.0, 2047.0, 2790.41 / 4.44012
    stride = min(side, 64)
    corner = np.arange(0, min(field.shape) - side, stride)
    corners = np.stack(np.meshgrid(corner, corner, indexing="ij"), -1).reshape(-1, 2)
    reach = np.abs(corners + side / 2 - 0.5 - (row, column)) + side / 2
    corners = corners[np.hypot(*reach.T) < radius]
    halves = corners[:, 1] + side <= column, corners[:, 1] >= column
    random = np.random.default_rng(0)
    chosen = np.concatenate([random.permutation(corners[half])[:FIT] for half in halves])
    return np.float32([field[y : y + side, x : x + side] for y, x in chosen])[:, None]


def bands(side: int, image: str | None) -> Values:
    """Red, green and blue about the sources of the deep field: the left part first."""
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("sizes: the set bands needs scikit-image")
    with Image.open(Path(spec.origin).parent / "data" / "hubble_deep_field.jpg") as opened:
        field = np.moveaxis(np.asarray(opened.convert("RGB"), np.float32), -1, 0)
    smooth = ndimage.gaussian_filter(field.mean(0), 1.5)
    height = smooth - np.median(smooth)
    peaks = np.argwhere((smooth == ndimage.maximum_filter(smooth, 9)) & (height > 12))
    size = np.array(field.shape[1:])
    peaks = peaks[((peaks >= side // 2) & (peaks <= size - side // 2)).all(axis=1)]
    random, middle = np.random.default_rng(0), size[1] // 2
    parts = peaks[:, 1] + side // 2 <= middle, peaks[:, 1] - side // 2 >= middle
    chosen = np.concatenate([random.permutation(peaks[part])[:FIT] for part in parts]) - side // 2
    return np.stack([field[:, y : y + side, x : x + side] for y, x in chosen])


SETS: dict[str, tuple[Callable[[int, str | None], Values], str]] = {
    "lognormal": (lognormal, "log"),
    "reionisation": (reionisation, "linear"),
    "sun": (sun, "asinh"),
    "bands": (bands, "asinh"),
}
"""Every set: its maps, the ones to fit to first, and the transform."""


def coarse(values: Values) -> Values:
    """Means of blocks, 32 to a side."""
    n, c, side, _ = values.shape
    return values.reshape(n, c, COARSE, side // COARSE, COARSE, side // COARSE).mean((3, 5))


def target_set(values: Values, transform: str) -> ff.TargetSet:
    """The first 64 to fit to, the others held out."""
    return ff.TargetSet.from_arrays(
        values, transform=transform, symmetries=("flip", "rotate90"), held_out=len(values) - FIT
    )


def measured(name: str, side: int, image: str | None, samples: int) -> dict[str, Any]:
    """Fit, sample and judge one set at one side."""
    torch.set_num_threads(1)
    make, transform = SETS[name]
    values = make(side, image)
    targets = target_set(values, transform)
    synth = ff.Synthesizer(ff.load_model(BASE), batch=BATCH)
    began = time.process_time()
    synth.fit(targets, progress=False)
    fitted = time.process_time()
    maps = synth.sample(samples, progress=False)
    took = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row = {
        "fit": fitted - began,
        "map": (took - fitted) / samples,
        "MiB": peak,
        "calls": synth.trust().evaluations["base"],
        "shown": (values[:SHOWN], maps[:SHOWN]),
        **judged(maps, targets),
    }
    if side > COARSE:  # does it fail at large scales, and would a run of coarse maps do better?
        few = target_set(coarse(values), transform)
        first = ff.Synthesizer(ff.load_model(BASE)).fit(few, progress=False)
        row["coarse"] = judged(coarse(maps), few)
        row["first"] = judged(first.sample(samples, progress=False), few)
    return row


def judged(maps: Values, targets: ff.TargetSet) -> dict[str, Any]:
    """Scores of samples in JSON's types."""
    result = ff.evaluate(maps, targets, progress=False)
    ranged = targets.ranged(maps), targets.fit_ranged, targets.held_out_ranged
    *powers, real = (power_spectrum(m)[1] for m in ranged)
    test = result.tests.classifier
    return {
        "power": octave_ratios(powers[0], real).exp().tolist(),
        "fit power": octave_ratios(powers[1], real).exp().tolist(),
        "fsd": (result.scores["fsd"].value, result.scores["fsd"].real),
        "classifier": (test.accuracy, test.real_accuracy),
        "nearest": result.scores["nearest_ratio"].value,
        "copies": result.near_copies,
        "families": {t.name: (t.distance, t.real_distance) for t in result.tests.families},
    }


def octave(row: dict[str, Any]) -> float:
    """The largest error of power in an octave of any band, as `science` has it."""
    ratios = np.array(row["power"])
    return float(np.maximum(ratios, 1 / ratios).max() - 1)


def beside(pair: Sequence[float]) -> str:
    """A score, and that of held-out maps in brackets."""
    return "{:.2f} ({:.2f})".format(*pair)


def cells(name: str, side: int, row: dict[str, Any]) -> list[str]:
    """The cells of one row."""
    powers = [
        "; ".join(" / ".join(f"{r:.2f}" for r in band) for band in row[which])
        for which in ("power", "fit power")
    ]
    families = [beside(row["families"][n]) if n in row["families"] else "" for n in FAMILIES]
    scales = [
        f"{row[part]['classifier'][0]:.2f}, {octave(row[part]):.2f}" if part in row else ""
        for part in ("coarse", "first")
    ]
    return [
        name, str(side), f"{row['fit']:.0f}", f"{row['map']:.2f}", f"{row['MiB']:.0f}",
        str(row["calls"]), *powers, beside(row["fsd"]), beside(row["classifier"]), *scales,
        *families, f"{row['nearest']:.2f}", str(row["copies"]),
    ]  # fmt: skip


def picture(row: dict[str, Any], path: Path) -> None:
    """Targets above samples."""
    real, made = (np.moveaxis(maps, 1, -1) for maps in row["shown"])
    stretch = Stretch.fit(row["shown"][0])
    figure = Figure(figsize=(SHOWN * 1.5, 3.0), layout="constrained")
    for axes, image in zip(figure.subplots(2, SHOWN).flat, [*real, *made], strict=True):
        seen = stretch(image) if image.shape[-1] == 1 else np.clip(image / 255, 0, 1)
        axes.imshow(seen.squeeze(), cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
        axes.set_axis_off()
    figure.savefig(path, dpi=110)
    if row["shown"][0].shape[1] == 1:
        shrink(path)


def shrink(path: Path) -> None:
    """Give a picture of one colour map a palette, which takes a third of the bytes."""
    with Image.open(path) as drawn:
        drawn.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=[*SETS])
    parser.add_argument("--sides", nargs="+", type=int, default=[32, 64, 128])
    parser.add_argument("--image", help="the image of the Sun")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--pictures", type=Path)
    known = parser.parse_args()
    header = [
        "set", "side", "fit", "map", "MiB", "calls", "power", "fit power", "fsd", "classifier",
        "coarse", "first", *FAMILIES, "nearest", "copies",
    ]  # fmt: skip
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|", flush=True)
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, fresh, max_tasks_per_child=1) as pool:
        for name in known.sets:
            for side in known.sides:
                row = pool.submit(measured, name, side, known.image, known.samples).result()
                print("| " + " | ".join(cells(name, side, row)) + " |", flush=True)
                if known.pictures:
                    known.pictures.mkdir(parents=True, exist_ok=True)
                    picture(row, known.pictures / f"size-{name}-{side}.png")


if __name__ == "__main__":
    main()
