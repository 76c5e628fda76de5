"""Receipts: the mark that a shard is done, written last, one small file per shard."""

from collections.abc import Mapping
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
class ReceiptBook:
    """All receipts of one stage of one run."""

    folder: Place
    stage: str

    def write(self, receipt: Receipt) -> None:
        """Vouch for a shard whose bytes are already stored."""
        write_json(self._path(receipt.shard), asdict(receipt))

    def read(self, shard: Shard) -> Receipt | None:
        """Return the shard's receipt; None where there is none, it is torn or it lacks rows."""
        try:
            receipt = Receipt(**read_json(self._path(shard.index)))
        except (OSError, ValueError, TypeError):
            return None
        if receipt.start != shard.start or not (
            shard.stop <= receipt.stop <= shard.start + shard.capacity
        ):
            return None
        return receipt

    def revoke(self, shard: Shard) -> None:
        """Withdraw the receipt of a shard whose bytes turned out to be damaged."""
        remove(self._path(shard.index))

    def missing(self, plan: ShardPlan) -> list[Shard]:
        """Shards without a valid receipt, in order."""
        return [shard for shard, found in self._each(plan) if found is None]

    def all(self, plan: ShardPlan) -> list[Receipt]:
        """Valid receipts, in order."""
        return [found for _, found in self._each(plan) if found is not None]

    @property
    def last_written(self) -> float:
        """Seconds since 1970 at which the last receipt was written."""
        return last_written(self.folder / self.stage)

    def _each(self, plan: ShardPlan) -> list[tuple[Shard, Receipt | None]]:
        """Every shard with its receipt, in order; what is not listed is not asked for."""
        there = set(names(self.folder / self.stage))
        return each(
            self.folder,
            lambda shard: (shard, self.read(shard) if _name(shard.index) in there else None),
            plan,
        )

    def _path(self, index: int) -> Place:
        return self.folder / self.stage / _name(index)


def _name(index: int) -> str:
    return f"{index:05d}.json"
