"""The exact denoiser of a mixture of Gaussians: a distribution that is not Gaussian, for tests."""

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.diffusion.analytic import GaussianDenoiser, log_density
from ood_core.diffusion.schedule import NoiseSchedule


@final
class MixtureDenoiser:
    """Exact posterior mean for a mixture of Gaussians."""

    def __init__(
        self, schedule: NoiseSchedule, weights: Float[Tensor, " k"], members: list[GaussianDenoiser]
    ) -> None:
        if len(weights) != len(members):
            raise ValueError(f"got {len(weights)} weights for {len(members)} members")
        self._schedule, self.weights, self.members = schedule, weights, members

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule the time indices refer to."""
        return self._schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return `E[x0 | x_t]`."""
        y = x_t / float(self._schedule.alpha[t])
        log_odds = torch.stack(
            [
                math.log(float(weight)) + log_density(y, member.mean, member.noised(t))
                for weight, member in zip(self.weights, self.members, strict=True)
            ]
        )
        share = torch.softmax(log_odds, dim=0)[:, :, None, None, None]
        means = torch.stack([member(x_t, t) for member in self.members])
        return (share * means).sum(dim=0)
