"""The pool on Ray actors; the only importer of ray.

One actor per slot. A bounded window of shards is in flight (one per actor plus one queued), drained
with `ray.wait`. An actor that dies is replaced and its shard run again; Ray's own task retries are
off, because a shard is idempotent and addressed and the store knows what is done.
"""

import math
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, final

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from actors.pool import ShardFailure
from actors.workers import Worker, WorkerSpec, build
from ood_core.errors import FarfieldError, ServiceLost
from ood_core.store.plan import Shard
from ood_core.store.receipts import Receipt

LOOK_SECONDS = 2.0
"""After so long without a word from any actor the driver looks whether Ray is still there."""
OBJECT_STORE_BYTES = 128 * 2**20  # receipts only: arrays never travel through Ray


@final
@dataclass(frozen=True, slots=True)
class RayPool:
    """`workers` actors of `cpus` and `gpus` each; a shard counts as failed after `tries` tries."""

    workers: int
    cpus: float = 1
    gpus: float = 0
    tries: int = 3
    queued: int = 1

    def run(self, spec: WorkerSpec, shards: Sequence[Shard]) -> Iterator[Receipt | ShardFailure]:
        """Run all shards on actors; actors are removed at the end, whatever happens."""
        if not shards:
            return
        connect(math.ceil(self.workers * self.cpus))
        crew = _Crew(self, spec, min(self.workers, len(shards)))
        try:
            yield from _dispatch(crew, shards, self.tries)
        finally:
            crew.dismiss()


def connect(cpus: int) -> None:
    """Join the cluster that `RAY_ADDRESS` names, or start a local one with at least `cpus`."""
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, configure_logging=False)
        return
    ray.init(
        num_cpus=max(cpus, os.cpu_count() or 1),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        configure_logging=False,
    )


class _Actor:
    """Body of the actor: builds the worker where it runs, with its first shard.

    Ray reports an error of an actor's constructor as a dead actor and drops its type; an error of a
    method keeps it.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._worker: Worker | None = None

    def run(self, shard: Shard) -> Receipt:
        if self._worker is None:
            self._worker = build(self._spec)
        return self._worker.run(shard)


@dataclass
class _Crew:
    """Actors with their load, and what is in flight.

    An actor that dies says nothing of the shard that it was at: answers for finished ones can die
    with it. So all of them are suspects, and each has an actor to itself until it lands.
    """

    pool: RayPool
    spec: WorkerSpec
    size: int
    actors: list[Any] = field(default_factory=list)
    flying: dict[Any, tuple[Any, Shard]] = field(default_factory=dict)
    suspects: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.actors = [self._hire() for _ in range(self.size)]

    def _hire(self) -> Any:
        remote = ray.remote(num_cpus=self.pool.cpus, num_gpus=self.pool.gpus, max_restarts=0)(
            _Actor
        )
        return remote.remote(self.spec)

    def idle(self, shard: Shard) -> Any | None:
        """Least loaded actor with room for this shard, if any."""
        load = Counter(id(actor) for actor, _ in self.flying.values())
        kept = {id(a) for a, other in self.flying.values() if other.index in self.suspects}
        free = [actor for actor in self.actors if id(actor) not in kept]
        actor = min(free, key=lambda a: load[id(a)], default=None)
        room = 0 if shard.index in self.suspects else self.pool.queued
        return actor if actor is not None and load[id(actor)] <= room else None

    def send(self, actor: Any, shard: Shard) -> None:
        """Put one shard in flight."""
        self.flying[actor.run.remote(shard)] = (actor, shard)

    def bury(self, actor: Any) -> list[Shard]:
        """Replace a dead actor; return the shards that it had."""
        lost = [ref for ref, (owner, _) in self.flying.items() if owner is actor]
        shards = [self.flying.pop(ref)[1] for ref in lost]
        self.suspects |= {shard.index for shard in shards}
        self.actors = [a for a in self.actors if a is not actor] + [self._hire()]
        return shards

    def dismiss(self) -> None:
        """Remove all actors."""
        for actor in self.actors:
            ray.kill(actor)


def _dispatch(crew: _Crew, shards: Sequence[Shard], tries: int) -> Iterator[Receipt | ShardFailure]:
    waiting, failures = deque(shards), Counter[int]()
    while waiting or crew.flying:
        while waiting and (actor := crew.idle(waiting[0])) is not None:
            crew.send(actor, waiting.popleft())
        ready, _ = ray.wait(list(crew.flying), num_returns=1, timeout=LOOK_SECONDS)
        if not ready:
            _require_node()
            continue
        actor, shard = crew.flying[ready[0]]
        try:
            receipt = ray.get(ready[0])
        except RayActorError as error:
            lost = crew.bury(actor)
            if len(lost) > 1:
                waiting.extend(lost)
                continue
            reason = f"worker died: {error.__class__.__name__}"
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            if isinstance(cause, FarfieldError):
                raise cause from error
            del crew.flying[ready[0]]
            reason = f"{type(cause).__name__}: {cause}"
        else:
            del crew.flying[ready[0]]
            crew.suspects.discard(shard.index)
            yield receipt
            continue
        failures[shard.index] += 1
        if failures[shard.index] >= tries:
            yield ShardFailure(shard.index, reason, tries)
        else:
            waiting.append(shard)


def _require_node() -> None:
    """Check that this driver's own node is alive: without it no actor ever starts again.

    Raises:
        ServiceLost: it is not. Other nodes may come and go, and the cluster replaces them.
    """
    here = ray.get_runtime_context().get_node_id()
    if any(node["NodeID"] == here and node["Alive"] for node in ray.nodes()):
        return
    raise ServiceLost(
        "the Ray node of this driver died (its raylet was killed, or ran out of memory); expected "
        "it to live as long as the run. What is stored is kept: run the same command again"
    )
