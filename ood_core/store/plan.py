"""The shard plan: which rows belong to which unit of work, fixed before work starts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class Shard:
    """Rows `start <= row < stop`; `capacity` rows are computed, so that batches have one shape."""

    index: int
    start: int
    stop: int
    capacity: int

    def __len__(self) -> int:
        return self.stop - self.start


@final
@dataclass(frozen=True, slots=True)
class ShardPlan:
    """`rows` rows in shards of `shard_rows`, the last one possibly shorter."""

    rows: int
    shard_rows: int

    def __post_init__(self) -> None:
        if self.rows < 0 or self.shard_rows < 1:
            raise ValueError(f"got {self}; expected rows >= 0 and shard_rows >= 1")

    def __len__(self) -> int:
        return -(-self.rows // self.shard_rows)

    @property
    def computed(self) -> int:
        """Rows that are computed, those beyond the end of the last shard included."""
        return len(self) * self.shard_rows

    def __iter__(self) -> Iterator[Shard]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Shard:
        if not 0 <= index < len(self):
            raise IndexError(f"got shard {index} of {len(self)}")
        start = index * self.shard_rows
        return Shard(index, start, min(start + self.shard_rows, self.rows), self.shard_rows)
