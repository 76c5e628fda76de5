"""The pool on Ray actors; with `ray_training` the only importer of ray.

One actor per slot. A bounded window of shards is in flight (one per actor plus one queued), drained
with `ray.wait`. An actor that dies is replaced and its shard run again; Ray's own task retries are
off, because a shard is idempotent and addressed and the store knows what is done.

Actors may stay from one stage to the next (`RayPool.standing`): a process imports torch and
diffusers once, and builds a worker anew for every stage.
"""

import math
import os
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, cast, final

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from actors.pool import ShardFailure
from actors.workers import Worker, WorkerSpec, build
from ood_core.errors import FarfieldError, ServiceLost
from ood_core.store.ledger import Receipt
from ood_core.store.plan import Shard

LOOK_SECONDS = 2.0
"""After so long without a word from any actor the driver looks whether Ray is still there."""
ANSWER_SECONDS = 10.0
"""An actor of an earlier stage that says nothing for so long is replaced."""
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
        with self.standing() as group:
            yield from group.run(spec, shards)

    @contextmanager
    def standing(self) -> Iterator["ActorGroup"]:
        """Actors that stay from one `run` to the next; they are removed when the context ends."""
        group = ActorGroup(self)
        try:
            yield group
        finally:
            group.dismiss()


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
    """Body of the actor: builds a worker where it runs, with the first shard of every stage.

    Ray reports an error of an actor's constructor as a dead actor and drops its type; an error of a
    method keeps it.
    """

    def __init__(self) -> None:
        self._turn: int | None = None
        self._worker: Worker | None = None
        self._building = Lock()

    def ping(self) -> None:
        """Say that this process is alive."""

    def run(self, turn: int, spec: WorkerSpec, shard: Shard) -> Receipt:
        """Run one shard of stage number `turn`."""
        with self._building:
            if self._worker is None or self._turn != turn:
                self._worker = None  # frees what the stage before held
                self._worker, self._turn = build(spec), turn
            worker = self._worker
        return worker.run(shard)


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

    def leave(self, actor: Hashable) -> list[Shard]:
        """Let an actor go; return the shards that it had, suspects from now on."""
        shards = [self.flying.pop(task)[1] for task in self._tasks.pop(actor)]
        for free in self._free:
            free.pop(actor, None)
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


@final
class ActorGroup:
    """Actors that stay while shards of one stage after another go to them."""

    def __init__(self, pool: RayPool) -> None:
        self._pool = pool
        self._order: tuple[int, WorkerSpec | None] = (0, None)
        self.scheduler = Scheduler(pool.queued)

    def run(self, spec: WorkerSpec, shards: Sequence[Shard]) -> Iterator[Receipt | ShardFailure]:
        """Run all shards; the actors stay, unless some shards are still in flight at the end."""
        if not shards:
            return
        connect(math.ceil(self._pool.workers * self._pool.cpus))
        self.ensure(spec, min(self._pool.workers, len(shards)))
        try:
            yield from _dispatch(self, shards, self._pool.tries)
        finally:
            if self.scheduler.flying:  # the caller stopped, or one error stopped all of them
                self.dismiss()

    def standing(self) -> AbstractContextManager["ActorGroup"]:
        """These very actors: whoever called for them removes them."""
        return nullcontext(self)

    def ensure(self, spec: WorkerSpec, size: int) -> None:
        """Have at least `size` actors that answer, for a new stage."""
        self._order = (self._order[0] + 1, spec)
        before = self.scheduler.actors
        pings = {actor.ping.remote(): actor for actor in before}
        ready = _within([*pings], ANSWER_SECONDS)
        alive = [pings[ref] for ref in ready if not isinstance(_result(ref), RayError)]
        for actor in before:
            if actor not in alive:
                ray.kill(actor)
        self.scheduler = Scheduler(self._pool.queued)
        self.scheduler.join([*alive, *(self._start() for _ in range(size - len(alive)))])

    def _start(self) -> Any:
        options = ray.remote(
            num_cpus=self._pool.cpus,
            num_gpus=self._pool.gpus,
            max_restarts=0,
            max_concurrency=1 + self._pool.queued,  # one shard is stored, the next is computed
        )
        return options(_Actor).remote()

    def send(self, actor: Any, shard: Shard) -> None:
        """Put one shard in flight."""
        self.scheduler.send(actor.run.remote(*self._order, shard), actor, shard)

    def replace_dead(self, actor: Any) -> list[Shard]:
        """Replace a dead actor; return the shards that it had."""
        shards = self.scheduler.leave(actor)
        self.scheduler.join([self._start()])
        return shards

    def dismiss(self) -> None:
        """Remove all actors, and forget what they were at."""
        for actor in self.scheduler.actors:
            ray.kill(actor)
        self.scheduler = Scheduler(self._pool.queued)


def _within(refs: list[Any], seconds: float) -> list[Any]:
    """Those of the references that are ready within a time."""
    return ray.wait(refs, num_returns=len(refs), timeout=seconds)[0] if refs else []


def _result(ref: Any) -> Receipt | RayError:
    """What became of a call that is over."""
    try:
        return cast(Receipt, ray.get(ref))
    except RayError as error:
        return error


def _landed(refs: list[Any]) -> list[tuple[Any, Receipt | RayError]]:
    """All calls that are over, once there is one: answers first, as an error replaces its actor.

    The list is empty where nothing came for a while.
    """
    ray.wait(refs, num_returns=1, timeout=LOOK_SECONDS)
    found = [(ref, _result(ref)) for ref in _within(refs, 0)]
    return sorted(found, key=lambda pair: isinstance(pair[1], RayError))


def _dispatch(
    group: ActorGroup, shards: Sequence[Shard], tries: int
) -> Iterator[Receipt | ShardFailure]:
    waiting, failures = deque(shards), Counter[int]()
    while waiting or group.scheduler.flying:
        while waiting and (actor := group.scheduler.idle(waiting[0])) is not None:
            group.send(actor, waiting.popleft())
        landed = _landed([*group.scheduler.flying])
        if not landed:
            _require_node()
        for ref, result in landed:
            if ref not in group.scheduler.flying:  # its actor was replaced a moment ago
                continue
            if not isinstance(result, RayError):
                group.scheduler.clear(group.scheduler.land(ref))
                yield result
                continue
            shard, reason = _failed(group, ref, result, waiting)
            if shard is None:
                continue
            failures[shard.index] += 1
            if failures[shard.index] >= tries:
                yield ShardFailure(shard.index, reason, tries)
            else:
                waiting.append(shard)


def _failed(
    group: ActorGroup, ref: Any, error: RayError, waiting: deque[Shard]
) -> tuple[Shard | None, str]:
    """The shard that is to blame for an error, if one is, and why.

    Raises:
        FarfieldError: an error that the user can mend.
    """
    if isinstance(error, RayActorError):
        actor, _ = group.scheduler.flying[ref]
        lost = group.replace_dead(actor)
        if len(lost) > 1:
            waiting.extend(lost)
            return None, ""
        return lost[0], f"worker died: {error.__class__.__name__}"
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, FarfieldError):
        raise cause from error
    return group.scheduler.land(ref), f"{type(cause).__name__}: {cause}"


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
