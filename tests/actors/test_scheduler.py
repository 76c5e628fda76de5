"""Who gets the next shard: bounds, fairness, and shards that may have killed an actor."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from actors.scheduler import Scheduler
from ood_core.store.plan import ShardPlan
from tests.strategies import repeatable


def filled(queued, actors, shards):
    """A scheduler that has sent as many shards as it takes."""
    scheduler, tasks = Scheduler(queued), itertools.count()
    scheduler.join(range(actors))
    for shard in shards:
        if (actor := scheduler.idle(shard)) is None:
            break
        scheduler.send(next(tasks), actor, shard)
    return scheduler


@repeatable
@given(queued=st.integers(0, 3), actors=st.integers(1, 5))
def test_a_bounded_number_of_shards_is_in_flight(queued, actors):
    scheduler = filled(queued, actors, ShardPlan(100, 1))
    owners = [actor for actor, _ in scheduler.flying.values()]
    assert sorted(owners.count(actor) for actor in scheduler.actors) == [1 + queued] * actors


def test_the_least_loaded_actor_is_next():
    scheduler = filled(2, 3, ShardPlan(6, 1))
    task = next(task for task, (actor, _) in scheduler.flying.items() if actor == 1)
    scheduler.land(task)
    assert scheduler.idle(ShardPlan(7, 1)[6]) == 1


def test_a_shard_that_may_have_killed_an_actor_has_one_to_itself():
    first, second, suspect, later = ShardPlan(4, 1)
    scheduler = Scheduler(queued=1, suspects={suspect.index})
    scheduler.join("ab")
    scheduler.send(1, "a", first)
    assert scheduler.idle(suspect) == "b"
    scheduler.send(2, "b", second)
    assert scheduler.idle(suspect) is None  # nobody is free, and it does not queue
    assert scheduler.idle(later) is not None
    scheduler.land(2)
    scheduler.send(3, "b", suspect)
    scheduler.send(4, "a", later)
    assert scheduler.idle(first) is None  # nobody queues behind it
    scheduler.clear(scheduler.land(3))
    assert scheduler.idle(first) == "b"


def test_shards_of_an_actor_that_left_are_suspects_and_it_gets_no_more():
    scheduler = filled(1, 2, ShardPlan(4, 1))
    lost = scheduler.leave(0)
    assert [shard.index for shard in lost] == [0, 2]
    assert scheduler.suspects == {0, 2}
    assert scheduler.actors == [1]
    assert scheduler.idle(lost[0]) is None  # the other one has two shards of its own
    assert {actor for actor, _ in scheduler.flying.values()} == {1}


@repeatable
@given(st.data())
def test_every_shard_lands_whatever_dies(data):
    """Against a plain count: no shard is lost or sent twice at once; loads stay within bounds."""
    queued, plan = data.draw(st.integers(0, 2)), ShardPlan(12, 1)
    scheduler, tasks, names = Scheduler(queued), itertools.count(), itertools.count()
    scheduler.join([next(names), next(names)])
    waiting, done = list(plan), []
    while waiting or scheduler.flying:
        while waiting and (actor := scheduler.idle(waiting[0])) is not None:
            scheduler.send(next(tasks), actor, waiting.pop(0))
        flying = [shard.index for _, shard in scheduler.flying.values()]
        assert len(flying) == len(set(flying)) <= 2 * (1 + queued)
        for index in scheduler.suspects & set(flying):
            owner = next(a for a, shard in scheduler.flying.values() if shard.index == index)
            assert [a for a, _ in scheduler.flying.values()].count(owner) == 1
        task = data.draw(st.sampled_from(sorted(scheduler.flying)))
        if len(done) < 6 and data.draw(st.booleans()):
            waiting += scheduler.leave(scheduler.flying[task][0])
            scheduler.join([next(names)])
        shards = [scheduler.land(task)] if task in scheduler.flying else []
        for shard in shards:
            scheduler.clear(shard)
            done.append(shard.index)
    assert sorted(done) == list(range(12))
