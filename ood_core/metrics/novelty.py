"""Distance to the nearest target over the declared symmetries: is a sample a copy?

The distance of a map from a target is the root mean square of their pixel difference, least over
the images of the target under the group of `ood_core.numerics.symmetry.orbit`. `nearest` searches
no shifts. Samples as novel as real maps lie as far from the fit targets as held-out real maps do,
so the ratio of the medians is 1; copies bring it to 0.

`nearest_shifted` searches all periodic shifts as well. The least squared distance of `a` and shifts
of `b` is `(|a|^2 + |b|^2 - 2 max_s (a * b)_s) / d` with the cross-correlation `a * b`, a product of
transforms. Since `(a * b)_s <= sum_k |F_a| |F_b| / N` at every shift, the distance of moduli bounds
it from below, at the price of one product of matrices. Only the images with the least bounds are
correlated: the bound of a copy is its noise, so that copies are among them, while the distance of a
map that is no copy may come out too large, never too small.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.config.targets import Symmetry
from ood_core.errors import TargetError
from ood_core.numerics.symmetry import orbit, orbit_size, transform

Targets = Float[Tensor, "targets c y x"]
BLOCK_VALUES = 2**23  # float64 values held at once on either side of a product
CANDIDATES = 8  # images that are correlated with a map


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


@final
@dataclass(frozen=True, slots=True, eq=False)
class Shifted:
    """Per query, the nearest image of a target under group and periodic shifts.

    The query resembles `transform(targets[target], element, symmetries)` rolled by `shift` (y, x).
    """

    distance: Float[Tensor, " n"]
    target: Int[Tensor, " n"]
    element: Int[Tensor, " n"]
    shift: Int[Tensor, "n 2"]


def nearest_shifted(
    queries: Maps,
    targets: Targets,
    symmetries: Sequence[Symmetry],
    block_values: int = BLOCK_VALUES,
) -> Shifted:
    """Search targets under group and shifts, in blocks of bounded memory.

    Raises:
        TargetError: There are no targets.
    """
    if not len(targets):
        raise TargetError("got no targets; expected at least 1 to measure novelty against")
    most = min(CANDIDATES, len(targets) * orbit_size(symmetries))
    rows = max(1, block_values // max(1, most * targets[0].numel()))
    found = [
        _shifted_block(block, targets, symmetries, most, block_values)
        for block in torch.split(queries, rows)
    ]
    return Shifted(
        torch.cat([f.distance for f in found]),
        torch.cat([f.target for f in found]),
        torch.cat([f.element for f in found]),
        torch.cat([f.shift for f in found]),
    )


def _shifted_block(
    queries: Maps, targets: Targets, symmetries: Sequence[Symmetry], most: int, block_values: int
) -> Shifted:
    centre = float(targets.mean())
    own = queries.double() - centre
    target, element = _candidates(own, targets, symmetries, centre, most, block_values)
    images = _images(targets, target, element, symmetries).double() - centre
    size = tuple(queries.shape[-2:])
    product = torch.fft.rfft2(own)[:, None] * torch.fft.rfft2(images).conj()
    match = torch.fft.irfft2(product.sum(2), s=size).flatten(-2)  # channels shift together
    height, place = match.max(-1)
    square = own.square().flatten(1).sum(1)[:, None] + images.square().flatten(2).sum(2)
    best = (square - 2 * height).argmin(1, keepdim=True)
    place = place.gather(1, best)[:, 0]
    shift = torch.stack([place // size[1], place % size[1]], dim=1)
    # Measured anew from the difference itself, so that a copy is at distance 0 exactly.
    distance = [
        (own[i] - images[i, int(best[i])].roll(tuple(shift[i].tolist()), (-2, -1))).square().mean()
        for i in range(len(own))
    ]
    target, element = (index.gather(1, best)[:, 0] for index in (target, element))
    return Shifted(torch.stack(distance).sqrt(), target, element, shift)


def _candidates(
    own: Tensor,
    targets: Targets,
    symmetries: Sequence[Symmetry],
    centre: float,
    most: int,
    block_values: int,
) -> tuple[Int[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Targets and elements whose moduli lie nearest to those of each query."""
    moduli = torch.fft.fft2(own).abs().flatten(1)
    bounds, target, element = [], [], []
    rows = max(1, block_values // targets[0].numel())
    for start in range(0, len(targets), rows):
        for number, image in enumerate(orbit(targets[start : start + rows], symmetries)):
            other = torch.fft.fft2(image.double() - centre).abs().flatten(1)
            bounds.append(other.square().sum(1) - 2 * moduli @ other.T)
            target.append(torch.arange(start, start + len(image)))
            element.append(torch.full((len(image),), number))
    least = torch.cat(bounds, dim=1).topk(most, dim=1, largest=False).indices
    return torch.cat(target)[least], torch.cat(element)[least]


def _images(
    targets: Targets,
    target: Int[Tensor, "n k"],
    element: Int[Tensor, "n k"],
    symmetries: Sequence[Symmetry],
) -> Float[Tensor, "n k c y x"]:
    found = targets[target.flatten()].clone()
    for number in element.unique().tolist():
        which = element.flatten() == number
        found[which] = transform(found[which], number, symmetries)
    return found.reshape(*target.shape, *targets.shape[1:])


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
