"""The lease: one driver at a time, whatever the clocks say, and no second owner of one number."""

import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Barrier, Lock, Thread

import psutil
import pytest

from ood_core.errors import InUse
from ood_core.store.files import names, read_json, remove, write_atomic, write_new
from ood_core.store.lease import (
    LOOKS,
    PATIENCE,
    Holder,
    Lease,
    Wait,
    driver,
    highest,
    read_holder,
    require,
)

EVERY = 5.0
WEEK = 7 * 86400.0


@dataclass
class Waiter:
    """A clock that only sleeping moves; what happens meanwhile is set beforehand."""

    passed: float = 0.0
    meanwhile: list = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.passed += seconds
        if self.meanwhile:
            self.meanwhile.pop(0)()

    @property
    def wait(self) -> Wait:
        return Wait(lambda: self.passed, self.sleep)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "lease"


def elsewhere(folder: Path, skew: float = 0.0) -> Lease:
    """A lease taken on another machine, whose clock is `skew` seconds off."""
    lease = Lease.take(folder, EVERY)
    there = replace(
        lease.holder,
        host="far",
        place="another kernel",
        since=lease.holder.since + skew,
        beat=lease.holder.beat + skew,
    )
    lease.say(there)
    return Lease(folder, lease.number, there)


def content(folder: Path) -> dict[str, dict]:
    return {name: read_json(folder / name) for name in names(folder)}


def ended_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_free_run_is_taken_at_once_and_numbers_rise(folder):
    waiter = Waiter()
    for number in (1, 2, 3):
        lease = Lease.take(folder, EVERY, waiter.wait)
        assert lease.number == number
        assert list(content(folder)) == [f"{number:05d}.json"]
        assert driver(folder) == lease.holder
        lease.release()
        assert names(folder) == [f"{number:05d}.free"]
        assert driver(folder) is None
    assert waiter.passed == 0


@pytest.mark.parametrize("skew", [-WEEK, 0.0, WEEK])
def test_an_owner_that_beats_is_left_alone_however_wrong_its_clock(folder, skew):
    lease = elsewhere(folder, skew)
    beat = replace(lease.holder, beat=lease.holder.beat + EVERY)
    waiter = Waiter(meanwhile=[lambda: None] * 3 + [lambda: lease.say(beat)])
    with pytest.raises(InUse) as error:
        Lease.take(folder, EVERY, waiter.wait)
    assert waiter.passed <= EVERY
    for word in (str(folder.parent), f"process {beat.pid} on far since 20", "--out", "30 s"):
        assert word in str(error.value)
    require(folder, lease.number)
    assert len(content(folder)) == 1


@pytest.mark.parametrize("skew", [-WEEK, 0.0, WEEK])
def test_a_silent_owner_is_replaced_after_patience_however_wrong_its_clock(folder, skew):
    lease = elsewhere(folder, skew)
    waiter = Waiter()
    mine = Lease.take(folder, EVERY, waiter.wait)
    look = EVERY / LOOKS
    assert PATIENCE * EVERY <= waiter.passed <= PATIENCE * EVERY + look * (1 + 1e-9)
    assert mine.number == lease.number + 1
    with pytest.raises(InUse, match=rf"taken over from this driver, by process {mine.holder.pid}"):
        require(folder, lease.number)


def test_patience_follows_the_beats_of_the_owner_not_of_the_waiter(folder):
    elsewhere(folder)
    waiter = Waiter()
    Lease.take(folder, EVERY / 100, waiter.wait)
    assert waiter.passed >= PATIENCE * EVERY


def test_a_dead_process_of_this_machine_is_replaced_at_once(folder):
    lease = Lease.take(folder, EVERY)
    lease.say(replace(lease.holder, pid=ended_pid()))
    assert driver(folder) is None
    waiter = Waiter()
    assert Lease.take(folder, EVERY, waiter.wait).number == 2
    assert waiter.passed == 0


def test_a_process_that_dies_while_others_wait_is_replaced_then(folder):
    lease = Lease.take(folder, EVERY)
    dies = replace(lease.holder, pid=ended_pid())
    waiter = Waiter(meanwhile=[lambda: None, lambda: lease.say(dies)])
    assert Lease.take(folder, EVERY, waiter.wait).number == 2
    assert waiter.passed == pytest.approx(2 * EVERY / LOOKS)


def test_an_ended_process_that_nobody_waited_for_is_dead(folder):
    lease = Lease.take(folder, EVERY)
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    while psutil.Process(zombie.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    assert replace(lease.holder, pid=zombie.pid).gone
    zombie.wait()


def test_process_numbers_of_other_machines_say_nothing(folder):
    lease = elsewhere(folder)
    lease.say(replace(lease.holder, pid=ended_pid()))
    waiter = Waiter()
    Lease.take(folder, EVERY, waiter.wait)
    assert waiter.passed >= PATIENCE * EVERY


def test_a_living_but_silent_process_of_this_machine_costs_patience(folder):
    """As a suspended one does, or a number that was used again."""
    Lease.take(folder, EVERY)
    waiter = Waiter()
    Lease.take(folder, EVERY, waiter.wait)
    assert waiter.passed >= PATIENCE * EVERY


def test_a_run_that_is_released_while_others_wait_is_theirs(folder):
    lease = elsewhere(folder)
    waiter = Waiter(meanwhile=[lambda: None, lease.release])
    assert Lease.take(folder, EVERY, waiter.wait).number == 2
    assert waiter.passed < EVERY


def test_the_one_of_two_waiters_that_comes_second_is_refused(folder):
    elsewhere(folder)
    first = Waiter()
    second = Waiter(meanwhile=[lambda: None, lambda: Lease.take(folder, EVERY, first.wait)])
    with pytest.raises(InUse, match="in use by process"):
        Lease.take(folder, EVERY, second.wait)
    assert highest(folder) == 2


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b'{"owner": "x"}'])
def test_a_torn_lease_is_waited_for_and_then_replaced(folder, torn):
    write_atomic(folder / "00004.json", torn)
    assert driver(folder) is None
    waiter = Waiter()
    assert Lease.take(folder, EVERY, waiter.wait).number == 5
    assert waiter.passed >= PATIENCE * EVERY


def test_who_lost_the_lease_changes_nothing_any_more(folder):
    lost = elsewhere(folder)
    mine = Lease.take(folder, EVERY, Waiter().wait)
    before = content(folder)
    lost.beat()
    lost.release()
    assert content(folder) == before
    mine.release()
    third = Lease.take(folder, EVERY, Waiter().wait)
    for number in (lost.number, mine.number):  # free in between, and still not theirs
        with pytest.raises(InUse, match="taken over"):
            require(folder, number)
    require(folder, third.number)


def test_a_lease_that_was_removed_is_lost(folder):
    lease = Lease.take(folder, EVERY)
    remove(folder / "00001.json")
    with pytest.raises(InUse, match="or removed"):
        require(folder, lease.number)


def test_a_beat_is_a_change_and_keeps_the_owner(folder):
    lease = Lease.take(folder, EVERY)
    before = read_holder(folder, 1)
    lease.beat()
    after = read_holder(folder, 1)
    assert after != before
    assert replace(after, beat=before.beat) == before


def test_status_takes_no_silent_driver_of_another_machine_for_alive(folder):
    lease = elsewhere(folder)
    assert driver(folder) == lease.holder
    lease.say(replace(lease.holder, beat=lease.holder.beat - PATIENCE * EVERY))
    assert driver(folder) is None


def test_of_many_that_make_a_file_one_does(tmp_path):
    """Every content is another one, and what is stored is the winner's, whole."""
    for turn in range(20):
        barrier, won = Barrier(8), []

        def make(number, path=tmp_path / "f" / str(turn), barrier=barrier, won=won):
            barrier.wait()
            if write_new(path, bytes([number]) * 9000):
                won.append((path, number))

        threads = [Thread(target=make, args=(number,)) for number in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        ((path, number),) = won
        assert path.read_bytes() == bytes([number]) * 9000


def test_of_many_drivers_that_start_at_once_one_goes_on(folder):
    """The winner beats whenever a loser looks, so no loser ever sees it silent."""
    barrier, one_by_one, won, refused = Barrier(8), Lock(), [], []

    def winner_beats(_: float) -> None:
        with one_by_one:
            for lease in won:
                lease.beat()

    def take():
        barrier.wait()
        try:
            won.append(Lease.take(folder, 3600.0, Wait(sleep=winner_beats)))
        except InUse as error:
            refused.append(error)

    threads = [Thread(target=take) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert (len(won), len(refused)) == (1, 7)
    assert read_holder(folder, highest(folder)).owner == won[0].holder.owner


def test_owners_have_names_of_their_own():
    assert len({Holder.here(1.0).owner for _ in range(100)}) == 100
