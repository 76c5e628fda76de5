"""The exact denoiser of a Gaussian.

For data `N(mu, C)` and `y = x_t / alpha_t`, `s = sigma_t / alpha_t`:

    E[x0 | x_t] = y - s^2 (C + s^2 I)^-1 (y - mu)

(Wiener filter; Wang & Vastola 2024, eq. for the affine score).
"""

import math
from typing import final

import torch

from ood_core.arrays import Map, Maps, PerSample, on_device
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.numerics.covariance import Covariance


@final
class GaussianDenoiser:
    """Exact posterior mean for `N(mean, covariance)`."""

    def __init__(self, schedule: NoiseSchedule, mean: Map, covariance: Covariance) -> None:
        self._schedule, self.mean, self.covariance = schedule, mean, covariance
        self._noised: dict[int, Covariance] = {}

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule the time indices refer to."""
        return self._schedule

    def to(self, device: torch.device | str) -> "GaussianDenoiser":
        """Move to a device."""
        mean, covariance = on_device((self.mean, self.covariance), device)
        return GaussianDenoiser(self._schedule, mean, covariance)

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return `E[x0 | x_t]`."""
        y = x_t / float(self._schedule.alpha[t])
        shrunk = self.noised(t).solve(y - self.mean.to(y))
        return y - self._schedule.noise_to_signal(t) ** 2 * shrunk

    def noised(self, t: int) -> Covariance:
        """Return `C + (sigma_t/alpha_t)^2 I`, factorised once per time index."""
        if t not in self._noised:
            white = self._schedule.noise_to_signal(t) ** 2
            self._noised[t] = self.covariance.plus_white(white)
        return self._noised[t]


def log_density(x: Maps, mean: Map, covariance: Covariance) -> PerSample:
    """Log density of `N(mean, covariance)` per map, natural units, including the constant."""
    residual = x - mean.to(x)
    quadratic = (residual * covariance.solve(residual)).flatten(1).sum(dim=1)
    d = residual[0].numel()
    return -0.5 * (quadratic + covariance.logdet() + d * math.log(2 * math.pi))
