"""Gaussian laws of one kind at any share of their shrinkage, fitted once and asked many times.

How far a sample covariance is drawn towards `nu I`, in closed form and in the dual.

    C = (1 - rho) S + rho nu I,        nu = tr S / d

Everything follows from Gram matrices in `O(n^2 d)`; no `d x d` matrix is formed. The formulas are
those of `sklearn.covariance` (`ledoit_wolf`, `oas`), which has no symmetries: there the images of a
map would count as further maps, and the share of shrinkage would come out too small.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import torch

from ood_core.arrays import Maps
from ood_core.config.method import GaussianKind, PriorKind
from ood_core.config.targets import Symmetry
from ood_core.diffusion.analytic import log_density
from ood_core.errors import PriorUnderdetermined
from ood_core.estimators.gaussian import (
    Family,
    GaussianPrior,
    Law,
    confirmed_factors,
    estimate,
    fit_truncated,
    is_large,
)
from ood_core.estimators.moments import evenly, group_mean, shrunk_mean, unbiased_residuals
from ood_core.estimators.sectors import leading_modes, most_modes, sectors
from ood_core.estimators.spectra import Spectra
from ood_core.numerics.covariance import Diagonal, LowRank, isotropic
from ood_core.numerics.symmetry import orbit


@final
@dataclass(frozen=True, slots=True)
class Traces:
    """Of `S = (1/n) sum_i S_i`, with `S_i` the mean of `r r^T` over the images of map `i`.

    `trace` is `tr S`, `square` is `tr S^2` and `own` is the mean of `tr S_i^2`.
    """

    n: int
    dimensions: int
    trace: float
    square: float
    own: float

    @classmethod
    def measure(cls, residuals: Maps, symmetries: Sequence[Symmetry]) -> "Traces":
        """Measure on maps about their mean."""
        n, d = len(residuals), residuals[0].numel()
        trace = square = own = 0.0
        for sector in sectors(residuals, symmetries):
            gram, copies = sector.gram(), len(sector.back)
            parts = len(gram) // n
            alone = gram.reshape(parts, n, parts, n).diagonal(dim1=1, dim2=3)
            trace += copies * float(gram.diagonal().sum()) / n
            square += copies * float((gram**2).sum()) / n**2
            own += copies * float((alone**2).sum()) / n
        return cls(n, d, trace, square, own)

    @property
    def spread(self) -> float:
        """Squared Frobenius distance of `S` from `nu I`."""
        return self.square - self.trace**2 / self.dimensions

    def ledoit_wolf(self) -> float:
        """Share of least expected error, without a law (Ledoit & Wolf 2004, lemma 3.5).

        rho = min(1, sum_i |S_i - S|^2 / n^2 / |S - nu I|^2)
        """
        noise = (self.own - self.square) / self.n
        return min(1.0, noise / self.spread) if self.spread > 0 else 1.0

    def oas(self) -> float:
        """Share of least error under a Gaussian, at its fixed point (Chen et al. 2010, eq. 23).

        Terms of `2 / d` are left out, as scikit-learn does:

            rho = min(1, (tr S^2 + (tr S)^2) / ((n + 1) (tr S^2 - (tr S)^2 / d)))

        Images of a map under the symmetries count as no more maps.
        """
        if self.spread <= 0:
            return 1.0
        return min(1.0, (self.square + self.trace**2) / ((self.n + 1) * self.spread))


RHO_GRID = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 1.0)
COARSE_GRID = (0.02, 0.1, 0.35, 0.7, 1.0)  # of large sets, each share of which costs seconds
ANNULI_GRID = (0.0, 0.1, 0.3, 0.6, 1.0)
SCORED = 2**23
"""Most numbers of left-out maps that a law is scored on, 42 maps of 3 x 256 x 256: of many large
maps some say it as well."""


def _isotropic(maps: Maps, symmetries: Sequence[Symmetry]) -> Family:
    law = estimate(maps, "isotropic", 1.0, symmetries)
    return Family(lambda share: law)


def _spectral_low_rank(maps: Maps, symmetries: Sequence[Symmetry]) -> Family:
    """`share` of a spectrum beside the rest of the sample covariance."""
    if is_large(maps, symmetries):
        return Family(fit_truncated(maps, symmetries), COARSE_GRID)
    return Family(lambda share: estimate(maps, "spectral_low_rank", share, symmetries), RHO_GRID)


def _diagonal(maps: Maps, symmetries: Sequence[Symmetry]) -> Family:
    """`(1 - share)` of each pixel's variance, the rest that of its channel."""
    variance = (unbiased_residuals(maps, symmetries) ** 2).mean(dim=0)
    pixels = torch.cat(orbit(variance[None], symmetries)).mean(dim=0)
    channels = variance.mean((-2, -1), keepdim=True).expand_as(pixels)
    if "translate" in symmetries:
        pixels = channels
    mean = shrunk_mean(maps, symmetries)
    return Family(
        lambda share: (mean, Diagonal(torch.lerp(pixels, channels, share).contiguous())), RHO_GRID
    )


def _sample(
    maps: Maps, symmetries: Sequence[Symmetry], share: Callable[[Traces], float] | None = None
) -> Family:
    """`(1 - share) S + share nu I`; what is beyond the factors there is room for is white.

    `share` finds it in closed form.
    """
    n, mean = len(maps), shrunk_mean(maps, symmetries)
    residuals = unbiased_residuals(maps, symmetries)
    d = mean.numel()
    trace = sum(float((row.double() ** 2).sum()) for row in residuals) / n
    modes = leading_modes(residuals, symmetries, most_modes(d))
    values = modes.values
    rest = max(0.0, trace - float(values.sum())) / d

    def at(share: float) -> Law:
        white = isotropic((1 - share) * rest + share * trace / d, tuple(mean.shape))
        if share >= 1:
            return mean, white
        return mean, LowRank(white, modes.maps * ((1 - share) * values).sqrt()[:, None, None, None])

    return Family(
        at, RHO_GRID if share is None else (share(Traces.measure(residuals, symmetries)),)
    )


def _spectral(maps: Maps, symmetries: Sequence[Symmetry]) -> Family:
    """Stationary laws."""
    spectra = Spectra.measure(maps, group_mean(maps, symmetries), symmetries)
    mean = shrunk_mean(maps, symmetries)
    return Family(lambda share: (mean, spectra.at(share)), ANNULI_GRID)


def _spectral_factors(maps: Maps, symmetries: Sequence[Symmetry]) -> Family:
    """Stationary laws with factors, at the share that suits them without."""
    spectra = Spectra.measure(maps, group_mean(maps, symmetries), symmetries)
    share = ANNULI_GRID[likeliest(maps, "spectral", symmetries)[0]]
    law = shrunk_mean(maps, symmetries), confirmed_factors(maps, spectra, share, symmetries)
    return Family(lambda share: law, (share,))


@final
@dataclass(frozen=True, slots=True)
class Gaussian:
    """One kind of Gaussian prior.

    Attributes:
        fit: all its laws, from maps and their symmetries.
        min_maps: least number of maps to choose among them; by default two for each fold.
        of_sample: whether it shrinks a sample covariance, which is a spectrum under `translate`.
    """

    fit: Callable[[Maps, Sequence[Symmetry]], Family]
    min_maps: int = 4
    of_sample: bool = False


GAUSSIANS: dict[GaussianKind, Gaussian] = {
    "isotropic": Gaussian(_isotropic),
    "diagonal": Gaussian(_diagonal),
    "low_rank": Gaussian(_sample, of_sample=True),
    "ledoit_wolf": Gaussian(partial(_sample, share=Traces.ledoit_wolf), of_sample=True),
    "oas": Gaussian(partial(_sample, share=Traces.oas), of_sample=True),
    "spectral": Gaussian(_spectral),
    "spectral_low_rank": Gaussian(_spectral_low_rank),
    "spectral_factors": Gaussian(_spectral_factors, min_maps=8),  # confirmed within each fold
}
"""Every kind of Gaussian prior, by name."""


def _gaussian(kind: GaussianKind) -> Gaussian:
    if kind not in GAUSSIANS:
        raise ValueError(f"got the kind {kind}; expected one of {', '.join(GAUSSIANS)}")
    return GAUSSIANS[kind]


def fit_family(maps: Maps, kind: GaussianKind, symmetries: Sequence[Symmetry]) -> Family:
    """Fit all laws of a kind.

    Raises:
        PriorUnderdetermined: shrunk sample covariances under `translate`: they are spectra.
        ValueError: no such kind.
    """
    fit = _gaussian(kind).fit
    require_ruled_in(kind, symmetries)
    return fit(maps, symmetries)


def fit_gaussian(
    maps: Maps, kind: GaussianKind, symmetries: Sequence[Symmetry] = (), white: float = 0.0
) -> GaussianPrior:
    """Fit the law of maps or latents, at the share that left-out maps are likeliest under.

    `white` is the standard deviation of the white noise under which the law will be used: left-out
    maps are scored under `C + white^2 I`, so that the share suits that use.

    Raises:
        PriorUnderdetermined: fewer maps than the kind needs, or a kind that `translate` rules out.
    """
    return fit_scored(maps, kind, symmetries, *likeliest(maps, kind, symmetries, white))


def fit_scored(
    maps: Maps, kind: GaussianKind, symmetries: Sequence[Symmetry], index: int, found: float
) -> GaussianPrior:
    """Fit all maps at a share that `likeliest` found, with its score."""
    family = fit_family(maps, kind, symmetries)
    share = family.shares[index]
    return GaussianPrior(*family.at(share), share, found)


def likeliest(
    maps: Maps, kind: GaussianKind, symmetries: Sequence[Symmetry], white: float = 0.0
) -> tuple[int, float]:
    """Number of the best share and its score per map and dimension, over even and odd maps.

    A law without a grid is scored at the share that each fold finds for itself.

    Raises:
        PriorUnderdetermined: fewer maps than the kind needs, or a kind that `translate` rules out.
    """
    require_maps(maps, kind)
    folds = [fit_family(maps[parity::2], kind, symmetries) for parity in (0, 1)]
    return best_share(folds, maps, white, kind)


def best_share(
    folds: Sequence[Family], maps: Maps, white: float = 0.0, kind: str = "windows"
) -> tuple[int, float]:
    """Number of the best share of laws fitted to even and to odd maps, and its score.

    Raises:
        PriorUnderdetermined: no share has a finite score.
    """
    scores = [
        sum(
            score(maps[1 - parity :: 2], fold.at(fold.shares[index]), white)
            for parity, fold in enumerate(folds)
        )
        / 2
        for index in range(len(folds[0].shares))
    ]
    finite = [index for index, found in enumerate(scores) if math.isfinite(found)]
    if not finite:
        raise PriorUnderdetermined(
            f"a prior of kind {kind} has no finite likelihood: got maps that are equal, or values "
            "too large for single precision; expected maps that differ, of about unit variance"
        )
    best = max(finite, key=lambda index: scores[index])
    return best, scores[best]


def require_maps(maps: Maps, kind: GaussianKind) -> None:
    """Refuse fewer maps than a kind needs.

    Raises:
        PriorUnderdetermined: there are fewer.
    """
    needed = _gaussian(kind).min_maps
    if len(maps) < needed:
        raise PriorUnderdetermined(
            f"got {len(maps)} maps; a prior of kind {kind} needs at least {needed}: "
            "add targets, or hold fewer out"
        )


def require_ruled_in(kind: PriorKind | None, symmetries: Sequence[Symmetry]) -> None:
    """Refuse shrunk sample covariances under `translate`: averaged over shifts, they are spectra.

    Raises:
        PriorUnderdetermined: the symmetries rule the kind out.
    """
    of_sample = [name for name, gaussian in GAUSSIANS.items() if gaussian.of_sample]
    if kind in of_sample and "translate" in symmetries:
        raise PriorUnderdetermined(
            f"method.prior: got {kind} with the symmetry translate, under which a sample "
            "covariance is a spectrum; expected another kind: choose spectral, or auto"
        )


def score(left_out: Maps, law: Law, white: float) -> float:
    """Mean log density per map and dimension under `C + white^2 I`."""
    mean, covariance = law
    blurred = covariance.plus_white(white**2) if white else covariance
    return float(log_density(scored(left_out), mean, blurred).mean()) / mean.numel()


def scored(maps: Maps) -> Maps:
    """Evenly spaced maps, as many as are scored."""
    return evenly(maps, SCORED)
