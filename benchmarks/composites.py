"""Patch composites in the place of the calibrated denoiser below a noise level, with steering.

    python -m benchmarks.composites examples/reionisation.yaml examples/sun.yaml --tops 0 0.5 4

Means over mixtures of Gaussians leave fringes where real maps have sharp fronts. The posterior mean
over the targets' own patches (`benchmarks.rivals.closed_forms`) has the higher error, and every one
of its patches is real. One fit per target set; from `sigma/alpha` of each of `--tops` down the
steps are made with composites (0: with none). Scores are those of `farfield bench science`; *near*
is the per cent of samples nearer to a target in scattering moments than 99 in 100 held-out maps.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from benchmarks.ablation import plain
from benchmarks.nfe import say
from benchmarks.rivals.closed_forms import border, chosen_sides, composite, drawn_patches
from benchmarks.science.scoring import scored
from benchmarks.science.targets import BenchTargets
from ood_core.arrays import Maps
from ood_core.config.targets import Symmetry
from ood_core.denoising.calibrated import Labels
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.metrics.discrepancy import row_distances
from ood_core.metrics.distances import Whitening
from ood_core.metrics.scattering import scattering_features
from ood_core.models.loading import load_model
from ood_core.numerics.random import Root, SeedRange
from ood_core.synthesis.pipeline import Pipeline
from ood_core.synthesis.synthesizer import Synthesizer

FAMILIES = ("bispectrum", "phases", "minkowski", "peaks", "detail")


@dataclass(frozen=True)
class Composites:
    """The posterior mean over patches of targets up to `top`, another denoiser above it."""

    inner: Denoiser
    top: float
    banks: dict[int, torch.Tensor]
    symmetries: tuple[Symmetry, ...]

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule of the denoiser inside."""
        return self.inner.schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return the estimate of clean maps."""
        noise = self.schedule.noise_to_signal(t)
        if noise > self.top:
            return self.inner(x_t, t)
        y = x_t / float(self.schedule.alpha[t])
        return composite(y, self.banks[t], noise, border(self.symmetries))


def near(maps: Maps, targets: BenchTargets) -> float:
    """Per cent of maps nearer to a configured fit target than 99 in 100 scoring maps."""
    fit, real = targets.maps.fit_ranged, targets.ranged(targets.scoring_values)
    whitened = Whitening.fit(scattering_features(fit).float())
    own, held, known = (whitened(scattering_features(m).float()) for m in (maps, real, fit))
    least = [row_distances(rows, known).min(1).values for rows in (own, held)]
    return 100 * float((least[0] <= least[1].quantile(0.01)).double().mean())


def table(config: Path, n: int, seed: int, samples: int, tops: list[float]) -> None:
    """Print the rows of one target set."""
    targets = BenchTargets.load(config)
    model, chosen = load_model(targets.settings.base), targets.chosen_set(n, seed)
    fitted = Synthesizer(model, targets.settings.method).fit(chosen, seed, progress=False)
    pipeline = fitted._fit.pipeline
    ratios = {t: pipeline.base.schedule.noise_to_signal(t) for t in pipeline.timesteps.tolist()}
    sides = chosen_sides(chosen.fit_ranged, chosen.symmetries, ratios)
    drawn = {
        side: drawn_patches(chosen.fit_ranged, side, chosen.symmetries)
        for side in set(sides.values())
    }
    banks = {t: drawn[side] for t, side in sides.items()}
    for top in tops:
        sampler, begin = plain(fitted), time.process_time()
        with patched(top, banks, chosen.symmetries):
            maps = sampler.sample(SeedRange(pipeline.root, 0, samples)).maps
        physical = sampler._pipeline.physical(maps.cpu())
        seconds = (time.process_time() - begin) / samples
        found = scored(physical, targets, targets.fit_values(n, seed), Root.of(f"science/{seed}"))
        fsd = found["scores"]["fsd"]
        figures = [
            found["unsteered_c2st"]["value"], fsd["value"] - fsd["real"], max(found["octaves"]),
            *(found["families"][name]["value"] for name in FAMILIES),
            found["nearest_ratio"], near(targets.ranged(physical), targets), seconds,
        ]  # fmt: skip
        say(config.stem, f"{top:g}", *[f"{figure:.3g}" for figure in figures])


@contextmanager
def patched(
    top: float, banks: dict[int, torch.Tensor], symmetries: Sequence[Symmetry]
) -> Iterator[None]:
    """Pipelines whose denoisers are composites up to a noise level."""
    usual, group = Pipeline.denoiser, tuple(symmetries)

    def denoiser(pipeline: Pipeline, labels: Labels) -> Denoiser:
        return Composites(usual(pipeline, labels), top, banks, group)

    with mock.patch.object(Pipeline, "denoiser", denoiser):
        yield


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--tops", type=float, nargs="+", default=[0.0, 0.5, 4.0])
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=64)
    known = parser.parse_args()
    torch.set_num_threads(1)
    header = ["targets", "composites up to", "classifier", "FSD above real", "octave", *FAMILIES]
    header += ["nearest ratio", "near, %", "CPU s per map"]
    say(*header)
    say(*["---"] * len(header))
    for config in known.configs:
        table(config, known.n, known.seed, known.samples, known.tops)


if __name__ == "__main__":
    main()
