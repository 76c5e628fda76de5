"""What a narrower number type of the network costs: its error beside the denoiser's own."""

from collections.abc import Sequence

import torch

from ood_core.arrays import Maps
from ood_core.diffusion.denoiser import Denoiser
from ood_core.numerics.random import Stream, normal_like


def rounding_share(
    exact: Denoiser, narrow: Denoiser, maps: Maps, levels: Sequence[int], root: int = 0
) -> float:
    """Largest share, over the levels, that rounding adds to the error of an estimate.

    `RMS(narrow - exact) / RMS(exact - x0)` on clean maps `x0` with noise of a level. Errors that
    have nothing to do with each other add in squares: a share of 0.1 adds 0.5 % to the error.
    """
    shares = []
    for t in levels:
        alpha, sigma = float(exact.schedule.alpha[t]), float(exact.schedule.sigma[t])
        x_t = alpha * maps + sigma * normal_like(maps, root, t, Stream.CALIBRATION)
        clean = exact(x_t, t)
        rounding, error = (narrow(x_t, t) - clean).square().mean(), (clean - maps).square().mean()
        shares.append(float(torch.sqrt(rounding / error.clamp_min(1e-20))))
    return max(shares)
