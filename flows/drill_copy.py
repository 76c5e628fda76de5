"""The copy of a run that the drill hurts and mends, and what it must be again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from flows.drill_sessions import Session
from ood_core.errors import ShardCorrupt
from ood_core.store.files import PARTIAL
from ood_core.store.plan import Shard
from ood_core.store.receipts import Receipt
from ood_core.store.run import SHARDED, TABLE_OF, RunStore, ShardedStage

MAX_HURT = 3
INLINE = ("execution.pool=inline", "execution.orchestrator=none")

Complaints = list[str]


@final
@dataclass(frozen=True, slots=True)
class Patient:
    """The copy, and what it must be again after every fault."""

    root: Path
    sets: tuple[str, ...]
    plan: bytes
    receipts: dict[tuple[ShardedStage, int], Receipt]

    @classmethod
    def of(cls, root: Path, sets: Sequence[str]) -> "Patient":
        """What a healthy copy holds."""
        run = RunStore(root)
        plan = (root / "plan.json").read_bytes()
        receipts = {(s, r.shard): r for s in SHARDED for r in run.receipts(s).all(run.plan(s))}
        return cls(root, tuple(sets), plan, receipts)

    @property
    def run(self) -> RunStore:
        """The copy as a run."""
        return RunStore(self.root)

    @property
    def inline(self) -> tuple[str, ...]:
        """Settings of a driver that needs neither Ray nor Prefect."""
        return (*self.sets, *INLINE)

    @property
    def last(self) -> list[Shard]:
        """The shards at the end, which faults may hurt."""
        return list(self.run.plan("generate"))[-MAX_HURT:]

    @property
    def missing(self) -> int:
        """How many shards of samples lack a receipt."""
        return len(self.run.receipts("generate").missing(self.run.plan("generate")))

    def mend(self) -> Complaints:
        """Give the run to a new driver."""
        error = Session.begin(self.run, self.inline).end()
        return [f"the run could not go on: {error}"] if error else []

    def forget(self, shard: Shard) -> None:
        """Take a shard's receipt and bytes away."""
        self.run.receipts("generate").revoke(shard)
        self.file(shard).unlink()

    def file(self, shard: Shard) -> Path:
        """The stored maps of a shard."""
        maps = dict(self.run.table("generate").arrays())["maps"]
        key = maps.metadata.encode_chunk_key((shard.index, *(0,) * (maps.ndim - 1)))
        return self.root / TABLE_OF["generate"] / "maps" / key

    def complaints(self, hurt: Sequence[Shard]) -> Complaints:
        """Whatever is not as it was; only the hurt shards may have been computed again."""
        found, indices = [], {shard.index for shard in hurt}
        if (self.root / "plan.json").read_bytes() != self.plan:
            found.append("the plan changed")
        for (stage, index), before in self.receipts.items():
            now = self.run.receipts(stage).read(self.run.plan(stage)[index])
            if now is None:
                found.append(f"{stage} shard {index} is missing")
            elif (now.start, now.stop, now.digest) != (before.start, before.stop, before.digest):
                found.append(f"{stage} shard {index} has other bytes than before")
            elif now != before and not (stage == "generate" and index in indices):
                found.append(f"{stage} shard {index} was computed again")
        return found + self._stored(hurt) + self._litter()

    def _stored(self, hurt: Sequence[Shard]) -> Complaints:
        table, found = self.run.table("generate"), []
        for shard in hurt:
            receipt = self.receipts["generate", shard.index]
            try:
                same = table.digest(receipt) == receipt.digest
            except ShardCorrupt:
                same = False
            if not same:
                found.append(f"the bytes of generate shard {shard.index} are not the old ones")
        return found

    def _litter(self) -> Complaints:
        litter = [path for path in self.root.rglob("*") if path.name.endswith(PARTIAL)]
        return [f"{len(litter)} half-written files are left"] if litter else []
