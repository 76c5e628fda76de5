"""Receipts: the mark that a shard is done, written last, one small file per shard."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from ood_core.store.files import read_json, write_json
from ood_core.store.plan import Shard, ShardPlan


@final
@dataclass(frozen=True, slots=True)
class Receipt:
    """A finished shard: stored rows, digest of their bytes, evaluations, seconds and writer.

    The last shard's rows may reach beyond the plan's: they are there for when the plan grows.
    `statistics` is the digest of the rows that were measured of a shard of samples; '' where none
    are stored, as by early versions.
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


@final
@dataclass(frozen=True, slots=True)
class ReceiptBook:
    """All receipts of one stage of one run."""

    folder: Path
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
        self._path(shard.index).unlink(missing_ok=True)

    def missing(self, plan: ShardPlan) -> list[Shard]:
        """Shards without a valid receipt, in order."""
        return [shard for shard in plan if self.read(shard) is None]

    def all(self, plan: ShardPlan) -> list[Receipt]:
        """Valid receipts, in order."""
        return [receipt for shard in plan if (receipt := self.read(shard)) is not None]

    def _path(self, index: int) -> Path:
        return self.folder / self.stage / f"{index:05d}.json"
