"""The model of the dispatcher against closed forms of its limits."""

from inspect import signature

import pytest

from actors.ray_pool import _Actor
from benchmarks.speed.dispatch_model import Costs, simulate, stops_at
from benchmarks.speed.scale import no_model


def test_free_bookkeeping_scales_without_end():
    """`shards` of `work` seconds on `actors`: a whole number of rounds."""
    for actors in (1, 7, 100):
        found = simulate(actors, 10 * actors, Costs(work=2.0))
        assert found.rate == pytest.approx(actors / 2.0)
        assert found.efficiency == pytest.approx(1.0)


def test_a_driver_that_is_too_slow_is_the_limit():
    """Each shard takes `send + land` of it, whatever the actors do."""
    found = simulate(1000, 20_000, Costs(work=1.0, send=0.004, land=0.006))
    assert found.rate == pytest.approx(1 / 0.010, rel=0.05)
    assert found.driver > 0.95
    assert found.limit == "driver"


def test_a_store_that_is_too_slow_is_the_limit():
    found = simulate(100, 4000, Costs(work=0.1, requests=10, store_rate=1000))
    assert found.rate == pytest.approx(100, rel=0.05)
    assert found.limit == "store"


@pytest.mark.parametrize(("work", "store"), [(1.0, 0.4), (1.0, 1.0), (0.1, 0.5), (0.05, 2.0)])
def test_a_store_that_is_far_away_is_hidden_behind_the_next_shard(work, store):
    """An actor holds two shards: two are done per `work + store`, and one per `work` at most.

    Without a queue, one is done per `work + store`.
    """
    costs = Costs(work=work, store=store)
    assert simulate(1, 200, costs, queued=0).rate == pytest.approx(1 / (work + store))
    expected = min(1 / work, 2 / (work + store))
    assert simulate(1, 200, costs).rate == pytest.approx(expected, rel=0.02)
    assert simulate(8, 1600, costs).rate == pytest.approx(8 * expected, rel=0.02)


def test_listing_is_paid_once_per_pass_and_receipt():
    """`n / actors * work` of computing after `passes * n * listing` of listing."""
    costs = Costs(work=1.0, listing=0.01, passes=3)
    found = simulate(50, 1000, costs)
    assert found.rate == pytest.approx(1000 / (20 + 30))
    assert found.limit == "receipts listing"


def test_a_queue_hides_the_way_to_the_driver_and_back():
    """Without one, an actor waits for `send` and `land` between shards."""
    costs = Costs(work=1.0, send=0.1, land=0.1)
    assert simulate(1, 50, costs, queued=0).rate == pytest.approx(1 / 1.2)
    assert simulate(1, 50, costs, queued=1).rate == pytest.approx(1.0, rel=0.02)


def test_scaling_stops_where_the_driver_is_full():
    """A driver of `d` seconds a shard keeps `work / d` actors busy: 100 here."""
    found = stops_at(Costs(work=1.0, land=0.01))
    assert 100 < found.actors <= 256


@pytest.mark.parametrize("name", ["__init__", "prepare", "run"])
def test_the_actor_without_a_model_is_called_as_the_real_one_is(name):
    """Else the costs of the dispatcher cannot be measured."""
    asked = [
        [n for n in signature(getattr(body, name)).parameters if n != "_ray_trace_ctx"]  # Ray's own
        for body in (_Actor, no_model(0.0))
    ]
    assert asked[0] == asked[1]
