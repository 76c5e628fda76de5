"""Where the seconds of a worker go: parts per shard, and how many of them the network takes.

| part | seconds of |
|---|---|
| `build` | loading base and fits, with the first shard of a stage |
| `wait` | nothing to do, since the last shard was computed or stored |
| `compute` | rows of the shard |
| `network` | that part of `compute` which the base's network takes |
| `fetch` | bringing them from the device, in physical units |
| `measure` | statistics of samples |
| `encode` | compressing, digesting and handing rows to the store |
| `write` | flushing them to disk |

All but the first three may overlap with the computation of the next shard.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, final

import torch

from ood_core.arrays import Maps
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule

Parts = dict[str, float]


@final
class TimedDenoiser:
    """A denoiser that counts the seconds that it takes; on a GPU those of its kernels."""

    def __init__(self, inner: Denoiser) -> None:
        self._inner = inner
        self._seconds = 0.0
        self._events: list[tuple[Any, Any]] = []

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule of the denoiser inside."""
        return self._inner.schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return the inner denoiser's answer."""
        if not x_t.is_cuda:
            began = time.perf_counter()
            clean = self._inner(x_t, t)
            self._seconds += time.perf_counter() - began
            return clean
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        clean = self._inner(x_t, t)
        after.record()
        self._events.append((before, after))
        return clean

    def take(self) -> float:
        """Seconds since the last time that somebody asked."""
        seconds, self._seconds = self._seconds, 0.0
        for before, after in self._events:
            after.synchronize()
            seconds += before.elapsed_time(after) / 1000
        self._events.clear()
        return seconds


@final
class Turns:
    """Shards are computed one at a time, while others of the same worker are being stored."""

    def __init__(self, build: float = 0.0) -> None:
        self._lock = Lock()
        self._build = build
        self._free = time.monotonic()

    @contextmanager
    def take(self, network: TimedDenoiser) -> Iterator[Parts]:
        """Wait for the turn; the parts are filled in when it ends."""
        with self._lock:
            began = time.monotonic()
            parts = {"build": self._build, "wait": max(0.0, began - self._free)}
            self._build = 0.0
            network.take()
            try:
                yield parts
            finally:
                self._free = over = time.monotonic()
                parts.update(compute=over - began, network=network.take())

    def stored(self) -> None:
        """Say that a shard is stored: until now somebody was at work."""
        self._free = time.monotonic()


@contextmanager
def timed(parts: Parts, name: str) -> Iterator[None]:
    """Add the seconds of a block to a part."""
    began = time.monotonic()
    try:
        yield
    finally:
        parts[name] = parts.get(name, 0.0) + time.monotonic() - began
