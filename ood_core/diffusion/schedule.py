"""Noise schedules.

`x_t = alpha_t x0 + sigma_t eps` on integer time indices `t = 0 .. T-1`. Deterministic solvers
depend on the schedule through the noise-to-signal ratio `sigma/alpha` alone (Karras et al. 2022,
section 2): with `y = x_t / alpha_t` every schedule is the variance-exploding one.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import TimeGrid


@final
@dataclass(frozen=True, slots=True, eq=False)
class NoiseSchedule:
    """Scales `alpha` (falling) and `sigma` (rising) per time index, float64."""

    alpha: Float[Tensor, " t"]
    sigma: Float[Tensor, " t"]

    def __post_init__(self) -> None:
        ratio = self.sigma / self.alpha
        if not bool((ratio[1:] > ratio[:-1]).all()) or not bool((ratio > 0).all()):
            raise ValueError("sigma/alpha must be positive and strictly rising with the time index")

    @classmethod
    def variance_preserving(cls, alphas_cumprod: Float[Tensor, " t"]) -> "NoiseSchedule":
        """Schedule of a DDPM (Ho et al. 2020, eq. 4) from its cumulative products."""
        bar = alphas_cumprod.double().numpy(force=True)
        # NumPy rounds roots as IEEE 754 asks; torch's differ by the maker of the CPU.
        with np.errstate(invalid="ignore"):  # what is no number does not rise, and is refused
            return cls(torch.from_numpy(np.sqrt(bar)), torch.from_numpy(np.sqrt(1 - bar)))

    @classmethod
    def linear(cls, steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> "NoiseSchedule":
        """Linear-beta schedule of DDPM (Ho et al. 2020, section 4)."""
        betas = torch.linspace(first, last, steps, dtype=torch.float64)
        return cls.variance_preserving(torch.cumprod(1 - betas, dim=0))

    def to(self, device: torch.device | str) -> "NoiseSchedule":
        """This schedule, on the host, whose numbers steer loops on any device."""
        return self

    def __len__(self) -> int:
        return len(self.alpha)

    def noise_to_signal(self, t: int) -> float:
        """Return `sigma_t / alpha_t`."""
        return float(self.sigma[t] / self.alpha[t])

    def scale(self, t: int) -> float:
        """Return `sqrt(alpha_t^2 + sigma_t^2)`, by which a point is divided to be a latent."""
        return float((self.alpha[t] ** 2 + self.sigma[t] ** 2).sqrt())

    def index_of(self, noise_to_signal: float) -> int:
        """Return the smallest index with `sigma/alpha` at least the given value, or the last."""
        ratio = self.sigma / self.alpha
        found = int(torch.searchsorted(ratio, torch.tensor(noise_to_signal, dtype=ratio.dtype)))
        return min(found, len(self) - 1)

    def log_snr_grid(self, points: int, t_end: int, t_start: int = 0) -> TimeGrid:
        """Ascending indices between both ends, uniform in `ln(sigma/alpha)` where indices allow it.

        At the clean end neighbouring indices are further apart than the uniform spacing; equal
        indices are pushed up by one, so that exactly `points` distinct indices come back.
        """
        self._check(points, t_end, t_start)
        log_ratio = np.log((self.sigma / self.alpha).numpy()[: t_end + 1])
        wanted = np.linspace(log_ratio[t_start], log_ratio[-1], points)
        grid = np.rint(np.interp(wanted, log_ratio, np.arange(t_end + 1))).astype(np.int64)
        for i in range(1, points):
            grid[i] = max(grid[i], grid[i - 1] + 1)
        for i in range(points - 2, -1, -1):
            grid[i + 1] = min(grid[i + 1], t_end - (points - 2 - i))
        return torch.from_numpy(grid)

    def uniform_grid(self, points: int, t_end: int, t_start: int = 0) -> TimeGrid:
        """Ascending indices between both ends, uniform in the index (the published protocol)."""
        self._check(points, t_end, t_start)
        return torch.from_numpy(np.linspace(t_start, t_end, points).astype(np.int64))

    def _check(self, points: int, t_end: int, t_start: int) -> None:
        if not (t_start >= 0 and 2 <= points <= t_end - t_start + 1 and t_end < len(self)):
            raise ValueError(
                f"got {points} points from index {t_start} up to {t_end} of {len(self)}; expected "
                "2 <= points <= t_end - t_start + 1, inside the schedule"
            )
