"""The lease: which driver may write to a run, recorded in numbered files of the run itself.

    lease/00007.json      held by the driver that it names
    lease/00007.free      held by nobody

The highest number counts. Taking the lease is making the next number, which one process of all that
try succeeds in (`write_new`), so a number is never used twice and an owner can tell by it that a
later one took over: it is the fencing token. Releasing it is a rename, which a full disk allows;
where there are no renames both files may be there, and the run is free. No lock and no clock that
two machines would have to agree on is needed, and any store with a conditional put will do.
"""

import math
import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import final

from psutil import STATUS_ZOMBIE, NoSuchProcess, Process

from ood_core.errors import InUse
from ood_core.store.files import as_bytes, move, names, read_json, remove, write_json, write_new
from ood_core.store.place import Place

BEAT_SECONDS = 5.0
PATIENCE = 6
"""Beats of an owner that may fail to appear before another driver takes over."""
PROOF_SECONDS = 1.0
"""So long a lease counts as held once it was seen to be."""
LOOKS = 10
"""How often a waiter looks per beat."""
HELD, FREE = ".json", ".free"


@final
@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a run: a random name, the process, and its signs of life.

    Process numbers mean the same in one `place` only: one boot of one kernel, one namespace.
    `since` and `beat` are seconds since 1970 by the holder's own clock, for people to read. Other
    drivers look only at whether a beat changes.
    """

    owner: str
    host: str
    place: str
    pid: int
    since: float
    beat: float
    every: float

    @classmethod
    def here(cls, every: float) -> "Holder":
        """This process, with a name that no other lease has."""
        now = time.time()
        name = secrets.token_hex(8)
        return cls(name, socket.gethostname(), _place(), os.getpid(), now, now, every)

    @property
    def gone(self) -> bool:
        """Whether the holder is a dead process of this very place."""
        return self.place == _place() and not _alive(self.pid)

    @property
    def words(self) -> str:
        """The holder, described for a message."""
        return (
            f"process {self.pid} on {self.host} since {_clock(self.since)}, last sign of life "
            f"{_clock(self.beat)} by its clock"
        )


@final
@dataclass(frozen=True, slots=True)
class Wait:
    """The waiter's own clock; only its differences count."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@final
@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to a run, as long as no higher number exists."""

    folder: Place
    number: int
    holder: Holder

    @classmethod
    def take(cls, folder: Place, every: float = BEAT_SECONDS, wait: Wait | None = None) -> "Lease":
        """Take a free lease, or one whose holder gives no sign of life for `PATIENCE` beats.

        Raises:
            InUse: another driver holds it and is alive.
        """
        while True:
            number = highest(folder)
            if number and not _free(folder, number):
                _outwait(folder, number, every, wait or Wait())
            lease = cls(folder, number + 1, Holder.here(every))
            if write_new(_path(folder, lease.number), as_bytes(asdict(lease.holder))):
                _forget(folder, lease.number)
                return lease

    def beat(self) -> None:
        """Give a sign of life, if the lease is still held."""
        if highest(self.folder) == self.number:
            self.say(replace(self.holder, beat=time.time()))

    def say(self, holder: Holder) -> None:
        """Write who holds the lease."""
        write_json(_path(self.folder, self.number), asdict(holder))

    def release(self) -> None:
        """Say that the run is free, if the lease is still held."""
        if highest(self.folder) == self.number:
            move(_path(self.folder, self.number), _path(self.folder, self.number, FREE))


def require(folder: Place, number: int) -> None:
    """Check that a lease is still held.

    Raises:
        InUse: another driver took over, or the lease was removed.
    """
    found = highest(folder)
    if found == number:
        return
    holder = read_holder(folder, found)
    now = f"by {holder.words}" if holder else "or removed"
    raise InUse(
        f"{folder.parent} was taken over from this driver, {now}; expected to hold it until the "
        "end. A driver is taken for dead if it is silent for long, as a suspended one is. It "
        "stops here and writes nothing more: leave the run to the other driver, or run the same "
        "command again once that has ended"
    )


@final
class LeaseProof:
    """A lease that was seen to be held not long ago: it is not asked for with every shard.

    A lease is lost after `PATIENCE` beats of silence at the earliest, or with its process; what is
    written within `PROOF_SECONDS` of that has the bytes that the next owner would write.
    """

    def __init__(self, folder: Place, number: int) -> None:
        self._folder, self._number = folder, number
        self._seen = -math.inf

    def require(self) -> None:
        """Check that the lease is held, if that was last seen too long ago.

        Raises:
            InUse: another driver took over, or the lease was removed.
        """
        now = time.monotonic()
        if now - self._seen >= PROOF_SECONDS:
            require(self._folder, self._number)
            self._seen = now


def highest(folder: Place) -> int:
    """Number of the lease that counts; 0 where nobody has ever held the run."""
    return max(_numbers(folder), default=0)


def read_holder(folder: Place, number: int) -> Holder | None:
    """Who holds or held a lease; None where there is none, or it is torn."""
    ending = FREE if _free(folder, number) else HELD
    try:
        return Holder(**read_json(_path(folder, number, ending)))
    except (OSError, ValueError, TypeError):
        return None


def driver(folder: Place) -> Holder | None:
    """The driver at work, for people: by its process here, by the two clocks elsewhere."""
    number = highest(folder)
    holder = read_holder(folder, number)
    if holder is None or holder.gone or _free(folder, number):
        return None
    return holder if abs(time.time() - holder.beat) < PATIENCE * holder.every else None


def _outwait(folder: Place, number: int, every: float, wait: Wait) -> None:
    """Watch a lease until its holder is gone or has been silent for too long.

    Silence is a time by the watcher's own clock in which nothing changes: what either clock shows
    does not matter.

    Raises:
        InUse: something changed, so the holder is alive.
    """
    first, began = read_holder(folder, number), wait.now()
    patience = PATIENCE * (first.every if first else every)
    while wait.now() - began < patience:
        found = read_holder(folder, number)
        if _free(folder, number) or (found is not None and found.gone):
            return
        if found != first or highest(folder) != number:
            raise _in_use(folder, patience)
        wait.sleep(patience / PATIENCE / LOOKS)


def _in_use(folder: Place, patience: float) -> InUse:
    holder = read_holder(folder, highest(folder))
    who = holder.words if holder else "a driver that is just starting"
    return InUse(
        f"{folder.parent} is in use by {who}; expected a run that no other driver works on: wait "
        f"for it to end, stop it, or give another --out. A driver that dies is replaced by the "
        f"next one after {patience:g} s of silence, on the same machine at once"
    )


def _forget(folder: Place, number: int) -> None:
    """Remove the leases that this number outranks."""
    for older in set(_numbers(folder)):
        if older < number:
            remove(_path(folder, older))
            remove(_path(folder, older, FREE))


def _numbers(folder: Place) -> list[int]:
    found = [name.partition(".") for name in names(folder)]
    return [int(n) for n, dot, rest in found if n.isdecimal() and dot + rest in (HELD, FREE)]


def _free(folder: Place, number: int) -> bool:
    return _path(folder, number, FREE).name in names(folder)


def _path(folder: Place, number: int, ending: str = HELD) -> Place:
    return folder / f"{number:05d}{ending}"


def _place() -> str:
    """Where this process's number counts; random where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return secrets.token_hex(8)


def _alive(pid: int) -> bool:
    """Whether a process runs here; a reused number counts as alive, which only costs patience."""
    try:
        return bool(Process(pid).status() != STATUS_ZOMBIE)
    except NoSuchProcess:
        return False


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
