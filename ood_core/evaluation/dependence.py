"""Are held-out maps independent? Neighbours in a file are often neighbours in the sky, or in time.

The similarity of two maps is the product of their features, each in standard deviations of all
maps, averaged over features. Its mean `r_l` over pairs that lie `l` apart in the file is about 0
for maps in random order, and positive where neighbours are alike. Only where the first few lags
together exceed what `SHUFFLES` random orders give, at the level `LEVEL`, are maps taken for
dependent. They reach to the first lag whose `r_l` is no longer seen, a block is twice as long, and
the effective number of maps is

    n_eff = m / (1 + 2 sum over l < reach of (1 - l / m) r_l / r_0)

Splits and bootstraps are by whole blocks, and tests of pairs take one map of each block: maps a
block apart are exchangeable, as far as features tell.
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
MIN_BLOCKS = 8  # that are left, whatever the correlation


@final
@dataclass(frozen=True, slots=True)
class Dependence:
    """How many maps there are, in blocks of how many neighbours, and how many they are worth."""

    count: int
    block: int
    effective: float

    @classmethod
    def measure(cls, features: Float[Tensor, "m f"], root: Root) -> "Dependence":
        """Measure on features of maps in the order of their file."""
        count = len(features)
        if count < 2 * MIN_BLOCKS:
            return cls(count, 1, float(count))
        similar = _similarity(features)
        rng = root.child("dependence").generator()
        most = count // MIN_BLOCKS
        own = _lags(similar, most)
        orders = (torch.from_numpy(rng.permutation(count)) for _ in range(SHUFFLES))
        null = np.stack([_lags(similar[o][:, o], most) for o in orders])
        first = slice(0, FIRST_LAGS)
        larger = int((null[:, first].sum(1) >= own[first].sum()).sum())
        if (1 + larger) / (1 + SHUFFLES) > LEVEL:
            return cls(count, 1, float(count))
        seen = own > np.quantile(null, 0.95, axis=0)
        reach = int(np.argmin(seen)) + 1 if not seen.all() else most
        block = min(max(2 * reach, 2), most)
        lags = np.arange(1, reach)
        excess = (own - null.mean(0))[: reach - 1].clip(min=0) / float(similar.diagonal().mean())
        return cls(count, block, float(count / (1 + 2 * ((1 - lags / count) * excess).sum())))

    def apart(self, root: Root) -> Int[Tensor, " k"]:
        """Return rows that lie a block apart, the first of them at random."""
        if self.block == 1:
            return torch.arange(self.count)
        start = int(root.child("apart").generator().integers(self.block))
        return torch.arange(start, self.count, self.block)

    def shuffled(self, rng: np.random.Generator) -> Int[Tensor, " m"]:
        """Return all rows in blocks of random order, which begin at a random place of the file."""
        if self.block == 1:
            return torch.from_numpy(rng.permutation(self.count))
        rows = np.roll(np.arange(self.count), -int(rng.integers(self.count)))
        blocks = np.array_split(rows, max(1, self.count // self.block))
        order = rng.permutation(len(blocks))
        return torch.from_numpy(np.concatenate([blocks[number] for number in order]))

    def drawn(self, count: int, rng: np.random.Generator) -> Int[Tensor, " n"]:
        """Draw rows with replacement, by blocks (circular; Politis & Romano 1992)."""
        starts = rng.integers(self.count, size=-(-count // self.block))
        rows = (starts[:, None] + np.arange(self.block)).flatten()[:count] % self.count
        return torch.from_numpy(rows)


def _similarity(features: Tensor) -> Float[Tensor, "m m"]:
    rows = features.double()
    rest = rows - rows.mean(0)
    spread = rest.std(0)
    varies = spread > 1e-6 * (1 + rows.mean(0).abs())
    if not bool(varies.any()):
        return torch.eye(len(rows), dtype=torch.float64)
    unit = rest[:, varies] / spread[varies]
    return unit @ unit.T / unit.shape[1]


def _lags(similar: Float[Tensor, "m m"], most: int) -> np.ndarray:
    """Mean similarity of pairs 1, 2, ... apart."""
    return np.array([float(similar.diagonal(lag).mean()) for lag in range(1, most + 1)])
