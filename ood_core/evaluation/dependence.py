"""Are held-out maps independent? Neighbours in a file are often neighbours in the sky, or in time.

Where maps lie is known of tiles and cut-outs (`TargetSet.places`): file, row and column, in sides
of a map. Of others the order of the file stands in for it, as a row of maps side by side. Two maps
are `l` apart if the larger of their distances along `y` and `x` is `l` sides, rounded up; maps of
different mosaics are taken for independent.

The similarity of two maps is the product of their features, each in standard deviations of all
maps, averaged over features. Its mean `r_l` over pairs that are `l` apart is about 0 for maps in
random order, and positive where neighbours are alike. Only where the first few lags together exceed
what `SHUFFLES` random orders give, at the level `LEVEL`, are maps taken for dependent. They reach
to the first lag whose `r_l` is no longer seen, the side of a block is twice as long, and the
effective number of maps is

    n_eff = m / (1 + (2 / m) sum over pairs less than the reach apart of r_l / r_0)

Where held-out maps do not show that they are alike, fit maps are measured beside them, with lags of
their own: few maps of one split alone would be taken for independent. Where they do, how far they
are alike is theirs alone to say: fitted maps of another region may be so further.

Splits are by whole blocks, which begin at a random place, tests of pairs take maps a block apart,
which are exchangeable as far as features tell, and the band of a median is that of `n_eff` maps.
Where these are few (`results.MIN_EFFECTIVE`), `n_eff` is itself too high, and nothing is concluded.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ood_core.numerics.random import Root

SHUFFLES = 199
LEVEL = 0.01  # of the test for dependence: one set of independent maps in a hundred loses power
FIRST_LAGS = 3
MIN_BLOCKS = 8  # that are left, whatever the correlation, where maps lie in a row

Places = Float[np.ndarray, "m 3"]
"""Where maps lie: file, and row and column in sides of a map."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Dependence:
    """Number of maps, side of the blocks within which they are alike, and effective number.

    `places` are those of the maps; without them they lie in a row.
    """

    count: int
    block: int
    effective: float
    places: Places | None = None

    @classmethod
    def measure(
        cls,
        features: Float[Tensor, "m f"],
        root: Root,
        places: Places | None = None,
        beside: "tuple[Float[Tensor, 'n f'], Places | None] | None" = None,
    ) -> "Dependence":
        """Measure on features of maps, at their places or else in the order of their file.

        `beside` has features and places of further maps that are as much alike: fit targets. They
        are asked where the maps by themselves look independent.
        """
        alone = cls._measured(features, root, places, None)
        if beside is None or alone.block > 1:
            return alone
        return cls._measured(features, root, places, beside)

    @classmethod
    def _measured(
        cls,
        features: Float[Tensor, "m f"],
        root: Root,
        places: Places | None,
        beside: "tuple[Float[Tensor, 'n f'], Places | None] | None",
    ) -> "Dependence":
        count = len(features)
        independent = cls(count, 1, float(count), places)
        if count < 2 * MIN_BLOCKS:
            return independent
        most = max(2, independent._largest())
        sets = [_Pairs.of(independent, features, most)]
        if beside is not None and len(beside[0]) > 1:
            further = cls(len(beside[0]), 1, float(len(beside[0])), beside[1])
            sets.append(_Pairs.of(further, beside[0], most))
        number = np.sum([pairs.number for pairs in sets], axis=0).clip(min=1)
        rng = root.child("dependence").generator()
        own = np.sum([pairs.sums() for pairs in sets], axis=0) / number
        drawn = [np.sum([pairs.sums(rng) for pairs in sets], axis=0) for _ in range(SHUFFLES)]
        null = np.stack(drawn) / number
        first = slice(0, FIRST_LAGS)
        larger = int((null[:, first].sum(1) >= own[first].sum()).sum())
        if (1 + larger) / (1 + SHUFFLES) > LEVEL:
            return independent
        seen = own > np.quantile(null, 0.95, axis=0)
        reach = int(np.argmin(seen)) + 1 if not seen.all() else most
        excess = (own - null.mean(0)).clip(min=0)[: reach - 1] / sets[0].similar.diagonal().mean()
        near = sets[0].number[: reach - 1]
        worth = count / (1 + 2 / count * float((near * excess).sum()))
        return cls(count, min(max(2 * reach, 2), most), worth, places)

    def apart(self, root: Root) -> Int[Tensor, " k"]:
        """Return rows that lie a block apart or more, in rising order."""
        if self.block == 1:
            return torch.arange(self.count)
        corner = self._corner(root.child("apart").generator())
        from_corner = ((self._places()[:, 1:] - corner) % self.block).sum(1)
        kept: list[int] = []
        for row in np.argsort(from_corner, kind="stable"):
            if not kept or self._apart(np.full(len(kept), row), np.array(kept)).min() >= self.block:
                kept.append(int(row))
        return torch.tensor(sorted(kept))

    def shuffled(self, rng: np.random.Generator) -> Int[Tensor, " m"]:
        """Return all rows in blocks of random order."""
        if self.block == 1:
            return torch.from_numpy(rng.permutation(self.count))
        blocks = self._blocks(rng)
        return torch.from_numpy(np.concatenate([blocks[i] for i in rng.permutation(len(blocks))]))

    def _places(self) -> Places:
        if self.places is not None:
            return self.places
        row = np.arange(self.count, dtype=np.float64)
        return np.stack([0 * row, 0 * row, row], axis=1)

    def _apart(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Distances of pairs of rows, in sides; infinite from file to file."""
        places = self._places()
        gap = np.abs(places[one] - places[other])
        return np.where(gap[:, 0] > 0, np.inf, gap[:, 1:].max(1))

    def _largest(self) -> int:
        """The largest side of blocks of which there are enough."""
        sides = range(self.count // MIN_BLOCKS, 1, -1)
        return next((n for n in sides if len(self._cells(np.zeros(2), n)) >= MIN_BLOCKS), 1)

    def _corner(self, rng: np.random.Generator) -> np.ndarray:
        """Where the first block begins; maps in one row lie in one row of blocks."""
        wide = np.ptp(self._places()[:, 1:], axis=0) > 0
        return np.where(wide, rng.integers(self.block, size=2), 0)

    def _blocks(self, rng: np.random.Generator) -> list[np.ndarray]:
        return self._cells(self._corner(rng), self.block)

    def _cells(self, corner: np.ndarray, side: int) -> list[np.ndarray]:
        """Rows in every square of a file that has any."""
        places = self._places()
        cells = np.column_stack([places[:, 0], (places[:, 1:] - corner) // side])
        _, cell = np.unique(cells, axis=0, return_inverse=True)
        order = np.argsort(cell, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(cell[order])) + 1)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Pairs of maps of a split, how many there are per lag, and how similar all maps are."""

    one: np.ndarray
    other: np.ndarray
    lag: np.ndarray
    number: np.ndarray
    similar: np.ndarray

    @classmethod
    def of(cls, maps: Dependence, features: Tensor, most: int) -> "_Pairs":
        one, other = np.triu_indices(maps.count, 1)
        lag = np.ceil(maps._apart(one, other))
        near = lag <= most
        one, other, lag = one[near], other[near], lag[near].astype(np.int64).clip(min=1) - 1
        number = np.bincount(lag, minlength=most)
        return cls(one, other, lag, number, _similarity(features).numpy())

    def sums(self, rng: np.random.Generator | None = None) -> np.ndarray:
        """Sum of similarities per lag, of maps in their order or in a random one."""
        order = np.arange(len(self.similar))
        order = order if rng is None else rng.permutation(order)
        weights = self.similar[order[self.one], order[self.other]]
        found: np.ndarray = np.bincount(self.lag, weights, minlength=len(self.number))
        return found


def _similarity(features: Tensor) -> Float[Tensor, "m m"]:
    rows = features.double()
    rest = rows - rows.mean(0)
    spread = rest.std(0)
    varies = spread > 1e-6 * (1 + rows.mean(0).abs())
    if not bool(varies.any()):
        return torch.eye(len(rows), dtype=torch.float64)
    unit = rest[:, varies] / spread[varies]
    return unit @ unit.T / unit.shape[1]
