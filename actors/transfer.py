"""Tensors on their way to a device and back, beside its computation; on a CPU they stay in place.

To a GPU they go from pinned memory without waiting. Back they go on a stream of their own, behind
what made them and beside what is computed next.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor


def entering(x: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; on a GPU, once what is queued there before has run."""
    if device.type != "cuda":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def leaving(x: Tensor) -> Callable[[], Tensor]:
    """Start for the host; the result waits for the arrival there."""
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
