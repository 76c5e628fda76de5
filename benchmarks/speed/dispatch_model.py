"""A discrete-event model of the dispatcher: where would it stop scaling?

One driver hands shards to actors by the scheduler of the Ray pool, and takes answers one by
one. An actor computes one shard at a time, then stores it while it computes the next one; the store
answers so many requests a second. Before the first shard and after the last one the driver lists
all receipts.

    efficiency = shards per second / (actors / seconds of a shard)
"""

import heapq
import itertools
from collections import deque
from dataclasses import dataclass
from typing import final

from actors.scheduler import Scheduler
from ood_core.store.plan import ShardPlan


@final
@dataclass(frozen=True, slots=True)
class Costs:
    """Measured costs, in seconds unless said otherwise.

    `send` and `land` of the driver per shard, `answer` of an actor beside its work, `work` of a
    shard, `listing` per receipt and pass; `store` of what a shard waits for a store at rest;
    `requests` to the store per shard, of which it answers `store_rate` a second; `passes` over the
    receipts per stage.
    """

    work: float
    send: float = 0.0
    land: float = 0.0
    answer: float = 0.0
    listing: float = 0.0
    passes: int = 3
    store: float = 0.0
    requests: float = 0.0
    store_rate: float = float("inf")


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What a simulated stage did: shards per second, and how busy everything was."""

    actors: int
    rate: float
    efficiency: float
    driver: float
    store: float
    listing: float

    @property
    def limit(self) -> str:
        """What holds it back most."""
        shares = {"driver": self.driver, "store": self.store, "receipts listing": self.listing}
        worst = max(shares, key=lambda name: shares[name])
        return worst if self.efficiency < 0.9 and shares[worst] > 0.1 else "actors"


def simulate(actors: int, shards: int, costs: Costs, queued: int = 1) -> Outcome:
    """Run one stage of so many shards; all times are of the model."""
    scheduler = Scheduler(queued)
    scheduler.join(range(actors))
    waiting, tasks = deque(ShardPlan(shards, 1)), itertools.count()
    now = listed = costs.listing * shards * costs.passes
    busy = store_free = store_busy = 0.0
    free_at = [now] * actors
    events: list[tuple[float, int, bool]] = []  # when, task, whether it is stored
    hold = costs.requests / costs.store_rate
    while waiting or scheduler.flying:
        while waiting and (actor := scheduler.idle(waiting[0])) is not None:
            now, busy = now + costs.send, busy + costs.send
            task = next(tasks)
            scheduler.send(task, actor, waiting.popleft())
            free_at[actor] = max(now, free_at[actor]) + costs.work + costs.answer
            heapq.heappush(events, (free_at[actor], task, False))
        moment, task, stored = heapq.heappop(events)
        if not stored:
            store_free, store_busy = max(store_free, moment) + hold, store_busy + hold
            over = store_free if hold else moment
            heapq.heappush(events, (max(over, moment + costs.store), task, True))
            continue
        now = max(now, moment) + costs.land
        busy += costs.land
        scheduler.clear(scheduler.land(task))
    rate = shards / now
    return Outcome(
        actors, rate, rate * costs.work / actors, busy / now, store_busy / now, listed / now
    )


def stops_at(costs: Costs, per_actor: int = 20, least: float = 0.9, most: int = 2**15) -> Outcome:
    """The first number of actors, doubling, whose efficiency falls below `least`."""
    actors = 1
    while True:
        found = simulate(actors, per_actor * actors, costs)
        if found.efficiency < least or actors >= most:
            return found
        actors *= 2
