"""Latent samplers: draws of a prior, points between latents, sums of them, their cluster.

Zhu et al. (arXiv 2310.09213) interpolate between an inverted latent and a Gaussian draw. Sums that
keep mean and covariance are those of Bodin et al. (arXiv 2408.08558), corrected for a mean that is
estimated from the same latents. The cluster is our reconstruction of Ramachandran et al. (AAAI
2024), of which only the abstract is known.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ood_core.arrays import Latents, Map
from ood_core.config.method import DrawSpec
from ood_core.errors import PriorUnderdetermined
from ood_core.estimators.gaussian import GaussianPrior
from ood_core.numerics.random import SeedRange, Stream, generator, normal
from ood_core.numerics.sphere import Tangents, exp_map, frechet_mean, geodesic, log_map, project

PUBLISHED_SHARES = 21
"""Parts of the arc; the reference code takes the 20 points between neighbouring parts."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Latents with the numbers of the fit latents that each was made of, and their coefficients.

    `sources` has no columns where draws are not made of fit latents.
    """

    latents: Latents
    sources: Int[Tensor, "n k"]
    weights: Float[Tensor, "n k"]

    def used(self, references: int) -> Bool[Tensor, "n m"] | None:
        """Mask of the fit latents that each was made of, of `references`; None without sources."""
        if self.sources.shape[1] == 0:
            return None
        marks = torch.zeros(len(self.sources), references, dtype=torch.bool)
        return marks.scatter_(1, self.sources, True)


@runtime_checkable
class LatentSampler(Protocol):
    """Draws latents; each depends on its seed and the attempt alone."""

    def sample(self, seeds: SeedRange, attempt: int = 0) -> Candidates:
        """Draw one latent per seed."""
        ...


@final
@dataclass(frozen=True, slots=True, eq=False)
class PriorDraws:
    """Draws of the fitted prior."""

    prior: GaussianPrior

    def sample(self, seeds: SeedRange, attempt: int = 0) -> Candidates:
        """Draw one latent per seed."""
        return _without_sources(self.prior.sample(seeds, attempt))


@final
@dataclass(frozen=True, slots=True, eq=False)
class Interpolations:
    """From the latent `z_1` of a random target towards a draw `z_2` of the prior, at `t`.

        slerp   z = u(t) ((1 - t) |z_1| + t |z_2|),     u(t) on the arc between both directions
        norm    the same with u(t) along (1 - t) z_1 + t z_2

    The former is the released code (norms are interpolated linearly). Of draws with a mean that is
    not zero, both inflate the mean: that is a property of the published method.
    """

    prior: GaussianPrior
    fitted: Latents
    share: float | Literal["grid"]
    kind: Literal["slerp", "norm"]

    def sample(self, seeds: SeedRange, attempt: int = 0) -> Candidates:
        """Draw one latent per seed."""
        fresh = self.prior.sample(seeds, attempt)
        rngs = [generator(seeds.root, i, attempt, Stream.SOURCE) for i in seeds]
        sources = torch.tensor([[int(rng.integers(len(self.fitted)))] for rng in rngs])
        shares = [self._share(int(rng.integers(1, PUBLISHED_SHARES))) for rng in rngs]
        between = interpolate if self.kind == "slerp" else interpolate_straight
        made = [
            between(self.fitted[source][None], z[None], t)
            for source, z, t in zip(sources[:, 0], fresh, shares, strict=True)
        ]
        return Candidates(torch.cat(made), sources, 1 - torch.tensor(shares)[:, None])

    def _share(self, point: int) -> float:
        return point / PUBLISHED_SHARES if self.share == "grid" else float(self.share)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Combinations:
    """Sums of `parents` latents with random weights, uniform on the simplex, the largest first.

        z = mean + sum_i w_i (z_i - mean) / sqrt(beta - alpha^2 / n),  alpha = sum w, beta = sum w^2

    For latents of any one Gaussian, `mean` being their own, its covariance is that Gaussian's,
    whatever `n`. Without `alpha^2 / n` (Bodin et al. 2024) it is too small: by half for two.
    """

    fitted: Latents
    mean: Map
    parents: int

    def sample(self, seeds: SeedRange, attempt: int = 0) -> Candidates:
        """Draw one latent per seed."""
        sources, weights = [], []
        for i in seeds:
            rng = generator(seeds.root, i, attempt, Stream.SOURCE)
            sources.append(rng.choice(len(self.fitted), self.parents, replace=False))
            weights.append(np.sort(rng.dirichlet([1.0] * self.parents))[::-1])
        parents = torch.from_numpy(np.stack(sources))
        raw = torch.from_numpy(np.array(weights))
        scaled = corrected_weights(raw, len(self.fitted)).to(self.fitted)
        made = [
            self.mean + torch.einsum("k,kcyx->cyx", w, self.fitted[chosen] - self.mean)
            for chosen, w in zip(parents, scaled, strict=True)
        ]
        return Candidates(torch.stack(made), parents, scaled)


@final
@dataclass(frozen=True, eq=False)
class ClusterDraws:
    """Draws from the cluster of the latents on their sphere.

    A tangent Gaussian at the Fréchet mean `m` of the directions, with the covariance of their log
    maps `v_i` (whose mean there is zero), on the sphere of the latents' mean norm:

        z = mean |z_i| exp_m( sum_i g_i v_i / sqrt(n - 1) ),     g ~ N(0, I)
    """

    fitted: Latents

    @cached_property
    def _cluster(self) -> tuple[Float[Tensor, "1 d"], Tangents, float]:
        points, norms = project(self.fitted)
        mean = frechet_mean(points)[None]
        tangents = log_map(mean.expand_as(points), points)
        return mean, tangents / math.sqrt(len(points) - 1), float(norms.mean())

    def sample(self, seeds: SeedRange, attempt: int = 0) -> Candidates:
        """Draw one latent per seed."""
        mean, tangents, radius = self._cluster
        factors = normal(seeds, (len(tangents),), attempt, Stream.FACTOR).double()
        points = [exp_map(mean, (g @ tangents)[None]) for g in factors]
        made = (radius * torch.cat(points)).reshape(-1, *self.fitted.shape[1:])
        return _without_sources(made.to(self.fitted))


def latent_sampler(spec: DrawSpec | None, prior: GaussianPrior, fitted: Latents) -> LatentSampler:
    """Return the latent sampler of a method; without a spec, draws of the prior.

    Raises:
        PriorUnderdetermined: a combination of too many of the latents.
    """
    match spec:
        case None | DrawSpec(sampler="prior"):
            return PriorDraws(prior)
        case DrawSpec(sampler="slerp" | "norm" as kind, share=share):
            assert share is not None, "filled in by Method.resolve"
            return Interpolations(prior, fitted, share, kind)
        case DrawSpec(sampler="combination", sources=parents):
            require_parents(parents, len(fitted))
            return Combinations(fitted, fitted.mean(dim=0), parents)
        case _:
            return ClusterDraws(fitted)


def require_parents(parents: int, latents: int) -> None:
    """Refuse sums that leave too few latents to compare with, or to vary.

    At equal weights `beta - alpha^2 / n` is `(1 - k/n) beta`: nothing is left of `n` of `n`.

    Raises:
        PriorUnderdetermined: more than nine in ten, or fewer than two are left.
    """
    most = min(latents - 2, int(0.9 * latents))
    if parents > most:
        raise PriorUnderdetermined(
            f"draw.parents: got {parents} of {latents} fit targets; expected at most {most}: lower "
            "it, or fit more targets"
        )


def corrected_weights(weights: Float[Tensor, "m k"], latents: int) -> Float[Tensor, "m k"]:
    """Return `w / sqrt(beta - alpha^2 / n)`: for residuals about the mean of `n` latents."""
    alpha, beta = weights.sum(1, keepdim=True), (weights**2).sum(1, keepdim=True)
    scaled: Tensor = weights / (beta - alpha**2 / latents).sqrt()
    return scaled


def interpolate(a: Latents, b: Latents, share: float) -> Latents:
    """Go along the arc between directions, with norms interpolated linearly."""
    (u, far), (v, near) = project(a), project(b)
    norms = (1 - share) * far + share * near
    return (norms[:, None] * geodesic(u, v, share)).reshape(a.shape).to(a)


def interpolate_straight(a: Latents, b: Latents, share: float) -> Latents:
    """Go along the straight line, brought to linearly interpolated norms."""
    u, v = a.flatten(1).double(), b.flatten(1).double()
    straight = torch.lerp(u, v, share)
    norms = (1 - share) * u.norm(dim=1) + share * v.norm(dim=1)
    scaled: Tensor = straight * (norms / straight.norm(dim=1))[:, None]
    return scaled.reshape(a.shape).to(a)


def _without_sources(latents: Latents) -> Candidates:
    none = torch.zeros(len(latents), 0)
    return Candidates(latents, none.long(), none)
