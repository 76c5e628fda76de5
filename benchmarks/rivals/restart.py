"""SDEdit restart: a target is noised up to a timestep and decoded by the bare base.

Meng et al. 2022 (SDEdit, algorithm 1), from targets in place of sketches. The noise level trades
fidelity for novelty: low ones return the target, high ones a map of the base's own domain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from benchmarks.rivals.baseline import Made, draw_images, parts
from ood_core.arrays import Maps
from ood_core.config.targets import Symmetry
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.sampling import decode
from ood_core.diffusion.solvers import CountingDenoiser
from ood_core.numerics.random import SeedRange, normal

MIN_NOISE = 0.05  # of the last step: below it an estimate is the map itself


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Restart:
    """Noise to `noise_to_signal`, then `steps` ancestral steps down."""

    base: Denoiser
    noise_to_signal: float = 1.0
    steps: int = 12

    def __call__(self, targets: Maps, symmetries: Sequence[Symmetry], seeds: SeedRange) -> Made:
        """Restart from one random image per seed; see `Baseline`."""
        base, schedule = CountingDenoiser(self.base), self.base.schedule
        t_max = schedule.index_of(self.noise_to_signal)
        t_min = max(0, min(schedule.index_of(MIN_NOISE), t_max - self.steps))
        grid = schedule.log_snr_grid(self.steps + 1, t_max, t_min)
        alpha, sigma = float(schedule.alpha[t_max]), float(schedule.sigma[t_max])
        made = []
        for part in parts(seeds):
            x0 = draw_images(targets, symmetries, part)[:, 0]
            x_t = alpha * x0 + sigma * normal(part, x0.shape[1:])
            made.append(decode(base, "ancestral", x_t / schedule.scale(t_max), grid, part))
        return Made(torch.cat(made), base.nfe)
