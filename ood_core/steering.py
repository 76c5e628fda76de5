"""Steered decoding: the clean estimate is pulled towards statistics of the targets.

While decoding, at each level with `sigma/alpha` in a given interval, a few Adam steps on the
denoised estimate alone (no gradient through the network) lower the distance of its statistics to a
per-sample aim `s*`. The aim is drawn locally: a random target, one of its near neighbours in
statistic space, a random point between them. Statistics: log scattering moments, log band powers,
mean, spread, skewness and sorted pixels, each divided by its spread over the targets.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ood_core.arrays import Maps, PerSample
from ood_core.calibration import band_knots, hat_functions
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.metrics.scattering import Scattering
from ood_core.seeds import SeedRange, Stream, generator
from ood_core.specs import SteeringSpec, Symmetry
from ood_core.symmetry import orbit

QUANTILES = 24
BANDS = 9
SPREAD_FLOOR = 0.02  # of a log unit or of model range: no statistic is held tighter than this


@final
class Statistics:
    """Differentiable summary of square maps in model range."""

    def __init__(self, size: int) -> None:
        self._scattering = Scattering(size)
        hats = hat_functions(band_knots(size, size, BANDS), size, size)
        self._bands = hats / hats.sum((-2, -1), keepdim=True)
        self._ranks = torch.linspace(0, size * size - 1, QUANTILES).round().long()

    def __call__(self, maps: Maps) -> Float[Tensor, "n f"]:
        """Return the statistics of every map, channels concatenated."""
        flat = maps.flatten(2)
        mean, spread = flat.mean(-1), flat.std(-1)
        standard = (flat - mean[..., None]) / spread[..., None].clamp_min(1e-3)
        power = (torch.fft.fft2(maps - mean[..., None, None], norm="ortho").abs() ** 2).float()
        bands = torch.einsum("ncyx,byx->ncb", power, self._bands.to(maps))
        quantiles = flat.sort(dim=-1).values[..., self._ranks.to(maps.device)]
        parts = [
            self._scattering.log_moments(maps),
            0.5 * torch.log(bands + 1e-6).flatten(1),
            mean,
            torch.log(spread + 1e-3),
            (standard**3).mean(-1),
            quantiles.flatten(1),
        ]
        return torch.cat(parts, dim=1)


@final
@dataclass(frozen=True, slots=True, eq=False)
class StatisticAims:
    """Statistics of the targets and of their symmetric images, and how far each spreads."""

    values: Float[Tensor, "m f"]
    spread: Float[Tensor, " f"]
    neighbours: Int[Tensor, "m k"]
    targets: int

    @classmethod
    def measure(
        cls,
        statistics: Statistics,
        targets: Maps,
        symmetries: Sequence[Symmetry],
        neighbours: int,
    ) -> "StatisticAims":
        """Measure on the fit targets; row `g * n + i` is image `g` of target `i`."""
        images = torch.cat(orbit(targets, symmetries))
        values = torch.cat([statistics(chunk) for chunk in images.split(256)])
        spread = values.std(dim=0).clamp_min(SPREAD_FLOOR)
        standard = values / spread
        distance = torch.cdist(standard, standard)
        same = torch.arange(len(values)) % len(targets)
        distance[same[:, None] == same[None, :]] = math.inf  # images of one map are no neighbours
        count = min(neighbours, len(targets) - 1)
        return cls(values, spread, distance.topk(count, largest=False).indices, len(targets))

    def draw(self, seeds: SeedRange) -> tuple[Float[Tensor, "n f"], Int[Tensor, "n 2"]]:
        """Draw one aim per seed; also return its two parent targets."""
        aims, parents = [], []
        for i in seeds:
            rng = generator(seeds.root, i, stream=Stream.STATISTIC)
            first = int(rng.integers(len(self.values)))
            second = int(self.neighbours[first, int(rng.integers(self.neighbours.shape[1]))])
            aims.append(torch.lerp(self.values[first], self.values[second], float(rng.random())))
            parents.append((first % self.targets, second % self.targets))
        return torch.stack(aims), torch.tensor(parents)


@final
class SteeredDenoiser:
    """A denoiser whose estimates are pulled towards per-sample aims; one instance per batch."""

    def __init__(
        self,
        inner: Denoiser,
        statistics: Statistics,
        aims: Float[Tensor, "n f"],
        spread: Float[Tensor, " f"],
        spec: SteeringSpec,
    ) -> None:
        self._inner, self._statistics, self._spec = inner, statistics, spec
        self._aims, self._spread = aims, spread

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule of the denoiser inside."""
        return self._inner.schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return the steered clean estimate."""
        x0 = self._inner(x_t, t)
        noise_to_signal = self.schedule.noise_to_signal(t)
        if not self._spec.above <= noise_to_signal <= self._spec.below:
            return x0
        return self._pull(x0, self._spec.rate * min(1.0, noise_to_signal + 0.15))

    def distance(self, maps: Maps) -> PerSample:
        """Root-mean-square distance to the aims, in spreads of the targets."""
        return self._gaps(maps).square().mean(dim=1).sqrt()

    def _gaps(self, maps: Maps) -> Float[Tensor, "n f"]:
        return (self._statistics(maps) - self._aims.to(maps)) / self._spread.to(maps)

    def _pull(self, x0: Maps, rate: float) -> Maps:
        with torch.enable_grad():
            steered = x0.detach().clone().requires_grad_(True)
            adam = torch.optim.Adam([steered], lr=rate)
            for _ in range(self._spec.steps):
                adam.zero_grad(set_to_none=True)
                self._gaps(steered).square().mean(dim=1).sum().backward()
                adam.step()
        return steered.detach()
