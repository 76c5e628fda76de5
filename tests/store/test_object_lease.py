"""The lease in a bucket: the same tests, and what a release without a rename may leave."""

import pytest

from ood_core.store.files import names, write_json
from ood_core.store.lease import Lease, driver, highest, read_holder
from ood_core.store.place import place_at
from tests.store.test_lease import (  # noqa: F401
    EVERY,
    Waiter,
    test_a_beat_is_a_change_and_keeps_the_owner,
    test_a_dead_process_of_this_machine_is_replaced_at_once,
    test_a_free_run_is_taken_at_once_and_numbers_rise,
    test_a_lease_that_was_removed_is_lost,
    test_a_run_that_is_released_while_others_wait_is_theirs,
    test_a_torn_lease_is_waited_for_and_then_replaced,
    test_of_many_drivers_that_start_at_once_one_goes_on,
    test_status_takes_no_silent_driver_of_another_machine_for_alive,
    test_the_one_of_two_waiters_that_comes_second_is_refused,
    test_who_lost_the_lease_changes_nothing_any_more,
)


@pytest.fixture
def folder(bucket):
    return place_at(f"{bucket}/run/lease")


def test_a_release_that_was_cut_short_is_one(folder):
    """Both files are there: the new name came first, and the old one did not go."""
    lease = Lease.take(folder, EVERY)
    before = read_holder(folder, 1)
    lease.release()
    write_json(folder / "00001.json", {"owner": "what the crash left"})
    assert names(folder) == ["00001.free", "00001.json"]
    assert driver(folder) is None
    assert read_holder(folder, 1) == before
    waiter = Waiter()
    assert Lease.take(folder, EVERY, waiter.wait).number == 2 == highest(folder)
    assert waiter.passed == 0
    assert names(folder) == ["00002.json"]
