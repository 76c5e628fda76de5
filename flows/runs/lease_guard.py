"""The lease of a run while this driver works on it, with a sign of life every few seconds.

The lease travels in a context variable, because Prefect tasks take only plain parameters.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import Event, Thread

from ood_core.errors import StoreUnreachable
from ood_core.store.files import writing
from ood_core.store.lease import BEAT_SECONDS, Lease, LeaseProof, require
from ood_core.store.run import RunStore

UNREACHABLE = (OSError, StoreUnreachable)
_held: ContextVar[Lease | None] = ContextVar("lease", default=None)


@contextmanager
def hold_lease(run: RunStore, every: float = BEAT_SECONDS) -> Iterator[Lease]:
    """Hold the run's lease; release it at the end, whatever happens.

    Raises:
        InUse: another driver works on the run.
        StoreUnwritable: the disk is full or read-only, or permission is missing.
        StoreUnreachable: it is an object store that does not answer, or refuses us.
    """
    with writing(run.root):
        lease = Lease.take(run.lease, every)
        over = Event()
        thread = Thread(target=_beat, args=(lease, over), daemon=True)
        thread.start()
        token = _held.set(lease)
        try:
            yield lease
        finally:
            _held.reset(token)
            over.set()
            thread.join()
            with suppress(*UNREACHABLE):  # on a full disk; a dead process holds nothing either
                lease.release()


def require_lease() -> int | None:
    """Number of the lease that this driver holds; None where none was taken, as in tests.

    Raises:
        InUse: another driver took over.
    """
    lease = _held.get()
    if lease is None:
        return None
    require(lease.folder, lease.number)
    return lease.number


def lease_proof() -> LeaseProof | None:
    """What proves that this driver holds its lease, over and over; None where none was taken."""
    lease = _held.get()
    return None if lease is None else LeaseProof(lease.folder, lease.number)


def _beat(lease: Lease, over: Event) -> None:
    while not over.wait(lease.holder.every):
        with suppress(*UNREACHABLE):  # a missed beat is harmless; a lost lease is noticed
            lease.beat()
