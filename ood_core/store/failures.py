"""Failures: shards that were given up, listed until they succeed, one small file per shard."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import final

from ood_core.store.files import names, read_json, remove, write_json
from ood_core.store.place import Place
from ood_core.store.plan import Shard


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
class FailureBook:
    """All failures of one stage of one run."""

    folder: Place
    stage: str

    def write(self, failure: Failure) -> None:
        """List a shard."""
        write_json(self._path(failure.shard), asdict(failure))

    def read(self, shard: Shard) -> Failure | None:
        """Return the shard's failure; None where there is none, or it is torn."""
        try:
            return Failure(**read_json(self._path(shard.index)))
        except (OSError, ValueError, TypeError):
            return None

    def forget(self, shard: Shard) -> None:
        """Strike a shard that succeeded off the list."""
        remove(self._path(shard.index))

    def among(self, missing: Sequence[Shard]) -> list[Failure]:
        """Failures of shards that are still missing, in order."""
        there = set(names(self.folder / self.stage))
        listed = [shard for shard in missing if _name(shard.index) in there]
        return [failure for shard in listed if (failure := self.read(shard)) is not None]

    def _path(self, index: int) -> Place:
        return self.folder / self.stage / _name(index)


def _name(index: int) -> str:
    return f"{index:05d}.json"
