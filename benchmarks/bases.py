"""What bases are worth to the calibrated denoiser, as a Markdown table.

python -m benchmarks.bases --targets examples/hubble.yaml examples/sun.yaml --bases A B ...

One row per base and target set, all with the same targets, timesteps and noise. Errors are mean
squared errors of 96 held-out maps over the maps' variance, at `sigma/alpha` of each column:

- bare: the base alone, shown no targets;
- stack: all experts with the base, weights fitted to the fit targets, none pruned;
- worth: by how many per cent the stack's error rises without the base, of all pixels and of the
  brightest 3 %.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from flows.settings import load_settings
from ood_core.arrays import Maps
from ood_core.config.method import CalibrationSpec
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.maps.paths import BOTH
from ood_core.maps.target_set import TargetSet
from ood_core.models.loading import load_model
from ood_core.numerics.random import Stream, normal_like, root_key
from ood_core.synthesis.pipeline import Calibrator, ExpertPlan, Pipeline, fit_mixtures

RATIOS = (0.1, 0.4, 1.0, 2.5)
HELD_OUT, BRIGHT = 96, 0.03
NAME = "bases"


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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="+", required=True)
    parser.add_argument("--bases", nargs="+", required=True)
    known = parser.parse_args()
    torch.set_num_threads(1)
    header = ["targets", "base", "bare", "stack", "worth, %", "worth where bright, %"]
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for config in known.targets:
        for base in known.bases:
            cells = [" / ".join(row) for row in measure(base, config)]
            name = BOTH.join(Path(one).name for one in base.split(BOTH))
            print("| " + " | ".join([Path(config).stem, name, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
