"""Levels at which a solver should stop: those whose steps hide least of what a denoiser learns.

A step from `s = sigma/alpha` down to `q` holds one estimate `D_s`, where at `u` on the way it would
be `D_u`. Posterior means form a martingale as noise falls, so what is hidden needs errors alone:

    E|D_u - D_s|^2 = mmse(s) - mmse(u)
    cost(s, q) = integral from q to s of (mmse(s) - mmse(u)) d ln u

Costs add up along the way, so the best grid of `n` steps is a shortest path, found exactly. Sabour
et al. 2024 (Align Your Steps) minimise a bound with `du/u^3` in the place of `d ln u`, the
divergence of the paths' laws, by gradients. That weight spends the steps on the smallest scales,
and samples of steered lines are worse for it (`docs/results.md`).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.diffusion.denoiser import Denoiser
from ood_core.numerics.random import SeedRange, Stream, normal


@final
@dataclass(frozen=True, slots=True, eq=False)
class StepCosts:
    """Cost of one step between any two levels; `cost[high, low]`, infinite where it does not fall.

    `levels` are rising time indices.
    """

    levels: tuple[int, ...]
    cost: Float[Tensor, "levels levels"]

    @classmethod
    def of(
        cls, levels: Sequence[int], ratio: Float[Tensor, " n"], error: Float[Tensor, " n"]
    ) -> "StepCosts":
        """Costs by the errors at `ratio`, the rising values of `sigma/alpha` of the levels.

        Errors of posterior means rise with the noise; where measured ones do not, the largest so
        far counts. The integral is the trapezoid's.
        """
        rising, log = error.double().cummax(dim=0).values, ratio.double().log()
        cost = torch.full((len(levels), len(levels)), torch.inf, dtype=torch.float64)
        for high, low in itertools.combinations(reversed(range(len(levels))), 2):
            way = slice(low, high + 1)
            cost[high, low] = torch.trapezoid(rising[high] - rising[way], log[way])
        return cls(tuple(levels), cost)

    def along(self, grid: Sequence[int]) -> float:
        """Cost of a rising grid of some of the levels."""
        places = [self.levels.index(level) for level in grid]
        return float(sum(self.cost[high, low] for low, high in itertools.pairwise(places)))

    def best(self, steps: int) -> tuple[int, ...]:
        """The grid of least cost that has `steps` steps and ends at the first and last level.

        Raises:
            ValueError: there are not as many levels.
        """
        count = len(self.levels)
        if not 1 <= steps < count:
            raise ValueError(f"got {steps} steps; expected 1 to {count - 1}, levels less one")
        least = torch.full((count,), torch.inf, dtype=torch.float64)
        least[0] = 0
        came_from = []
        for _ in range(steps):
            least, place = (least[None] + self.cost).min(dim=1)
            came_from.append(place)
        way = [count - 1]
        for place in reversed(came_from):
            way.append(int(place[way[-1]]))
        return tuple(self.levels[place] for place in reversed(way))


def error_curve(
    denoiser: Denoiser, clean: Maps, levels: Sequence[int], root: int
) -> Float[Tensor, " n"]:
    """Mean squared error per map of a denoiser at noised maps, one number per level.

    All levels have the same noise, larger or smaller, so that the curve is smooth where it is known
    badly: at high noise few waves of few maps decide.
    """
    schedule, errors = denoiser.schedule, []
    white = normal(SeedRange(root, 0, len(clean)), clean.shape[1:], 0, Stream.CALIBRATION)
    for t in levels:
        x_t = float(schedule.alpha[t]) * clean + float(schedule.sigma[t]) * white.to(clean)
        gap = denoiser(x_t, t) - clean
        errors.append(float(gap.square().flatten(1).sum(dim=1).mean()))
    return torch.tensor(errors, dtype=torch.float64)
