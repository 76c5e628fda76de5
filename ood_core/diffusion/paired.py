"""Solvers on pairs of neighbouring points, whose steps are undone exactly.

A three-point rule gives the next point from the last two and one evaluation at the middle one. It
is the same rule in both directions, so whoever keeps the pair at the end of a grid comes back to
its start but for rounding, with any denoiser and any number of steps. From one point of the pair
alone the way back is only as good as the first step that replaces the other one.

Both are of second order where neighbouring steps are nearly equal, as they are on a grid that is
smooth in `ln(sigma/alpha)`, and of first order where steps alternate.
"""

from dataclasses import dataclass, field
from typing import final

from ood_core.arrays import Maps
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.solvers import ddim_step


@final
@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A point and its neighbour `before`, at index `came`; no neighbour at the start.

    With the two points exchanged the same solver goes back.
    """

    x: Maps
    before: Maps | None = None
    came: int = -1


@final
@dataclass(frozen=True, slots=True)
class Bdia:
    """BDIA-DDIM with gamma 1 (Zhang et al. 2023): `x_t = x_p - DDIM(s to p) + DDIM(s to t)`.

    With any other gamma every step of the inversion divides errors by it. The first step is DDIM.
    """

    order: int = field(default=2, init=False)
    nfe_per_step: int = field(default=1, init=False)

    def init(self, x: Maps) -> Pair:
        """Wrap the starting point."""
        return Pair(x)

    def step(self, denoiser: Denoiser, state: Pair, s: int, t: int) -> Pair:
        """Advance from index `s` to index `t`."""
        schedule, x0 = denoiser.schedule, denoiser(state.x, s)
        ahead = ddim_step(schedule, state.x, x0, s, t)
        if state.before is not None:
            ahead = ahead + (state.before - ddim_step(schedule, state.x, x0, s, state.came))
        return Pair(ahead, state.x, s)

    def read(self, state: Pair) -> Maps:
        """Return the current point."""
        return state.x


@final
@dataclass(frozen=True, slots=True)
class OBelm:
    """O-BELM (Wang et al. 2024, BELM): the two-step rule of least local error, in `y = x / alpha`.

        y_t = c y_p + (1 - c) y_s + g (g + b) / b (y_s - D) / s,      c = (g/b)^2

    with signed steps of `sigma/alpha`: `b` from `p` to `s`, `g` from `s` to `t`. The first step is
    DDIM. Where steps grow, so does what separates the two points: an error of the first step takes
    `c` per step on a geometric grid going up.
    """

    order: int = field(default=2, init=False)
    nfe_per_step: int = field(default=1, init=False)

    def init(self, x: Maps) -> Pair:
        """Wrap the starting point."""
        return Pair(x)

    def step(self, denoiser: Denoiser, state: Pair, s: int, t: int) -> Pair:
        """Advance from index `s` to index `t`."""
        schedule, x0 = denoiser.schedule, denoiser(state.x, s)
        if state.before is None:
            return Pair(ddim_step(schedule, state.x, x0, s, t), state.x, s)
        here, alpha = schedule.noise_to_signal(s), schedule.alpha
        y = state.x / float(alpha[s])
        b = here - schedule.noise_to_signal(state.came)
        g = schedule.noise_to_signal(t) - here
        kept = (g / b) ** 2 * (state.before / float(alpha[state.came]) - y)
        ahead = y + kept + g * (g + b) / b * (y - x0) / here
        return Pair(ahead * float(alpha[t]), state.x, s)

    def read(self, state: Pair) -> Maps:
        """Return the current point."""
        return state.x
