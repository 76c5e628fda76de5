"""Batches for the denoiser that is shown examples: functions of the spec and the step number.

Worlds are drawn in blocks, which are used for some passes and then never again: drawing a map costs
about as much as learning from it on a CPU, and another partition into examples and noised maps,
with other symmetries, gains and noise, is nearly as good as another map. Blocks are drawn ahead of
their use by other processes.
"""

import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from ood_core.arrays import Maps, PerSample
from ood_core.models.in_context import EXAMPLES, LOG_NOISE_RANGE, Examples, Sizes
from ood_core.numerics.random import Stream, generator, root_key
from ood_core.pretraining.world_fields import Rng
from ood_core.pretraining.worlds import FAMILIES, draw_world

LOG_NOISE_MEAN, LOG_NOISE_SPREAD = -0.3, 1.5
GAIN_SPREAD, OFFSET_SPREAD = 0.25, 0.1
SYMMETRIES = 8  # of the square

Block = NDArray[np.float16]


@final
@dataclass(frozen=True, slots=True)
class InContextSpec:
    """Recipe of a training.

    Every batch shows `kinds` worlds, each with `maps` noised maps and between `fewest` and `most`
    examples; a part `unshown` of the batches has no examples. A block of `block` worlds is used for
    `passes` passes.
    """

    seed: int = 20261129
    sizes: Sizes = field(default_factory=Sizes)
    size: int = 32
    kinds: int = 4
    maps: int = 12
    fewest: int = 2
    most: int = EXAMPLES
    unshown: float = 0.12
    block: int = 48
    passes: int = 3
    held_out: tuple[str, ...] = ("arcs", "craters")
    rate: float = 1e-3
    warm_up: int = 300
    decay: float = 0.3
    ema: float = 0.9995

    def __post_init__(self) -> None:
        unknown = set(self.held_out) - set(FAMILIES)
        if unknown:
            raise ValueError(f"got families {sorted(unknown)}; expected some of {list(FAMILIES)}")
        if self.block % self.kinds or not 1 <= self.fewest <= self.most:
            raise ValueError(
                f"got {self.block} worlds a block of {self.kinds} a batch and {self.fewest} to "
                f"{self.most} examples; expected whole batches and at least one example"
            )

    @property
    def seen(self) -> tuple[str, ...]:
        """Families that training may draw."""
        return tuple(name for name in FAMILIES if name not in self.held_out)

    @property
    def samples(self) -> int:
        """Noised maps per step."""
        return self.kinds * self.maps

    def as_dict(self) -> dict[str, Any]:
        """Return what a checkpoint or a configuration file holds."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "InContextSpec":
        """Return the spec that `as_dict` wrote."""
        sizes = Sizes.from_dict(saved["sizes"])
        return cls(**{**saved, "sizes": sizes, "held_out": tuple(saved["held_out"])})


@final
@dataclass(frozen=True, slots=True)
class Batch:
    """Maps to learn from, grouped by kind, and the examples of the kinds.

    `eps` is the noise and `log_noise` its level, `ln(sigma/alpha)`; `shown` says whether the
    network may look at the examples.
    """

    x0: Maps
    eps: Maps
    log_noise: PerSample
    examples: Examples
    shown: bool


def draw_block(spec: InContextSpec, number: int) -> Block:
    """Draw the worlds of a block: `(block, maps + most, size, size)`, halves to save memory."""
    drawn = []
    for index in range(spec.block):
        world = draw_world(root_key(f"{spec.seed} world {number} {index}"), families=spec.seen)
        drawn.append(world.maps(spec.maps + spec.most, spec.size, 0).astype(np.float16))
    return np.stack(drawn)


def make_batch(spec: InContextSpec, step: int, block: Block) -> Batch:
    """Return batch number `step`; `block` is the one that `block_of` names."""
    rng = generator(spec.seed, step, attempt=2, stream=Stream.TRAINING)
    shown = bool(rng.random() >= spec.unshown)
    count = int(rng.integers(spec.fewest, spec.most + 1))
    kinds = [_augmented(rng, block[row]) for row in _rows(spec, step)]
    x0 = torch.cat([kind[: spec.maps] for kind in kinds])[:, None]
    examples = torch.stack([kind[spec.maps : spec.maps + count] for kind in kinds])[:, :, None]
    level = rng.normal(LOG_NOISE_MEAN, LOG_NOISE_SPREAD, len(x0)).clip(*LOG_NOISE_RANGE)
    eps = torch.from_numpy(rng.standard_normal(tuple(x0.shape), dtype=np.float32))
    return Batch(x0, eps, torch.from_numpy(level.astype(np.float32)), examples, shown)


def block_of(spec: InContextSpec, step: int) -> int:
    """Return the number of the block that a step learns from."""
    return step // (spec.passes * (spec.block // spec.kinds))


def _rows(spec: InContextSpec, step: int) -> NDArray[np.int64]:
    """Worlds of the block that a step learns from: every world once a pass, in random order."""
    per_pass = spec.block // spec.kinds
    order = generator(spec.seed, step // per_pass, attempt=3, stream=Stream.TRAINING)
    at = spec.kinds * (step % per_pass)
    return order.permutation(spec.block)[at : at + spec.kinds]


def _augmented(rng: Rng, kind: Block) -> Float[Tensor, "m y x"]:
    """Shuffle the maps of a world; turn, mirror, reverse, stretch and shift all of them alike."""
    maps = kind[rng.permutation(len(kind))].astype(np.float32)
    turn = int(rng.integers(SYMMETRIES))
    maps = np.rot90(maps, turn % 4, (1, 2))
    maps = maps[:, :, ::-1] if turn >= 4 else maps
    gain = (-1 if rng.random() < 0.5 else 1) * np.exp(rng.normal(0, GAIN_SPREAD))
    shifted = gain * maps + rng.normal(0, OFFSET_SPREAD)
    return torch.from_numpy(np.ascontiguousarray(shifted, np.float32))


@final
class Blocks:
    """The blocks of a training, drawn ahead by `workers` processes, or on demand by none.

    Use as a context manager, or call `close`.
    """

    def __init__(self, spec: InContextSpec, workers: int = 1) -> None:
        self._spec = spec
        self._ahead: dict[int, Future[Block]] = {}
        self._now: tuple[int, Block] | None = None
        self._workers = workers
        self._pool = (
            ProcessPoolExecutor(workers, get_context("spawn"), _prepare, (os.getpid(),))
            if workers
            else None
        )

    def __enter__(self) -> "Blocks":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, number: int) -> Block:
        """Return a block, and have the following ones drawn."""
        if self._now is None or self._now[0] != number:
            self._now = number, self._drawn(number)
        return self._now[1]

    def close(self) -> None:
        """End the processes."""
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _drawn(self, number: int) -> Block:
        if not self._pool:
            return draw_block(self._spec, number)
        for ahead in range(number, number + self._workers + 2):
            if ahead not in self._ahead:
                self._ahead[ahead] = self._pool.submit(draw_block, self._spec, ahead)
        return self._ahead.pop(number).result()


def _prepare(parent: int) -> None:
    """Keep a drawing process to one core, and let it end when the training is killed."""
    threadpool_limits(1)
    torch.set_num_threads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
