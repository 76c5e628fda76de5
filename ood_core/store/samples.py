"""The samples of a run for those who train on them: a data set of torch, read where it is asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ood_core.errors import RunIncomplete
from ood_core.store.run import RunStore


@final
@dataclass(frozen=True)
class StoredSamples(Dataset[dict[str, Any]]):
    """The samples of a run, in the unit of the targets; nothing is held in memory.

    Those that are copies of targets are left out.

    It travels to the workers of a `DataLoader`, which read for themselves. A batch is read at once:
    shuffled ones touch as many chunks of the store as they have maps.

    Attributes:
        run: the run, whose samples are all there.
    """

    run: RunStore

    def __post_init__(self) -> None:
        missing = len(self.run.ledger("generate").missing(self.run.plan("generate")))
        if missing:
            raise RunIncomplete(
                f"{self.run.root}: {missing} shards of samples are missing; finish it with "
                "`farfield run` first"
            )

    @cached_property
    def _numbers(self) -> NDArray[np.int64]:
        return np.setdiff1d(np.arange(self.run.plan("generate").rows), self.run.left_out)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return `maps`, float32 (c, y, x), and `sample`, the number of the sample."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return several samples, which a `DataLoader` asks for a batch."""
        rows = self._numbers[list(indices)].tolist()
        rising = sorted(set(rows))
        maps = torch.from_numpy(self.run.table("generate").pick("maps", rising))
        found = dict(zip(rising, maps, strict=True))
        return [{"maps": found[row], "sample": row} for row in rows]
