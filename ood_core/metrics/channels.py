"""What the channels of a map have in common: coherence by scale and mixed third moments.

Coherence says what is common on a scale, third moments whether it is so of bright places. Neither
depends on the brightness or contrast of a channel. Independent channels have 0 of both.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.metrics.one_point import own_units
from ood_core.metrics.spectra import cross_spectrum

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
