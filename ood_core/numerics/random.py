"""Counter-based randomness: sample `i` is a function of `(root, i, attempt, stream)` alone.

What is drawn once per run (orders, splits, resamples) takes its numbers from a named `Root`
instead, so that a further purpose never shifts the numbers of another.

Philox (Salmon et al. 2011) is keyed by `(root, i)`; the counter's two high words hold the attempt
and the stream, so that batches, workers, retries and growth never shift anyone's numbers.
Numbers are drawn on the CPU and moved to the device by the caller.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import final

import numpy as np
import torch

from ood_core.arrays import Maps


class Stream(IntEnum):
    """What the numbers are for; two purposes never share a stream."""

    LATENT = 0
    FACTOR = 1
    STATISTIC = 2
    CALIBRATION = 3
    TRAINING = 5
    RESAMPLE = 6
    SOLVER = 7
    SOURCE = 8
    COMPONENT = 9
    STEERING = 10


@final
@dataclass(frozen=True, slots=True)
class SeedRange:
    """Samples `start <= i < stop` of the run whose root key is `root`."""

    root: int
    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"got range [{self.start}, {self.stop}); expected 0 <= start <= stop")

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))


def root_key(identity: str) -> int:
    """64-bit root of a run, from its identity (any string)."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big")


@final
@dataclass(frozen=True, slots=True)
class Root:
    """A 64-bit key of random numbers with named sub-keys.

    `root.child("tests", "peaks")` depends on `root` and on these names alone: not on which other
    names there are, nor on their order.
    """

    key: int

    @classmethod
    def of(cls, identity: str) -> "Root":
        """Return the root of a run, from its identity (any string)."""
        return cls(root_key(identity))

    def child(self, *names: str) -> "Root":
        """Return the sub-key of a path of names: SHA-256 of the key and the name, name by name."""
        key = self.key
        for name in names:
            key = root_key(f"{key:016x}/{name}")
        return Root(key)

    def generator(self, index: int = 0) -> np.random.Generator:
        """Return the generator of this key, or number `index` of many."""
        return generator(self.key, index, stream=Stream.RESAMPLE)


def generator(
    root: int, index: int, attempt: int = 0, stream: Stream = Stream.LATENT
) -> np.random.Generator:
    """Return the generator of one sample, attempt and purpose."""
    counter = np.array([0, 0, attempt, stream], dtype=np.uint64)
    key = np.array([root % 2**64, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def normal(
    seeds: SeedRange, shape: Sequence[int], attempt: int = 0, stream: Stream = Stream.LATENT
) -> torch.Tensor:
    """Draw N(0, 1) of shape `(len(seeds), *shape)`, one generator per sample, float32."""
    rows = [
        generator(seeds.root, i, attempt, stream).standard_normal(tuple(shape), dtype=np.float32)
        for i in seeds
    ]
    stacked = np.stack(rows) if rows else np.empty((0, *shape), np.float32)
    return torch.from_numpy(stacked)


def normal_like(x: Maps, root: int, index: int, stream: Stream) -> Maps:
    """Draw N(0, 1) of the shape and device of `x` from one generator."""
    draw = generator(root, index, 0, stream).standard_normal(tuple(x.shape), dtype=np.float32)
    return torch.from_numpy(draw).to(x.device)
