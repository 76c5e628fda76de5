"""From which noise level on are latents draws of the fitted prior? One Markdown row per level.

    python -m benchmarks.levels examples/hubble.yaml examples/sun.yaml

Cross-fitted on the fit targets alone: either half is inverted by experts that were fitted to the
other half, whose own latents the prior is fitted to, as a run does. What is unseen should then be
a draw of the prior. `p` is of an energy test of these latents against draws, per octave of
wavenumber, adjusted for the number of octaves and folds; `seen` is the least energy distance over
the distance of draws that the test would find in 80 of 100 cases. The last column is the same
test against N(0, I). The level of the default is the lowest that no octave rejects.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.nfe import say
from flows.settings import load_settings
from ood_core.arrays import Latents
from ood_core.denoising.calibrated import TargetExperts
from ood_core.maps.target_set import TargetSet
from ood_core.metrics.discrepancy import adjusted, detectable_difference, energy_test
from ood_core.models.loading import load_model
from ood_core.numerics.covariance import wavenumbers
from ood_core.numerics.random import Root, SeedRange, normal
from ood_core.synthesis.pipeline import (
    Calibrator,
    ExpertPlan,
    Pipeline,
    fit_mixtures,
    fit_prior_of,
    time_grid,
)

LEVELS = (0.5, 1.0, 2.0, 4.0, 8.0, 12.0)
DRAWS, SPLITS = 128, 50
NAME = "levels"
ROOT = Root.of(NAME)


def octaves(latents: Latents) -> list[Tensor]:
    """Fourier modes of every octave of wavenumber, as rows of real numbers."""
    modes = torch.fft.rfft2(latents.double(), norm="ortho")
    y, x = latents.shape[-2:]
    number = (wavenumbers(y, x)[:, : x // 2 + 1] * min(y, x)).clamp(min=1).log2().floor()
    return [torch.view_as_real(modes[..., number == n]).flatten(1) for n in number.unique()]


def compare(own: Latents, other: Latents) -> tuple[list[float], list[float]]:
    """p-values per octave, and the least relative distances that would be seen."""
    p, seen = [], []
    for number, (a, b) in enumerate(zip(octaves(own), octaves(other), strict=True)):
        rng = ROOT.child("octave", str(number)).generator()
        p.append(energy_test(a, b, rng).p_value)
        least = detectable_difference(b, len(a), len(b), rng, splits=SPLITS)[1]
        seen.append(least / float(torch.pdist(b).mean()))
    return p, seen


def rows(config: str) -> None:
    """Print the rows of one target set."""
    settings = load_settings(Path(config))
    targets, model = TargetSet.of(settings.targets), load_model(settings.base)
    schedule, symmetries = model.denoiser.schedule, targets.symmetries
    method, seen = settings.method.resolve(schedule), targets.fit_seen
    spec = method.calibration
    assert spec is not None, "the default calibrates"
    plan = ExpertPlan.of(seen, symmetries, spec, len(model.each))
    every, *halves = fit_mixtures(seen, spec, symmetries, NAME)
    top = replace(method, t_max=schedule.index_of(LEVELS[-1]))
    pipeline = Pipeline.of(model, targets, top, ROOT.key, model.device, plan=plan, patches=every)
    calibrator = Calibrator(pipeline, (halves[0], halves[1]))
    weights = {t: calibrator.weights_at(t) for t in pipeline.timesteps.tolist()}
    pipeline = pipeline.calibrated(calibrator.weights(weights))
    folds = TargetExperts.cross_fitted(
        seen, schedule, plan.rho, plan.n_clusters, symmetries, halves, pipeline.show
    )
    for level in LEVELS:
        at = replace(top, t_max=schedule.index_of(level))
        grid = replace(pipeline, method=at, timesteps=time_grid(schedule, at))
        p, white, seen_by = [], [], []
        for fold, laws in enumerate(folds):
            fitted = replace(grid, experts=laws)

            def latents(maps: Tensor, fitted: Pipeline = fitted) -> Latents:
                return fitted.lift(fitted.denoiser(fitted.labels(maps)), maps).latents

            prior = fit_prior_of(at, latents(seen[1 - fold :: 2]), symmetries, NAME).prior
            left_out = latents(seen[fold::2])
            seeds = SeedRange(ROOT.key, fold * DRAWS, (fold + 1) * DRAWS)
            found, least = compare(left_out, prior.sample(seeds))
            p += found
            seen_by += least
            white += compare(left_out, normal(seeds, tuple(left_out.shape[1:])))[0]
        by_octave = torch.tensor(adjusted(p)).reshape(2, -1).amin(0).tolist()
        least = torch.tensor(seen_by).reshape(2, -1).amax(0).tolist()
        shown = [" / ".join(f"{v:.3f}" for v in values) for values in (by_octave, least)]
        say(Path(config).stem, f"{level:g}", *shown, f"{min(adjusted(white)):.3f}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="+")
    torch.set_num_threads(1)
    header = ("targets", "sigma/alpha", "p per octave", "seen per octave", "p of N(0, I)")
    say(*header)
    say(*["---"] * len(header))
    for config in parser.parse_args().configs:
        rows(config)


if __name__ == "__main__":
    main()
