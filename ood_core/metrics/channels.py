"""What the channels of a map have in common: coherence by scale, mixed third moments, and colours.

Coherence says what is common on a scale, third moments whether it is so of bright places. Neither
depends on the brightness or contrast of a channel. Independent channels have 0 of both.

A colour is the difference `a - b` of two channels, a brightness their mean. Where values are
logarithms, as model range has them for `log` and for bright `asinh`, that is colour and magnitude.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.metrics.one_point import own_units
from ood_core.metrics.spectra import coherence, cross_spectrum

MAX_SHELLS = 4  # of wavenumbers, even in their logarithm


def channel_features(maps: Maps) -> Float[Tensor, "n f"]:
    """Return, per pair of channels, their coherence in shells and the means of `a^2 b` and `a b^2`.

    `a` and `b` are the channels of one map, each with mean 0 and standard deviation 1. Maps have
    two channels at least.
    """
    _, cross, modes = cross_spectrum(maps)
    bins = cross.shape[-1]
    shells = min(MAX_SHELLS, bins)
    shell = (shells * torch.arange(1, bins + 1).log() / np.log(bins + 1)).long()
    weight = modes * (shell == torch.arange(shells)[:, None])
    pooled = torch.einsum("nabk,sk->nabs", cross, weight.double())
    power = torch.diagonal(pooled, dim1=1, dim2=2).movedim(-1, 1)
    scale = (power[:, :, None] * power[:, None]).sqrt()
    coherent = torch.where(scale > 0, pooled / scale.clamp_min(1e-300), 0)
    first, second = torch.triu_indices(maps.shape[1], maps.shape[1], offset=1)
    own = own_units(maps)
    a, b = own[:, first], own[:, second]
    thirds = torch.stack([(a * a * b).mean((-2, -1)), (a * b * b).mean((-2, -1))], -1)
    return torch.cat([coherent[:, first, second].flatten(1), thirds.flatten(1)], 1)


BRIGHT = 0.05  # of the pixels of a map


def colour_features(maps: Maps) -> Float[Tensor, "n f"]:
    """Return, per pair of channels, four numbers of the colours of a map's pixels.

    Mean and logarithm of the spread of the colour, its correlation with brightness, and how much
    redder the mean of the brightest pixels (`BRIGHT`) is than that of all, in that spread. For a
    Gaussian field with variances `A`, `B` and covariance `C` of the channels the spread is
    `(A + B - 2 C)^(1/2)` and the correlation `(A - B) / ((A + B)^2 - 4 C^2)^(1/2)`.
    """
    first, second = torch.triu_indices(maps.shape[1], maps.shape[1], offset=1)
    pixels = maps.double().flatten(2)
    a, b = pixels[:, first], pixels[:, second]
    colour, brightness = a - b, (a + b) / 2
    mean = colour.mean(-1)
    spread = colour.std(-1).clamp_min(1e-9)
    away = colour - mean[..., None]
    level = brightness - brightness.mean(-1, keepdim=True)
    follows = (away * level).mean(-1) / (spread * level.std(-1).clamp_min(1e-9))
    count = max(1, round(BRIGHT * pixels.shape[-1]))
    brightest = brightness.topk(count, dim=-1).indices
    bright = away.gather(-1, brightest).mean(-1) / spread
    return torch.stack([mean, spread.log(), follows, bright], -1).flatten(1)


def coherence_distance(a: Float[Tensor, "n c c bins"], b: Float[Tensor, "m c c bins"]) -> float:
    """Return the mean over pairs and annuli of the difference of coherences, from cross powers."""
    first, second = torch.triu_indices(a.shape[1], a.shape[1], offset=1)
    gap = coherence(a) - coherence(b)
    return float(gap[first, second].abs().mean())
