"""Teleport: the exact flow of a Gaussian between two timesteps, without any evaluation.

At high noise a denoiser is nearly that of a Gaussian, `N(mu, C)`, whose flow is affine (Wang &
Vastola 2024, arXiv 2412.09726, here with `y = x / alpha` and values `s`, `t` of `sigma/alpha`):

    y_t = mu + g(C) (y_s - mu),      g(l) = sqrt((l + t^2) / (l + s^2))

The same function goes up and down. `g(C)` needs no eigenvectors: the argument of the square root
lies between 1 and `(t/s)^2`, where the rational approximation of the square root by elliptic
functions (Hale, Higham & Trefethen 2008, method 3) with `N` terms has an error of about
`exp(-2 pi^2 N / (3 + |ln (t/s)^2|))`. Its terms are resolvents, which every `Covariance` solves:

    g(C) v = sum_j w_j (v - (c_j - t^2) (C + c_j I)^-1 v),      c_j between s^2 and t^2
"""

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.special import ellipj, ellipkm1

from ood_core.arrays import Map, Maps
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.numerics.covariance import Covariance

DIGITS = 36.0
"""Minus the natural logarithm of the square root's error: that of double precision."""


@final
@dataclass(frozen=True, eq=False)
class Teleport:
    """The flow of `N(mean, covariance)` between two time indices of a schedule."""

    schedule: NoiseSchedule
    mean: Map
    covariance: Covariance

    def __call__(self, x: Maps, s: int, t: int) -> Maps:
        """Move points from index `s` to index `t`, in either direction."""
        here, there = self.schedule.noise_to_signal(s), self.schedule.noise_to_signal(t)
        mean = self.mean.to(x)
        moved = self._root(x / float(self.schedule.alpha[s]) - mean, here**2, there**2)
        return float(self.schedule.alpha[t]) * (mean + moved)

    def _root(self, v: Maps, here: float, there: float) -> Maps:
        weights, poles = _square_root(min(1.0, there / here), max(1.0, there / here))
        moved = v * 0
        for weight, pole in zip(weights, poles, strict=True):
            shift = (there + pole * here) / (1 + pole)
            solved = self.covariance.plus_white(shift).solve(v)
            moved = moved + weight / (1 + pole) * (v - (shift - there) * solved)
        return moved


def _square_root(low: float, high: float) -> tuple[list[float], list[float]]:
    """Weights `w` and poles `p` with `sqrt(x) = sum_j w_j x / (x + p_j)` on `[low, high]`."""
    quarter = float(ellipkm1(low / high))
    terms = math.ceil(DIGITS * (3 + math.log(high / low)) / (2 * math.pi**2))
    sn, cn, dn, _ = ellipj((np.arange(terms) + 0.5) * quarter / terms, 1 - low / high)
    weights = 2 * quarter * math.sqrt(low) / (math.pi * terms) * dn / cn**2
    return weights.tolist(), (low * (sn / cn) ** 2).tolist()


@final
@dataclass(frozen=True, eq=False)
class Shortcut:
    """A teleport between the top of a grid, `low`, and the time index of the latents, `high`."""

    flow: Teleport
    low: int
    high: int

    def up(self, x: Maps) -> Maps:
        """From the top of the grid to the time index of the latents."""
        return self.flow(x, self.low, self.high)

    def down(self, x: Maps) -> Maps:
        """From the time index of the latents to the top of the grid."""
        return self.flow(x, self.high, self.low)
