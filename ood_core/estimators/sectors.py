"""Symmetrised sample covariances in their dual: Gram matrices of sectors, never of all images.

The covariance of all images of `n` maps under a group would need a Gram matrix of `n |G|` rows.
It does not mix the group's irreducible parts, so each part has a small matrix of its own (Schur's
lemma). For flips and quarter turns together these parts are even and odd halves of maps, on a
quarter of the pixels: the work is that of about four Gram matrices of `n` whole maps, not of 64.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.config.targets import Symmetry
from ood_core.numerics.symmetry import fixed, turned

Rows = Float[Tensor, "m p"]
ROOT2 = 2**0.5
MAX_NUMBERS = 2**25
"""Of all modes together, 128 MiB: 32,768 modes of 32 x 32 pixels, 170 of 3 x 256 x 256."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Sector:
    """One part of maps that the group keeps to itself.

    The symmetrised `sum r r^T` restricted to it is `weight * rows^T rows`, once per function in
    `back`, each of which takes rows of numbers to maps and keeps norms.
    """

    rows: Rows
    weight: float
    back: tuple[Callable[[Rows], Maps], ...]

    def gram(self) -> Float[Tensor, "m m"]:
        """Inner products of the rows, weighted; double precision from products in single."""
        return (self.rows @ self.rows.T).double() * self.weight


@final
@dataclass(frozen=True, slots=True, eq=False)
class Modes:
    """Orthonormal eigenmodes of a symmetrised covariance, largest first.

    Modes that the group takes to one another have one eigenvalue.
    """

    values: Float[Tensor, " r"]
    maps: Maps


def sectors(residuals: Maps, symmetries: Sequence[Symmetry]) -> Iterator[Sector]:
    """Part maps by the irreducible representations of the declared group, one after another."""
    flips, turns = "flip" in symmetries, "rotate90" in symmetries
    shape, flat = residuals.shape[1:], residuals.flatten(1)
    if not flips and not turns:
        yield Sector(flat, 1.0, (lambda rows: rows.reshape(-1, *shape),))
    elif not turns:
        first = fixed(shape[-1], symmetries)
        for odd in (False, True):
            part = folded(residuals, -1, odd, first)
            yield Sector(part.flatten(1), 1.0, (_unfolding(part, shape, (None, odd), first),))
    elif not flips:
        yield from _turns(residuals, symmetries)
    else:
        yield from _dihedral(residuals, fixed(shape[-1], symmetries))


def _turns(residuals: Maps, symmetries: Sequence[Symmetry]) -> Iterator[Sector]:
    """Quarter turns alone: even, odd, and pairs `(r, turned r)` of what a half turn negates."""
    shape = residuals.shape[1:]
    half = turned(residuals, 2, symmetries)

    def back(rows: Rows) -> Maps:
        return rows.reshape(-1, *shape)

    same = (residuals + half) / 2
    quarter = turned(same, 1, symmetries)
    for sign in (1, -1):
        yield Sector(((same + sign * quarter) / 2).flatten(1), 1.0, (back,))
    negated = (residuals - half) / 2
    both = torch.cat([negated, turned(negated, 1, symmetries)])
    yield Sector(both.flatten(1), 0.5, (back,))


def _dihedral(residuals: Maps, first: int) -> Iterator[Sector]:
    """Flips and quarter turns: parity in y and x, then in the diagonal, on a quarter of pixels."""
    shape = residuals.shape[1:]
    pairs = []
    for odd in (False, True):
        along = folded(residuals, -1, odd, first)
        part = folded(along, -2, odd, first)
        back = _unfolding(part, shape, (odd, odd), first)
        for sign in (1, -1):
            rows = (part + sign * part.transpose(-2, -1)) / 2
            yield Sector(rows.flatten(1), 1.0, (back,))
        pairs.append(folded(along, -2, not odd, first))
    other, one = pairs[0].transpose(-2, -1), pairs[1]
    straight = _unfolding(one, shape, (False, True), first)
    rows = torch.cat([one, other]).flatten(1)
    yield Sector(rows, 0.5, (straight, lambda some: straight(some).transpose(-2, -1)))


def folded(maps: Maps, axis: int, odd: bool, first: int = 0) -> Maps:
    """The even or odd part along an axis, on half of its pixels, with its norm.

    The `first` rows or columns have no other opposite to them; they are even.
    """
    size = maps.shape[axis] - first
    low = maps.narrow(axis, first, size // 2)
    high = maps.narrow(axis, first + size - size // 2, size // 2).flip(axis)
    if odd:
        return (low - high) / ROOT2
    alone, middle = maps.narrow(axis, 0, first), maps.narrow(axis, first + size // 2, size % 2)
    return torch.cat([alone, (low + high) / ROOT2, middle], dim=axis)


def unfolded(part: Maps, axis: int, size: int, odd: bool, first: int = 0) -> Maps:
    """The maps that `folded` would take to this part, and whose other part is zero."""
    half, middle = divmod(size - first, 2)
    if odd:
        low, shape = part / ROOT2, list(part.shape)
        shape[axis] = first
        alone = part.new_zeros(shape)
        shape[axis] = middle
        return torch.cat([alone, low, part.new_zeros(shape), -low.flip(axis)], dim=axis)
    alone, low = part.narrow(axis, 0, first), part.narrow(axis, first, half) / ROOT2
    between = part.narrow(axis, first + half, middle)
    return torch.cat([alone, low, between, low.flip(axis)], dim=axis)


def _unfolding(
    part: Maps, shape: Sequence[int], odd: tuple[bool | None, bool | None], first: int
) -> Callable[[Rows], Maps]:
    """Rows of a part back to maps: parity along y and x, None where the axis was not folded."""
    inner = part.shape[1:]

    def back(rows: Rows) -> Maps:
        made = rows.reshape(-1, *inner)
        for axis, parity in ((-2, odd[0]), (-1, odd[1])):
            if parity is not None:
                made = unfolded(made, axis, shape[axis], parity, first)
        return made

    return back


def most_modes(dimensions: int) -> int:
    """Number of modes that there is room for."""
    return max(8, MAX_NUMBERS // dimensions)


def leading_modes(residuals: Maps, symmetries: Sequence[Symmetry], most: int) -> Modes:
    """Return at most `most` eigenmodes of the mean of `r r^T` over maps and their images."""
    parts = list(sectors(residuals, symmetries))
    found = [_eigen(sector, len(residuals)) for sector in parts]
    families = _largest(parts, found, most)
    copies = torch.tensor([len(parts[number].back) for number, _ in families], dtype=torch.int64)
    starts = copies.cumsum(0) - copies
    maps = residuals.new_empty(int(copies.sum()), *residuals.shape[1:])
    for number, sector in enumerate(parts):
        mine = [at for at, (where, _) in enumerate(families) if where == number]
        values, vectors = found[number]
        kept = [families[at][1] for at in mine]
        scale = (values[kept] * len(residuals) / sector.weight).rsqrt()
        rows = (vectors[:, kept] * scale).T.to(sector.rows) @ sector.rows
        for copy, back in enumerate(sector.back if mine else ()):
            maps[starts[mine] + copy] = back(rows)
    largest = torch.tensor([float(found[number][0][index]) for number, index in families])
    return Modes(largest.repeat_interleave(copies), maps)


def _largest(
    parts: Sequence[Sector], found: Sequence[tuple[Tensor, Tensor]], most: int
) -> list[tuple[int, int]]:
    """Sector and number of the largest eigenvalues whose modes, with all copies, are few enough."""
    every = [
        (float(value), number, index)
        for number, (values, _) in enumerate(found)
        for index, value in enumerate(values)
    ]
    chosen, room = [], most
    for _, number, index in sorted(every, key=lambda entry: -entry[0]):
        room -= len(parts[number].back)
        if room < 0:
            break
        chosen.append((number, index))
    return chosen


def _eigen(sector: Sector, n: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues of a sector that are not rounding, largest first, and their dual vectors."""
    values, vectors = torch.linalg.eigh(sector.gram() / n)
    values, vectors = values.flip(0), vectors.flip(1)
    real = int((values > 1e-6 * values[0].clamp_min(torch.finfo().tiny)).sum())
    return values[:real], vectors[:, :real]
