"""Sessions of the drill: drivers in processes of their own, which can be held, killed and read.

They are forked from a clean process that has the heavy imports done, so that many of them are
cheap. Each is what `farfield extend` does, without validation.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from threading import Thread, Timer
from typing import final

from psutil import NoSuchProcess, Process

from flows.progress import Listener, listener
from flows.runs.extension import extend_run, stored_settings, with_samples
from flows.runs.stages import Stage, perform
from flows.settings import RunSettings
from ood_core.errors import FarfieldError
from ood_core.store.lease import driver
from ood_core.store.run import RunStore

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["flows.drill_sessions", "diffusers.models.unets.unet_2d"])
SECONDS = 1800.0
LOOK = 0.002


def warm() -> None:
    """Start the process that drivers are forked from and wait until it has its imports done.

    A driver that is killed leaves a semaphore to be cleaned up, which is not worth a warning.
    """
    before = os.environ.get("PYTHONWARNINGS", "")
    os.environ["PYTHONWARNINGS"] = f"ignore:resource_tracker,{before}".rstrip(",")
    try:
        process = CONTEXT.Process(target=len, args=((),))
        process.start()
        process.join(SECONDS)
    finally:
        os.environ["PYTHONWARNINGS"] = before


@final
@dataclass(slots=True)
class Doom:
    """A listener that kills its own process some seconds into a shard of samples.

    `shards` are done before. The process knows best when that is; the signal is the one that
    spares nothing.
    """

    shards: int
    seconds: float

    def begin(self, stage: str, total: int, done: int) -> None:
        """Count from here."""
        self._strike(stage)

    def advance(self, stage: str, rows: int) -> None:
        """A shard is done."""
        self.shards -= stage == "generate"
        self._strike(stage)

    def end(self, stage: str, seconds: float, note: str) -> None:
        """Nothing ends here but by the signal."""

    def _strike(self, stage: str) -> None:
        if stage == "generate" and self.shards == 0:
            Timer(self.seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()


@final
@dataclass(slots=True)
class Cull:
    """A listener that kills the Ray actors of its own driver some seconds into a shard of samples.

    `shards` are done before. The driver waits for the blow, so no shard is sent out meanwhile:
    however slow this process is, the last shard is not done before. With none to be done before,
    there is nothing to wait at, and the blow comes from a thread. `tell` hears of the blow.
    """

    shards: int
    seconds: float
    tell: Connection

    def begin(self, stage: str, total: int, done: int) -> None:
        """Count from here."""
        if stage == "generate" and self.shards == 0:
            Thread(target=self._blow, daemon=True).start()

    def advance(self, stage: str, rows: int) -> None:
        """A shard is done."""
        self.shards -= stage == "generate"
        if stage == "generate" and self.shards == 0:
            self._blow()

    def end(self, stage: str, seconds: float, note: str) -> None:
        """What is done is not waited for."""

    def _blow(self) -> None:
        while not (workers := _workers_of(os.getpid())):
            time.sleep(LOOK)
        time.sleep(self.seconds)
        for worker in workers:
            with suppress(NoSuchProcess):
                worker.kill()
        self.tell.send(len(workers))


def _workers_of(pid: int) -> list[Process]:
    """Ray actors that a driver has started."""
    try:
        children = Process(pid).children(recursive=True)
        return [child for child in children if "ray::_Actor" in " ".join(child.cmdline())]
    except NoSuchProcess:  # one of them has just ended
        return []


@final
@dataclass(frozen=True, slots=True)
class Session:
    """A driver at work on a run. `said` gives the name of the error that it ended with."""

    process: ForkServerProcess
    said: Connection
    leave: Connection

    @classmethod
    def begin(
        cls, run: RunStore, sets: Sequence[str], held: bool = False, doom: Listener | None = None
    ) -> "Session":
        """Start a driver; a held one takes the lease and waits before it begins to work."""
        said, saying = CONTEXT.Pipe(duplex=False)
        left, leave = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(
            target=_drive,
            args=(str(run.root), list(sets), saying, left if held else None, doom),
            daemon=True,
        )
        process.start()
        saying.close()
        left.close()
        return cls(process, said, leave)

    def until(self, condition: Callable[[], bool]) -> bool:
        """Wait for a condition; return whether it came before the session ended."""
        end = time.monotonic() + SECONDS
        while not condition():
            if not self.process.is_alive() or time.monotonic() > end:
                return condition()
            time.sleep(LOOK)
        return True

    def holds(self, run: RunStore) -> bool:
        """Whether this driver has the run."""
        holder = driver(run.lease)
        return holder is not None and holder.pid == self.process.pid

    def let_go(self) -> None:
        """Let a held driver begin."""
        self.leave.send(True)

    @property
    def killed(self) -> bool:
        """Wait for the end; return whether it was the signal that ended the driver."""
        self.process.join(SECONDS)
        return self.process.exitcode == -signal.SIGKILL

    def end(self) -> str:
        """Wait for the end; return nothing if it went well, else the name of the error."""
        self.process.join(SECONDS)
        if self.process.exitcode == 0:
            return ""
        try:
            return str(self.said.recv())
        except EOFError:
            return f"exit code {self.process.exitcode}"


def _drive(
    root: str,
    sets: Sequence[str],
    saying: Connection,
    left: Connection | None,
    doom: Listener | None,
) -> None:
    run = RunStore.open(root)
    if doom is not None:
        listener.set(doom)

    def call(name: str, stage: Stage, store: RunStore, asked: RunSettings) -> str:
        if left is not None and name == "calibrate":
            left.recv()
        return "" if name == "validate" else perform(name, stage, store, asked)

    try:
        rows = run.plan("generate").rows
        extend_run(run, with_samples(stored_settings(run, sets), rows), call)
    except FarfieldError as error:
        saying.send(type(error).__name__)
        raise SystemExit(1) from error
