"""Pools: where workers run. One protocol, and the pool that runs in this process."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

from actors.workers import WorkerSpec, build
from ood_core.errors import FarfieldError
from ood_core.store.ledger import Receipt
from ood_core.store.plan import Shard


@final
@dataclass(frozen=True, slots=True)
class ShardFailure:
    """A shard that failed for good: its last error, and how often it was tried."""

    shard: int
    reason: str
    tries: int


@final
@dataclass(frozen=True, slots=True)
class Notice:
    """What the user should know while the pool goes on: workers that are missing or left out."""

    text: str


Outcome = Receipt | ShardFailure | Notice


@runtime_checkable
class Pool(Protocol):
    """Runs shards on workers and yields receipts as they come, in any order."""

    def run(self, spec: WorkerSpec, shards: Sequence[Shard]) -> Iterator[Outcome]:
        """Run all shards; a shard that keeps failing becomes a `ShardFailure`."""
        ...

    def standing(self) -> AbstractContextManager["Pool"]:
        """The same pool, whose processes stay from one `run` to the next within the context."""
        ...


@final
@dataclass(frozen=True, slots=True)
class InlinePool:
    """One worker in this process: the same work without Ray."""

    tries: int = 3

    def run(self, spec: WorkerSpec, shards: Sequence[Shard]) -> Iterator[Outcome]:
        """Run all shards, one after another; what fails is tried again after the others."""
        if not shards:
            return
        worker, waiting, failures = build(spec), deque(shards), Counter[int]()
        while waiting:
            shard = waiting.popleft()
            try:
                receipt = worker.run(shard)
            except FarfieldError:
                raise
            except Exception as error:  # of any type, as on actors
                reason = f"{type(error).__name__}: {error}"
            else:
                yield receipt
                continue
            failures[shard.index] += 1
            if failures[shard.index] >= self.tries:
                yield ShardFailure(shard.index, reason, self.tries)
            else:
                waiting.append(shard)

    def standing(self) -> AbstractContextManager["InlinePool"]:
        """This pool: its process stays anyway."""
        return nullcontext(self)
