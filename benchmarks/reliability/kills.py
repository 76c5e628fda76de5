"""Kills of a real run at random moments: what survives, what it costs; prints one table.

    python benchmarks/reliability/kills.py [--kills 20] [--seed 0]

Each run is `farfield run` on the shipped example over Ray. In each, one process of every kind gets
SIGKILL in turn: the driver, a worker, the raylet, and, in a session under Prefect, its server. The
moments are random numbers of finished shards and a random pause, so that they fall into the run on
a machine of any speed. If a kill ends the session, the same command is given again. Lost are the
seconds from the kill to the next shard that a living session finishes, or to the end of the run.
At risk are the seconds of the shards in flight: those of one shard of that stage in the same run,
times the workers; of validation its own. *Redone* are shards that were finished at the kill and
computed again, which is never needed. Left over are half-written files and processes that could
still write.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from flows.cli.console import show_rows
from flows.settings import PROJECT
from ood_core.store.run import RunStore
from ood_core.store.schema import SHARDED

VICTIMS = {
    "driver": "flows.cli.main run",
    "worker": "ray::_Actor",
    "raylet": "raylet/raylet",
    "prefect server": "prefect.server",
}
SETTINGS = ("method.steps=4", "targets.held_out=352", "generation.shard_size=8")
HEADER = ("run", "killed", "after shards", "during", "session")
HEADER += ("same bytes", "redone", "left", "lost s", "at risk s")
SECONDS = 1800
PAUSE = 2.0
SESSIONS = 12
ENDING = ("driver", "raylet")
"""Kills that end the session; without its Prefect server a session does its work first."""
DONE = (0, 3, 4)  # complete or published, quarantined, undecided

Driver = subprocess.Popen[bytes]
Whole = tuple[dict[str, str], int]


@dataclass(frozen=True)
class Size:
    """How large the runs are."""

    samples: int
    workers: int

    def settings(self) -> tuple[str, ...]:
        """As overrides of the configuration."""
        chosen = f"generation.samples={self.samples}", f"execution.workers={self.workers}"
        return (*SETTINGS, *chosen)


@dataclass
class Sessions:
    """The sessions of one run; the last one counts."""

    out: Path
    size: Size
    started: list[Driver] = field(default_factory=list)

    def begin(self, ahead: Sequence[str]) -> None:
        """Give the command, under Prefect if its server is to be killed in this session."""
        self.started.append(start(self.out, self.size, mode_of(ahead)))

    @property
    def last(self) -> Driver:  # noqa: D102
        return self.started[-1]

    def go_on(self, ahead: Sequence[str], before: set[Path]) -> float:
        """Give the command again while sessions fail; return when the next shard was done."""
        while len(self.started) < SESSIONS:
            if self.last.poll() not in (None, *DONE):
                self.begin(ahead)
            if (moved := next_shard(self.last, self.out, before)) is not None:
                return moved
        raise SystemExit(f"{self.out}: {SESSIONS} sessions did not finish the run")


def start(out: Path, size: Size, orchestrator: str, pool: str = "ray") -> Driver:
    """Start `farfield run` in a process session of its own."""
    sets = [part for setting in size.settings() for part in ("--set", setting)]
    config = str(PROJECT / "examples" / "hubble.yaml")
    command = [
        sys.executable,
        "-m",
        "flows.cli.main",
        "run",
        config,
        "--out",
        str(out),
        "--pool",
        pool,
    ]
    with (out.parent / "log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--orchestrator", orchestrator, *sets],
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=PROJECT,
        )


def processes_of(session: int) -> list[psutil.Process]:
    """Living processes of a session, orphans included."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def victim(session: int, kind: str) -> psutil.Process | None:
    """A process of a kind, if the session has one at this moment."""
    for process in processes_of(session):
        try:
            if VICTIMS[kind] in " ".join(process.cmdline()):
                return process
        except psutil.NoSuchProcess:
            continue
    return None


def writers(session: int) -> int:
    """Processes of an ended session that could still write; Ray's own agents end a minute later."""
    return sum(victim(session, kind) is not None for kind in ("driver", "worker"))


def stage_of(out: Path) -> str:
    """The stage that the run is at, by its store."""
    run = RunStore(out)
    if not run.exists:
        return "planning"
    unfinished = [s for s in SHARDED if run.ledger(s).missing(run.plan(s))]
    return unfinished[0] if unfinished else "validate"


def contents(out: Path) -> dict[str, str]:
    """Digest of every file of every table."""
    files = [
        path
        for path in sorted((*out.glob("*.zarr/**/*"), *out.glob("*.zarr.zip")))
        if path.is_file()
    ]
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def mode_of(ahead: Sequence[str]) -> str:
    """The orchestrator of a session, by what is to be killed in it."""
    for kind in ahead:
        if kind in ENDING:
            break
        if kind == "prefect server":
            return "prefect"
    return "none"


def undisturbed(folder: Path, size: Size) -> Whole:
    """Contents and number of shards of a run that nobody disturbs, without Ray and Prefect."""
    out = folder / "whole" / "run"
    out.parent.mkdir()
    if (code := end(start(out, size, "none", "inline"))) not in DONE:
        log = (out.parent / "log").read_text()
        raise SystemExit(f"the undisturbed run ended with {code}:\n{log}")
    return contents(out), receipts(out)


def receipts(out: Path) -> int:
    """How many shards are done."""
    return len(list(out.glob("receipts/*/*.json")))


def written_by(session: int, out: Path) -> set[Path]:
    """Receipts of shards that living processes of a session have done; orphans do not count."""
    pids = {str(process.pid) for process in processes_of(session)}
    files = out.glob("receipts/*/*.json")
    return {p for p in files if json.loads(p.read_text())["writer"].rpartition(":")[2] in pids}


def kill(driver: Driver, kind: str, least: int, pause: float, out: Path) -> tuple[int, str]:
    """Kill a process of a kind once so many shards are done; return how many are, and the stage."""
    while driver.poll() is None and not (out.exists() and receipts(out) >= least):
        time.sleep(0.05)
    time.sleep(pause)
    while driver.poll() is None:
        if (chosen := victim(driver.pid, kind)) is not None:
            done, stage = receipts(out), stage_of(out)
            chosen.send_signal(signal.SIGKILL)
            return done, stage
        time.sleep(0.05)
    return receipts(out), "too late"


def end(driver: Driver) -> int:
    """Wait for the end of a session; one that hangs is killed, which is an error."""
    try:
        return driver.wait(SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(driver.pid, signal.SIGKILL)
        raise SystemExit(f"session {driver.pid} hangs") from None


def next_shard(driver: Driver, out: Path, before: set[Path]) -> float | None:
    """Wait until a session has done a shard that was not there; return when, or when it ended.

    None if it ended without one and without finishing the run.
    """
    limit = time.monotonic() + SECONDS
    while driver.poll() is None and not written_by(driver.pid, out) - before:
        if time.monotonic() > limit:
            end(driver)
        time.sleep(0.2)
    return time.monotonic() if driver.poll() in (None, *DONE) else None


def marks(out: Path) -> dict[Path, bytes]:
    """The receipts of the shards that are done."""
    return {path: path.read_bytes() for path in out.glob("receipts/*/*.json")}


def at_risk(out: Path, stage: str, workers: int) -> float:
    """Seconds of the work that a kill in this stage can throw away, by what a finished run took."""
    records = [json.loads(p.read_text()) for p in out.glob(f"receipts/{stage}/*.json")]
    if records:
        return workers * statistics.median(record["seconds"] for record in records)
    return RunStore(out).timings.get(stage, 0.0)


def disturbed(
    out: Path, size: Size, kinds: Sequence[str], rng: random.Random, whole: Whole
) -> list[list[Any]]:
    """One run with a kill of each kind, resumed until it is done: a row of the table each."""
    out.parent.mkdir()
    sessions, hits = Sessions(out, size), []
    sessions.begin(kinds)
    for number, least in enumerate(sorted(rng.sample(range(whole[1]), len(kinds)))):
        kind, ahead = kinds[number], kinds[number + 1 :]
        done, stage = kill(sessions.last, kind, least, rng.uniform(0, PAUSE), out)
        if stage == "too late":
            break
        before, killed, count = marks(out), time.monotonic(), len(sessions.started)
        if kind in ENDING:
            end(sessions.last)
        moved = sessions.go_on(ahead, set(before))
        code = sessions.started[count - 1].returncode
        how = "went on" if count == len(sessions.started) else f"ended with {code}"
        hits.append((kind, done, stage, how, before, moved - killed))
    while end(sessions.last) not in DONE:
        sessions.go_on((), set(marks(out)))
    same, after = contents(out) == whole[0], marks(out)
    left = sum(writers(session.pid) for session in sessions.started)
    left += len(list(out.rglob("*.partial")))
    rows = []
    for kind, done, stage, how, before, lost in hits:
        redone = sum(after.get(path) != content for path, content in before.items())
        seconds = round(lost, 1), round(at_risk(out, stage, size.workers), 1)
        rows.append([out.parent.name, kind, done, stage, how, same, redone, left, *seconds])
    return rows


def main() -> None:
    """Kill, resume, compare; print a table and write JSON; exit with 1 if anything was lost."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=192)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=list(VICTIMS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rng, rows = random.Random(arguments.seed), list[list[Any]]()
    size = Size(arguments.samples, arguments.workers)
    with tempfile.TemporaryDirectory() as place:
        whole = undisturbed(Path(place), size)
        while len(rows) < arguments.kills:
            out = Path(place) / str(len(rows)) / "run"
            kinds = arguments.victims[: arguments.kills - len(rows)]
            for row in disturbed(out, size, kinds, rng, whole):
                rows.append(row)
                sys.stderr.write(f"{len(rows)}/{arguments.kills} {row}\n")
    show_rows(f"{arguments.kills} kills, seed {arguments.seed}", HEADER, rows)
    if arguments.json:
        table = [dict(zip(HEADER, row, strict=True)) for row in rows]
        text = json.dumps({"seed": arguments.seed, "kills": table}, indent=1)
        arguments.json.write_text(text + "\n")
    sys.exit(0 if all(row[5] and not row[6] for row in rows) else 1)


if __name__ == "__main__":
    main()
