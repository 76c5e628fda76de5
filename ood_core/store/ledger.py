"""The ledger of a run: receipts and failures, one small file per shard.

A receipt is the mark that a shard is done, and is written last. A failure lists a shard that was
given up, until it succeeds.

Where there are many receipts, the driver gathers those of `SEGMENT` shards in a row into one file,
a segment, once all of them are there. A segment saves reading its receipts one by one. It counts as
long as all of them are listed and none was written after it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import final

from ood_core.store.files import names, read_json, remove, write_json, written
from ood_core.store.place import Place, each
from ood_core.store.plan import Shard, ShardPlan

SEGMENT = 1024
"""Receipts of a segment."""


@final
@dataclass(frozen=True, slots=True)
class Receipt:
    """A finished shard: stored rows, digest of their bytes, evaluations, seconds and writer.

    The last shard's rows may reach beyond the plan's: they are there for when the plan grows.
    `statistics` is the digest of the rows that were measured of a shard of samples; '' for other
    stages. `parts` says where the worker's seconds went (`actors/timing.py`). `micro_batch` is how
    many rows were computed at once; 0 for all of them.
    """

    stage: str
    shard: int
    start: int
    stop: int
    digest: str
    nfe: int
    seconds: float
    writer: str
    statistics: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)
    micro_batch: int = 0


@final
@dataclass(frozen=True, slots=True)
class Failure:
    """A shard that failed for good: last error, tries in all sessions, names of its targets."""

    stage: str
    shard: int
    start: int
    stop: int
    error: str
    tried: int
    targets: Sequence[str] = ()


@final
@dataclass(frozen=True, slots=True)
class Ledger:
    """What became of the shards of one stage of one run.

    Attributes:
        root: place of the run.
        stage: name of the stage.
    """

    root: Place
    stage: str

    def write(self, receipt: Receipt) -> None:
        """Write the receipt of a shard whose bytes are already stored."""
        write_json(self._receipts / _name(receipt.shard), asdict(receipt))

    def read(self, shard: Shard) -> Receipt | None:
        """Return the shard's receipt; None where there is none, it is torn or it lacks rows."""
        try:
            receipt = Receipt(**read_json(self._receipts / _name(shard.index)))
        except (OSError, ValueError, TypeError):
            return None
        return receipt if _covers(receipt, shard) else None

    def revoke(self, shard: Shard) -> None:
        """Withdraw the receipt of a shard whose bytes turned out to be damaged."""
        remove(self._receipts / _name(shard.index))

    def missing(self, plan: ShardPlan) -> list[Shard]:
        """Shards without a valid receipt, in order."""
        return [shard for shard, found in self._each(plan) if found is None]

    def all(self, plan: ShardPlan) -> list[Receipt]:
        """Valid receipts, in order."""
        return [found for _, found in self._each(plan) if found is not None]

    def scan(self, plan: ShardPlan) -> list[Receipt | None]:
        """The valid receipt of every shard, in order; None where there is none."""
        return [found for _, found in self._each(plan)]

    def seal(self, plan: ShardPlan) -> None:
        """Gather receipts into segments, where all of a segment's are there."""
        if len(plan) < SEGMENT:
            return
        there, sealed = written(self._receipts), self._sealed(plan)
        for number in range(len(plan) // SEGMENT):
            shards = [plan[i] for i in _span(number, plan)]
            if number in sealed or not all(_name(shard.index) in there for shard in shards):
                continue
            found = each(self.root, self.read, shards)
            if None not in found:
                receipts = [asdict(receipt) for receipt in found if receipt is not None]
                write_json(self._segments / _name(number), {"receipts": receipts})

    @property
    def last_written(self) -> float:
        """Seconds since 1970 at which the last receipt was written."""
        return max(written(self._receipts).values())

    def fail(self, failure: Failure) -> None:
        """List a shard that was given up."""
        write_json(self._failures / _name(failure.shard), asdict(failure))

    def failure(self, shard: Shard) -> Failure | None:
        """Return the shard's failure; None where there is none, or it is torn."""
        try:
            return Failure(**read_json(self._failures / _name(shard.index)))
        except (OSError, ValueError, TypeError):
            return None

    def forget(self, shard: Shard) -> None:
        """Strike a shard that succeeded off the list of failures."""
        remove(self._failures / _name(shard.index))

    def failures(self, missing: Sequence[Shard]) -> list[Failure]:
        """Failures of shards that are still missing, in order."""
        there = set(names(self._failures))
        listed = [shard for shard in missing if _name(shard.index) in there]
        return [failure for shard in listed if (failure := self.failure(shard)) is not None]

    @property
    def _receipts(self) -> Place:
        return self.root / "receipts" / self.stage

    @property
    def _failures(self) -> Place:
        return self.root / "failures" / self.stage

    @property
    def _segments(self) -> Place:
        return self.root / "segments" / self.stage

    def _each(self, plan: ShardPlan) -> list[tuple[Shard, Receipt | None]]:
        """Every shard with its receipt, in order; only receipts that are listed are read."""
        there = written(self._receipts)
        sealed = self._sealed(plan, there)
        single = [
            shard
            for shard in plan
            if shard.index // SEGMENT not in sealed and _name(shard.index) in there
        ]
        indices = (shard.index for shard in single)
        found = dict(zip(indices, each(self.root, self.read, single), strict=True))
        for number, receipts in sealed.items():
            for index, receipt in zip(_span(number, plan), receipts, strict=True):
                found[index] = receipt if _covers(receipt, plan[index]) else None
        return [(shard, found.get(shard.index)) for shard in plan]

    def _sealed(
        self, plan: ShardPlan, there: Mapping[str, float] | None = None
    ) -> dict[int, list[Receipt]]:
        """Receipts of the segments that count."""
        if len(plan) < SEGMENT:
            return {}
        there = written(self._receipts) if there is None else there
        found = written(self._segments)

        def read(number: int) -> list[Receipt]:
            try:
                stored = read_json(self._segments / _name(number))["receipts"]
                return [Receipt(**receipt) for receipt in stored]
            except (OSError, ValueError, TypeError, KeyError):
                return []

        def counts(number: int) -> bool:
            sealed = found.get(_name(number), -math.inf)
            return all(there.get(_name(i), math.inf) < sealed for i in _span(number, plan))

        numbers = [number for number in range(len(plan) // SEGMENT) if counts(number)]
        segments = zip(numbers, each(self.root, read, numbers), strict=True)
        return {number: receipts for number, receipts in segments if len(receipts) == SEGMENT}


def _covers(receipt: Receipt, shard: Shard) -> bool:
    """Whether a receipt is about the rows of a shard."""
    return (
        receipt.start == shard.start and shard.stop <= receipt.stop <= shard.start + shard.capacity
    )


def _span(number: int, plan: ShardPlan) -> range:
    """Shards of a segment."""
    return range(number * SEGMENT, min((number + 1) * SEGMENT, len(plan)))


def _name(index: int) -> str:
    return f"{index:05d}.json"
