"""Which worker takes the next shard; no Ray, so that a model of the pool uses it too."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, final

from ood_core.store.plan import Shard


@final
@dataclass(frozen=True, slots=True)
class Arrival:
    """An actor that answered: where it is, and why it cannot work, if it cannot."""

    host: str
    node: str
    refusal: Exception | None = None


@final
@dataclass
class Scheduler:
    """Which actor takes the next shard: actors with their load, and the shards in flight.

    Up to `queued` shards wait at an actor behind the one that it computes. Every step costs the
    same for one actor and for a thousand. Nothing here calls Ray, so that the model of the
    dispatcher in `benchmarks` shares it.

    An actor that dies says nothing of the shard that it was at: answers for finished ones can die
    with it. So all of them are suspects, and each has an actor to itself until it lands.
    """

    queued: int
    flying: dict[Any, tuple[Hashable, Shard]] = field(default_factory=dict)
    suspects: set[int] = field(default_factory=set)
    _tasks: dict[Hashable, set[Any]] = field(default_factory=dict)
    _free: list[dict[Hashable, None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free = [{} for _ in range(self.queued + 1)]

    @property
    def actors(self) -> list[Any]:
        """All actors, those that joined first in front."""
        return list(self._tasks)

    def join(self, actors: Iterable[Hashable]) -> None:
        """Take actors on."""
        for actor in actors:
            self._tasks[actor] = set()
            self._free[0][actor] = None

    def idle(self, shard: Shard) -> Any | None:
        """Least loaded actor with room for this shard, if any."""
        room = 0 if shard.index in self.suspects else self.queued
        for free in self._free[: room + 1]:
            if free:
                return next(iter(free))
        return None

    def send(self, task: Any, actor: Hashable, shard: Shard) -> None:
        """Put one shard in flight."""
        self.flying[task] = (actor, shard)
        self._tasks[actor].add(task)
        self._place(actor)

    def land(self, task: Any) -> Shard:
        """Take one shard out of flight."""
        actor, shard = self.flying.pop(task)
        self._tasks[actor].discard(task)
        self._place(actor)
        return shard

    def clear(self, shard: Shard) -> None:
        """Suspect a shard no longer: it has landed well."""
        self.suspects.discard(shard.index)

    def leave(self, actor: Hashable, suspect: bool = True) -> list[Shard]:
        """Let an actor go; return the shards that it had, which may be suspects from now on."""
        shards = [self.flying.pop(task)[1] for task in self._tasks.pop(actor)]
        for free in self._free:
            free.pop(actor, None)
        if suspect:
            self.suspects |= {shard.index for shard in shards}
        return sorted(shards, key=lambda shard: shard.index)

    def _place(self, actor: Hashable) -> None:
        """List an actor under its load, unless it has no room or is kept for a suspect."""
        for free in self._free:
            free.pop(actor, None)
        tasks = self._tasks[actor]
        kept = self.suspects and any(self.flying[t][1].index in self.suspects for t in tasks)
        if len(tasks) <= self.queued and not kept:
            self._free[len(tasks)][actor] = None
