"""The latents of the targets laid out in a plane, with samples' latents beside them.

Axes are the first two principal components of targets and as many draws of the prior together:
axes of the targets alone would follow their noise, and draws would seem to lie in the middle. The
plane holds a small part of the spread of latents, which is said; distances are of whole latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from sklearn.decomposition import PCA
from torch import Tensor

from ood_core.arrays import Latents
from ood_core.config.targets import Symmetry
from ood_core.estimators.choice import Prior
from ood_core.evaluation.features import own_units
from ood_core.evaluation.memorization import among

MAX_POINTS = 512  # targets, and as many draws


@final
@dataclass(frozen=True, slots=True, eq=False)
class LatentAtlas:
    """One row per target, and per drawn latent of a sample.

    `numbers` are those of the targets, some of which may be left out. `neighbour` is the number of
    the nearest other one and `distance` how far it lies, RMS in a latent's own units after the best
    symmetry: 2^1/2 for unrelated latents. `membership` is the part of draws of the prior that are
    less probable under it than the target is; `explained` the part of the variance that each axis
    of the plane holds.
    """

    numbers: Int[Tensor, " n"]
    targets: Float[Tensor, "n 2"]
    draws: Float[Tensor, "m 2"]
    neighbour: Int[Tensor, " n"]
    distance: Float[Tensor, " n"]
    log_density: Float[Tensor, " n"]
    membership: Float[Tensor, " n"]
    explained: tuple[float, float]


def atlas(
    latents: Latents,
    draws: Latents,
    prior: Prior,
    symmetries: Sequence[Symmetry],
    numbers: Sequence[int],
) -> LatentAtlas | None:
    """Lay out the first latents of targets and as many of samples; None with too few of them."""
    latents = latents[:MAX_POINTS]
    draws = draws[: len(latents)]
    if min(len(latents), len(draws)) < 2:
        return None
    plane = PCA(2, svd_solver="full")
    places = plane.fit_transform(torch.cat([latents, draws]).flatten(1).double().numpy())
    first, second = (float(part) for part in plane.explained_variance_ratio_)
    near = among(own_units(latents), symmetries)
    density, own = (
        prior.log_density(values).double() / prior.mean.numel() for values in (latents, draws)
    )
    return LatentAtlas(
        numbers=torch.tensor(numbers[:MAX_POINTS]),
        targets=torch.from_numpy(places[: len(latents)]),
        draws=torch.from_numpy(places[len(latents) :]),
        neighbour=torch.tensor(numbers)[near.target],
        distance=near.distance,
        log_density=density,
        membership=(own[None] < density[:, None]).double().mean(1),
        explained=(first, second),
    )
