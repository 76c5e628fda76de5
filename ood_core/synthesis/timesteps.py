"""Two choices of timesteps: how far up targets are inverted, and where a solver should stop.

**How far up.** At high noise a denoiser is nearly that of a Gaussian, so steps there cost
evaluations and bring nothing that the closed form (`diffusion/teleport.py`) would not. Three
numbers per timestep, measured on the frozen base, say where that begins:

    explained     1 - E|D - D_gauss|^2 / E|D - y|^2 at noised targets: the part of the score's
                  variance that the base's own Gaussian explains (Wang & Vastola 2024)
    error         round trip of fit targets to the timestep and back, over their standard deviation
    separability  AUC of held-out latents against draws of the base's Gaussian, along the
                  difference of the means (the fit targets' and the Gaussian's)

Own rule: among timesteps with an error of at most twice the least and a separability of at least
0.95, the lowest one of which 0.995 is explained; where there is none, the one explained best.

**Where a solver should stop**: at timesteps whose steps hide least of what a denoiser learns.

A step from `s = sigma/alpha` down to `q` holds one estimate `D_s`, where at `u` on the way it would
be `D_u`. Posterior means form a martingale as noise falls, so what is hidden needs errors alone:

    E|D_u - D_s|^2 = mmse(s) - mmse(u)
    cost(s, q) = integral from q to s of (mmse(s) - mmse(u)) d ln u

Costs add up along the way, so the best grid of `n` steps is a shortest path, found exactly. Sabour
et al. 2024 (Align Your Steps) minimise a bound with `du/u^3` in the place of `d ln u`, the
divergence of the paths' distributions, by gradients. That weight spends the steps on the smallest
scales, and samples of steered runs are worse for it (`docs/results.md`).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.denoising.calibrated import fit_weights
from ood_core.denoising.hats import band_knots, hat_functions
from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.diffusion.solvers import Ddim, FixedPointDdim, descending, integrate, last
from ood_core.metrics.two_sample import auc
from ood_core.numerics.covariance import Stationary
from ood_core.numerics.random import SeedRange, Stream, normal

EXPLAINED, SEPARABLE, ERRORS = 0.995, 0.95, 2.0
GAUSSIAN_DRAWS, GAUSSIAN_BANDS = 64, 8
LEAD = 6  # points from `t_min` up to the first timestep
GAUSSIAN_RATIOS = (8.0, 2.0)
"""Values of `sigma/alpha` at which the Gaussian is fitted, the second at draws of the first."""


@final
@dataclass(frozen=True, slots=True)
class TimestepPoint:
    """What was measured at one timestep."""

    index: int
    noise_to_signal: float
    explained: float
    error: float
    separability: float


def base_gaussian(
    base: Denoiser, shape: Sequence[int], root: int, device: torch.device | str = "cpu"
) -> GaussianDenoiser:
    """Gaussian whose exact denoiser is the affine part of a base, on `device`, at high noise.

    Regression of `D` on `y` per band of wavenumbers: the gain of `N(mu, C)` is `l / (l + s^2)`.
    """
    schedule, (height, width) = base.schedule, shape[-2:]
    knots = band_knots(height, width, GAUSSIAN_BANDS)
    hats = hat_functions(knots, height, width)
    mean, power = torch.zeros(tuple(shape)), torch.ones(tuple(shape))
    for number, ratio in enumerate(GAUSSIAN_RATIOS):
        t = schedule.index_of(ratio)
        s = schedule.noise_to_signal(t)
        white = normal(SeedRange(root, 0, GAUSSIAN_DRAWS), shape, number, Stream.CALIBRATION)
        y = mean + Stationary(power + s**2).colour(white, white)
        clean = base((y * float(schedule.alpha[t])).to(device), t).cpu()
        mean = clean.mean(dim=0)
        seen, made = (torch.fft.fft2(x - x.mean(dim=0)) for x in (y, clean))
        shares = []
        for channel in range(shape[0]):
            one = slice(channel, channel + 1)
            weights = fit_weights(seen[None, :, one], made[:, one], knots, 1e-9)
            shares.append(torch.einsum("b,byx->yx", weights[:, 0], hats))
        gain = torch.stack(shares).clamp(1e-6, 0.9999)
        power = gain * s**2 / (1 - gain)
    return GaussianDenoiser(schedule, mean, Stationary(power))


def timestep_curve(
    base: Denoiser, fit: Maps, others: Maps, timesteps: Sequence[int], t_min: int, root: int
) -> tuple[TimestepPoint, ...]:
    """Measure timesteps, given in rising order; `t_min` is the one at which inversion begins.

    One inversion with two iterations per step serves all; each is decoded by itself.
    """
    schedule, gaussian = base.schedule, base_gaussian(base, fit.shape[1:], root)
    lead = log_timesteps(
        schedule, schedule.noise_to_signal(t_min), schedule.noise_to_signal(timesteps[0]), LEAD
    )[:-1]
    grid = torch.tensor([*lead, *timesteps])
    both = torch.cat([fit, others]) * float(schedule.alpha[t_min])
    states = list(integrate(base, FixedPointDdim(2), both, grid))[len(lead) :]
    points = []
    for number, (t, state) in enumerate(zip(timesteps, states, strict=True)):
        down = descending(grid[: len(lead) + number + 1])
        back = last(base, Ddim(), state.x[: len(fit)], down) / float(schedule.alpha[t_min])
        points.append(
            TimestepPoint(
                index=t,
                noise_to_signal=schedule.noise_to_signal(t),
                explained=explained(base, gaussian, torch.cat([fit, others]), t, root),
                error=float((back - fit).square().mean().sqrt() / fit.std()),
                separability=_separability(
                    gaussian, state.x / float(schedule.alpha[t]), len(fit), t
                ),
            )
        )
    return tuple(points)


def explained(denoiser: Denoiser, gaussian: Denoiser, clean: Maps, t: int, root: int) -> float:
    """Share of the variance of a denoiser's score that another explains, at noised clean maps."""
    schedule = denoiser.schedule
    alpha, sigma = float(schedule.alpha[t]), float(schedule.sigma[t])
    noise = normal(SeedRange(root, 0, len(clean)), clean.shape[1:], t, Stream.CALIBRATION)
    x_t = alpha * clean + sigma * noise.to(clean)
    found = denoiser(x_t, t)
    unexplained = (found - gaussian(x_t, t)).square().sum() / (found - x_t / alpha).square().sum()
    return 1 - float(unexplained)


def choose(curve: Sequence[TimestepPoint]) -> TimestepPoint:
    """The timestep of the module's rule."""
    least = min(point.error for point in curve)
    good = [p for p in curve if p.error <= ERRORS * least and p.separability >= SEPARABLE]
    for point in good:
        if point.explained >= EXPLAINED:
            return point
    return max(good or curve, key=lambda point: point.explained)


def log_timesteps(schedule: NoiseSchedule, low: float, high: float, count: int) -> list[int]:
    """Distinct time indices about evenly spaced in `ln(sigma/alpha)`, in rising order."""
    values = np.geomspace(low, high, count)
    return sorted({schedule.index_of(float(value)) for value in values})


def _separability(gaussian: GaussianDenoiser, y: Maps, fit: int, t: int) -> float:
    """AUC of held-out points against as many draws of the Gaussian, projected on the means."""
    others = y[fit:]
    noised = gaussian.noised(t)
    assert isinstance(noised, Stationary), "the Gaussian of a base is stationary about its mean"
    white = normal(SeedRange(1, 0, len(others)), y.shape[1:], t, Stream.CALIBRATION).to(y)
    mean = gaussian.mean.to(y)
    own = mean + noised.colour(white, white)
    direction = (y[:fit].mean(dim=0) - mean).flatten()
    return auc(others.flatten(1) @ direction, own.flatten(1) @ direction)


@final
@dataclass(frozen=True, slots=True, eq=False)
class StepCosts:
    """Cost of one step between any two timesteps; `cost[high, low]`, infinite unless it falls.

    `timesteps` are in rising order.
    """

    timesteps: tuple[int, ...]
    cost: Float[Tensor, "n n"]

    @classmethod
    def of(
        cls, timesteps: Sequence[int], ratio: Float[Tensor, " n"], error: Float[Tensor, " n"]
    ) -> "StepCosts":
        """Costs by the errors at `ratio`, the rising values of `sigma/alpha` of the timesteps.

        Errors of posterior means rise with the noise; where measured ones do not, the largest so
        far counts. The integral is the trapezoid's.
        """
        rising, log = error.double().cummax(dim=0).values, ratio.double().log()
        cost = torch.full((len(timesteps), len(timesteps)), torch.inf, dtype=torch.float64)
        for high, low in itertools.combinations(reversed(range(len(timesteps))), 2):
            between = slice(low, high + 1)
            cost[high, low] = torch.trapezoid(rising[high] - rising[between], log[between])
        return cls(tuple(timesteps), cost)

    def along(self, grid: Sequence[int]) -> float:
        """Cost of a rising grid of some of the timesteps."""
        indices = [self.timesteps.index(t) for t in grid]
        return float(sum(self.cost[high, low] for low, high in itertools.pairwise(indices)))

    def best(self, steps: int) -> tuple[int, ...]:
        """The grid of least cost that has `steps` steps and ends at the first and last timestep.

        Raises:
            ValueError: there are too few timesteps.
        """
        count = len(self.timesteps)
        if not 1 <= steps < count:
            raise ValueError(f"got {steps} steps; expected 1 to {count - 1}, timesteps less one")
        least = torch.full((count,), torch.inf, dtype=torch.float64)
        least[0] = 0
        came_from = []
        for _ in range(steps):
            least, index = (least[None] + self.cost).min(dim=1)
            came_from.append(index)
        path = [count - 1]
        for index in reversed(came_from):
            path.append(int(index[path[-1]]))
        return tuple(self.timesteps[index] for index in reversed(path))


def error_curve(
    denoiser: Denoiser, clean: Maps, timesteps: Sequence[int], root: int
) -> Float[Tensor, " n"]:
    """Mean squared error per map of a denoiser at noised maps, one number per timestep.

    All have the same noise, scaled, so that the curve is smooth where it is least certain: at high
    noise few waves of few maps decide.
    """
    schedule, errors = denoiser.schedule, []
    white = normal(SeedRange(root, 0, len(clean)), clean.shape[1:], 0, Stream.CALIBRATION)
    for t in timesteps:
        x_t = float(schedule.alpha[t]) * clean + float(schedule.sigma[t]) * white.to(clean)
        gap = denoiser(x_t, t) - clean
        errors.append(float(gap.square().flatten(1).sum(dim=1).mean()))
    return torch.tensor(errors, dtype=torch.float64)
