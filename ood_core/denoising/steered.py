"""Steered decoding: the clean estimate is pulled towards statistics of the targets.

While decoding, at each timestep with `sigma/alpha` up to `sigma_max`, a few Adam steps on the
denoised estimate alone (no gradient through the network) lower the distance of its statistics to a
per-sample aim `s*`. The aim is drawn locally: a random target, one of its near neighbours in
statistic space, a random point between them. Statistics: log scattering moments, log band powers,
mean, spread, skewness, sorted pixels and means of rings about the centre, each divided by its
spread over the targets.

Adam moves all its coordinates by like amounts. On pixels such steps are white noise, which makes
peaks that no map has. In posterior coordinates `x0 + A u`, with `A(k)^2 = P(k) s^2 / (P(k) + s^2)`
the variance that the targets' power `P` leaves open at `s = sigma/alpha`, they follow the maps' own
spectrum.

The mean and the lowest wavenumbers are a few numbers among a hundred that follow small scales. With
equal weights they hardly matter: on maps of two phases half of the power at the lowest wavenumbers
was given up for the rest. So the loss gives them more weight.

The estimate is a mean, and smoother than any map. Steps that begin at it must make all texture
themselves; a random `u` to begin with has part of it, with phases that no statistic chose.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ood_core.arrays import Map, Maps, PerSample
from ood_core.config.method import SteeringSpec
from ood_core.config.targets import Symmetry
from ood_core.denoising.calibrated import band_knots, hat_functions
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.estimators.gaussian import band_spectrum, symmetric_mean
from ood_core.metrics.scattering import Scattering
from ood_core.numerics.covariance import filtered
from ood_core.numerics.random import SeedRange, Stream, generator, normal
from ood_core.numerics.symmetry import orbit

QUANTILES = 24
BANDS = 9
ROWS = 16  # maps that are steered at once on a CPU: wavelet responses then fit into the cache
LOW_K = {"bands": slice(3), "mean": slice(None)}
"""Statistics of the mean and of the lowest wavenumbers, and which of their numbers per channel."""
RING_GROWTH = 1.3  # ring `i` of `n` ends at `(i/n)^1.3` of the corner's distance
SPREAD_FLOOR = 0.02  # of a log unit or of model range: no statistic is held tighter than this


@final
class Statistics:
    """Differentiable summary of square maps in model range."""

    def __init__(self, size: int, radial_bins: int = 0) -> None:
        self._scattering = Scattering(size, thinned=True)
        hats = hat_functions(band_knots(size, size, BANDS), size, size)
        self._bands = hats / hats.sum((-2, -1), keepdim=True)
        self._ranks = torch.linspace(0, size * size - 1, QUANTILES).round().long()
        self._rings = ring_means(size, radial_bins)
        self._shape = (size, size)

    def __call__(self, maps: Maps) -> Float[Tensor, "n f"]:
        """Return the statistics of every map, channels concatenated."""
        return torch.cat([part.flatten(1) for part in self.by_name(maps).values()], dim=1)

    def low_k(self, channels: int) -> Bool[Tensor, " f"]:
        """Which statistics are those of `LOW_K`."""
        parts = self.by_name(torch.zeros(1, channels, *self._shape))
        marks = {name: torch.zeros(part.shape) for name, part in parts.items()}
        for name, which in LOW_K.items():
            marks[name][..., which] = 1
        return torch.cat([mark.flatten(1) for mark in marks.values()], dim=1)[0] > 0

    def by_name(self, maps: Maps) -> dict[str, Tensor]:
        """Return the statistics of every map by their names, one row per map."""
        flat = maps.flatten(2)
        mean, spread = flat.mean(-1), flat.std(-1)
        standard = (flat - mean[..., None]) / spread[..., None].clamp_min(1e-3)
        power = (torch.fft.fft2(maps - mean[..., None, None], norm="ortho").abs() ** 2).float()
        bands = torch.einsum("ncyx,byx->ncb", power, self._bands.to(maps))
        quantiles = flat.sort(dim=-1).values[..., self._ranks.to(maps.device)]
        return {
            "scattering": self._scattering.log_moments(maps),
            "bands": 0.5 * torch.log(bands + 1e-6),
            "mean": mean,
            "spread": torch.log(spread + 1e-3),
            "skewness": (standard**3).mean(-1),
            "quantiles": quantiles,
            "rings": torch.einsum("ncyx,ryx->ncr", maps, self._rings.to(maps)),
        }


def ring_means(size: int, count: int) -> Float[Tensor, "rings y x"]:
    """Weights whose sums with a map are its means over rings about the centre, finer inside."""
    offset = torch.arange(size) - (size - 1) / 2
    radius = torch.hypot(offset[:, None], offset[None, :])
    top = float(radius.max())
    number = (count * (radius / top) ** (1 / RING_GROWTH)).long().clamp(max=count - 1)
    inside = (number[None] == torch.arange(count)[:, None, None]).float()
    return inside / inside.sum((-2, -1), keepdim=True).clamp_min(1)


@final
@dataclass(frozen=True, slots=True, eq=False)
class StatisticAims:
    """Statistics of the targets and of their symmetric images, and how far each spreads.

    `low_k` marks those of the mean and of the lowest wavenumbers. `power` is the targets' mean
    power about their mean, per Fourier mode, isotropic.
    """

    values: Float[Tensor, "m f"]
    spread: Float[Tensor, " f"]
    low_k: Bool[Tensor, " f"]
    neighbours: Int[Tensor, "m k"]
    targets: int
    power: Map

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
        nearest = distance.topk(count, largest=False).indices
        power = band_spectrum(images - symmetric_mean(targets, symmetries))
        low_k = statistics.low_k(targets.shape[1])
        return cls(values, spread, low_k, nearest, len(targets), power)

    def draw(
        self, seeds: SeedRange, near: Int[Tensor, " n"] | None = None
    ) -> tuple[Float[Tensor, "n f"], Int[Tensor, "n 2"]]:
        """Draw one aim per seed; also return its two parent targets.

        `near` has the first parent of each sample, whose latent it was made of; without it, parents
        are drawn at random.
        """
        aims, parents = [], []
        for row, i in enumerate(seeds):
            rng = generator(seeds.root, i, stream=Stream.STATISTIC)
            first = int(rng.integers(len(self.values)))
            first = first if near is None else int(near[row])
            second = int(self.neighbours[first, int(rng.integers(self.neighbours.shape[1]))])
            aims.append(torch.lerp(self.values[first], self.values[second], float(rng.random())))
            parents.append((first % self.targets, second % self.targets))
        return torch.stack(aims), torch.tensor(parents)


@final
class SteeredDenoiser:
    """A denoiser whose estimates are steered towards per-sample aims; one instance per batch."""

    def __init__(
        self,
        inner: Denoiser,
        statistics: Statistics,
        aim: Float[Tensor, "n f"],
        aims: StatisticAims,
        spec: SteeringSpec,
        seeds: SeedRange | None = None,
    ) -> None:
        if spec.start and (seeds is None or len(seeds) != len(aim)):
            raise ValueError(f"got seeds {seeds} for {len(aim)} aims; expected as many")
        self._inner, self._statistics, self._spec, self._seeds = inner, statistics, spec, seeds
        self._aim, self._spread, self._power = aim, aims.spread, aims.power
        self._weight = torch.where(aims.low_k, spec.low_k_weight, 1.0)

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule of the denoiser inside."""
        return self._inner.schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return the steered clean estimate."""
        x0 = self._inner(x_t, t)
        noise_to_signal = self.schedule.noise_to_signal(t)
        if noise_to_signal > self._spec.sigma_max:
            return x0
        rows = len(x0) if x0.is_cuda else ROWS
        aims, starts = self._aim.to(x0).split(rows), self._starts(x0, t).split(rows)
        blocks = zip(x0.split(rows), aims, starts, strict=True)
        return torch.cat([self._pull(*block, noise_to_signal=noise_to_signal) for block in blocks])

    def distance(self, maps: Maps) -> PerSample:
        """Root-mean-square distance to the aims, in spreads of the targets."""
        return self._gaps(maps, self._aim).square().mean(dim=1).sqrt()

    def _gaps(self, maps: Maps, aim: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
        return (self._statistics(maps) - aim.to(maps)) / self._spread.to(maps)

    def _starts(self, x0: Maps, t: int) -> Maps:
        """Where the Adam steps of every map begin, in posterior coordinates."""
        if self._seeds is None or not self._spec.start:
            return torch.zeros_like(x0)
        white = normal(self._seeds, x0.shape[1:], attempt=t, stream=Stream.STEERING)
        return self._spec.start * white.to(x0)

    def _pull(
        self, x0: Maps, aim: Float[Tensor, "n f"], start: Maps, *, noise_to_signal: float
    ) -> Maps:
        x0 = x0.detach()
        left_open = self._power / (self._power / noise_to_signal**2 + 1)
        gain = left_open.sqrt().to(x0)
        with torch.enable_grad():
            u = start.detach().clone().requires_grad_(True)
            adam = torch.optim.Adam([u], lr=self._spec.rate)
            for _ in range(self._spec.steps):
                adam.zero_grad(set_to_none=True)
                gaps = self._gaps(x0 + filtered(u, gain), aim) * self._weight.to(x0)
                gaps.square().mean(dim=1).sum().backward()
                adam.step()
        return x0 + filtered(u.detach(), gain)
