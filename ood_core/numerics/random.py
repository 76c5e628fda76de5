"""Counter-based randomness: sample `i` is a function of `(root, i, attempt, stream)` alone.

What is drawn once per run (orders, splits, resamples) takes its numbers from a named `Root`
instead, so that a further purpose never shifts the numbers of another.

Numbers come from Philox 4x64-10 (Salmon et al. 2011), a function of a key and a counter: batches,
workers, retries and growth never shift anyone's numbers. `generator` is NumPy's, keyed by
`(root, i)`. Rows of `words`, `uniform` and `normal` are drawn for all samples at once: the key is
`(root, 0)`, and with `b` blocks of four words per sample the counter is

    (i b + j, b, attempt, stream)       block j = 1 ... b of sample i

On the CPU these words are NumPy's own. On a GPU they are the same bits by integer arithmetic on
tensors, so nothing is uploaded. (Philox 4x32 would be three times cheaper there, but NumPy, which
is the reference, has the 64-bit form alone.)

Normals are those of Box & Muller (1958), two of a word `w`, in float64 and then rounded; those of a
sample begin with all cosines:

    u = (w // 2^24 + 1/2) / 2^40,   a = 2 pi (w mod 2^24) / 2^24,   sqrt(-2 ln u) (cos a, sin a)

They end at 7.5, beyond which `N(0, 1)` has 5e-14. Logarithm, root, cosine and sine of two libraries
differ by some 2^-52 relative to the radius, so that normals of two devices differ by at most one
unit in the last place of a float32 of the size of the radius.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ood_core.arrays import Maps

BLOCK = 4  # words of 64 bits
PHILOX_ROUNDS = 10
PHILOX_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
PHILOX_KEY_STEPS = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
LOW = 2**32 - 1
AHEAD = 2**27  # normals that are drawn at once on a GPU, 0.5 GiB
HOST_WORDS = 2**14  # that are made normals of at once


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
    COMPLETION = 10
    KNOWN = 11
    CHOICE = 12


class Mixing(Protocol):
    """Makes the normals of some samples go together, each still standard normal by itself."""

    @property
    def samples(self) -> range:
        """Those that go together."""
        ...

    def __call__(self, white: Tensor) -> Tensor:
        """Mix independent normals of all of them, `(n, *shape)`."""
        ...


@final
@dataclass(frozen=True, slots=True)
class SeedRange:
    """Samples `start <= i < stop` of the run whose root key is `root`.

    Their normals are independent, or go together as `mixing` says, for `Mixing.samples`.
    """

    root: int
    start: int
    stop: int
    mixing: Mixing | None = None

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


def words(
    seeds: SeedRange,
    count: int,
    attempts: Sequence[int] = (0,),
    stream: Stream = Stream.LATENT,
    device: torch.device | str = "cpu",
) -> Int[Tensor, "attempts n count"]:
    """Return `count` words of 64 random bits per attempt and sample, as int64."""
    blocks, where = -(-count // BLOCK), torch.device(device)
    of_host = where.type in ("cpu", "mps")  # mps has no float64, which normals are made in
    found = (_numpy_words if of_host else _tensor_words)(seeds, blocks, attempts, stream, where)
    return found.view(len(attempts), len(seeds), blocks * BLOCK)[..., :count]


def uniform(
    seeds: SeedRange, count: int, attempt: int = 0, stream: Stream = Stream.LATENT
) -> Float[Tensor, "n count"]:
    """Draw numbers of [0, 1), float64, from the upper 53 bits of words."""
    drawn = words(seeds, count, (attempt,), stream)[0]
    return ((drawn >> 11) & (2**53 - 1)).double() * 2.0**-53


def normal(
    seeds: SeedRange,
    shape: Sequence[int],
    attempt: int = 0,
    stream: Stream = Stream.LATENT,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw N(0, 1) of shape `(len(seeds), *shape)` on a device, float32."""
    return normals(seeds, shape, (attempt,), stream, device)[0]


def normals(
    seeds: SeedRange,
    shape: Sequence[int],
    attempts: Sequence[int],
    stream: Stream,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw N(0, 1) of shape `(len(attempts), len(seeds), *shape)` on a device, float32."""
    if (mixing := seeds.mixing) is not None:
        every, first = mixing.samples, mixing.samples.start
        whole = SeedRange(seeds.root, every.start, every.stop)
        mixed = [mixing(white) for white in normals(whole, shape, attempts, stream, device)]
        return torch.stack(mixed)[:, seeds.start - first : seeds.stop - first]
    size, rows = math.prod(shape), len(attempts) * len(seeds)
    drawn = words(seeds, -(-size // 2), attempts, stream, device).flatten()
    both = torch.empty(2, drawn.numel(), device=drawn.device)
    part = HOST_WORDS if drawn.device.type == "cpu" else max(1, drawn.numel())
    for start in range(0, drawn.numel(), part):  # on a host in parts that fit into its cache
        _box_muller(drawn[start : start + part], both[:, start : start + part])
    each = both.view(2, rows, -(-size // 2)).transpose(0, 1).flatten(1)[:, :size]
    return each.reshape(len(attempts), len(seeds), *shape).to(device)


@final
class StepNoise:
    """N(0, 1) of a batch of samples at every step of a loop, as `normal` with the step as attempt.

    On a GPU it is drawn ahead for `steps` to come, as many as have room: one draw takes as many
    launches as all of them.
    """

    def __init__(self, seeds: SeedRange, stream: Stream, steps: Sequence[int] = ()) -> None:
        self.seeds, self._stream, self._steps = seeds, stream, list(steps)
        self._drawn: dict[int, Tensor] = {}

    def at(self, step: int, like: Maps) -> Maps:
        """Draw for one step, of the shape, type and device of a batch."""
        if step not in self._drawn:
            ahead = [step]
            if like.device.type != "cpu" and step in self._steps:
                first, most = self._steps.index(step), max(1, AHEAD // max(1, like.numel()))
                ahead = self._steps[first : first + most]
            shape = like.shape[1:]
            rows = normals(self.seeds, shape, ahead, self._stream, like.device)
            self._drawn = dict(zip(ahead, rows, strict=True))
        return self._drawn.pop(step).to(like.dtype)


def normal_like(x: Maps, root: int, index: int, stream: Stream) -> Maps:
    """Draw N(0, 1) of the shape and on the device of `x`, the whole as one sample `index`."""
    return normal(SeedRange(root, index, index + 1), x.shape, 0, stream, x.device)[0]


def _box_muller(drawn: Int[Tensor, " words"], both: Float[Tensor, "2 words"]) -> None:
    """Fill in both normals of every word."""
    radius = ((drawn >> 24) & (2**40 - 1)).double()
    radius = radius.add_(0.5).mul_(2.0**-40).log_().mul_(-2).sqrt_()
    angle = (drawn & (2**24 - 1)).double().mul_(math.tau * 2.0**-24)
    both[0] = angle.cos().mul_(radius)
    both[1] = angle.sin_().mul_(radius)


def _numpy_words(
    seeds: SeedRange, blocks: int, attempts: Sequence[int], stream: Stream, where: torch.device
) -> Int[Tensor, " words"]:
    """Blocks of every attempt and sample in one run of NumPy's counter per attempt."""
    drawn = np.empty((len(attempts), len(seeds) * blocks * BLOCK), np.uint64)
    for row, attempt in enumerate(attempts):
        counter = np.array([seeds.start * blocks, blocks, attempt, stream], np.uint64)
        bits = np.random.Philox(key=np.array([seeds.root % 2**64, 0], np.uint64), counter=counter)
        drawn[row] = bits.random_raw(drawn.shape[1])  # counts before it draws: from block 1
    return torch.from_numpy(drawn.view(np.int64))


def _tensor_words(
    seeds: SeedRange, blocks: int, attempts: Sequence[int], stream: Stream, where: torch.device
) -> Int[Tensor, " words"]:
    """The same bits by arithmetic on int64, whose products and sums wrap as unsigned ones do.

    `even` has the counter's words 0 and 2, `odd` its words 1 and 3.
    """
    number = torch.arange(1, len(seeds) * blocks + 1, device=where) + _signed(seeds.start * blocks)
    tries = torch.cat([torch.full((1,), attempt, device=where) for attempt in attempts])
    even = torch.stack(torch.broadcast_tensors(number, tries[:, None]))
    odd = _pair(blocks, stream, where)
    multiplier = _pair(*PHILOX_MULTIPLIERS, where)
    low, high = multiplier & LOW, (multiplier >> 32) & LOW
    key, step = _pair(seeds.root, 0, where), _pair(*PHILOX_KEY_STEPS, where)
    for _ in range(PHILOX_ROUNDS):
        product = _upper(even, low, high), even * multiplier
        even, odd = product[0].flip(0) ^ odd ^ key, product[1].flip(0)
        key = key + step
    return torch.stack([even[0], odd[0], even[1], odd[1]], dim=-1)


def _upper(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Upper 64 bits of the product of 64-bit words, schoolbook, in halves."""
    first, second = value & LOW, (value >> 32) & LOW
    middle = second * low + ((first * low >> 32) & LOW)
    other = first * high + (middle & LOW)
    return second * high + ((middle >> 32) & LOW) + ((other >> 32) & LOW)


def _pair(first: int, second: int, where: torch.device) -> Int[Tensor, "2 1 1"]:
    """Two words on a device, without an upload."""
    pair = [torch.full((1, 1), _signed(word), device=where) for word in (first, second)]
    return torch.stack(pair)


def _signed(word: int) -> int:
    """The int64 of the bits of an unsigned word, modulo 2^64."""
    return (word + 2**63) % 2**64 - 2**63
