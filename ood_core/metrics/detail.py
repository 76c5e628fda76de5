"""How rough is a map where it is bright, and where it is faint?

Global averages cannot say where detail belongs: maps with the right spectrum, the right pixel
values and the right moments of wavelets may have smooth sky beside lumpy objects, or the other way
round. Here the spread of detail, a map minus its local mean, is measured among pixels of like local
mean. Bins are ranks within the map itself, so a feature depends on one map alone.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from ood_core.arrays import Maps
from ood_core.metrics.one_point import own_units

RANKS = (0.0, 0.5, 0.8, 0.95, 1.0)
"""Ends of the bins, as shares of a map's pixels in the order of their local mean."""
LEAST = 1e-3  # in a map's own sigma: keeps logarithms finite


def local_mean(maps: Maps) -> Maps:
    """Mean over the 3 x 3 pixels about each; maps are mirrored at their edges."""
    return avg_pool2d(pad(maps, (1, 1, 1, 1), mode="reflect"), 3, stride=1)


def detail_features(maps: Maps) -> Float[Tensor, "n f"]:
    """Log spread of detail in each bin of brightness, in a map's own sigma, per channel."""
    own = own_units(maps)
    smooth = local_mean(own)
    order = smooth.flatten(2).argsort(dim=-1)
    detail = (own - smooth).flatten(2).gather(-1, order)
    ends = [round(rank * order.shape[-1]) for rank in RANKS]
    power = [detail[..., low:high].square().mean(-1) for low, high in pairwise(ends)]
    return torch.log(torch.stack(power, dim=-1).sqrt() + LEAST).flatten(1)
