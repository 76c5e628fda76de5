"""Kills of a real run at random moments: what survives, what it costs; prints one table.

    python benchmarks/kills.py [--kills 20] [--seed 0]

Each run is `farfield run` on the shipped example over Ray, under Prefect where its server is to
be killed. One process gets SIGKILL: the driver, a worker, the raylet, or the Prefect server. The
moment is a number of finished shards and a pause, both random, so that it falls into the run on a
machine of any speed. If the kill ends the session, the same command is given again. Lost are the
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
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flows.console import show_rows
from flows.settings import PROJECT
from ood_core.store.run import SHARDED, RunStore

VICTIMS = {
    "driver": "flows.cli run",
    "worker": "ray::_Actor",
    "raylet": "raylet/raylet",
    "prefect server": "prefect.server",
}
SETTINGS = (
    "method.steps=4",
    "targets.held_out=352",
    "generation.shard_size=8",
)
HEADER = (
    "killed",
    "after shards",
    "during",
    "session ended",
    "sessions",
    "same bytes",
    "redone",
    "left",
    "lost s",
    "at risk s",
)
SECONDS = 1800
PAUSE = 2.0
SESSIONS = 4
DONE = (0, 3, 4)  # complete or published, quarantined, undecided

Driver = subprocess.Popen[bytes]
Whole = tuple[dict[str, str], int]


@dataclass(frozen=True)
class Size:
    """How large the runs are."""

    samples: int
    workers: int

    @property
    def settings(self) -> tuple[str, ...]:
        """As overrides of the configuration."""
        chosen = f"generation.samples={self.samples}", f"execution.workers={self.workers}"
        return (*SETTINGS, *chosen)


def start(out: Path, size: Size, orchestrator: str) -> Driver:
    """Start `farfield run` in a process session of its own."""
    sets = [part for setting in size.settings for part in ("--set", setting)]
    config = str(PROJECT / "examples" / "hubble.yaml")
    command = [sys.executable, "-m", "flows.cli", "run", config, "--out", str(out)]
    with (out.parent / "log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--orchestrator", orchestrator, *sets],
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=PROJECT,
        )


def members(session: int) -> list[psutil.Process]:
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
    for process in members(session):
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
    """What the run is at, by its store."""
    run = RunStore(out)
    if not run.exists:
        return "planning"
    unfinished = [s for s in SHARDED if run.receipts(s).missing(run.plan(s))]
    return unfinished[0] if unfinished else "validate"


def contents(out: Path) -> dict[str, str]:
    """Digest of every file of every table."""
    files = [path for path in sorted(out.glob("*.zarr/**/*")) if path.is_file()]
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def mode_of(kind: str) -> str:
    """The orchestrator of a run, by what is to be killed in it."""
    return "prefect" if kind == "prefect server" else "none"


def undisturbed(folder: Path, size: Size) -> Whole:
    """Contents and number of shards of a run that nobody disturbs, without Prefect."""
    out = folder / "whole" / "run"
    out.parent.mkdir()
    if (code := follow(start(out, size, "none"), out)[0]) not in DONE:
        log = (out.parent / "log").read_text()
        raise SystemExit(f"the undisturbed run ended with {code}:\n{log}")
    return contents(out), receipts(out)


def receipts(out: Path) -> int:
    """How many shards are done."""
    return len(list(out.glob("receipts/*/*.json")))


def written_by(session: int, out: Path) -> set[Path]:
    """Receipts of shards that living processes of a session have done; orphans do not count."""
    pids = {str(process.pid) for process in members(session)}
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


def follow(driver: Driver, out: Path) -> tuple[int, float]:
    """Wait for the end of a session; return its exit code and when it had done its next shard.

    A session that hangs is killed and counts as 124. Without a next shard its end counts.
    """
    before, end, moved = set(out.glob("receipts/*/*.json")), time.monotonic() + SECONDS, None
    while driver.poll() is None:
        if moved is None and written_by(driver.pid, out) - before:
            moved = time.monotonic()
        if time.monotonic() > end:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
            return 124, end
        time.sleep(0.2)
    return driver.returncode, moved or time.monotonic()


def marks(out: Path) -> dict[Path, bytes]:
    """What vouches for the shards that are done."""
    return {path: path.read_bytes() for path in out.glob("receipts/*/*.json")}


def at_risk(out: Path, stage: str, workers: int) -> float:
    """Seconds of the work that a kill in this stage can throw away, by what a finished run took."""
    records = [json.loads(p.read_text()) for p in out.glob(f"receipts/{stage}/*.json")]
    if records:
        return workers * statistics.median(record["seconds"] for record in records)
    return RunStore(out).timings.get(stage, 0.0)


def disturbed(out: Path, size: Size, kind: str, rng: random.Random, whole: Whole) -> list[Any]:
    """One run with one kill, resumed until it is done: a row of the table."""
    moment = rng.randrange(whole[1]), rng.uniform(0, PAUSE)
    out.parent.mkdir()
    sessions = [start(out, size, mode_of(kind))]
    done, stage = kill(sessions[0], kind, *moment, out)
    killed, before = time.monotonic(), marks(out)
    first, moved = follow(sessions[0], out)
    code = first
    while code not in DONE and len(sessions) < SESSIONS:
        sessions.append(start(out, size, mode_of(kind)))
        code, moved = follow(sessions[-1], out)
    how = "went on" if first in DONE else f"signal {-first}" if first < 0 else f"exit {first}"
    same = code in DONE and contents(out) == whole[0]
    after = marks(out)
    redone = sum(after.get(path) != content for path, content in before.items())
    left = sum(writers(session.pid) for session in sessions) + len(list(out.rglob("*.partial")))
    seconds = round(moved - killed, 1), round(at_risk(out, stage, size.workers), 1)
    return [kind, done, stage, how, len(sessions), same, redone, left, *seconds]


def main() -> None:
    """Kill, resume, compare; print a table and write JSON; exit with 1 if anything was lost."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=192)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=list(VICTIMS))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rng, rows = random.Random(asked.seed), []
    size = Size(asked.samples, asked.workers)
    with tempfile.TemporaryDirectory() as place:
        whole = undisturbed(Path(place), size)
        for number in range(asked.kills):
            kind = asked.victims[number % len(asked.victims)]
            out = Path(place) / str(number) / "run"
            rows.append(disturbed(out, size, kind, rng, whole))
            sys.stderr.write(f"{number + 1}/{asked.kills} {rows[-1]}\n")
    show_rows(f"{asked.kills} kills, seed {asked.seed}", HEADER, rows)
    if asked.json:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
        record = {"commit": commit, "machine": platform.processor(), "seed": asked.seed}
        table = [dict(zip(HEADER, row, strict=True)) for row in rows]
        text = json.dumps({**record, "kills": table}, indent=1)
        asked.json.write_text(text + "\n")
    sys.exit(0 if all(row[5] and not row[6] for row in rows) else 1)


if __name__ == "__main__":
    main()
