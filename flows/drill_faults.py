"""The faults of the drill: each hurts the copy, and has it mended by a driver of its own."""

import glob
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import final

from flows.drill_copy import Patient
from flows.drill_sessions import CONTEXT, Cull, Doom, Session
from flows.report.inspection import verify_run
from flows.runs.extension import stored_settings, with_samples
from flows.runs.planning import ask
from flows.settings import RunSettings
from ood_core.errors import IdentityRefused, TargetError
from ood_core.store.files import PARTIAL
from ood_core.store.plan import Shard

PAUSE = 0.3
"""A kill comes after this share of a shard's seconds, in the middle of it."""
RAY = ("execution.pool=ray", "execution.orchestrator=none", "execution.workers=1")


@final
@dataclass(frozen=True, slots=True)
class Injury:
    """What a fault did: words for the table, the shards it hurt, and what went wrong so far.

    Nothing but words: it could not be injected.
    """

    words: str
    hurt: Sequence[Shard] = ()
    complaints: Sequence[str] = ()
    injected: bool = True


Fault = Callable[[Patient], Injury]


def lose_receipt(patient: Patient) -> Injury:
    """The receipt of a shard is gone."""
    shard = patient.last[-1]
    patient.run.receipts("generate").revoke(shard)
    return Injury(f"receipt of shard {shard.index} removed", [shard], patient.mend())


def truncate(patient: Patient) -> Injury:
    """The file of a shard is cut to half."""

    def cut(content: bytes) -> bytes:
        return content[: len(content) // 2]

    return _damage(patient, cut, "cut to half")


def flip(patient: Patient) -> Injury:
    """One byte of a shard is another one."""

    def flipped(content: bytes) -> bytes:
        middle = len(content) // 2
        return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]

    return _damage(patient, flipped, "one byte flipped")


def _damage(patient: Patient, change: Callable[[bytes], bytes], words: str) -> Injury:
    """Change the bytes of the last shard; `verify` must name it, and nothing else."""
    shard = patient.last[-1]
    file = patient.file(shard)
    file.write_bytes(change(file.read_bytes()))
    found, expected = verify_run(patient.run)["damaged"], [f"generate/{shard.index:05d}"]
    wrong = [] if found == expected else [f"verify found {found or 'nothing'}"]
    return Injury(f"shard {shard.index} {words}", [shard], [*wrong, *patient.mend()])


def kill_driver(patient: Patient) -> Injury:
    """SIGKILL of a driver in the middle of a shard; another one goes on."""
    shards = patient.last
    for shard in shards:
        patient.forget(shard)
    doom = Doom(min(1, len(shards) - 1), _middle(patient, shards[0]))
    if not Session.begin(patient.run, patient.inline, doom=doom).killed:
        return Injury("the driver was done before it could be killed", injected=False)
    left = patient.missing
    words = f"driver killed with {left} of {len(shards)} shards left"
    return Injury(words, shards, patient.mend(), injected=left > 0)


def start_twice(patient: Patient) -> Injury:
    """A second driver while one is at work."""
    patient.forget(shard := patient.last[-1])
    first = Session.begin(patient.run, patient.inline, held=True)
    first.until(lambda: first.holds(patient.run))
    error = Session.begin(patient.run, patient.inline).end()
    wrong = [] if error == "InUse" else [f"the second driver was not refused: {error or 'it ran'}"]
    first.let_go()
    if error := first.end():
        wrong.append(f"the first driver could not go on: {error}")
    return Injury("second driver started", [shard], wrong)


def change_targets(patient: Patient) -> Injury:
    """A byte of the targets' files is another one: they are refused, as they were not before."""
    rows = patient.run.plan("generate").rows
    settings = with_samples(stored_settings(patient.run, patient.sets), rows)
    files = [Path(found) for found in sorted(glob.glob(settings.targets.path, recursive=True))]
    if not files or not all(path.is_file() and path.parent == files[0].parent for path in files):
        return Injury("the targets are not files in one folder here", injected=False)
    copies = [Path(shutil.copy2(path, _targets(patient) / path.name)) for path in files]
    moved = replace(
        settings.targets, path=str(_targets(patient) / Path(settings.targets.path).name)
    )
    there = settings.model_copy(update={"targets": moved})
    if error := _refused(there, patient):
        return Injury(f"the targets here are not those of the run: {error}", injected=False)
    largest = max(copies, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    largest.write_bytes(content)
    wrong = [] if _refused(there, patient) else ["changed targets were not refused"]
    shutil.rmtree(_targets(patient))
    return Injury(f"one byte of {largest.name} flipped", (), wrong)


def _targets(patient: Patient) -> Path:
    folder = patient.root.parent / "targets"
    folder.mkdir(exist_ok=True)
    return folder


def _refused(settings: RunSettings, patient: Patient) -> str:
    """Why `farfield run` would refuse these settings, if it would."""
    try:
        ask(settings, str(patient.root))
    except (IdentityRefused, TargetError) as error:
        return str(error)
    return ""


def litter(patient: Patient) -> Injury:
    """Half-written files that killed writers have left."""
    root = patient.root
    (root / f"prior.zarr{PARTIAL}").mkdir()
    for path in (
        root / "dataset.zarr" / "maps" / f"zarr.0{PARTIAL}",
        root / f"plan.json.0{PARTIAL}",
    ):
        path.write_bytes(b"half of")
    return Injury("3 half-written files and folders", (), patient.mend())


def kill_worker(patient: Patient) -> Injury:
    """SIGKILL of a Ray worker in the middle of a shard; the same session goes on."""
    shards = patient.last
    for shard in shards:
        patient.forget(shard)
    heard, tell = CONTEXT.Pipe(duplex=False)
    cull = Cull(min(1, len(shards) - 1), _middle(patient, shards[0]), tell)
    session = Session.begin(patient.run, (*patient.sets, *RAY), doom=cull)
    tell.close()
    left = patient.missing if session.until(heard.poll) and _heard(heard) else 0
    error = session.end()
    if not left and not error:
        return Injury("the workers were done before one could be killed", injected=False)
    wrong = [f"the session could not go on: {error}"] if error else []
    return Injury(f"worker killed with {left} of {len(shards)} shards left", shards, wrong)


def _heard(said: Connection) -> bool:
    """Whether anyone was struck; a session may end and say nothing."""
    try:
        return bool(said.recv())
    except EOFError:
        return False


def _middle(patient: Patient, shard: Shard) -> float:
    return PAUSE * patient.receipts["generate", shard.index].seconds


FAULTS: dict[str, Fault] = {
    "receipt lost": lose_receipt,
    "shard truncated": truncate,
    "byte flipped": flip,
    "driver killed": kill_driver,
    "started twice": start_twice,
    "targets changed": change_targets,
    "litter left": litter,
}
