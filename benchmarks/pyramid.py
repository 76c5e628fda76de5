"""Would a pyramid help? Maps drawn given coarse ones beside maps drawn at once.

    python -m benchmarks.pyramid [--sets lognormal reionisation sun] [--side 64] [--seeds 0]
        [--rows pyramid] [--image SUN.jp2] [--samples 64] [--pictures FOLDER]

The method is fitted to maps of a set of `benchmarks.sizes`, and again to their means over blocks,
32 to a side, in model range. On the way down every estimate is held to a coarse map: of a field of
the targets' power `P`, with noise of `s = sigma/alpha`, what the means `B x0` over blocks say of
the map given `x_t` is

    D + A^2 B^T (B A^2 B^T + e^2)^-1 (coarse - B D),      A(k)^2 = P(k) s^2 / (P(k) + s^2)

(conditional Gaussian; Rasmussen & Williams 2006, A.6), exact mode by mode on the torus; `e` is the
error that coarse maps are taken to have. It is done before steering and after. Rows:

- at once: the product as it is;
- pyramid: given coarse samples, towards aims of the same targets with the same weights, `e` 0;
- loose pyramid: with `e` 0.1 of the model's range of 2, so that the last steps are free.

Columns as in `benchmarks.sizes`, coarse maps judged in the mean of physical values there; *fit* and
*map* in CPU seconds, of both levels for the pyramid.
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
from torch import Tensor

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
from ood_core.arrays import Map, Maps
from ood_core.denoising.steered import SteeredDenoiser
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.evaluation.features import FeatureExtractor, Features
from ood_core.evaluation.two_sample import two_sample_tests
from ood_core.metrics.distances import Whitening
from ood_core.metrics.spectra import octave_ratios, power_spectrum
from ood_core.numerics.random import Root, SeedRange
from ood_core.report.pictures import Stretch
from ood_core.synthesis.sampler import Sampler

ROWS = {"at once": None, "pyramid": 0.0, "loose pyramid": 0.1}
"""Every row, and the error that its coarse maps are taken to have."""


def block_means(maps: Maps, factor: int) -> Maps:
    """Means over blocks of `factor` pixels a side."""
    return torch.nn.functional.avg_pool2d(maps, factor)


@final
class HeldToCoarse:
    """Estimates whose means over blocks are those of coarse maps, `(n, c, y, x)`."""

    def __init__(self, inner: Denoiser, means: Maps, power: Map, error: float) -> None:
        self._inner, self._means, self._power, self._error = inner, means, power, error

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule of the denoiser inside."""
        return self._inner.schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return the estimate given the coarse maps as well."""
        ratio = self.schedule.noise_to_signal(t)
        return held(self._inner(x_t, t), self._means, self._power, ratio, self._error)


def held(estimate: Maps, means: Maps, power: Map, ratio: float, error: float = 0.0) -> Maps:
    """Move estimates to the mean given noise of `ratio` and means over blocks with an error."""
    factor = estimate.shape[-1] // means.shape[-1]
    variance = power / (power / ratio**2 + 1)
    gap = means - block_means(estimate, factor)
    spread = gap.repeat_interleave(factor, -2).repeat_interleave(factor, -1) / factor**2  # B^T
    both = _folded(_box(variance.shape[-2:], factor).abs().square() * variance, factor) + error**2
    whitened = torch.fft.fft2(spread) / both.repeat(1, factor, factor).clamp_min(1e-12)
    return estimate + torch.fft.ifft2(whitened * variance).real


def _box(shape: Any, factor: int) -> Tensor:
    """Fourier modes of the mean over a block."""
    kernel = torch.zeros(*shape)
    kernel[:factor, :factor] = 1 / factor**2
    return torch.fft.fft2(kernel)


def _folded(modes: Tensor, factor: int) -> Tensor:
    """Mean over the modes that coarse pixels cannot tell from one another."""
    c, y, x = modes.shape
    return modes.reshape(c, factor, y // factor, factor, x // factor).mean((1, 3))


def draw(sampler: Sampler, seeds: SeedRange, means: Maps | None, error: float) -> Maps:
    """A batch of samples, given coarse maps if there are any."""
    if means is None:
        return sampler.sample(seeds).maps
    drawn, pipeline, power = sampler.drawn(seeds), sampler._pipeline, sampler.aims.power
    spec = pipeline.method.steering
    denoiser: Denoiser = HeldToCoarse(pipeline.denoiser(drawn.labels), means, power, error)
    if spec is not None:
        steps = pipeline.timesteps.tolist()[::-1]
        denoiser = SteeredDenoiser(
            denoiser, sampler._statistics, drawn.aim, sampler.aims, spec, seeds, steps
        )
        denoiser = HeldToCoarse(denoiser, means, power, error)
    return pipeline.decode(denoiser, drawn.draws.latents, seeds)


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
    """A fit and its CPU seconds."""
    began = time.process_time()
    synth = ff.Synthesizer(ff.load_model(BASE), batch=BATCH).fit(targets, seed, progress=False)
    return synth, time.process_time() - began


def measured(
    name: str, side: int, image: str | None, samples: int, seed: int, chosen: list[str]
) -> list[dict[str, Any]]:
    """The rows of one set and seed."""
    torch.set_num_threads(1)
    make, transform = SETS[name]
    values = make(side, image)
    targets = target_set(values, transform)
    few = target_set(coarse(targets.ranged(values).numpy()), "linear")
    judge, judge_coarse = Judge(targets), Judge(target_set(coarse(values), transform))
    (fine, fit), (first, fit_first) = fitted(targets, seed), fitted(few, seed)
    sampler, root = fine._fit.sampler, fine._fit.pipeline.root
    starts = range(0, samples, BATCH)
    batches = [SeedRange(root, at, at + BATCH) for at in starts]
    began = time.process_time()
    low = torch.cat([first._fit.sampler.sample(seeds).maps for seeds in batches])
    low = torch.from_numpy(few.physical(low))
    cost_first = (time.process_time() - began) / samples
    # The same images with the same weights: what a coarse sample was steered to.
    own, other = sampler.aims, first._fit.sampler.aims
    rows = []
    for title in chosen:
        error = ROWS[title]
        means = None if error is None else low
        sampler.aims = (
            own
            if means is None
            else replace(own, neighbours=other.neighbours, share=other.share, novel=other.novel)
        )
        began = time.process_time()
        made = [
            draw(sampler, seeds, None if means is None else means[at : at + BATCH], error or 0.0)
            for at, seeds in zip(starts, batches, strict=True)
        ]
        took = (time.process_time() - began) / samples
        maps = fine._fit.pipeline.physical(torch.cat(made))
        more = means is not None
        rows.append({
            "title": title, "fit": fit + more * fit_first, "map": took + more * cost_first,
            "shown": (values[:SHOWN], maps[:SHOWN]), **judge(maps),
            "coarse": judge_coarse(coarse(maps)),
        })  # fmt: skip
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=[*SETS][:3])
    parser.add_argument("--side", type=int, default=64)
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
