"""The fault drill: real faults on a copy of a finished run, on the user's own machine.

Each fault hurts the last shards of the copy, and a driver in a process of its own mends it. A fault
is survived if what must be noticed was noticed, every receipt says again what it said, the bytes of
the hurt shards are the old ones, no other shard was computed again, and no litter is left. So a
machine that does not compute the same bytes as the one that made the run does not survive either.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from flows.drill_copy import Patient
from flows.drill_faults import FAULTS, Fault, kill_worker
from flows.drill_sessions import warm
from flows.progress import listener
from flows.report.inspection import verify_run
from ood_core.errors import InputError, RunIncomplete, ShardCorrupt
from ood_core.store.files import writing
from ood_core.store.run import RunStore

LEFT_OUT = ("report", "gate.json", "lease", "failures")
ROOM = 1.2
"""Room that a drill needs, in sizes of the run: its copy, and what is written twice on the way."""


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """A fault and what became of it: None is one that could not be injected."""

    fault: str
    injected: str
    survived: bool | None
    seconds_lost: float
    samples_redone: int
    note: str

    @property
    def row(self) -> tuple[str, str, str, float, int, str]:
        """The outcome as words and numbers."""
        survived = {True: "yes", False: "NO", None: "not injected"}[self.survived]
        seconds = round(self.seconds_lost, 1)
        return self.fault, self.injected, survived, seconds, self.samples_redone, self.note


def drill(
    run: RunStore, work: Path | None = None, ray: bool = False, sets: Sequence[str] = ()
) -> list[Outcome]:
    """Copy a finished run, hurt and mend the copy with one fault after another, remove it.

    Raises:
        RunIncomplete: the run is not finished.
        ShardCorrupt: it is damaged already.
        InputError: there is no such place, or not enough room for the copy.
        StoreUnwritable: the place is read-only, or permission is missing.
    """
    root = _require_usable(run)
    place = work or root.parent
    targets = root / "targets.zarr"  # what a drill copies of their files is about as much again
    files = (*root.rglob("*"), *targets.rglob("*"))
    size = sum(path.stat().st_size for path in files if path.is_file())
    _require_room(place, size)
    faults = {**FAULTS, "worker killed": kill_worker} if ray else FAULTS
    with (
        writing(place),
        tempfile.TemporaryDirectory(prefix="farfield-drill-", dir=place) as folder,
    ):
        return list(_outcomes(root, Path(folder), faults, sets))


def _outcomes(
    root: Path, folder: Path, faults: Mapping[str, Fault], sets: Sequence[str]
) -> Iterator[Outcome]:
    """One fault after another; a copy that is not surely whole again is replaced."""
    patient = _admit(root, folder / "run", sets)
    if damaged := verify_run(patient.run)["damaged"]:
        raise ShardCorrupt(
            f"{root}: got damaged shards {', '.join(damaged)} before any drill; expected a "
            "whole run: `farfield verify` it, then `farfield run` again"
        )
    warm()
    listener.get().begin("drill", len(faults), 0)
    for name, fault in faults.items():
        outcome = _undergo(patient, name, fault)
        yield outcome
        listener.get().advance("drill", 1)
        if outcome.survived:
            patient = Patient.of(patient.root, sets)
        else:
            shutil.rmtree(patient.root)
            patient = _admit(root, folder / "run", sets)


def _undergo(patient: Patient, name: str, fault: Fault) -> Outcome:
    began = time.monotonic()
    injury = fault(patient)
    seconds = time.monotonic() - began
    if not injury.injected:
        return Outcome(name, "-", None, 0.0, 0, injury.words)
    found = [*injury.complaints, *patient.complaints(injury.hurt)]
    rows = sum(len(shard) for shard in injury.hurt)
    return Outcome(name, injury.words, not found, seconds, rows, "; ".join(found))


def _admit(root: Path, place: Path, sets: Sequence[str]) -> Patient:
    shutil.copytree(root, place, ignore=shutil.ignore_patterns(*LEFT_OUT))
    return Patient.of(place, sets)


def _require_usable(run: RunStore) -> Path:
    """Return the folder of a run that can be copied and hurt."""
    if not isinstance(run.root, Path):
        raise InputError(
            f"{run.root}: got a run that is on no local disk; expected a folder: the drill copies "
            "a run and damages the files of the copy"
        )
    if run.state in ("planned", "incomplete", "running"):
        raise RunIncomplete(f"{run.root} is {run.state}; finish it with `farfield run` first")
    return run.root


def _require_room(place: Path, size: int) -> None:
    if not place.is_dir():
        raise InputError(f"--work {place}: got no such folder; expected one for a copy of the run")
    free, need = shutil.disk_usage(place).free, int(ROOM * size)
    if free < need:
        raise InputError(
            f"{place}: got {free} bytes of free space; expected {need} for a copy of the run: give "
            "another --work"
        )
