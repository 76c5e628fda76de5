"""What coarse maps first are worth: samples held to them beside the same fit without.

    python -m benchmarks.pyramid [--sets lognormal reionisation sun] [--side 128] [--seeds 0]
        [--rows pyramid] [--image SUN.jp2] [--samples 64] [--pictures FOLDER]

The method is fitted to maps of a set of `benchmarks.sizes`, with coarse maps of 32 px. Rows:

- at once: samples of that fit, and of the same random numbers, that are held to nothing;
- pyramid: the product as it is (`method.pyramid`).

Columns as in `benchmarks.sizes`, coarse maps judged in the mean of physical values there; *fit* and
*map* in CPU seconds, of both levels.
"""

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from matplotlib.figure import Figure

import ood_core as ff
from benchmarks.sizes import (
    BASE,
    BATCH,
    FAMILIES,
    FIT,
    SETS,
    SHOWN,
    beside,
    coarse,
    octave,
    target_set,
)
from ood_core.arrays import Maps
from ood_core.evaluation.features import FeatureExtractor, Features
from ood_core.evaluation.two_sample import two_sample_tests
from ood_core.metrics.distances import Whitening
from ood_core.metrics.spectra import octave_ratios, power_spectrum
from ood_core.numerics.random import Root, SeedRange
from ood_core.report.pictures import Stretch
from ood_core.synthesis.sampler import Sampler

ROWS = ("at once", "pyramid")
COARSE = 32  # px a side of coarse maps


def features(targets: ff.TargetSet, maps: Maps) -> Features:
    """What two sets of maps are compared by."""
    extractor = FeatureExtractor.of(targets.fit_ranged, targets.held_out_ranged, targets.symmetries)
    return {family.name: family(maps) for family in extractor.families}


@final
class Judge:
    """Tests against held-out maps, without the searches for copies of `ood_core.evaluate`."""

    def __init__(self, targets: ff.TargetSet) -> None:
        self._targets = targets
        both = targets.fit_ranged, targets.held_out_ranged
        self._fit, self._real = (features(targets, maps) for maps in both)
        self._whitening = Whitening.fit(self._fit["scattering"])
        self._power = power_spectrum(targets.held_out_ranged)[1]

    def __call__(self, physical: Any) -> dict[str, Any]:
        """Scores of samples in physical units."""
        maps = self._targets.ranged(physical)
        made = features(self._targets, maps)
        steered = self._whitening(made["scattering"]), self._whitening(self._real["scattering"])
        root = Root.of("pyramid")
        tests = two_sample_tests(made, self._fit, self._real, steered, root)
        return {
            "power": octave_ratios(power_spectrum(maps)[1], self._power).exp().tolist(),
            "classifier": (tests.classifier.accuracy, tests.classifier.real_accuracy),
            "families": {t.name: (t.distance, t.real_distance) for t in tests.families},
        }


def fitted(targets: ff.TargetSet, seed: int) -> tuple[ff.Synthesizer, float]:
    """A fit of both levels and its CPU seconds."""
    began = time.process_time()
    method = ff.Method(pyramid=targets.shape[1] // COARSE)
    synth = ff.Synthesizer(ff.load_model(BASE), method, batch=BATCH)
    return synth.fit(targets, seed, progress=False), time.process_time() - began


def drawn(sampler: Sampler, root: int, samples: int, held: bool) -> tuple[Maps, float]:
    """Samples in model range, and CPU seconds of each."""
    began, made = time.process_time(), []
    for start in range(0, samples, BATCH):
        drawn = sampler.drawn(SeedRange(root, start, start + BATCH))
        made.append(sampler.decoded(drawn if held else replace(drawn, coarse=None)).maps)
    return torch.cat(made)[:samples], (time.process_time() - began) / samples


def measured(
    name: str, side: int, image: str | None, samples: int, seed: int, chosen: list[str]
) -> list[dict[str, Any]]:
    """The rows of one set and seed."""
    torch.set_num_threads(1)
    make, transform = SETS[name]
    values = make(side, image)
    targets = target_set(values, transform)
    judge, judge_coarse = Judge(targets), Judge(target_set(coarse(values), transform))
    synth, fit = fitted(targets, seed)
    pipeline, sampler = synth._fit.pipeline, synth._fit.sampler
    rows = []
    for title in chosen:
        made, took = drawn(sampler, pipeline.root, samples, title == "pyramid")
        maps = pipeline.physical(made)
        rows.append({
            "title": title, "fit": fit, "map": took, "shown": (values[:SHOWN], maps[:SHOWN]),
            **judge(maps), "coarse": judge_coarse(coarse(maps)),
        })  # fmt: skip
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=[*SETS][:3])
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--samples", type=int, default=FIT)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS])
    parser.add_argument("--image", help="the image of the Sun")
    parser.add_argument("--pictures", type=Path)
    known = parser.parse_args()
    header = [
        "set", "seed", "maps", "fit", "map", "power", "classifier", "coarse", *FAMILIES[:5],
    ]  # fmt: skip
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|", flush=True)
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, fresh, max_tasks_per_child=1) as pool:
        for name in known.sets:
            for seed in known.seeds:
                todo = name, known.side, known.image, known.samples, seed, known.rows
                rows = pool.submit(measured, *todo).result()
                for row in rows:
                    print("| " + " | ".join(cells(name, seed, row)) + " |", flush=True)
                if known.pictures:
                    picture(rows, known.pictures / f"pyramid-{name}-{known.side}-{seed}.png")


def cells(name: str, seed: int, row: dict[str, Any]) -> list[str]:
    """The cells of one row."""
    return [
        name, str(seed), row["title"], f"{row['fit']:.0f}", f"{row['map']:.2f}",
        " / ".join(f"{r:.2f}" for r in row["power"][0]), beside(row["classifier"]),
        f"{row['coarse']['classifier'][0]:.2f}, {octave(row['coarse']):.2f}",
        *(beside(row["families"][n]) for n in FAMILIES[:5]),
    ]  # fmt: skip


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Targets above the samples of every row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = [rows[0]["shown"][0], *(row["shown"][1] for row in rows)]
    stretch = Stretch.fit(shown[0])
    figure = Figure(figsize=(SHOWN * 1.5, 1.5 * len(shown)), layout="constrained")
    for axes, image in zip(
        figure.subplots(len(shown), SHOWN).flat, np.concatenate(shown), strict=True
    ):
        axes.imshow(stretch(image[0]), cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
        axes.set_axis_off()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
