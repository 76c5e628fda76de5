"""The prior of the latents: a Gaussian of one kind, at the share that left-out latents favour.

Maps are split into even and odd ones, and each half is scored under the distribution fitted to the
other, at each share of shrinkage that the kind has. All of them are fitted at the best share.
"""

import math
from collections.abc import Callable, Sequence

from ood_core.arrays import Maps
from ood_core.config.method import PriorKind
from ood_core.config.targets import Symmetry
from ood_core.diffusion.analytic import log_density
from ood_core.errors import PriorUnderdetermined
from ood_core.estimators.gaussian import (
    Family,
    Gaussian,
    GaussianPrior,
    estimate,
    fit_truncated,
    is_large,
)
from ood_core.estimators.moments import SCORED, evenly

RHO_GRID = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 1.0)
COARSE_GRID = (0.02, 0.1, 0.35, 0.7, 1.0)  # of large sets, each share of which costs seconds
MIN_MAPS = 4  # two for each half


def _isotropic(maps: Maps, symmetries: Sequence[Symmetry]) -> Family:
    gaussian = estimate(maps, "isotropic", 1.0, symmetries)
    return Family(lambda share: gaussian)


def _spectral_low_rank(maps: Maps, symmetries: Sequence[Symmetry]) -> Family:
    """`share` of a spectrum beside the rest of the sample covariance."""
    if is_large(maps, symmetries):
        return Family(fit_truncated(maps, symmetries), COARSE_GRID)
    return Family(lambda share: estimate(maps, "spectral_low_rank", share, symmetries), RHO_GRID)


PRIORS: dict[PriorKind, Callable[[Maps, Sequence[Symmetry]], Family]] = {
    "isotropic": _isotropic,
    "spectral_low_rank": _spectral_low_rank,
}
"""Every kind of prior, by name: its distribution at each share of its shrinkage."""


def fit_family(maps: Maps, kind: PriorKind, symmetries: Sequence[Symmetry] = ()) -> Family:
    """Fit all distributions of a kind.

    Raises:
        ValueError: no such kind.
    """
    if kind not in PRIORS:
        raise ValueError(f"got the kind {kind}; expected one of {', '.join(PRIORS)}")
    return PRIORS[kind](maps, symmetries)


def fit_gaussian(
    maps: Maps, kind: PriorKind, symmetries: Sequence[Symmetry] = (), white: float = 0.0
) -> GaussianPrior:
    """Fit a Gaussian to maps or latents, at the share that left-out maps are likeliest under.

    `white` is the standard deviation of the white noise under which the distribution will be used:
    left-out maps are scored under `C + white^2 I`, so that the share suits that use.

    Raises:
        PriorUnderdetermined: fewer than four maps, or maps that no distribution makes likely.
        ValueError: no such kind.
    """
    if len(maps) < MIN_MAPS:
        raise PriorUnderdetermined(
            f"got {len(maps)} maps; a prior needs at least {MIN_MAPS}: add targets, or hold fewer "
            "out"
        )
    folds = [fit_family(maps[parity::2], kind, symmetries) for parity in (0, 1)]
    index, found = best_share(folds, maps, white, kind)
    family = fit_family(maps, kind, symmetries)
    share = family.shares[index]
    return GaussianPrior(*family.at(share), share, found)


def best_share(folds: Sequence[Family], maps: Maps, white: float, kind: str) -> tuple[int, float]:
    """Number of the best share of Gaussians fitted to even and to odd maps, and its score.

    Raises:
        PriorUnderdetermined: no share has a finite score; `kind` is named in it.
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


def score(left_out: Maps, gaussian: Gaussian, white: float) -> float:
    """Mean log density per map and dimension under `C + white^2 I`."""
    mean, covariance = gaussian
    blurred = covariance.plus_white(white**2) if white else covariance
    return float(log_density(evenly(left_out, SCORED), mean, blurred).mean()) / mean.numel()
