"""Crashes at the changes of a bucket: puts and deletes, as a real server on loopback counts them.

The server refuses everything from a given change on. What the dying driver still tries leaves no
trace then, so the bucket is what a process leaves that is killed at this point. Some of the points
are tried, all of them with `--every-crash`.
"""

import os
import signal
from contextlib import suppress

import pytest

from flows.runs.lifecycle import extend_run, make_run, stored_settings, with_samples
from ood_core.errors import StoreUnreachable
from ood_core.store.run import RunStore
from tests.contracts.store import assert_honest
from tests.faults.drivers import ended, start, without_validation
from tests.object_server import assert_same, copied, die, marks, stored

SOME = 4
"""About so many points of each sweep: the first change, the last one, and some between."""


@pytest.fixture(scope="module")
def local(tmp_path_factory, small):
    root = tmp_path_factory.mktemp("local") / "run"
    make_run(small, str(root), call=without_validation)
    return root


def drive(settings, place):
    """A run whose signs of life do not count among the changes."""
    make_run(settings, str(place), call=without_validation, beat=3600.0)


@pytest.fixture(scope="module")
def whole(object_server, small):
    """A run in a bucket, and the number of its changes."""
    run = RunStore.at(f"{object_server.bucket()}/run")
    object_server.reset()
    drive(small, run.root)
    return run, len(object_server.changes)


def points(request, changes):
    if request.config.getoption("--every-crash"):
        return list(range(changes))
    return sorted({round(i * (changes - 1) / (SOME - 1)) for i in range(SOME)})


def crash(server, until, act):
    """Let `act` die at a change."""
    server.reset(until)
    with suppress(StoreUnreachable):  # a lease that cannot be released is left as it is
        act()
    assert server.refused
    server.reset()


def resume(server, place, act):
    """Take a run up that a dead driver left: what it finished is kept and not written again."""
    before = marks(stored(place))
    assert_honest(place)
    die(place)
    server.reset()
    act()
    assert before.items() <= marks(stored(place)).items()
    written = {change.split(f"/{place.key}/")[-1] for change in server.changes}
    assert not written & before.keys()
    return len(before)


def test_a_crash_at_any_change_resumes_to_the_run_in_a_folder(
    request, object_server, small, local, whole
):
    run, changes = whole
    assert_same(run.root, local)
    kept = set()
    for until in points(request, changes):
        place = RunStore.at(f"{object_server.bucket()}/run").root
        crash(object_server, until, lambda place=place: drive(small, place))
        existed = RunStore(place).exists
        found = resume(object_server, place, lambda place=place: drive(small, place))
        kept.add(found if existed else -1)
        assert_same(place, local)
    assert {-1, 5} < kept  # not planned yet; all but the release of the lease; and some between
    print(f"crash points on the object store: {len(points(request, changes))} of {changes}")


def grown(run, samples):
    return extend_run(run, with_samples(stored_settings(run), samples), call=without_validation)


def test_a_crash_at_any_change_of_a_growth_grows_to_the_run_in_a_folder(
    request, object_server, small, whole, tmp_path
):
    """From 6 samples (shards of 4, so that the last one is short) to 14."""
    fresh = tmp_path / "fresh"
    make_run(with_samples(small, 14), str(fresh), call=without_validation)
    clean = RunStore(copied(whole[0].root, object_server.bucket()))
    object_server.reset()
    grown(clean, 14)
    changes = len(object_server.changes)
    assert_same(clean.root, fresh)
    every = request.config.getoption("--every-crash")
    for until in points(request, changes)[:: 1 if every else 2]:
        run = RunStore(copied(whole[0].root, object_server.bucket()))
        crash(object_server, until, lambda run=run: grown(run, 14))
        assert resume(object_server, run.root, lambda run=run: grown(run, 14)) >= 5
        assert_same(run.root, fresh)
    print(f"crash points of a growth on the object store: {changes}")


@pytest.mark.parametrize(("share", "done"), [(0.45, False), (0.85, True)])
def test_a_driver_killed_in_a_request_is_replaced(object_server, small, local, whole, share, done):
    """SIGKILL while the server has the request, done or not yet done."""
    place = RunStore.at(f"{object_server.bucket()}/run").root
    last = round(share * whole[1])

    def kill(what, act):
        if len(object_server.changes) == last:
            os.kill(driver.pid, signal.SIGKILL)
            if not done:
                driver.join()
                return True
        return False

    object_server.reset()
    object_server.meddle = kill
    driver = start(small, place, environment=object_server.environment, beat=3600.0)
    assert ended(driver) == -signal.SIGKILL
    object_server.reset()
    before = marks(stored(place))
    assert_honest(place)
    drive(small, place)  # its process is no more, which is enough
    assert before.items() <= marks(stored(place)).items()
    assert_same(place, local)
