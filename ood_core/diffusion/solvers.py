"""Solvers; each declares its order and its evaluations per step.

All work on `y = x / alpha` and `s = sigma / alpha`, where the flow is `dy/ds = (y - D) / s`
(Karras et al. 2022, eq. 4 with `sigma(t) = t`). A step goes from index `s` to index `t` in either
direction; index order alone decides which. `integrate` is the one loop of both.

Stochastic solvers add fresh noise at every step, downward only. `q < r` are the values of
`sigma/alpha` after and before a step, and `z ~ N(0, 1)`. Map `i` draws `z` from its own seed and
the index that is left, so batches do not matter. Fresh noise forgets errors of earlier estimates.
Their order is that of the distribution of the end point.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps, PerSample, TimeGrid
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.numerics.random import StepNoise

State = TypeVar("State")


@runtime_checkable
class Solver(Protocol[State]):
    """One step of an ODE scheme with explicit state."""

    @property
    def order(self) -> int:
        """Global order of convergence; of the end point's distribution where steps add noise."""
        ...

    @property
    def nfe_per_step(self) -> int:
        """Network evaluations per step, per map."""
        ...

    @property
    def adds_noise(self) -> bool:
        """Whether steps draw fresh noise, which the solver is built with."""
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

    order: ClassVar[int] = 1
    nfe_per_step: ClassVar[int] = 1
    adds_noise: ClassVar[bool] = False

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
    order: ClassVar[int] = 1
    adds_noise: ClassVar[bool] = False

    @property
    def nfe_per_step(self) -> int:
        """One evaluation per iteration."""
        return self.iterations

    def init(self, x: Maps) -> Implicit:
        """Wrap the starting point."""
        return Implicit(x, None, torch.zeros(len(x), device=x.device))

    def step(self, denoiser: Denoiser, state: Implicit, s: int, t: int) -> Implicit:
        """Advance from index `s` to index `t`."""
        schedule = denoiser.schedule
        guess = state.x0 if state.x0 is not None else state.x / float(schedule.alpha[s])
        y = ddim_step(schedule, state.x, guess, s, t)
        x0, residual = guess, torch.full((len(y),), math.inf, dtype=y.dtype, device=y.device)
        last: tuple[Maps, Maps] | None = None
        for _ in range(self.iterations):
            x0 = denoiser(y, t)
            image = ddim_step(schedule, state.x, x0, s, t)
            gap = image - y
            y = image if last is None else image - _mix(gap, last[1]) * (image - last[0])
            last = (image, gap)
            residual = gap.flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)
        return Implicit(y, x0, torch.maximum(state.residual, residual))

    def read(self, state: Implicit) -> Maps:
        """Return the current point."""
        return state.x


def _mix(gap: Maps, before: Maps) -> Float[Tensor, "n 1 1 1"]:
    """Anderson coefficient per map, bounded so that a flat residual cannot throw the iterate."""
    change = (gap - before).flatten(1)
    share = (gap.flatten(1) * change).sum(1) / (change**2).sum(1).clamp_min(1e-30)
    return share.clamp(-3, 1)[:, None, None, None]


def integrate(
    denoiser: Denoiser, solver: Solver[State], x: Maps, grid: TimeGrid
) -> Iterator[State]:
    """Yield the state at every point of the grid, the start first; the caller keeps what it needs.

    An ascending grid inverts, a descending one decodes.
    """
    state = solver.init(x)
    yield state
    for s, t in itertools.pairwise(int(t) for t in grid):
        state = solver.step(denoiser, state, s, t)
        yield state


def last(denoiser: Denoiser, solver: Solver[State], x: Maps, grid: TimeGrid) -> State:
    """Return the state at the end of the grid."""
    return deque(integrate(denoiser, solver, x, grid), maxlen=1)[0]


@final
class CountingDenoiser:
    """A denoiser that counts how many maps have gone through it."""

    def __init__(self, inner: Denoiser) -> None:
        self._inner = inner
        self.nfe = 0

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule of the denoiser inside."""
        return self._inner.schedule

    def __call__(self, x_t: Maps, t: int, *context: Any) -> Maps:
        """Return the inner denoiser's answer, adding `n` to `nfe`."""
        self.nfe += len(x_t)
        return self._inner(x_t, t, *context)


def descending(grid: TimeGrid) -> TimeGrid:
    """The same grid, from noise to data."""
    return torch.flip(grid, dims=(0,))


@final
@dataclass(frozen=True, slots=True)
class StochasticDdim:
    """DDIM with fresh noise (Song et al. 2021, DDIM, eq. 12 and 16).

        y_q = D + sqrt(q^2 - c^2) / r (y_r - D) + c z,      c = eta q sqrt(1 - (q/r)^2)

    With `eta` 0 it is `Ddim`; with 1 it is the reverse of the noising chain (ancestral sampling),
    which is exact for a clean map that `D` knows.
    """

    noise: StepNoise
    eta: float = 1.0
    order: ClassVar[int] = 1
    nfe_per_step: ClassVar[int] = 1
    adds_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"got eta {self.eta}; expected 0 to 1")

    def init(self, x: Maps) -> Maps:
        """Wrap the starting point."""
        return x

    def step(self, denoiser: Denoiser, state: Maps, s: int, t: int) -> Maps:
        """Go down from index `s` to index `t`."""
        schedule = denoiser.schedule
        r, q = schedule.noise_to_signal(s), schedule.noise_to_signal(t)
        left = (q / r) ** 2
        fresh = self.eta * q * math.sqrt(1 - left)
        keep = left if self.eta == 1 else math.sqrt(q**2 - fresh**2) / r
        y = keep * state / float(schedule.alpha[s]) + (1 - keep) * denoiser(state, s)
        return float(schedule.alpha[t]) * (y + fresh * self.noise.at(s, state))

    def read(self, state: Maps) -> Maps:
        """Return the current point."""
        return state
