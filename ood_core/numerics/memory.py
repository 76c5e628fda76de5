"""Batches in as few parts as a device's memory has room for."""

from collections.abc import Callable
from typing import TypeVar, final

import torch

from ood_core.errors import DeviceFull

T = TypeVar("T")


@final
class MicroBatches:
    """Cuts batches into parts of `rows`; None computes a batch at once.

    A part that does not fit is halved, and later batches begin with the smaller size. What is
    computed of a row must not depend on its part beyond rounding.
    """

    def __init__(self, rows: int | None = None) -> None:
        self.rows = rows

    def __call__(self, compute: Callable[[slice], T], count: int) -> list[T]:
        """Compute `count` rows, part after part.

        Raises:
            DeviceFull: one row alone does not fit.
        """
        made: list[T] = []
        start = 0
        while start < count:
            stop = min(start + (self.rows or count), count)
            try:
                made.append(compute(slice(start, stop)))
            except torch.OutOfMemoryError as error:
                if stop - start == 1:
                    raise device_full("one map alone", error) from error
                self.rows = -(-(stop - start) // 2)
            else:
                start = stop
                continue
            torch.cuda.empty_cache()  # when the traceback has let go of what the try had made
        return made


def device_full(what: str, error: torch.OutOfMemoryError) -> DeviceFull:
    """Say what does not fit, and what would."""
    said = str(error).partition(". ")[0]
    return DeviceFull(
        f"{what} does not fit into the memory of the device ({said}); expected a device with more, "
        "that other processes leave alone (`execution.gpus_per_worker: 1`), or smaller maps. What "
        "is stored is kept: run the same command again there"
    )
