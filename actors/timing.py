"""Tensors on their way from a device, and where the seconds of a worker go.

Seconds are counted per shard, in parts:

| part | seconds of |
|---|---|
| `build` | loading base and fits, with the first shard of a stage |
| `wait` | nothing to do, since the last shard was computed or stored |
| `draw` | latents and aims of samples |
| `compute` | rows of the shard |
| `network` | that part of `compute` which the base's network takes |
| `fetch` | bringing them from the device, in physical units |
| `measure` | statistics of samples |
| `encode` | compressing, digesting and handing rows to the store |
| `write` | flushing them to disk |

All but `build`, `wait` and `compute` may overlap with the computation of another shard.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any, final

import torch
from torch import Tensor

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

    def __call__(self, x_t: Maps, t: int, *context: Any) -> Maps:
        """Return the inner denoiser's answer."""
        if not x_t.is_cuda:
            began = time.perf_counter()
            clean = self._inner(x_t, t, *context)
            self._seconds += time.perf_counter() - began
            return clean
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        clean = self._inner(x_t, t, *context)
        after.record()
        self._events.append((before, after))
        return clean

    def take(self) -> float:
        """Seconds since the last call."""
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
    def take(self, network: TimedDenoiser, draw: float = 0.0) -> Iterator[Parts]:
        """Wait for the turn, after `draw` seconds of drawing; parts are filled in when it ends."""
        with self._lock:
            began = time.monotonic()
            wait = max(0.0, began - self._free - draw)
            parts = {"build": self._build, "wait": wait, "draw": draw}
            self._build = 0.0
            network.take()
            try:
                yield parts
            finally:
                self._free = over = time.monotonic()
                parts.update(compute=over - began, network=network.take())

    def stored(self) -> None:
        """Say that a shard is stored: `wait` counts from now on."""
        self._free = time.monotonic()


@contextmanager
def timed(parts: Parts, name: str) -> Iterator[None]:
    """Add the seconds of a block to a part."""
    began = time.monotonic()
    try:
        yield
    finally:
        parts[name] = parts.get(name, 0.0) + time.monotonic() - began


def leaving(x: Tensor) -> Callable[[], Tensor]:
    """Start a copy to the host; calling the result waits for its arrival.

    From a GPU it goes on a stream of its own: behind what made the tensor, beside what is computed
    next.
    """
    if not x.is_cuda:
        return lambda: x
    host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    stream = _way_back(x.device)
    stream.wait_stream(torch.cuda.current_stream(x.device))
    with torch.cuda.stream(stream):
        host.copy_(x, non_blocking=True)
    x.record_stream(stream)  # its memory is not given away before the copy is done
    arrival = stream.record_event()

    def arrived() -> Tensor:
        arrival.synchronize()
        return host

    return arrived


@cache
def _way_back(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
