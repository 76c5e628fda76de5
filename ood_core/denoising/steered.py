"""Steered decoding: the clean estimate is pulled towards statistics of the targets.

While decoding, at each timestep with `sigma/alpha` up to `sigma_max`, a few Adam steps on the
denoised estimate alone (no gradient through the network) lower the distance of its statistics to a
per-sample aim `s*`. Statistics: log scattering moments, log band powers of the map and of what
lies above several brightnesses, mean, spread, skewness, means of groups of the sorted pixels and of
sorted means of blocks, and means of rings about the centre, each divided by its spread over the
targets.

The aim is drawn locally. A target is a random point between two of its near neighbours in statistic
space, plus what that point misses; an aim is such a point of one target, plus most of what is
missed at one of its neighbours. Points alone would be nearer to targets than real maps are to any.
Some aims still are, where a point is nearly a neighbour and hardly anything was missed. So an aim
whose scattering moments are nearer to those of a target than all but a few targets are to those of
another one is drawn anew.

Power of a map alone does not say whether bright pixels are one object or many. That of the set of
pixels above a level does: at small scales it is the length of the set's boundary (Debye, Anderson &
Brumberger 1957, eq. 6), at larger ones how its pieces lie.

Adam moves all its coordinates by like amounts. On pixels such steps are white noise, which makes
peaks that no map has. In posterior coordinates `x0 + A u`, with `A(k)^2 = P(k) s^2 / (P(k) + s^2)`
the variance that the targets' power `P` leaves open at `s = sigma/alpha`, they follow the maps' own
spectrum.

A stationary field knows nothing of place: it is as rough where maps are bright as where they are
faint, and bright objects became lumpy. So steps are scaled by the spread that the targets' detail
has at the brightness of the estimate's local mean, `x0 + r(c) A u`.

The mean and the lowest wavenumbers are a few numbers among a hundred that follow small scales. With
equal weights they hardly matter: on maps of two phases half of the power at the lowest wavenumbers
was given up for the rest. So the loss gives them more weight.

Many pixels of a real map may have one value exactly: an ionised bubble has 0 mK. Samples are set to
it where they come near (`ood_core.maps.quantization`), so statistics are those of the map that is
set, and one level lies between that value and all others. How far pixels lie beyond would else be
all that the steps see; the gradient passes as if nothing was set (Bengio et al. 2013).

The estimate is a mean, and smoother than any map. Steps that begin at it must make all texture
themselves; a random `u` to begin with has part of it, with phases that no statistic chose.
"""

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ood_core.arrays import Map, Maps, PerSample
from ood_core.config.method import SteeringSpec
from ood_core.config.targets import Symmetry
from ood_core.denoising.hats import (
    band_knots,
    brightness_edges,
    brightness_hats,
    hat_functions,
)
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.estimators.gaussian import band_spectrum, symmetric_mean
from ood_core.maps.quantization import Quantization
from ood_core.metrics.detail import local_mean
from ood_core.metrics.distances import Whitening
from ood_core.metrics.scattering import Scattering
from ood_core.numerics.covariance import filtered
from ood_core.numerics.random import SeedRange, StepNoise, Stream, uniform
from ood_core.numerics.symmetry import orbit

GROUPS = 24
"""Groups of the sorted pixels. Every pixel is in one, where single quantiles would pull but a few:
maps whose brightest pixels are nearly even got outliers that nothing reached."""
BLOCKS, BLOCK_GROUPS = (2, 4), 16
"""Sides of the blocks whose means are sorted too, and groups of these.

Pixel values alone do not say that bright pixels lie together.
"""
BANDS = 9
LEVELS, EDGE = (-1.0, 2.0), 0.3
"""Brightnesses in a map's own sigma, about its mean, and the width of the soft step over them."""
GAP = 5.0  # the soft step between a plateau and its edge is so much narrower than these are apart
HOST_ROWS = 16  # maps that are steered at once on a CPU: wavelet responses then fit into the cache
LOW_K = {"bands": slice(3), "mean": slice(None)}
"""Statistics of the mean and of the lowest wavenumbers, and which of their numbers per channel."""
FAR = 16  # neighbours are at most so small a part of all images, or two of them
RING_GROWTH = 1.3  # ring `i` of `n` ends at `(i/n)^1.3` of the corner's distance
TRIES = 64  # aims of which one is taken
NEAR = 0.05  # of the targets are nearer to another one than aims may be
SPREAD_FLOOR = 0.02  # of a log unit or of model range: no statistic is held tighter than this
MOST = 1.0  # spread: a wider gap pulls no more, as in the loss of Huber (1964)
BETAS = 0.8, 0.99
"""Adam's memory of the gradient and of its square: a dozen steps are too few for its own."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Plateaus:
    """Values that pixels beyond an edge are set to, per channel: at the lower and the upper end."""

    value: Float[Tensor, "c 2"]
    edge: Float[Tensor, "c 2"]
    there: Bool[Tensor, "c 2"]

    @classmethod
    def of(cls, targets: Maps) -> "Plateaus | None":
        """Find the plateaus of targets in model range; None where there are none."""
        found = Quantization.measure(targets.cpu().numpy())
        columns = [[found.lowest, found.highest], [found.lower_edge, found.upper_edge]]
        value, edge = (torch.from_numpy(np.hstack(ends)[:, :, 0]).float() for ends in columns)
        there = value != edge
        return cls(value, edge, there) if bool(there.any()) else None

    def __call__(self, maps: Maps) -> Maps:
        """Set what lies beyond an edge; the gradient passes unchanged."""
        free = maps.detach()
        beyond = [free < self.edge[:, :1, None], free > self.edge[:, 1:, None]]
        settled = free
        for end, passed in enumerate(beyond):
            own = slice(end, end + 1)
            settled = torch.where(
                passed & self.there[:, own, None], self.value[:, own, None], settled
            )
        return maps + (settled - free)

    def heights(
        self, flat: Float[Tensor, "n c p"], heights: Float[Tensor, "n c 2 p"]
    ) -> Float[Tensor, "n c 2 p"]:
        """Heights over levels, with the middle of a gap for a level where there is one."""
        middle, width = (self.value + self.edge) / 2, (self.edge - self.value).abs() / GAP
        width = torch.where(self.there, width, 1.0)
        own = (flat[..., None, :] - middle[..., None]) / width[..., None]
        return torch.where(self.there[..., None], own, heights)

    def to(self, device: torch.device | str) -> "Plateaus":
        """Move to a device."""
        return Plateaus(self.value.to(device), self.edge.to(device), self.there.to(device))


@final
class Statistics:
    """Differentiable summary of maps in model range, square ones without a `width`.

    With `plateaus`, maps are set to these first.
    """

    def __init__(
        self,
        size: int,
        radial_bins: int = 0,
        width: int | None = None,
        plateaus: Plateaus | None = None,
    ) -> None:
        shape = y, x = size, width or size
        self._scattering = Scattering(y, thinned=True, width=x)
        hats = hat_functions(band_knots(y, x, BANDS), y, x)
        hats = hats / hats.sum((-2, -1), keepdim=True) / (y * x)
        hats[:, 0, 0] = 0  # power about the mean
        self._bands = half_sums(hats)
        self._groups = group_means(y * x, GROUPS)
        self._block_groups = tuple(
            group_means((y // side) * (x // side), BLOCK_GROUPS) for side in BLOCKS
        )
        self._levels = torch.tensor(LEVELS)
        self._rings = ring_means(y, radial_bins, x)
        self._shape, self._plateaus = shape, plateaus

    def __call__(self, maps: Maps) -> Float[Tensor, "n f"]:
        """Return the statistics of every map, channels concatenated."""
        return torch.cat([part.flatten(1) for part in self.by_name(maps).values()], dim=1)

    def low_k(self, channels: int) -> Bool[Tensor, " f"]:
        """Which statistics are those of `LOW_K`."""
        return self.those(LOW_K, channels)

    def those(self, names: Mapping[str, slice], channels: int) -> Bool[Tensor, " f"]:
        """Which statistics have these names, and which of their numbers per channel."""
        zeros = torch.zeros(1, channels, *self._shape, device=self._bands.device)
        marks = {name: torch.zeros(part.shape) for name, part in self.by_name(zeros).items()}
        for name, which in names.items():
            marks[name][..., which] = 1
        return torch.cat([mark.flatten(1) for mark in marks.values()], dim=1)[0] > 0

    def by_name(self, maps: Maps) -> dict[str, Tensor]:
        """Return the statistics of every map by their names, one row per map."""
        maps = maps if self._plateaus is None else self._plateaus(maps)
        flat = maps.flatten(2)
        mean, spread = flat.mean(-1), flat.std(-1)
        standard = (flat - mean[..., None]) / spread[..., None].clamp_min(1e-3)
        heights = (standard[..., None, :] - self._levels[:, None]) / EDGE
        if self._plateaus is not None:
            heights = self._plateaus.heights(flat, heights)
        above = torch.sigmoid(heights).unflatten(-1, self._shape)
        excursions = self._log_power(above)[..., 1:]
        coarse = [
            avg_pool2d(maps, side).flatten(2).sort(dim=-1).values @ groups.T
            for side, groups in zip(BLOCKS, self._block_groups, strict=True)
        ]
        return {
            "scattering": self._scattering.log_moments(maps),
            "bands": self._log_power(maps),
            "excursions": excursions.flatten(2),
            "mean": mean,
            "spread": torch.log(spread + 1e-3),
            "skewness": (standard * standard * standard).mean(-1),
            "coarse": torch.cat(coarse, dim=-1),
            "pixels": flat.sort(dim=-1).values @ self._groups.T,
            "rings": flat @ self._rings.flatten(1).T,
        }

    def _log_power(self, maps: Float[Tensor, "*n y x"]) -> Float[Tensor, "*n bands"]:
        """Half the log of the power about the mean, per band."""
        modes = torch.fft.rfft2(maps)
        power = modes.real.square() + modes.imag.square()
        return 0.5 * torch.log(power.flatten(-2) @ self._bands.flatten(1).T + 1e-6)

    def to(self, device: torch.device | str) -> "Statistics":
        """Move to a device."""
        moved = copy(self)
        for name in ("_scattering", "_bands", "_groups", "_levels", "_rings"):
            setattr(moved, name, getattr(self, name).to(device))
        moved._block_groups = tuple(groups.to(device) for groups in self._block_groups)
        moved._plateaus = None if self._plateaus is None else self._plateaus.to(device)
        return moved


def group_means(count: int, groups: int) -> Float[Tensor, "groups count"]:
    """Weights of so many sorted numbers, one at least, whose sums are means of groups.

    Groups are narrower at both ends. There are fewer where there are fewer numbers.
    """
    step = torch.arange(min(groups, count) + 1)
    ends = (count * torch.sin(math.pi / 2 * step / step[-1]).square()).round().long()
    ends = ends.clamp(min=step, max=count - step[-1] + step)
    number = torch.searchsorted(ends[1:], torch.arange(count), right=True)
    inside = (number[None] == step[:-1, None]).float()
    return inside / inside.sum(dim=1, keepdim=True)


def relative_detail(detail: Maps, hats: Float[Tensor, "bins n c y x"]) -> Float[Tensor, " bins"]:
    """Spread of detail in every bin of brightness over its spread in all."""
    pixels = hats.flatten(1).sum(1).clamp_min(1e-9)
    power = (hats * detail.square()).flatten(1).sum(1) / pixels
    return (power / detail.square().mean().clamp_min(1e-12)).sqrt()


def half_sums(weights: Float[Tensor, "k y x"]) -> Float[Tensor, "k y half"]:
    """Weights of even functions of the modes, for sums over half of the spectrum alone."""
    width = weights.shape[-1]
    half = weights[..., : width // 2 + 1].clone()
    half[..., 1 : (width + 1) // 2] *= 2
    return half


def ring_means(size: int, count: int, width: int | None = None) -> Float[Tensor, "rings y x"]:
    """Weights whose sums with a map are its means over rings about the centre, finer inside."""
    rows, columns = (torch.arange(side) - (side - 1) / 2 for side in (size, width or size))
    radius = torch.hypot(rows[:, None], columns[None, :])
    top = float(radius.max())
    number = (count * (radius / top) ** (1 / RING_GROWTH)).long().clamp(max=count - 1)
    inside = (number[None] == torch.arange(count)[:, None, None]).float()
    return inside / inside.sum((-2, -1), keepdim=True).clamp_min(1)


def share_missed(values: Float[Tensor, "m f"], neighbours: Int[Tensor, "m k"]) -> float:
    """How much of what points between two neighbours miss gives aims the variance of `values`.

    With `u` uniform and different `a`, `b` of the `k` neighbours of `i`, of mean `m_i` and
    covariance `S_i`, `(1 - u) a + u b` has `w_i = (2/3 - 1 / (3 (k - 1))) S_i` about `m_i`, as
    `E[u^2] = 1/3`, `E[u (1 - u)] = 1/6` and `cov(a, b) = -S / (k - 1)`. With `r_j = s_j - m_j`
    missed in the mean at a neighbour `j`, which goes with `m_i` a little, the share `c` solves

        var(s) = var(m) + w + 2 c cov(m_i, r_j) + c^2 (var(r_j) + w_j)

    and is at most 1.
    """
    near = values[neighbours]
    count, mean = neighbours.shape[1], near.mean(dim=1)
    within = (2 / 3 - 1 / (3 * (count - 1))) if count > 1 else 0.0
    inside = within * (near - mean[:, None]).square().sum((1, 2)) / count
    missed = (values - mean)[neighbours]
    missed = missed - missed.mean((0, 1))
    points = mean - mean.mean(dim=0)
    lost = (values - values.mean(dim=0)).square().sum() - points.square().sum() - inside.sum()
    left = missed.square().sum() / count + inside[neighbours].sum() / count
    along = float((missed.mean(dim=1) * points).sum())
    root = math.sqrt(max(along**2 + float(left * lost), 0.0))
    return min(max((root - along) / max(float(left), 1e-12), 0.0), 1.0)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Novelty:
    """How far mixtures of targets' scattering moments are from the nearest target.

    `moments` of all images are whitened, so that mixtures of them are those of moments. `least` is
    the distance to the nearest other target that a share `NEAR` of the targets falls short of. On
    the host, in double precision and pair by pair, so that no batch decides what is near.
    """

    moments: Float[Tensor, "m f"]
    least: float

    @classmethod
    def measure(cls, moments: Float[Tensor, "m f"], targets: int) -> "Novelty":
        """Measure on moments of images; row `g * targets + i` is of image `g` of target `i`."""
        white = Whitening.fit(moments[:targets])(moments.double()).cpu()
        own = torch.arange(len(white)) % targets
        apart = _distances(white[:targets], white)
        apart[torch.arange(targets)[:, None] == own] = math.inf
        return cls(white, float(apart.min(dim=1).values.quantile(NEAR)))

    def __call__(
        self, rows: Int[Tensor, "n k"], weights: Float[Tensor, "n k"]
    ) -> Float[Tensor, " n"]:
        """Distance of mixtures of rows, in parts of `least`."""
        mixed = (weights.double()[..., None] * self.moments[rows]).sum(dim=1)
        return _distances(mixed, self.moments).min(dim=1).values / max(self.least, 1e-12)


def _distances(one: Float[Tensor, "n f"], other: Float[Tensor, "m f"]) -> Float[Tensor, "n m"]:
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")


@final
@dataclass(frozen=True, slots=True, eq=False)
class StatisticAims:
    """Statistics of the targets and of their symmetric images, and how far each spreads.

    `share` is how much aims have of what is missed (`share_missed`). `low_k` marks those of the
    mean and of the lowest wavenumbers. `power` is the targets' mean power about their mean, per
    Fourier mode, isotropic. `detail` is the spread of the targets' detail where their local mean
    has one of several brightnesses, `edges`, over its spread in all. `novel` keeps aims away from
    targets.
    """

    values: Float[Tensor, "m f"]
    spread: Float[Tensor, " f"]
    low_k: Bool[Tensor, " f"]
    neighbours: Int[Tensor, "m k"]
    share: float
    targets: int
    power: Map
    edges: Float[Tensor, " bins"]
    detail: Float[Tensor, " bins"]
    novel: Novelty

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
        count = min(neighbours, max(2, len(values) // FAR), len(targets) - 1)
        nearest = distance.topk(count, largest=False).indices
        power = band_spectrum(images - symmetric_mean(targets, symmetries))
        low_k = statistics.low_k(targets.shape[1])
        smooth = local_mean(targets)
        edges = brightness_edges(smooth)
        detail = relative_detail(targets - smooth, brightness_hats(smooth, edges))
        share = share_missed(standard, nearest)
        scattering = statistics.those({"scattering": slice(None)}, targets.shape[1])
        novel = Novelty.measure(values[:, scattering], len(targets))
        return cls(values, spread, low_k, nearest, share, len(targets), power, edges, detail, novel)

    def draw(
        self,
        seeds: SeedRange,
        near: Int[Tensor, " n"] | None = None,
        worth: Float[Tensor, " m"] | None = None,
    ) -> tuple[Float[Tensor, "n f"], Int[Tensor, "n 2"]]:
        """Draw one aim per seed; also return its two parent targets.

        These are the target whose place among its neighbours is taken, and the neighbour whose miss
        is. `near` has the first of each sample, whose latent it was made of; without it, the first
        is drawn at random and kept. Of `TRIES` aims the first is taken that is far enough from all
        targets, or the furthest. With the `worth` of every row of `values`, one of those that are
        far enough, or of all if none is, is taken with probability proportional to the exponential
        of its mixture of these and of its first.
        """
        tries, far = [], torch.zeros(len(seeds), 0, dtype=torch.float64)
        while far.shape[1] < TRIES and (worth is not None or not (far >= 1).any(dim=1).all()):
            tries.append(self._mixture(seeds, near, far.shape[1]))
            far = torch.cat([far, self.novel(*tries[-1])[:, None]], dim=1)
            near = tries[0][0][:, 0] if worth is None else near
        every, shares = (torch.stack(part, dim=1) for part in zip(*tries, strict=True))
        score = far.clamp(max=1)
        if worth is not None:
            drawn = uniform(seeds, TRIES, TRIES, Stream.STATISTIC).clamp_min(1e-300)
            mixed = (worth[every] * shares).sum(-1) + worth[every[..., 0]]
            enough = (far >= 1) | (far < 1).all(dim=1, keepdim=True)
            score = torch.where(enough, mixed - (-drawn.log()).log(), -math.inf)
        best = torch.arange(len(seeds)), score.argmax(dim=1)
        rows, weights = every[best], shares[best]
        points = self.values[rows.to(self.values.device)]
        aim = torch.einsum("nk,nkf->nf", weights.to(points), points)
        return aim, rows[:, :2] % self.targets

    def _mixture(
        self, seeds: SeedRange, near: Int[Tensor, " n"] | None, attempt: int
    ) -> tuple[Int[Tensor, "n 6"], Float[Tensor, "n 6"]]:
        """Rows of `values` whose weighted sums are aims; the parents come first."""
        drawn = uniform(seeds, 8, attempt, Stream.STATISTIC)
        first = (drawn[:, 0] * len(self.values)).long() if near is None else near.long()
        second = self.neighbours[first, (drawn[:, 1] * self.neighbours.shape[1]).long()]
        missed, share = self._between(second, drawn[:, 2:5])
        found, shares = self._between(first, drawn[:, 5:])
        rows = torch.cat([torch.stack([first, second], dim=1), found, missed], dim=1)
        parents = torch.tensor([0.0, self.share]).expand(len(first), -1)
        return rows, torch.cat([parents, shares, -self.share * share], dim=1)

    def _between(
        self, rows: Int[Tensor, " n"], drawn: Float[Tensor, "n 3"]
    ) -> tuple[Int[Tensor, "n 2"], Float[Tensor, "n 2"]]:
        """Two different neighbours, if there are two, and their shares of a point between them."""
        count = self.neighbours.shape[1]
        one = (drawn[:, 0] * count).long()
        other = (one + 1 + (drawn[:, 1] * (count - 1)).long()) % count
        pair = self.neighbours[rows[:, None], torch.stack([one, other], dim=1)]
        return pair, torch.stack([1 - drawn[:, 2], drawn[:, 2]], dim=1)

    def to(self, device: torch.device | str) -> "StatisticAims":
        """Move to a device; aims are still chosen on the host."""
        moved = ("values", "spread", "low_k", "power", "edges", "detail")
        return replace(self, **{name: getattr(self, name).to(device) for name in moved})


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
        timesteps: Sequence[int] = (),
    ) -> None:
        if spec.start and (seeds is None or len(seeds) != len(aim)):
            raise ValueError(f"got seeds {seeds} for {len(aim)} aims; expected as many")
        self._inner, self._statistics, self._spec = inner, statistics, spec
        self._aim, self._spread, self._power = aim, aims.spread, aims.power
        self._edges, self._detail = aims.edges, aims.detail
        weight = torch.where(aims.low_k, spec.low_k_weight, 1.0) / aims.spread
        self._slope = 2 * weight.square() / aim.shape[1]  # of the loss, by a gap
        self._noise = None
        if seeds is not None and spec.start:
            steered = [t for t in timesteps if self._steers(t)]
            self._noise = StepNoise(seeds, Stream.STEERING, steered)

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule of the denoiser inside."""
        return self._inner.schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return the steered clean estimate."""
        x0 = self._inner(x_t, t)
        if not self._steers(t):
            return x0
        x0 = x0.detach()
        rows = HOST_ROWS if x0.device.type == "cpu" else len(x0)
        starts = torch.zeros_like(x0)
        if self._noise is not None:
            starts = self._spec.start * self._noise.at(t, x0)
        ratio = self.schedule.noise_to_signal(t)
        left_open = self._power / (self._power / ratio**2 + 1)
        shares = brightness_hats(local_mean(x0), self._edges)
        local = torch.einsum("bncyx,b->ncyx", shares, self._detail)
        split = x0.split(rows), self._aim.split(rows), starts.split(rows), local.split(rows)
        blocks = zip(*split, strict=True)
        return torch.cat([self._pull(*block, left_open.sqrt()) for block in blocks])

    def distance(self, maps: Maps) -> PerSample:
        """Root-mean-square distance to the aims, in spreads of the targets."""
        return self._gaps(maps, self._aim).square().mean(dim=1).sqrt()

    def _steers(self, t: int) -> bool:
        return self.schedule.noise_to_signal(t) <= self._spec.sigma_max

    def _gaps(self, maps: Maps, aim: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
        return (self._statistics(maps) - aim) / self._spread

    def _pull(
        self, x0: Maps, aim: Float[Tensor, "n f"], start: Maps, local: Maps, gain: Map
    ) -> Maps:
        """Take the Adam steps, from `start` in posterior coordinates, scaled by `local`.

        The filter is its own adjoint, so the gradient by `u` is the filtered gradient by the map.
        """
        u = start.detach().clone()
        adam = torch.optim.Adam([u], lr=self._spec.rate, betas=BETAS)
        most = MOST * self._spread
        for _ in range(self._spec.steps):
            maps = (x0 + local * filtered(u, gain)).requires_grad_(True)
            with torch.enable_grad():
                found = self._statistics(maps)
                pull = (found.detach() - aim).clamp(-most, most) * self._slope
                (by_map,) = torch.autograd.grad(found, maps, pull)
            u.grad = filtered(local * by_map, gain)
            adam.step()
        return x0 + local * filtered(u, gain)
