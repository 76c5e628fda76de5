"""Solvers; each declares its order and its evaluations per step.

Those here follow the probability-flow ODE; `stochastic.py` has those that add fresh noise.

All work on `y = x / alpha` and `s = sigma / alpha`, where the flow is `dy/ds = (y - D) / s`
(Karras et al. 2022, eq. 4 with `sigma(t) = t`). A step goes from index `s` to index `t` in either
direction; index order alone decides which.
"""

import math
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps, PerSample
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule

State = TypeVar("State")


@runtime_checkable
class Solver(Protocol[State]):
    """One step of an ODE scheme with explicit state."""

    @property
    def order(self) -> int:
        """Global order of convergence; of the law where the solver adds noise."""
        ...

    @property
    def nfe_per_step(self) -> int:
        """Network evaluations per step, per map."""
        ...

    def init(self, x: Maps) -> State:
        """Wrap the starting point."""
        ...

    def step(self, denoiser: Denoiser, state: State, s: int, t: int) -> State:
        """Advance from index `s` to index `t`."""
        ...

    def read(self, state: State) -> Maps:
        """Return the current point."""
        ...


def ddim_step(schedule: NoiseSchedule, x: Maps, x0: Maps, s: int, t: int) -> Maps:
    """Move along the line through `x` and the clean estimate (Song et al. 2021, DDIM, eq. 13)."""
    shrink = float(schedule.sigma[t] / schedule.sigma[s])
    return shrink * x + (float(schedule.alpha[t]) - shrink * float(schedule.alpha[s])) * x0


@final
@dataclass(frozen=True, slots=True)
class Ddim:
    """First order, one evaluation: the clean estimate at the start of the step."""

    order: int = field(default=1, init=False)
    nfe_per_step: int = field(default=1, init=False)

    def init(self, x: Maps) -> Maps:
        """Wrap the starting point."""
        return x

    def step(self, denoiser: Denoiser, state: Maps, s: int, t: int) -> Maps:
        """Advance from index `s` to index `t`."""
        return ddim_step(denoiser.schedule, state, denoiser(state, s), s, t)

    def read(self, state: Maps) -> Maps:
        """Return the current point."""
        return state


@final
@dataclass(frozen=True, slots=True)
class Heun:
    """Second order, two evaluations (Karras et al. 2022, algorithm 1 without noise)."""

    order: int = field(default=2, init=False)
    nfe_per_step: int = field(default=2, init=False)

    def init(self, x: Maps) -> Maps:
        """Wrap the starting point."""
        return x

    def step(self, denoiser: Denoiser, state: Maps, s: int, t: int) -> Maps:
        """Advance from index `s` to index `t`."""
        schedule = denoiser.schedule
        here, there = schedule.noise_to_signal(s), schedule.noise_to_signal(t)
        y = state / float(schedule.alpha[s])
        slope = (y - denoiser(state, s)) / here
        guess = y + (there - here) * slope
        ahead = (guess - denoiser(guess * float(schedule.alpha[t]), t)) / there
        return float(schedule.alpha[t]) * (y + 0.5 * (there - here) * (slope + ahead))

    def read(self, state: Maps) -> Maps:
        """Return the current point."""
        return state


@final
@dataclass(frozen=True, slots=True, eq=False)
class Multistep:
    """A point with the clean estimate of the step before, where there was one."""

    x: Maps
    before: Maps | None = None
    log_step: float = 0.0


@final
@dataclass(frozen=True, slots=True)
class DpmSolver2M:
    """DPM-Solver++(2M): second order, one evaluation (Lu et al. 2022, algorithm 2)."""

    order: int = field(default=2, init=False)
    nfe_per_step: int = field(default=1, init=False)

    def init(self, x: Maps) -> Multistep:
        """Wrap the starting point."""
        return Multistep(x)

    def step(self, denoiser: Denoiser, state: Multistep, s: int, t: int) -> Multistep:
        """Advance from index `s` to index `t`; the first step is first order."""
        schedule = denoiser.schedule
        h = math.log(schedule.noise_to_signal(s)) - math.log(schedule.noise_to_signal(t))
        x0 = denoiser(state.x, s)
        guess = x0
        if state.before is not None:
            guess = x0 + (h / (2 * state.log_step)) * (x0 - state.before)
        return Multistep(ddim_step(schedule, state.x, guess, s, t), x0, h)

    def read(self, state: Multistep) -> Maps:
        """Return the current point."""
        return state.x


@final
@dataclass(frozen=True, slots=True, eq=False)
class Implicit:
    """A point, the last clean estimate, and the largest relative residual so far per map."""

    x: Maps
    x0: Maps | None
    residual: PerSample


@final
@dataclass(frozen=True, slots=True)
class FixedPointDdim:
    """The inverse of a DDIM step, by fixed-point iteration with Anderson mixing of depth one.

    Solves `x_s = ddim_step(x_t, D(x_t, t), t -> s)` for `x_t`, so that plain DDIM on the same grid
    undoes it (Pan et al. 2023, AIDI). The first guess uses the clean estimate of the step before.
    """

    iterations: int = 2
    order: int = field(default=1, init=False)

    @property
    def nfe_per_step(self) -> int:
        """One evaluation per iteration."""
        return self.iterations

    def init(self, x: Maps) -> Implicit:
        """Wrap the starting point."""
        return Implicit(x, None, torch.zeros(len(x)))

    def step(self, denoiser: Denoiser, state: Implicit, s: int, t: int) -> Implicit:
        """Advance from index `s` to index `t`."""
        schedule = denoiser.schedule
        guess = state.x0 if state.x0 is not None else state.x / float(schedule.alpha[s])
        y = ddim_step(schedule, state.x, guess, s, t)
        x0, residual = guess, torch.full((len(y),), math.inf).to(y)
        last: tuple[Maps, Maps] | None = None
        for _ in range(self.iterations):
            x0 = denoiser(y, t)
            image = ddim_step(schedule, state.x, x0, s, t)
            gap = image - y
            y = image if last is None else image - _mix(gap, last[1]) * (image - last[0])
            last = (image, gap)
            residual = gap.flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)
        return Implicit(y, x0, torch.maximum(state.residual, residual.cpu()))

    def read(self, state: Implicit) -> Maps:
        """Return the current point."""
        return state.x


def _mix(gap: Maps, before: Maps) -> Float[Tensor, "n 1 1 1"]:
    """Anderson coefficient per map, bounded so that a flat residual cannot throw the iterate."""
    change = (gap - before).flatten(1)
    share = (gap.flatten(1) * change).sum(1) / (change**2).sum(1).clamp_min(1e-30)
    return share.clamp(-3, 1)[:, None, None, None]
