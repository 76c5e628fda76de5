"""`farfield models timesteps`: timesteps for a run, by its denoiser's errors at fit targets.

Each half of them is denoised by experts that were fitted to the other one. Held-out maps, which
judge what is chosen, choose nothing.

The grid of least cost (`ood_core/synthesis/timesteps.py`) for every number of steps, beside the
even one in `ln(sigma/alpha)` between the same ends.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from flows.progress import listener
from flows.runs.reload import fitted_pipeline
from flows.settings import RunSettings
from ood_core.arrays import Maps
from ood_core.denoising.calibrated import TargetExperts
from ood_core.diffusion.denoiser import Denoiser
from ood_core.errors import ConfigError
from ood_core.numerics.random import root_key
from ood_core.store.fitted import read_patches
from ood_core.store.run import RunStore
from ood_core.synthesis.pipeline import Pipeline
from ood_core.synthesis.timesteps import StepCosts, error_curve, log_timesteps

CANDIDATES = 48
COUNTS = (4, 6, 8, 10, 12, 16, 20)


def search_timesteps(run: RunStore, settings: RunSettings, steps: int, maps: int) -> dict[str, Any]:
    """Measure errors and search grids; `steps` is the number that a grid is printed for.

    Raises:
        ConfigError: more steps than candidate timesteps.
        RunIncomplete: the targets of the run are not inverted yet.
    """
    pipeline = fitted_pipeline(run, settings)
    schedule, first, top = (
        pipeline.base.schedule,
        int(pipeline.timesteps[0]),
        int(pipeline.timesteps[-1]),
    )
    low, high = schedule.noise_to_signal(first), schedule.noise_to_signal(top)
    candidates = sorted({first, top, *log_timesteps(schedule, low, high, CANDIDATES)})
    if not 1 <= steps < len(candidates):
        raise ConfigError(f"--steps: got {steps}; expected 1 to {len(candidates) - 1}")
    folds = list(_cross_fitted(run, pipeline, maps))
    root, errors = root_key(run.record["identity"] + "/levels"), []
    listener.get().begin("search", len(candidates), 0)
    for t in candidates:
        found = [error_curve(denoiser, clean, [t], root) for denoiser, clean in folds]
        errors.append(torch.stack(found).mean(0))
        listener.get().advance("search", 1)
    ratio = torch.tensor([schedule.noise_to_signal(t) for t in candidates], dtype=torch.float64)
    costs = StepCosts.of(candidates, ratio, torch.cat(errors))
    counts = sorted({*(count for count in COUNTS if count < len(candidates)), steps})
    return {
        "steps": steps,
        "timesteps": list(costs.best(steps)),
        "noise_to_signal": [schedule.noise_to_signal(t) for t in costs.best(steps)],
        "costs": [{"steps": count, **_compared(costs, ratio, count)} for count in counts],
        "errors": [
            {"time_index": t, "noise_to_signal": float(r), "error": float(e)}
            for t, r, e in zip(candidates, ratio, torch.cat(errors), strict=True)
        ],
    }


def _cross_fitted(run: RunStore, pipeline: Pipeline, maps: int) -> Iterator[tuple[Denoiser, Maps]]:
    """Yield a denoiser per half of the fit targets, with `maps` maps that it was not fitted to."""
    spec, plan, seen = pipeline.method.calibration, pipeline.plan, pipeline.targets.fit_seen
    if spec is None or plan is None:
        yield pipeline.base, seen[:maps].to(pipeline.device)
        return
    folds = TargetExperts.cross_fitted(
        seen, pipeline.base.schedule, plan.rho, plan.n_clusters, pipeline.targets.symmetries,
        read_patches(run).halves if spec.patches else ((), ()),
        pipeline.show,
    )  # fmt: skip
    for number, experts in enumerate(folds):
        clean, fitted = seen[number::2][: -(-maps // 2)], replace(pipeline, experts=experts)
        yield fitted.denoiser(fitted.labels(clean)), clean.to(pipeline.device)


def _compared(costs: StepCosts, ratio: torch.Tensor, steps: int) -> dict[str, float]:
    """Cost of the best grid and of the even one, of candidates nearest to even spacing."""
    log = ratio.log()
    wanted = torch.linspace(float(log[0]), float(log[-1]), steps + 1, dtype=log.dtype)
    nearest = (wanted[:, None] - log[None]).abs().argmin(dim=1).unique()
    even = [costs.timesteps[int(index)] for index in nearest]
    return {"searched": costs.along(costs.best(steps)), "even": costs.along(even)}
