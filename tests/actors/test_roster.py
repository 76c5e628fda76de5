"""Who gets the next shard: bounds, fairness, and shards that may have killed an actor."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from actors.roster import Roster
from ood_core.store.plan import ShardPlan
from tests.strategies import repeatable


def filled(queued, actors, shards):
    """A roster that has sent as many shards as it takes."""
    roster, tasks = Roster(queued), itertools.count()
    roster.join(range(actors))
    for shard in shards:
        if (actor := roster.idle(shard)) is None:
            break
        roster.send(next(tasks), actor, shard)
    return roster


@repeatable
@given(queued=st.integers(0, 3), actors=st.integers(1, 5))
def test_a_bounded_number_of_shards_is_in_flight(queued, actors):
    roster = filled(queued, actors, ShardPlan(100, 1))
    owners = [actor for actor, _ in roster.flying.values()]
    assert sorted(owners.count(actor) for actor in roster.actors) == [1 + queued] * actors


def test_the_least_loaded_actor_is_next():
    roster = filled(2, 3, ShardPlan(6, 1))
    task = next(task for task, (actor, _) in roster.flying.items() if actor == 1)
    roster.land(task)
    assert roster.idle(ShardPlan(7, 1)[6]) == 1


def test_a_shard_that_may_have_killed_an_actor_has_one_to_itself():
    first, second, suspect, later = ShardPlan(4, 1)
    roster = Roster(queued=1, suspects={suspect.index})
    roster.join("ab")
    roster.send(1, "a", first)
    assert roster.idle(suspect) == "b"
    roster.send(2, "b", second)
    assert roster.idle(suspect) is None  # nobody is free, and it does not queue
    assert roster.idle(later) is not None
    roster.land(2)
    roster.send(3, "b", suspect)
    roster.send(4, "a", later)
    assert roster.idle(first) is None  # nobody queues behind it
    roster.clear(roster.land(3))
    assert roster.idle(first) == "b"


def test_shards_of_an_actor_that_left_are_suspects_and_it_gets_no_more():
    roster = filled(1, 2, ShardPlan(4, 1))
    lost = roster.leave(0)
    assert [shard.index for shard in lost] == [0, 2]
    assert roster.suspects == {0, 2}
    assert roster.actors == [1]
    assert roster.idle(lost[0]) is None  # the other one has two shards of its own
    assert {actor for actor, _ in roster.flying.values()} == {1}


@repeatable
@given(st.data())
def test_every_shard_lands_whatever_dies(data):
    """Against a plain count: no shard is lost or sent twice at once; loads stay within bounds."""
    queued, plan = data.draw(st.integers(0, 2)), ShardPlan(12, 1)
    roster, tasks, names = Roster(queued), itertools.count(), itertools.count()
    roster.join([next(names), next(names)])
    waiting, done = list(plan), []
    while waiting or roster.flying:
        while waiting and (actor := roster.idle(waiting[0])) is not None:
            roster.send(next(tasks), actor, waiting.pop(0))
        flying = [shard.index for _, shard in roster.flying.values()]
        assert len(flying) == len(set(flying)) <= 2 * (1 + queued)
        for index in roster.suspects & set(flying):
            owner = next(a for a, shard in roster.flying.values() if shard.index == index)
            assert [a for a, _ in roster.flying.values()].count(owner) == 1
        task = data.draw(st.sampled_from(sorted(roster.flying)))
        if len(done) < 6 and data.draw(st.booleans()):
            waiting += roster.leave(roster.flying[task][0])
            roster.join([next(names)])
        shards = [roster.land(task)] if task in roster.flying else []
        for shard in shards:
            roster.clear(shard)
            done.append(shard.index)
    assert sorted(done) == list(range(12))
