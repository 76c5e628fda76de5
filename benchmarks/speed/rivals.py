"""A run's decode beside what people use, one thread, arrays in memory, in turns.

The part `run` gives prior and weights. What is compared is time; quality of each is in
`docs/results.md`.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMPipeline, DDIMScheduler

from actors.loading import load_pipeline
from actors.workers import sample_rows
from benchmarks.record import FOLDER, Figure
from benchmarks.speed.network import in_turns
from flows.settings import PROJECT, load_settings
from ood_core.denoising.calibrated import BASE
from ood_core.diffusion.sampling import decode
from ood_core.diffusion.solvers import Ddim, last
from ood_core.metrics.scattering import MIN_MODULUS, Scattering
from ood_core.store.plan import Shard
from ood_core.store.run import RunStore
from ood_core.synthesis.pipeline import Pipeline

ROWS = 16
STEPS_PUBLISHED = 80
TIMESTEP_PUBLISHED = 900
STEPS_DDIM = 50
LBFGS = 100
"""Iterations of scattering synthesis, as its packages take by default."""


def measure(arguments: argparse.Namespace) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Maps per second of a run's decode over those of every rival."""
    settings = load_settings(PROJECT / arguments.config)
    run = RunStore.open(str(FOLDER / "run"))
    pipeline = load_pipeline(run, settings.base, "cpu", run.dtype)
    rows, seen = sample_rows(run, pipeline), pipeline.targets.fit_seen
    one, many = torch.randn(1, *seen.shape[1:]), torch.randn(ROWS, *seen.shape[1:])
    counted = pipeline.base.nfe
    rows(Shard(0, 0, 2, 2))()()
    calls_per_map = (pipeline.base.nfe - counted) / 2
    grid = pipeline.base.schedule.uniform_grid(STEPS_PUBLISHED + 1, TIMESTEP_PUBLISHED)
    diffusers_pipeline = _diffusers_pipeline(pipeline.base)
    calls = {
        "run": lambda: rows(Shard(0, 0, ROWS, ROWS))()(),
        "network of the run": lambda: [pipeline.base(many, t) for t in base_timesteps(pipeline)],
        "published, 80 down": lambda: decode(pipeline.base, "ddim", one, grid),
        "published, 79 up": lambda: last(pipeline.base, Ddim(), one, grid[:-1]),
        "DDIM pipeline, 50 steps": lambda: diffusers_pipeline(
            batch_size=ROWS, num_inference_steps=STEPS_DDIM, output_type="np"
        ),
        "scattering synthesis": lambda: synthesise(seen[:1]),
    }
    taken = in_turns(calls, arguments.repeats, torch.device("cpu"))
    size = {"run": ROWS, "network of the run": ROWS, "DDIM pipeline, 50 steps": ROWS}
    per_map = {name: [s / size.get(name, 1) for s in v] for name, v in taken.items()}
    pairs = zip(per_map["published, 79 up"], per_map["published, 80 down"], strict=True)
    per_map["published, 79 up and 80 down"] = [up + down for up, down in pairs]
    del per_map["published, 79 up"]
    figures = {
        f"run over {name}": Figure.of(
            [them / us for us, them in zip(per_map["run"], other, strict=True)]
        )
        for name, other in per_map.items()
        if name != "run"
    }
    more = {"seconds_per_map": per_map, "calls_per_map": calls_per_map}
    return figures, more


def base_timesteps(pipeline: Pipeline) -> list[int]:
    """Timesteps at which a run calls the network."""
    if pipeline.weights is None:
        return [int(t) for t in pipeline.timesteps]
    used = pipeline.weights.weights[:, :, BASE].ne(0).any(dim=1)
    return [int(t) for t, yes in zip(pipeline.timesteps, used, strict=True) if yes]


def _diffusers_pipeline(base: Any) -> DDIMPipeline:
    """The pipeline of diffusers on the same network."""
    network = base._inner._inner.network
    pipeline = DDIMPipeline(getattr(network, "unet", network), DDIMScheduler(clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def synthesise(target: torch.Tensor) -> torch.Tensor:
    """A map with the scattering moments of another, from noise, by L-BFGS (Bruna & Mallat 2019)."""
    scattering = Scattering(target.shape[-1])
    aim, _ = moments(scattering, target)
    made = torch.randn_like(target).requires_grad_()
    search = torch.optim.LBFGS([made], max_iter=LBFGS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        found, by_maps = moments(scattering, made.detach())
        gap = found - aim
        made.grad = by_maps(2 * gap)
        return gap.square().sum()

    search.step(loss)
    return made.detach()


def moments(
    scattering: Scattering, maps: torch.Tensor
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """Logarithms of mean moduli, then of spreads of those of first order, of maps of one channel.

    Second is what gives gradients by maps of gradients by these, in closed form, as steering does.
    """
    modes = torch.fft.fft2(maps[:, 0], norm="forward")
    means, responses = scattering.means(modes)
    first, energies = means[:, scattering.first], scattering.energies
    squares = torch.view_as_real(modes).square().sum(-1).flatten(1)
    variance = squares @ energies.flatten(1).T - first.square() + MIN_MODULUS**2
    count = means.shape[1]

    def by_maps(pull: torch.Tensor) -> torch.Tensor:
        by_variance = 0.5 * pull[:, count:] / variance
        by_means = pull[:, :count] / (means + MIN_MODULUS)
        by_means = by_means.index_add(1, scattering.first, by_variance * first, alpha=-2)
        by_modes = 2 * modes * (by_variance @ energies.flatten(1)).view_as(modes)
        by_modes = by_modes + scattering.adjoint(responses, by_means)
        return torch.fft.ifft2(by_modes, norm="forward").real[:, None] / maps[0].numel()

    return torch.cat([(means + MIN_MODULUS).log(), 0.5 * variance.log()], 1), by_maps
