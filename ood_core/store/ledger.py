"""The ledger of a run: receipts and failures, one small file per shard.

A receipt is the mark that a shard is done, and is written last. A failure lists a shard that was
given up, until it succeeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import final

from ood_core.store.files import last_written, names, read_json, remove, write_json
from ood_core.store.place import Place, each
from ood_core.store.plan import Shard, ShardPlan


@final
@dataclass(frozen=True, slots=True)
class Receipt:
    """A finished shard: stored rows, digest of their bytes, evaluations, seconds and writer.

    The last shard's rows may reach beyond the plan's: they are there for when the plan grows.
    `statistics` is the digest of the rows that were measured of a shard of samples; '' for other
    stages. `parts` says where the worker's seconds went (`actors/timing.py`).
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
        if receipt.start != shard.start or not (
            shard.stop <= receipt.stop <= shard.start + shard.capacity
        ):
            return None
        return receipt

    def revoke(self, shard: Shard) -> None:
        """Withdraw the receipt of a shard whose bytes turned out to be damaged."""
        remove(self._receipts / _name(shard.index))

    def missing(self, plan: ShardPlan) -> list[Shard]:
        """Shards without a valid receipt, in order."""
        return [shard for shard, found in self._each(plan) if found is None]

    def all(self, plan: ShardPlan) -> list[Receipt]:
        """Valid receipts, in order."""
        return [found for _, found in self._each(plan) if found is not None]

    @property
    def last_written(self) -> float:
        """Seconds since 1970 at which the last receipt was written."""
        return last_written(self._receipts)

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

    def _each(self, plan: ShardPlan) -> list[tuple[Shard, Receipt | None]]:
        """Every shard with its receipt, in order; only receipts that are listed are read."""
        there = set(names(self._receipts))
        return each(
            self.root,
            lambda shard: (shard, self.read(shard) if _name(shard.index) in there else None),
            plan,
        )


def _name(index: int) -> str:
    return f"{index:05d}.json"
