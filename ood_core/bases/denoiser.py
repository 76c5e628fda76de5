"""The denoiser of a frozen network."""

from typing import final

import torch
from torch import nn

from ood_core.arrays import Maps
from ood_core.diffusion.denoiser import clean_from_output
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.specs import Prediction


@final
class PretrainedDenoiser:
    """`E[x0 | x_t]` of a frozen `UNet2DModel`, evaluated without gradients."""

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        prediction: Prediction,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self._schedule = schedule
        self._prediction: Prediction = prediction
        self._dtype = dtype

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule the network was trained on."""
        return self._schedule

    @torch.no_grad()
    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return `E[x0 | x_t]`; state in float32, network in the dtype given at construction."""
        alpha, sigma = float(self._schedule.alpha[t]), float(self._schedule.sigma[t])
        with torch.autocast(x_t.device.type, self._dtype, self._dtype != torch.float32):
            output = self.network(x_t, t).sample
        return clean_from_output(output.float(), x_t, alpha, sigma, self._prediction)
