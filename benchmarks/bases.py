"""What bases are worth to the calibrated denoiser, as a Markdown table.

python -m benchmarks.bases --targets examples/hubble.yaml examples/sun.yaml --bases A B ...

One row per base and target set, all with the same targets, timesteps and noise. Errors are mean
squared errors of 96 held-out maps over the maps' variance, at `sigma/alpha` of each column:

- bare: the base alone, shown no targets;
- stack: all experts with the base, weights fitted to the fit targets, none pruned;
- worth: by how many per cent the stack's error rises without the base, of all pixels and of the
  brightest 3 %.

python -m benchmarks.bases --repel --targets examples/hubble.yaml examples/sun.yaml --bases A

What it is worth to repel the base's own domain: estimates `D + w (D - base)`, with the calibrated
denoiser `D` of the method as it is. One row per weight `w`: their error over that of `D`, as above,
and scores of 64 samples.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from unittest import mock

import torch

from flows.settings import load_settings
from ood_core.arrays import Maps
from ood_core.config.method import CalibrationSpec
from ood_core.denoising.calibrated import Labels
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.evaluation.evaluate import evaluate
from ood_core.maps.paths import BOTH
from ood_core.maps.target_set import TargetSet
from ood_core.models.loading import load_model
from ood_core.numerics.random import SeedRange, Stream, normal_like, root_key
from ood_core.synthesis.pipeline import Calibrator, ExpertPlan, Pipeline, fit_mixtures
from ood_core.synthesis.sampler import Sampler
from ood_core.synthesis.synthesizer import Synthesizer

RATIOS = (0.1, 0.4, 1.0, 2.5)
HELD_OUT, BRIGHT = 96, 0.03
NAME = "bases"
REPEL, SAMPLES = (0.0, 0.1, 0.3), 64
SCORES = ("spectrum_error", "fsd", "c2st")


@dataclass(frozen=True)
class Nothing:
    """A base that adds nothing: its estimate is that of the first expert.

    A `network` says where it is, and is not asked.
    """

    schedule: NoiseSchedule
    network: torch.nn.Module | None = None

    def __call__(self, x_t: Maps, t: int, *context: object) -> Maps:
        """Return the noised map."""
        return x_t / float(self.schedule.alpha[t])


def errors(denoiser: Denoiser, maps: Maps, t: int) -> tuple[float, float]:
    """Squared error over variance, of all pixels and of the brightest."""
    alpha, sigma = (float(row[t]) for row in (denoiser.schedule.alpha, denoiser.schedule.sigma))
    x_t = alpha * maps + sigma * normal_like(maps, root_key(NAME), t, Stream.CALIBRATION)
    wrong = (denoiser(x_t, t) - maps).square() / maps.var()
    bright = maps > maps.flatten().sort().values[int((1 - BRIGHT) * maps.numel())]
    return float(wrong.mean()), float(wrong[bright].mean())


def measure(source: str, config: str) -> list[list[str]]:
    """The rows of one base on one set: bare, stack, worth, worth where bright."""
    settings = load_settings(Path(config))
    targets, model = TargetSet.of(settings.targets), load_model(source)
    schedule, spec = model.denoiser.schedule, CalibrationSpec(prune_tolerance=0)
    method = replace(settings.method, calibration=spec).resolve(schedule)
    seen, symmetries = targets.fit_seen, targets.symmetries
    plan = ExpertPlan.of(seen, symmetries, spec, len(model.each))
    every, *halves = fit_mixtures(seen, spec, symmetries, NAME)
    held_out, found = targets.held_out_ranged[:HELD_OUT], []
    for network in (model.denoiser, Nothing(schedule)):
        pipeline = Pipeline.of(
            model, targets, method, root_key(NAME), model.device,
            network=network, plan=plan, patches=every,
        )  # fmt: skip
        calibrator = Calibrator(pipeline, (halves[0], halves[1]))
        indices = [schedule.index_of(ratio) for ratio in RATIOS]
        weights = calibrator.weights({t: calibrator.weights_at(t) for t in indices})
        stack = pipeline.calibrated(weights).denoiser(pipeline.labels(held_out))
        found.append([errors(stack, held_out, t) for t in indices])
    bare = [errors(model.denoiser, held_out, t)[0] for t in indices]
    worth = [
        [f"{100 * (without[i] / with_[i] - 1):.1f}" for with_, without in zip(*found, strict=True)]
        for i in (0, 1)
    ]
    return [[f"{e:.4f}" for e in bare], [f"{e:.4f}" for e, _ in found[0]], *worth]


@dataclass(frozen=True)
class Repelling:
    """Estimates that are driven away from those of another denoiser, by a weight."""

    inner: Denoiser
    other: Denoiser
    weight: float

    @property
    def schedule(self) -> NoiseSchedule:
        """That of both."""
        return self.inner.schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return `D + w (D - other)`."""
        clean = self.inner(x_t, t)
        return clean + self.weight * (clean - self.other(x_t, t))


@contextmanager
def repelling(weight: float) -> Iterator[None]:
    """Pipelines whose denoisers are driven away from the base by a weight."""
    usual = Pipeline.denoiser

    def denoiser(pipeline: Pipeline, labels: Labels) -> Denoiser:
        return Repelling(usual(pipeline, labels), pipeline.network, weight)

    with mock.patch.object(Pipeline, "denoiser", denoiser):
        yield


def repelled(source: str, config: str) -> Iterator[list[str]]:
    """The rows of one base on one set: weight, errors over those of weight 0, scores."""
    settings = load_settings(Path(config))
    targets = TargetSet.of(settings.targets)
    synth = Synthesizer(load_model(source), settings.method).fit(targets, progress=False)
    fitted = synth._fit
    pipeline, held_out = fitted.pipeline, targets.held_out_ranged[:HELD_OUT]
    schedule, labels = pipeline.base.schedule, pipeline.labels(held_out)
    grid = pipeline.timesteps.tolist()
    nearest = [min(grid, key=lambda t: abs(schedule.noise_to_signal(t) / r - 1)) for r in RATIOS]
    plain = [errors(pipeline.denoiser(labels), held_out, t)[0] for t in nearest]
    latents, prior = fitted.latents[list(fitted.held)], fitted.prior
    for weight in REPEL:
        with repelling(weight):
            wrong = [errors(pipeline.denoiser(labels), held_out, t)[0] for t in nearest]
            sampler = Sampler(pipeline, prior.prior, prior.geometry, latents, fitted.held)
            made = sampler.sample(SeedRange(pipeline.root, 0, SAMPLES)).maps.cpu()
        scores = evaluate(pipeline.physical(made), targets).scores
        cells = " / ".join(f"{w / p:.3f}" for w, p in zip(wrong, plain, strict=True))
        yield [f"{weight:g}", cells, *(f"{scores[name].value:.3f}" for name in SCORES)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="+", required=True)
    parser.add_argument("--bases", nargs="+", required=True)
    parser.add_argument("--repel", action="store_true")
    known = parser.parse_args()
    torch.set_num_threads(1)
    if known.repel:
        header = ["targets", "base", "w", "error over that of D", *SCORES]
        print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|", flush=True)
        for config, base in product(known.targets, known.bases):
            for row in repelled(base, config):
                print(
                    f"| {Path(config).stem} | {Path(base).name} | {' | '.join(row)} |", flush=True
                )
        return
    header = ["targets", "base", "bare", "stack", "worth, %", "worth where bright, %"]
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for config in known.targets:
        for base in known.bases:
            cells = [" / ".join(row) for row in measure(base, config)]
            name = BOTH.join(Path(one).name for one in base.split(BOTH))
            print("| " + " | ".join([Path(config).stem, name, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
