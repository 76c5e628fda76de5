"""What `t_max` does: the curve that `t_max: auto` chooses by, beside what samples score.

    python -m benchmarks.timesteps runs/hubble [--ratios 3 6 12 24] [--samples 32]

Base, targets and calibration are those of a finished run. At each `sigma/alpha` the fit targets are
inverted anew, the prior is fitted anew, and samples are decoded from there in the run's number of
steps. Scores as in `benchmarks/nfe.py`; lower is better.
"""

import argparse
import subprocess
import time
from dataclasses import replace
from typing import Any

import torch

from actors.loading import load_pipeline
from benchmarks.nfe import SCORES, Scorer, say
from flows.runs.timestep_choice import CANDIDATES, MAPS, MAX_RATIO, MIN_RATIO, ROOT
from ood_core.denoising.aims import StatisticAims
from ood_core.denoising.statistics import Statistics
from ood_core.denoising.steered import SteeredDenoiser
from ood_core.diffusion.sampling import decode, invert
from ood_core.estimators.prior import fit_gaussian
from ood_core.numerics.random import SeedRange
from ood_core.store.run import RunStore
from ood_core.synthesis.pipeline import Pipeline, time_grid
from ood_core.synthesis.timesteps import choose, log_timesteps, timestep_curve

INVERTED = 16  # at once


def at_ratio(pipeline: Pipeline, ratio: float) -> Pipeline:
    """The pipeline with its latents at another timestep."""
    t_max = pipeline.base.schedule.index_of(ratio)
    method = replace(pipeline.method, t_max=t_max)
    return replace(pipeline, method=method, timesteps=time_grid(pipeline.base.schedule, method))


def samples(pipeline: Pipeline, count: int) -> torch.Tensor:
    """Maps in model range from a prior fitted at the pipeline's `t_max`, steered as in the run."""
    seen, method = pipeline.targets.fit_seen, pipeline.method
    labels = pipeline.labels(seen)
    parts = [
        invert(
            pipeline.denoiser(own), maps, pipeline.timesteps, method.fixed_point_iterations
        ).latents
        for maps, own in zip(seen.split(INVERTED), labels.split(INVERTED), strict=True)
    ]
    prior = fit_gaussian(torch.cat(parts), method.prior, pipeline.targets.symmetries)
    assert method.steering is not None, "the run steers"
    statistics = Statistics(seen.shape[-2], method.steering.radial_bins, seen.shape[-1])
    aims = StatisticAims.measure(
        statistics, seen, pipeline.targets.symmetries, method.steering.neighbours
    )
    seeds = SeedRange(pipeline.root, 0, count)
    aim, parents = aims.draw(seeds)
    plain = pipeline.denoiser(labels[parents[:, 0]])
    steered = SteeredDenoiser(plain, statistics, aim, aims, method.steering, seeds)
    return decode(steered, method.solver, prior.sample(seeds), pipeline.timesteps, seeds)


def main() -> None:
    """Print the curve with its seconds, the choice, and one row of scores per `t_max`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--ratios", type=float, nargs="+", default=[3.0, 6.0, 12.0, 24.0])
    parser.add_argument("--samples", type=int, default=32)
    arguments: Any = parser.parse_args()
    run = RunStore.open(arguments.run)
    pipeline = load_pipeline(run, run.record["settings"]["base"], "cpu", "float32")
    git = ["git", "rev-parse", "--short", "HEAD"]
    say("commit", subprocess.run(git, capture_output=True, text=True).stdout.strip(), arguments.run)
    schedule, targets = pipeline.base.schedule, pipeline.targets
    candidates = log_timesteps(schedule, MIN_RATIO, MAX_RATIO, CANDIDATES)
    began, cpu = time.monotonic(), time.process_time()
    fit, held_out, t_min = (
        targets.fit_ranged[:MAPS],
        targets.held_out_ranged[:MAPS],
        pipeline.method.ends[0],
    )
    curve = timestep_curve(pipeline.base, fit, held_out, candidates, t_min, ROOT)
    took, used = time.monotonic() - began, time.process_time() - cpu
    say("sigma/alpha", "explained", "error", "separability")
    for point in curve:
        values = point.noise_to_signal, point.explained, point.error, point.separability
        say(*[f"{value:.4g}" for value in values])
    say("chosen", f"{choose(curve).noise_to_signal:.3g}", f"{took:.0f} s, {used:.0f} CPU s")
    scorer = Scorer.of(pipeline)
    say("sigma/alpha", *SCORES)
    for ratio in arguments.ratios:
        scores = scorer.scores(samples(at_ratio(pipeline, ratio), arguments.samples))
        say(f"{ratio:g}", *[f"{scores[name]:.3g}" for name in SCORES])


if __name__ == "__main__":
    main()
