"""The pool on Ray actors.

One actor per slot of the cluster. An actor gets work when it has answered: it has then loaded base
and fits from the store, so it reaches both. A bounded window of shards is in flight (one per actor
plus one queued), drained with `ray.wait`. Nodes may come and go: every few seconds the pool
compares its actors with the cluster's slots. The shards of an actor that dies are run again; Ray's
own retries are off, because a shard is idempotent and addressed and the store knows what is done.

Actors may stay from one stage to the next (`RayPool.standing`): a process imports torch and
diffusers once, and builds a worker anew for every stage.
"""

import math
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, final

from actors.ray_cluster import (
    Demand,
    connect,
    nodes,
    require_grant,
    require_node,
    slots,
    there_is,
)

# isort: split
import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    RayActorError,
    RayError,
    RayTaskError,
)

from actors.pool import Notice, Outcome, ShardFailure
from actors.ray_metrics import DriverMetrics, WorkerMetrics
from actors.scheduler import Arrival, Scheduler
from actors.workers import Worker, WorkerSpec, build
from ood_core.errors import FarfieldError, RunIncomplete
from ood_core.store.ledger import Receipt
from ood_core.store.plan import Shard

LOOK_SECONDS = 2.0
"""So often the driver compares its actors with the cluster."""
NOTICE_SECONDS = 10.0
"""After so long without room for any worker the driver says so."""
AGAIN_SECONDS = 60.0
"""After so long a host that was left out is tried again, and silence in spite of room is said."""
PATIENCE_SECONDS = 600.0
SHARD_SECONDS = 4 * 3600.0


@final
@dataclass(frozen=True, slots=True)
class RayPool:
    """Actors of `cpus` and `gpus` each; a shard counts as failed after `tries` tries.

    Attributes:
        workers: number of actors; None for as many as the cluster has room for.
        cpus: CPUs of an actor.
        gpus: GPUs of an actor, or the part of one; where `device` is `auto`, if there are any.
        accelerator: type of GPU, by Ray's name for it; '' takes any.
        device: `cpu`, `cuda` or `auto`. All actors compute on devices of one kind.
        tries: tries of a shard.
        queued: shards that wait at an actor behind the one that it computes.
        patience: seconds without any actor that works, after which the run ends as incomplete.
        timeout: seconds after which an actor that gives no answer for a shard is ended.
        logs: form of the lines that actors log, `text` or `json`.
    """

    workers: int | None = None
    cpus: float = 1
    gpus: float = 0
    accelerator: str = ""
    device: str = "auto"
    tries: int = 3
    queued: int = 1
    patience: float = PATIENCE_SECONDS
    timeout: float = SHARD_SECONDS
    logs: str = "text"

    def run(self, spec: WorkerSpec, shards: Sequence[Shard]) -> Iterator[Outcome]:
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

    def demand(self) -> Demand:
        """What each actor asks for; the cluster is joined, or a local one started.

        Raises:
            ServiceLost: see `connect`.
        """
        connect(math.ceil((self.workers or 0) * self.cpus))
        asked = Demand(self.cpus, 0 if self.device == "cpu" else self.gpus, self.accelerator)
        if self.device == "auto" and asked.gpus and not slots(asked):
            return Demand(self.cpus)
        return asked


class _Actor:
    """Body of the actor: builds a worker where it runs, once for every stage.

    Ray reports an error of an actor's constructor as a dead actor and drops its type; an answer
    keeps it.
    """

    def __init__(self, logs: str) -> None:
        self._metrics = WorkerMetrics(logs)
        self._turn = -1
        self._work: tuple[WorkerSpec, Worker] | None = None
        self._building = Lock()

    def prepare(self, turn: int, spec: WorkerSpec) -> Arrival:
        """Load what stage number `turn` needs, which proves that it can be reached from here."""
        host, node = socket.gethostname(), ray.get_runtime_context().get_node_id()
        with self._building:
            if turn <= self._turn and self._work is not None:
                return Arrival(host, node)
            self._work = None  # frees what the stage before held
            try:
                granted = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
                require_grant(spec.device, len(granted))
                self._work, self._turn = (spec, build(spec)), turn
            except Exception as error:
                own = isinstance(error, FarfieldError)
                return Arrival(host, node, error if own else RuntimeError(_words(error)))
        return Arrival(host, node)

    def run(self, shard: Shard) -> Receipt:
        """Run one shard of the stage that was prepared last."""
        assert self._work is not None, "shards go to actors that have answered"
        spec, worker = self._work
        try:
            receipt = worker.run(shard)
        except Exception as error:
            self._metrics.failed(spec, shard, error)
            raise
        self._metrics.stored(spec, receipt)
        return receipt


@final
class ActorGroup:
    """Actors that stay while shards of one stage after another go to them."""

    def __init__(self, pool: RayPool) -> None:
        self._pool = pool
        self._demand: Demand | None = None
        self._stage: tuple[int, WorkerSpec | None] = (0, None)
        self._metrics: DriverMetrics | None = None
        self._nodes: dict[Any, Arrival] = {}
        self._forget()

    def _forget(self) -> None:
        self.scheduler = Scheduler(self._pool.queued)
        self.coming: dict[Any, Any] = {}
        """Actors that were asked for and have not answered, by the call that they will answer."""
        self._out: dict[Any, Arrival] = {}
        """Actors on hosts that are left out; they keep their slots, so that no other goes there."""

    @property
    def actors(self) -> list[Any]:
        """All actors: at work, asked for and left out."""
        return [*self.scheduler.actors, *self.coming.values(), *self._out]

    def run(self, spec: WorkerSpec, shards: Sequence[Shard]) -> Iterator[Outcome]:
        """Run all shards; the actors stay, unless some shards are still in flight at the end.

        Raises:
            RunIncomplete: nobody could work for as long as the pool's patience.
            ServiceLost: the cluster cannot be joined, or this driver's node died.
        """
        if not shards:
            return
        self._begin(spec)
        try:
            yield from _Dispatch(self, shards).outcomes()
        finally:
            if self.scheduler.flying:  # the caller stopped, or one error stopped all of them
                self.dismiss()

    def standing(self) -> AbstractContextManager["ActorGroup"]:
        """These very actors: whoever called for them removes them."""
        return nullcontext(self)

    def dismiss(self) -> None:
        """Remove all actors, and forget which shards they had."""
        for actor in self.actors:
            ray.kill(actor)
        self._forget()

    def _begin(self, spec: WorkerSpec) -> None:
        """Begin a stage: every actor of the one before prepares for it."""
        self._demand = self._demand or self._pool.demand()
        if spec.device == "auto":
            spec = replace(spec, device="cuda" if self._demand.gpus else "cpu")
        before = self.actors
        self._stage = (self._stage[0] + 1, spec)
        self._forget()
        for actor in before:
            self._prepare(actor)

    @property
    def spec(self) -> WorkerSpec:
        """What workers of this stage are built from."""
        assert self._stage[1] is not None, "set when a stage begins"
        return self._stage[1]

    def _prepare(self, actor: Any) -> None:
        self.coming[actor.prepare.remote(*self._stage)] = actor

    @property
    def demand(self) -> Demand:
        """What each actor asks for."""
        assert self._demand is not None, "set when a stage begins"
        return self._demand

    @property
    def room(self) -> int:
        """Actors that the cluster has room for, beside those that are left out."""
        return slots(self.demand) - len(self._out)

    @property
    def wanted(self) -> int:
        """Actors that are wanted beside those that are left out.

        More than there is room for make the cluster grow, where it can: so one at least is.
        """
        return max(1, self.room) if self._pool.workers is None else self._pool.workers

    def adjust(self, shards: int) -> None:
        """Ask for as many actors as are wanted for so many shards; withdraw what is too much."""
        there = len(self.scheduler.actors) + len(self.coming)
        for ref in list(self.coming)[::-1][: max(0, there - self.wanted)]:
            ray.kill(self.coming.pop(ref))
        if not self._elsewhere():
            return
        for _ in range(min(self.wanted, shards) - there):
            self._prepare(self._start())

    def _report(self) -> None:
        """Give the number of actors at work to Ray's metrics."""
        self._metrics = self._metrics or DriverMetrics()
        self._metrics.workers(self.spec, len(self.scheduler.actors))

    def retry(self) -> None:
        """Try the hosts that were left out again."""
        for actor in list(self._out):
            del self._out[actor]
            self._prepare(actor)

    def _start(self) -> Any:
        options = ray.remote(
            num_cpus=self.demand.cpus,
            num_gpus=self.demand.gpus,
            accelerator_type=self.demand.accelerator or None,
            scheduling_strategy="SPREAD",
            max_restarts=0,
            max_concurrency=1 + self._pool.queued,  # one shard is stored, the next is computed
        )
        return options(_Actor).remote(self._pool.logs)

    def _elsewhere(self) -> bool:
        """Whether there is a node with room on which nobody was left out, or may be one."""
        out = {arrival.node for arrival in self._out.values()}
        roomy = [node["NodeID"] for node in nodes() if self.demand.room(node["Resources"])]
        return not out or not out.issuperset(roomy)

    def arrive(self, ref: Any, found: Any) -> Arrival | None:
        """Take on an actor that answered; None if it died before. One that cannot work is left out.

        Raises:
            FarfieldError: none is left who could.
        """
        actor = self.coming.pop(ref)
        if not isinstance(found, Arrival):
            ray.kill(actor)
            return None
        if found.refusal is None:
            self._nodes[actor] = found
            self.scheduler.join([actor])
            self._report()
            return found
        self._out[actor] = found
        if not self.scheduler.actors and not self.coming and not self._elsewhere():
            if isinstance(found.refusal, FarfieldError):
                raise found.refusal
            raise RunIncomplete(f"no worker can begin: {found.host}: {found.refusal}")
        return found

    def send(self, actor: Any, shard: Shard) -> None:
        """Put one shard in flight."""
        self.scheduler.send(actor.run.remote(shard), actor, shard)

    def lose(self, actor: Any, error: RayActorError | None = None) -> tuple[list[Shard], str, bool]:
        """Let a dead or silent actor go; return its shards, its host, and whether to blame that."""
        arrival = self._nodes.pop(actor)
        ray.kill(actor)  # one that cannot be reached may live
        preempted = isinstance(error, ActorDiedError) and error.preempted
        gone = arrival.node not in {node["NodeID"] for node in nodes()}
        innocent = gone or preempted or isinstance(error, ActorUnavailableError)
        left = self.scheduler.leave(actor, not innocent)
        self._report()
        return left, arrival.host, innocent


@final
class _Dispatch:
    """One stage on its way through a group of actors."""

    def __init__(self, group: ActorGroup, shards: Sequence[Shard]) -> None:
        self._group, self._pool = group, group._pool
        self._waiting, self._failures = deque(shards), Counter[int]()
        now = time.monotonic()
        self._looked = 0.0
        self._tried = now
        self._worked = now
        self._died = 0
        self._start_after = now
        self._reason = ""
        self._said: set[str] = set()
        self._heard: dict[Any, float] = {}
        """When each actor that has work was last heard of."""

    def outcomes(self) -> Iterator[Outcome]:
        """What becomes of every shard, and what is to be said meanwhile."""
        flying = self._group.scheduler.flying
        yield from self._share()
        while self._waiting or flying:
            if time.monotonic() - self._looked >= LOOK_SECONDS:
                yield from self._look()
            while self._waiting and (actor := self._group.scheduler.idle(self._waiting[0])):
                self._group.send(actor, self._waiting.popleft())
            for ref, result in _landed([*flying, *self._group.coming]):
                if ref in self._group.coming:
                    yield from self._arrived(ref, result)
                elif ref in flying:  # else its actor left a moment ago
                    yield from self._over(ref, result)

    def _share(self) -> Iterator[Notice]:
        """Say before any work that hosts must share the folder of the run."""
        spec, hosts = self._group.spec, {node["NodeManagerAddress"] for node in nodes()}
        if len(hosts) > 1 and "://" not in spec.uri:
            yield Notice(
                f"the run lies in the folder {spec.uri}, which all {len(hosts)} hosts of the "
                "cluster must share; one that does not is left out"
            )

    def _look(self) -> Iterator[Outcome]:
        """Compare the actors with the cluster, and report what is wrong.

        Raises:
            RunIncomplete: nobody could work for too long.
        """
        group, now = self._group, time.monotonic()
        self._looked = now
        require_node()
        if now - self._tried >= AGAIN_SECONDS:
            self._tried = now
            group.retry()
        if now >= self._start_after:
            group.adjust(len(self._waiting) + len(group.scheduler.flying))
        yield from self._silent(now)
        if group.scheduler.actors:
            self._worked = now
        silent, room = now - self._worked, group.room
        if silent >= self._pool.patience:
            raise RunIncomplete(
                f"no worker could work for {silent:.0f} s: asked for workers of {group.demand} "
                f"each; there are {there_is()}{self._reason}. What is stored is kept: run the same "
                "command again when there is room, or ask for less"
            )
        workers = self._pool.workers
        if workers is not None and room < min(workers, len(self._waiting)):
            yield from self._say(
                f"asked for {workers} workers of {group.demand} each; the cluster has room for "
                f"{max(room, 0)} ({there_is()}); the run goes on with what there is"
            )
        elif silent >= (AGAIN_SECONDS if room > 0 else NOTICE_SECONDS):
            yield from self._say(
                f"no worker has answered yet; asked for {group.demand} each; there are "
                f"{there_is()}{self._reason}. The run waits {self._pool.patience:g} s in all"
            )

    def _silent(self, now: float) -> Iterator[Outcome]:
        """End actors that have been at one shard for too long, as those that hang have."""
        scheduler = self._group.scheduler
        busy = {actor for actor, _ in scheduler.flying.values()}
        self._heard = {actor: self._heard.get(actor, now) for actor in busy}
        for actor, heard in self._heard.items():
            if now - heard >= self._pool.timeout:
                lost, host, _ = self._group.lose(actor)
                said = f"no answer of a worker on {host} for {self._pool.timeout:g} s"
                yield Notice(f"{said}; it is ended, and its shards are run again: {len(lost)}")
                yield from self._again(lost, f"{said} (execution.timeout)")

    def _say(self, text: str) -> Iterator[Notice]:
        """Say something once in a stage; it counts as said while its first words are the same."""
        key = text.partition(";")[0]
        if key not in self._said:
            self._said.add(key)
            yield Notice(text)

    def _arrived(self, ref: Any, result: Any) -> Iterator[Notice]:
        arrival = self._group.arrive(ref, result)
        if arrival is None:  # it died before it could answer: the next one is not asked for at once
            self._died += 1
            self._start_after = time.monotonic() + min(2.0**self._died, AGAIN_SECONDS)
            self._reason = f"; workers die before they answer ({_words(result)})"
            if self._died > 1:
                yield from self._say(f"workers die before they answer; {_words(result)}")
        elif arrival.refusal is not None:
            self._reason = f"; {arrival.host}: {arrival.refusal}"
            yield from self._say(f"{arrival.host} is left out; {arrival.refusal}")
        else:
            self._died = 0

    def _over(self, ref: Any, result: Any) -> Iterator[Outcome]:
        """What becomes of a shard whose call is over.

        Raises:
            FarfieldError: an error that the user can mend.
        """
        scheduler = self._group.scheduler
        self._heard[scheduler.flying[ref][0]] = time.monotonic()
        if not isinstance(result, RayError):
            scheduler.clear(scheduler.land(ref))
            yield result
        elif isinstance(result, RayActorError):
            lost, host, innocent = self._group.lose(scheduler.flying[ref][0], result)
            self._looked = 0.0
            if innocent:
                yield Notice(f"lost a worker on {host}; its shards are run again: {len(lost)}")
                self._waiting.extendleft(reversed(lost))
            else:
                yield from self._again(lost, f"worker died: {type(result).__name__}")
        else:
            cause = result.cause if isinstance(result, RayTaskError) else result
            if isinstance(cause, FarfieldError):
                raise cause from result
            yield from self._charge(scheduler.land(ref), _words(cause))

    def _again(self, lost: list[Shard], reason: str) -> Iterator[ShardFailure]:
        """Run the shards of an actor again, each by itself; one that was alone is charged."""
        if len(lost) > 1:
            self._waiting.extendleft(reversed(lost))
        else:
            yield from self._charge(lost[0], reason)

    def _charge(self, shard: Shard, reason: str) -> Iterator[ShardFailure]:
        """Count a try of a shard; it is tried again after the others, or given up."""
        self._failures[shard.index] += 1
        if self._failures[shard.index] >= self._pool.tries:
            yield ShardFailure(shard.index, reason, self._pool.tries)
        else:
            self._waiting.append(shard)


def _words(error: Any) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _result(ref: Any) -> Any:
    """What became of a call that is over: its answer, or a `RayError`."""
    try:
        return ray.get(ref)
    except RayError as error:
        return error


def _landed(refs: list[Any]) -> list[tuple[Any, Any]]:
    """All calls that are over, once there is one: answers first, as an error removes its actor.

    The list is empty where nothing came for a while.
    """
    if not refs:
        time.sleep(LOOK_SECONDS)
        return []
    ray.wait(refs, num_returns=1, timeout=LOOK_SECONDS)
    over = ray.wait(refs, num_returns=len(refs), timeout=0)[0]
    found = [(ref, _result(ref)) for ref in over]
    return sorted(found, key=lambda pair: isinstance(pair[1], RayError))
