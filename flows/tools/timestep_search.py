"""`farfield models timesteps`: timesteps for a run, by its denoiser's errors at held-out maps.

The grid of least cost (`ood_core/synthesis/timesteps.py`) for every number of steps, beside the
even one in `ln(sigma/alpha)` between the same ends.
"""

from typing import Any

import torch

from flows.progress import listener
from flows.runs.reload import fitted_pipeline
from flows.settings import RunSettings
from ood_core.errors import ConfigError
from ood_core.numerics.random import root_key
from ood_core.store.run import RunStore
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
    held_out = pipeline.targets.held_out_ranged[:maps]
    clean = (
        held_out if pipeline.codes is None else pipeline.codes.encode(held_out.to(pipeline.device))
    )
    denoiser = pipeline.denoiser(pipeline.labels(clean.cpu()))
    root, errors = root_key(run.record["identity"] + "/levels"), []
    listener.get().begin("search", len(candidates), 0)
    for t in candidates:
        errors.append(error_curve(denoiser, clean.to(pipeline.device), [t], root))
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


def _compared(costs: StepCosts, ratio: torch.Tensor, steps: int) -> dict[str, float]:
    """Cost of the best grid and of the even one, of candidates nearest to even spacing."""
    log = ratio.log()
    wanted = torch.linspace(float(log[0]), float(log[-1]), steps + 1, dtype=log.dtype)
    nearest = (wanted[:, None] - log[None]).abs().argmin(dim=1).unique()
    even = [costs.timesteps[int(index)] for index in nearest]
    return {"searched": costs.along(costs.best(steps)), "even": costs.along(even)}
