"""Drivers in processes of their own, forked from a clean one that has the heavy imports done.

Nothing of the test's own process is in them: no thread, no event loop, no lease.
"""

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

import psutil

from flows.progress import listener
from flows.settings import RunSettings
from ood_core.errors import InUse, ServiceLost, StoreUnwritable

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["flows.runs.lifecycle", "tests.faults.warm"])
IN_USE, SERVICE_LOST, UNWRITABLE = 71, 72, 73
SECONDS = 240


def without_validation(name: str, stage: Any, run: Any, settings: RunSettings) -> str:
    """Validation takes most of a tiny run's time and stores nothing that is compared."""
    from flows.runs.stages import perform

    return "" if name == "validate" else perform(name, stage, run, settings)


@dataclass(frozen=True, slots=True)
class Moment:
    """When a driver gets a signal: it has heard of so many shards, and a pause has gone by.

    It sends the signal itself: whoever watches it may be slower than the whole run.
    """

    number: int
    shards: tuple[int, ...]
    pause: float = 0.0

    def come(self) -> None:
        """Send the signal, now or after the pause."""
        if self.pause:
            Timer(self.pause, os.kill, (os.getpid(), self.number)).start()
        else:
            os.kill(os.getpid(), self.number)


class Listening:
    """Counts the shards that a driver hears of."""

    def __init__(self, moment: Moment) -> None:
        self.moment, self.heard = moment, 0

    def advance(self, stage: str, rows: int) -> None:
        """Count a shard."""
        self.heard += 1
        if self.heard in self.moment.shards:
            self.moment.come()

    def begin(self, *_: object) -> None:
        """Nothing is counted."""

    end = say = begin


def start(settings: RunSettings, out: Path, **more: Any) -> Any:
    """Start a driver on a run."""
    process = CONTEXT.Process(target=_drive, args=(settings, str(out)), kwargs=more)
    process.start()
    return process


def _drive(
    settings: RunSettings,
    out: str,
    beat: float = 5.0,
    inside: Any = None,
    go_on: Any = None,
    environment: dict[str, str] | None = None,
    file_bytes: int | None = None,
    moment: Moment | None = None,
) -> None:
    """Drive a run; say that it is held and wait for leave to go on where events are given.

    `file_bytes` limits the size of every file that the driver writes.
    """
    os.environ.update(environment or {})
    if moment is not None:
        listener.set(Listening(moment))
    if file_bytes is not None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, hard))

    def call(name: str, stage: Any, run: Any, asked: RunSettings) -> str:
        if inside is not None and name == "calibrate":
            inside.set()
            go_on.wait()
        return without_validation(name, stage, run, asked)

    try:
        if settings.execution.orchestrator == "prefect":
            from flows.orchestration.prefect_flows import run_flow

            run_flow(settings, out)
        else:
            from flows.runs.lifecycle import make_run

            make_run(settings, out, call, beat)
    except InUse as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(IN_USE)
    except ServiceLost:
        sys.exit(SERVICE_LOST)
    except StoreUnwritable:
        sys.exit(UNWRITABLE)


def until(condition: Callable[[], bool], process: Any) -> None:
    """Wait for something that a driver brings about."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert process.is_alive(), f"the driver ended with {process.exitcode}"
        assert time.monotonic() < end
        time.sleep(0.005)


def until_stopped(process: Any) -> None:
    """Wait until a driver has stopped itself."""
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, process)


def wake(process: Any) -> None:
    """Let a driver go on that has stopped itself."""
    os.kill(process.pid, signal.SIGCONT)


def receipts(root: Path) -> int:
    """How many shards have receipts."""
    return len(list(root.glob("receipts/*/*.json")))


def ended(process: Any) -> int:
    """Wait for the end of a driver; return its exit code, negative for a signal."""
    process.join(SECONDS)
    assert process.exitcode is not None, "the driver hangs"
    return int(process.exitcode)
