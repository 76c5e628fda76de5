"""Perfect networks for a Gaussian, by the definitions in the papers, in NumPy float64."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.models.pretrained import Edm, Parametrisation, Score
from tests.oracles.gaussian import Array, flat, posterior_mean


class ExactNetwork(torch.nn.Module):
    """Answers what a network of the given kind would that was trained without error.

    From its two inputs alone it works out the noised map and the noise level: noise, `v` and clean
    map are of DDPM, the score is of `x0 + sigma eps`, and `F` is of Karras et al. 2022, eq. 7 and
    8.
    """

    def __init__(
        self, kind: Parametrisation, schedule: NoiseSchedule, mean: Array, cov: Array
    ) -> None:
        super().__init__()
        self.kind, self.schedule, self.mean, self.cov = kind, schedule, mean, cov

    def forward(self, x: torch.Tensor, time: Any) -> SimpleNamespace:
        out = self.answer(flat(x), float(time))
        return SimpleNamespace(sample=torch.from_numpy(out).reshape(x.shape))

    def answer(self, x: Array, time: float) -> Array:
        match self.kind:
            case Score(unit_range=True):  # the distribution of (x + 1) / 2
                return score(x, time, (self.mean + 1) / 2, self.cov / 4)
            case Score():
                return score(x, time, self.mean, self.cov)
            case Edm(prediction, data):
                sigma = np.exp(4 * time)
                size = np.sqrt(sigma**2 + data**2)
                noised = x * size  # the input is scaled to unit variance
                clean = posterior_mean(noised, sigma, self.mean, self.cov)
                inner = (clean - data**2 / size**2 * noised) * size / (sigma * data)
                return inner if prediction == "epsilon" else -inner
            case prediction:
                alpha, sigma = (
                    float(r[int(time)]) for r in (self.schedule.alpha, self.schedule.sigma)
                )
                clean = posterior_mean(x / alpha, sigma / alpha, self.mean, self.cov)
                noise = (x - alpha * clean) / sigma
                v = alpha * noise - sigma * clean
                return {"epsilon": noise, "v_prediction": v, "sample": clean}[prediction]


def score(x: Array, sigma: float, mean: Array, cov: Array) -> Array:
    """Gradient of the log density of `N(mean, cov + sigma^2 I)` for rows of `x`."""
    return -np.linalg.solve(cov + sigma**2 * np.eye(len(cov)), (x - mean).T).T
