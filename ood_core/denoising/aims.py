"""Aims of steered decoding: statistics that a sample shall have, drawn from those of the targets.

An aim is drawn locally. A target is a random point between two of its near neighbours in statistic
space, plus what that point misses; an aim is such a point of one target, plus most of what is
missed at one of its neighbours. Points alone would be nearer to targets than real maps are to any.
Some aims still are, where a point is nearly a neighbour and hardly anything was missed. So an aim
whose scattering moments are nearer to those of a target than all but a few targets are to those of
another one is drawn anew.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ood_core.arrays import Map, Maps
from ood_core.config.targets import Symmetry
from ood_core.denoising.local_detail import LocalDetail
from ood_core.denoising.statistics import SPREAD_FLOOR, Statistics
from ood_core.estimators.gaussian import band_spectrum, symmetric_mean
from ood_core.metrics.distances import Whitening
from ood_core.numerics.random import SeedRange, Stream, uniform
from ood_core.numerics.symmetry import orbit

FAR = 16  # neighbours are at most so small a part of all images, or two of them
TRIES = 64  # aims of which one is taken
NEAR = 0.3  # of the targets are nearer to another one than aims may be
Worth = Callable[[Int[Tensor, "n tries k"], Float[Tensor, "n tries k"]], Tensor]
"""Log weights `(n, tries)` of aims, by the rows that they are mixtures of and their shares."""


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
    Fourier mode, isotropic. `local` is how rough they are by local brightness. `novel` keeps aims
    away from targets.
    """

    values: Float[Tensor, "m f"]
    spread: Float[Tensor, " f"]
    low_k: Bool[Tensor, " f"]
    neighbours: Int[Tensor, "m k"]
    share: float
    targets: int
    power: Map
    local: LocalDetail
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
        local = LocalDetail.measure(targets)
        share = share_missed(standard, nearest)
        scattering = statistics.those({"scattering": slice(None)}, targets.shape[1])
        novel = Novelty.measure(values[:, scattering], len(targets))
        return cls(values, spread, low_k, nearest, share, len(targets), power, local, novel)

    def draw(
        self,
        seeds: SeedRange,
        near: Int[Tensor, " n"] | None = None,
        worth: Worth | None = None,
    ) -> tuple[Float[Tensor, "n f"], Int[Tensor, "n 2"]]:
        """Draw one aim per seed; also return its two parent targets: `choose`, then `mixed`."""
        return self.mixed(*self.choose(seeds, near, worth))

    def mixed(
        self, rows: Int[Tensor, "n k"], shares: Float[Tensor, "n k"]
    ) -> tuple[Float[Tensor, "n f"], Int[Tensor, "n 2"]]:
        """Aims that are mixtures of rows of `values`, and their two parent targets."""
        points = self.values[rows.to(self.values.device)]
        aim = torch.einsum("nk,nkf->nf", shares.to(points), points)
        return aim, rows[:, :2] % self.targets

    def choose(
        self,
        seeds: SeedRange,
        near: Int[Tensor, " n"] | None = None,
        worth: Worth | None = None,
    ) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
        """Choose one mixture per seed: rows of `values`, the parents' first, and their shares.

        The parents are the target whose place among its neighbours is taken, and the neighbour
        whose miss is. `near` has the first of each sample, whose latent it was made of; without it,
        the first is drawn at random and kept. Of `TRIES` aims the first is taken that is far enough
        from all targets, or the furthest. With a `worth`, one of those that are far enough, or of
        all if none is, is taken with probability proportional to its exponential.
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
            enough = (far >= 1) | (far < 1).all(dim=1, keepdim=True)
            score = torch.where(enough, worth(every, shares) - (-drawn.log()).log(), -math.inf)
        best = torch.arange(len(seeds)), score.argmax(dim=1)
        return every[best], shares[best]

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
        moved = ("values", "spread", "low_k", "power", "local")
        return replace(self, **{name: getattr(self, name).to(device) for name in moved})
