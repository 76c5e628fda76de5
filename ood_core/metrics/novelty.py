"""Distance to the nearest target over the declared symmetries: is a sample a copy?

The distance of a map from a target is the root mean square of their pixel difference, least over
the images of the target under the group of `ood_core.symmetry.orbit`. Translations have no finite
orbit there and are not searched. Samples as novel as real maps lie as far from the fit targets as
held-out real maps do, so the ratio of the medians is 1; copies bring it to 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.errors import TargetError
from ood_core.specs import Symmetry
from ood_core.symmetry import orbit

Targets = Float[Tensor, "targets c y x"]
BLOCK_VALUES = 2**23  # float64 values held at once on either side of a product


@final
@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """Per query: distance (RMS per pixel), index of the nearest target, and group element.

    The query resembles `transform(targets[target], element, symmetries)`.
    """

    distance: Float[Tensor, " n"]
    target: Int[Tensor, " n"]
    element: Int[Tensor, " n"]


def nearest(
    queries: Maps,
    targets: Targets,
    symmetries: Sequence[Symmetry],
    block_values: int = BLOCK_VALUES,
) -> Nearest:
    """Search all targets under all group elements, in blocks of bounded memory."""
    if not len(targets):
        raise TargetError("got no targets; expected at least 1 to measure novelty against")
    rows = max(1, block_values // max(1, queries[0].numel() if len(queries) else 1))
    blocks = [
        _nearest_block(block, targets, symmetries, rows) for block in torch.split(queries, rows)
    ]
    return Nearest(
        torch.cat([b.distance for b in blocks]),
        torch.cat([b.target for b in blocks]),
        torch.cat([b.element for b in blocks]),
    )


def _nearest_block(
    queries: Maps, targets: Targets, symmetries: Sequence[Symmetry], rows: int
) -> Nearest:
    # Centring keeps the expanded square |q|^2 - 2 q.t + |t|^2 from cancelling.
    centre = float(targets.mean())
    flat = queries.double().flatten(1) - centre
    best = torch.full((len(queries),), torch.inf, dtype=torch.float64)
    target = torch.zeros(len(queries), dtype=torch.long)
    element = torch.zeros_like(target)
    winner = torch.empty_like(flat)
    for start in range(0, len(targets), rows):
        for number, images in enumerate(orbit(targets[start : start + rows], symmetries)):
            image = images.double().flatten(1) - centre
            square = image.square().sum(1) - 2 * flat @ image.T
            value, index = square.min(1)
            closer = value < best
            best = torch.where(closer, value, best)
            target = torch.where(closer, index + start, target)
            element = torch.where(closer, torch.full_like(element, number), element)
            winner[closer] = image[index[closer]]
    # Measured anew from the difference itself, so that a copy is at distance 0 exactly.
    return Nearest((flat - winner).square().mean(1).sqrt(), target, element)


def nearest_ratio(
    samples: Maps,
    held_out: Float[Tensor, "m c y x"],
    targets: Targets,
    symmetries: Sequence[Symmetry],
) -> float:
    """Return the samples' median nearest distance over that of held-out real maps: 1 as novel."""
    return distance_ratio(
        nearest(samples, targets, symmetries).distance,
        nearest(held_out, targets, symmetries).distance,
    )


def distance_ratio(samples: Float[Tensor, " n"], held_out: Float[Tensor, " m"]) -> float:
    """Return the ratio of two medians of nearest distances.

    Held-out maps that are themselves copies of targets leave nothing to compare with: the ratio is
    then infinite, or 1 if the samples are copies too.
    """
    above, below = (float(d.double().quantile(0.5)) for d in (samples, held_out))
    if below == 0:
        return 1.0 if above == 0 else float("inf")
    return above / below
