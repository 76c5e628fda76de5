"""The stationary Gaussian of windows: maps that are cut from larger fields, and so not periodic.

Opposite borders of such a map do not meet. The Fourier transform takes the step between them for
power at small scales, and a law that is diagonal there leaves more open than the maps do. Here the
spectrum `P` belongs to a torus of twice the map's sides, whose covariance is `c(r)`; of it a map
sees a window. Its periodogram has the mean

    E I(k) = DFT of  c(r) (1 - |r_y| / Y) (1 - |r_x| / X),     folded onto the map's own lags

and `P`, isotropic and a chain of power laws, is the likeliest under `sum ln E I + I / E I`: the
debiased Whittle likelihood (Sykulski et al. 2019, Biometrika 106, 251; in two dimensions Guillaumin
et al. 2022, JRSS B 84, 1526). The law is `rho P + (1 - rho) S` beside the sample covariance `S`, as
that of `gaussian.estimate`, with matrices of all pixels.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.config.targets import Symmetry
from ood_core.estimators.gaussian import Family, Gaussian, GaussianPrior, symmetric_mean
from ood_core.estimators.moments import unbiased_residuals
from ood_core.estimators.prior import COARSE_GRID, RHO_GRID, best_share, fit_gaussian
from ood_core.numerics.covariance import Dense, wavenumbers
from ood_core.numerics.symmetry import orbit

MOST_PIXELS = 4096  # a matrix of that many squared takes 128 MiB
MANY_PIXELS = 1024  # of more, fewer shares are tried
PER_OCTAVE = 2  # knots of the spectrum
ROUNDS = 100  # of L-BFGS; some 30 are taken
LEAST_POWER = 1e-6  # of the mean power


def fit_conditional(maps: Maps, symmetries: Sequence[Symmetry]) -> GaussianPrior:
    """The law by which pixels that are not known follow from those that are.

    Periodic, or of windows: the one under which left-out maps are likelier. Maps that are the same
    under shifts, which are periodic, and those of more pixels than a matrix has room for are not
    asked.
    """
    periodic = fit_gaussian(maps, "spectral_low_rank", symmetries)
    if "translate" in symmetries or maps[0].numel() > MOST_PIXELS:
        return periodic
    windowed = fit_windowed(maps, symmetries)
    return max(periodic, windowed, key=lambda law: law.held_out_log_density)


def fit_windowed(maps: Maps, symmetries: Sequence[Symmetry]) -> GaussianPrior:
    """The law of windows at the share that left-out maps are likeliest under; needs four maps."""
    folds = [family(maps[parity::2], symmetries) for parity in (0, 1)]
    index, found = best_share(folds, maps, 0.0, "windows")
    share = folds[0].shares[index]
    return GaussianPrior(*family(maps, symmetries).at(share), share, found)


def family(maps: Maps, symmetries: Sequence[Symmetry]) -> Family:
    """Laws of windows at every stationary share."""
    mean = symmetric_mean(maps, symmetries)
    residuals = torch.cat(orbit(unbiased_residuals(maps, symmetries), symmetries)).double()
    periodogram = torch.fft.fft2(residuals, norm="ortho").abs().square().mean(dim=0)
    blocks = [toeplitz(window_covariance(channel), maps.shape[-2:]) for channel in periodogram]
    stationary = torch.block_diag(*blocks)
    flat = residuals.flatten(1)
    sample = flat.T @ flat / len(flat)

    def at(share: float) -> Gaussian:
        return mean, Dense(torch.lerp(sample, stationary, share))

    return Family(at, RHO_GRID if mean.numel() <= MANY_PIXELS else COARSE_GRID)


def window_covariance(periodogram: Float[Tensor, "y x"]) -> Float[Tensor, "yy xx"]:
    """Covariance on the torus of twice the sides, per lag, from the mean periodogram of windows."""
    y, x = periodogram.shape
    k = wavenumbers(2 * y, 2 * x).double()
    low, high = float(k[k > 0].min()), float(k.max())
    count = max(2, math.ceil(PER_OCTAVE * math.log2(high / low)) + 1)
    knots = torch.linspace(math.log(low), math.log(high), count, dtype=torch.float64)
    place = (k.clamp_min(low).log() - knots[0]) / (knots[1] - knots[0])
    left = place.long().clamp(max=count - 2)
    share = place - left
    least = LEAST_POWER * float(periodogram.mean())
    lag_y, lag_x = (
        1 - torch.minimum(lags, 2 * n - lags) / n
        for n, lags in ((n, torch.arange(2 * n, dtype=torch.float64)) for n in (y, x))
    )
    seen = lag_y[:, None] * lag_x

    def covariance(heights: Tensor) -> Tensor:
        power = torch.lerp(heights[left], heights[left + 1], share).exp() + least
        lags: Tensor = torch.fft.ifft2(power).real
        return lags

    def expected(heights: Tensor) -> Tensor:
        folded = (covariance(heights) * seen).reshape(2, y, 2, x).sum((0, 2))
        mean: Tensor = torch.fft.fft2(folded).real.clamp_min(least)
        return mean

    start = periodogram.clamp_min(least).log().mean()
    heights = start.repeat(count).requires_grad_()
    solver = torch.optim.LBFGS(
        [heights], max_iter=ROUNDS, history_size=count, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        mean = expected(heights)
        value: Tensor = (mean.log() + periodogram / mean).mean()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    return covariance(heights.detach())


def toeplitz(covariance: Float[Tensor, "yy xx"], shape: Sequence[int]) -> Float[Tensor, "d d"]:
    """Covariance of all pairs of pixels of a window, from that of lags on a torus."""
    y, x = (torch.arange(n) for n in shape)
    lag_y, lag_x = ((n[:, None] - n) % (2 * len(n)) for n in (y, x))
    pairs = covariance[lag_y[:, None, :, None], lag_x[None, :, None, :]]
    return pairs.reshape(len(y) * len(x), -1)
