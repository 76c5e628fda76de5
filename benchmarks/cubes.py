"""Do slices of cubes go together along the third axis as those of the targets' cubes do?

    python -m benchmarks.cubes [--sets lognormal reionisation] [--picture FILE.png]

Eight cubes of eight slices of 32 px are fitted to, 40 others are held out, and eight cubes are
made. Of the model's values about the mean map, per octave of waves per map: the correlation of
modes a lag apart, of held-out cubes (in brackets 5 to 95 % over random eights of them, drawn 400
times), of cubes made, and as a control of samples side by side, which are independent. *Inside*
counts the cells, lag by octave, that lie in the range; *fitted* is the law that noise was given,
*by latents* one that was fitted to latents of the targets. Last, whether a slice is a sample:
scores of 64 slices and of 64 samples.

- lognormal: exp(g) of Gaussian cubes of spectrum k^-3.5, cut out of grids of twice the side;
- reionisation: boxes ionised by excursion sets, as in `benchmarks.sizes`, one slice after another.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import fft

import ood_core as ff
from benchmarks.sizes import BASE, judged
from ood_core.report.pictures import Stretch
from ood_core.synthesis.cubes import AxisLaw, correlations

SIDE, DEPTH, CUBES, HELD_OUT = 32, 8, 8, 40
LAGS = (1, 2, 4, 7)
Values = NDArray[np.float32]


def modes_of(shape: tuple[int, int, int], slope: float, seed: int) -> tuple[Values, Values]:
    """White noise under a power of wavenumber, as a half spectrum, and the wavenumbers."""
    k = np.sqrt(sum(f**2 for f in np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij")))
    k = k[..., : shape[2] // 2 + 1]
    gain = np.where(k > 0, np.where(k > 0, k, 1) ** slope, 0)
    white = np.random.default_rng((9, seed)).standard_normal(shape)
    return fft.rfftn(white) * gain, k


def lognormal(seed: int) -> Values:
    """One cube, slices first."""
    shape = (2 * SIDE,) * 3
    field = fft.irfftn(modes_of(shape, -1.75, seed)[0], s=shape)
    return np.float32(np.exp(field / field.std()))[:DEPTH, :SIDE, :SIDE]


def reionisation(seed: int) -> Values:
    """One cube of a box of 64 cells a side, half of which is ionised."""
    shape = (2 * SIDE,) * 3
    modes, k = modes_of(shape, -1.2, seed)
    modes = modes * np.exp(-((3 * k) ** 2))
    density = fft.irfftn(modes, s=shape)
    height = np.full(shape, -np.inf)
    for radius in np.geomspace(2, 16, 7):
        smooth = fft.irfftn(modes * np.exp(-((2 * np.pi * k * radius) ** 2) / 10), s=shape)
        np.maximum(height, smooth + 0.6 * smooth.std(), out=height)
    neutral = height < np.median(height)
    box = 27 * np.clip(1 + 0.5 * density / density.std(), 0, None) * neutral
    return np.float32(box[:DEPTH, :SIDE, :SIDE])


SETS: dict[str, tuple[Callable[[int], Values], str]] = {
    "lognormal": (lognormal, "log"),
    "reionisation": (reionisation, "linear"),
}


def along(maps: torch.Tensor) -> NDArray[np.float64]:
    """Correlations of slices in order, `(lags, octaves)`."""
    found: NDArray[np.float64] = correlations(maps.unflatten(0, (-1, DEPTH))).numpy()
    return found[list(LAGS)]


def table(name: str, picture: Path | None) -> None:
    """Print what one set gives."""
    make, transform = SETS[name]
    cubes = np.stack([make(seed) for seed in range(CUBES + HELD_OUT)])
    targets = ff.TargetSet.from_arrays(
        cubes.reshape(-1, 1, SIDE, SIDE), transform=transform, symmetries=("flip", "rotate90"),
        held_out=HELD_OUT * DEPTH,
    )  # fmt: skip
    synth = ff.Synthesizer(ff.load_model(BASE)).fit(targets, progress=False)
    made = np.concatenate([synth.cube(DEPTH, DEPTH, number=i) for i in range(CUBES)])
    apart = synth.sample(len(made), progress=False)
    real = targets.held_out_ranged.unflatten(0, (HELD_OUT, DEPTH))
    random, ranges = np.random.default_rng(0), []
    for _ in range(400):
        some = torch.from_numpy(random.choice(HELD_OUT, CUBES, replace=False))
        ranges.append(along(real[some].flatten(0, 1)))
    low, high = np.quantile(ranges, (0.05, 0.95), axis=0)
    rows = {"held-out cubes": np.median(ranges, axis=0)}
    rows["cubes"], rows["samples"] = (along(targets.ranged(maps)) for maps in (made, apart))
    for title, maps in (("fitted", targets.fit_ranged), ("by latents", synth.latents)):
        law = AxisLaw.fit(maps.unflatten(0, (CUBES, DEPTH)))
        rows[title] = law.at(torch.tensor(LAGS)).T.numpy()
    print("\n| " + name + " | " + " | ".join(f"lag {lag}" for lag in LAGS) + " | inside |")
    print("|---" * (len(LAGS) + 2) + "|")
    for title, found in rows.items():
        cells = [" / ".join(f"{value:.2f}" for value in row) for row in found]
        if title == "held-out cubes":
            cells = [
                " / ".join(
                    f"{value:.2f} ({a:.2f} to {b:.2f})" for value, a, b in zip(*row, strict=True)
                )
                for row in zip(found, low, high, strict=True)
            ]
        inside = ((found >= low) & (found <= high)).sum()
        print("| " + " | ".join([title, *cells, f"{inside} of {found.size}"]) + " |", flush=True)
    for title, maps in (("slices", made), ("samples", apart)):
        scores = judged(maps, targets)
        families = ", ".join(f"{n} {v[0]:.2f}" for n, v in scores["families"].items())
        print(f"{title}: classifier {scores['classifier'][0]:.2f}, {families}", flush=True)
    if picture is not None:
        shown = cubes[:2].reshape(2, DEPTH, SIDE, SIDE), made[: 2 * DEPTH, 0]
        draw(np.concatenate([shown[0], shown[1].reshape(2, DEPTH, SIDE, SIDE)]), picture)


def draw(rows: Values, path: Path) -> None:
    """Slices of each cube from left to right: two of the targets above two that were made."""
    stretch = Stretch.fit(rows[:2].reshape(-1, SIDE, SIDE))
    figure = Figure(figsize=(DEPTH, len(rows)), layout="constrained")
    for axes, image in zip(
        figure.subplots(len(rows), DEPTH).flat, rows.reshape(-1, SIDE, SIDE), strict=True
    ):
        axes.imshow(stretch(image), cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
        axes.set_axis_off()
    figure.savefig(path, dpi=90)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=[*SETS])
    parser.add_argument("--picture", type=Path, help="of the last set")
    known = parser.parse_args()
    torch.set_num_threads(1)
    for name in known.sets:
        table(name, known.picture if name == known.sets[-1] else None)


if __name__ == "__main__":
    main()
