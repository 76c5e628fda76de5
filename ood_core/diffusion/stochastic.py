"""Solvers that add fresh noise at every step, downward only.

With `q < r` the values of `sigma/alpha` after and before a step, `y = x / alpha` and `z ~ N(0, 1)`.
Map `i` draws `z` from its own seed and the index that is left, so batches do not matter. Fresh
noise forgets errors of earlier estimates. The order is that of the law of the end point.
"""

import math
from dataclasses import dataclass, field
from typing import final

from ood_core.arrays import Maps
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.solvers import Multistep
from ood_core.numerics.random import SeedRange, Stream, normal


@final
@dataclass(frozen=True, slots=True)
class StochasticDdim:
    """DDIM with fresh noise (Song et al. 2021, DDIM, eq. 12 and 16).

        y_q = D + sqrt(q^2 - c^2) / r (y_r - D) + c z,      c = eta q sqrt(1 - (q/r)^2)

    With `eta` 0 it is `Ddim`; with 1 it is the reverse of the noising chain (ancestral sampling),
    which is exact for a clean map that `D` knows.
    """

    seeds: SeedRange
    eta: float = 1.0
    order: int = field(default=1, init=False)
    nfe_per_step: int = field(default=1, init=False)

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
        noise = _noise(self.seeds, state, s)
        y = keep * state / float(schedule.alpha[s]) + (1 - keep) * denoiser(state, s)
        return float(schedule.alpha[t]) * (y + fresh * noise)

    def read(self, state: Maps) -> Maps:
        """Return the current point."""
        return state


@final
@dataclass(frozen=True, slots=True)
class DpmSolver2MSde:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, DPM-Solver++, section 5), midpoint form.

        y_q = k y_r + (1 - k) (D + h / (2 h') (D - D')) + q sqrt(1 - k) z,      k = (q/r)^2

    with `h = ln(r/q)`, and `h'` and `D'` of the step before. The first step is ancestral.
    """

    seeds: SeedRange
    order: int = field(default=2, init=False)
    nfe_per_step: int = field(default=1, init=False)

    def init(self, x: Maps) -> Multistep:
        """Wrap the starting point."""
        return Multistep(x)

    def step(self, denoiser: Denoiser, state: Multistep, s: int, t: int) -> Multistep:
        """Go down from index `s` to index `t`."""
        schedule = denoiser.schedule
        r, q = schedule.noise_to_signal(s), schedule.noise_to_signal(t)
        h, keep = math.log(r / q), (q / r) ** 2
        x0 = denoiser(state.x, s)
        guess = x0
        if state.before is not None:
            guess = x0 + (h / (2 * state.log_step)) * (x0 - state.before)
        y = keep * state.x / float(schedule.alpha[s]) + (1 - keep) * guess
        y = y + q * math.sqrt(1 - keep) * _noise(self.seeds, state.x, s)
        return Multistep(float(schedule.alpha[t]) * y, x0, h)

    def read(self, state: Multistep) -> Maps:
        """Return the current point."""
        return state.x


def _noise(seeds: SeedRange, like: Maps, index: int) -> Maps:
    return normal(seeds, like.shape[1:], attempt=index, stream=Stream.SOLVER).to(like)
