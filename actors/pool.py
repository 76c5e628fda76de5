"""Pools: where workers run. One protocol, and the pool that runs in this process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

from actors.workers import Worker, WorkerSpec, build
from ood_core.errors import FarfieldError
from ood_core.store.plan import Shard
from ood_core.store.receipts import Receipt


@final
@dataclass(frozen=True, slots=True)
class ShardFailure:
    """A shard that failed for good, and why."""

    shard: int
    reason: str


@runtime_checkable
class Pool(Protocol):
    """Runs shards on workers and yields receipts as they come, in any order."""

    def run(self, spec: WorkerSpec, shards: Sequence[Shard]) -> Iterator[Receipt | ShardFailure]:
        """Run all shards; a shard that keeps failing becomes a `ShardFailure`."""
        ...


@final
@dataclass(frozen=True, slots=True)
class InlinePool:
    """One worker in this process: the same work without Ray."""

    tries: int = 2

    def run(self, spec: WorkerSpec, shards: Sequence[Shard]) -> Iterator[Receipt | ShardFailure]:
        """Run all shards, one after another."""
        if not shards:
            return
        worker = build(spec)
        for shard in shards:
            yield _attempt(worker, shard, self.tries)


def _attempt(worker: Worker, shard: Shard, tries: int) -> Receipt | ShardFailure:
    for _ in range(tries):
        try:
            return worker.run(shard)
        except FarfieldError:
            raise
        except Exception as error:  # of any type, as on actors
            failure = ShardFailure(shard.index, f"{type(error).__name__}: {error}")
    return failure
