"""Keeps the card of an unfinished run up to date: written by its driver, now and then.

The finished card takes its place. A run that has nothing left to do keeps the card that it has.
"""

import time
from contextlib import suppress
from datetime import UTC, datetime

from flows.runs.lease_guard import UNREACHABLE, require_lease
from ood_core.report.running import render_running
from ood_core.store.files import write_atomic
from ood_core.store.run import RunStore
from ood_core.store.schema import SHARDED, ShardedStage

EVERY = 30.0  # seconds


class StatusCard:
    """The card while a stage is at work; `advance` rewrites it every `EVERY` seconds."""

    def __init__(self, run: RunStore, stage: ShardedStage, missing: int) -> None:
        """Begin a stage of which `missing` rows are missing."""
        rows = {name: run.plan(name).rows for name in SHARDED}
        before = list(SHARDED)[
            : list(SHARDED).index(stage)
        ]  # done, or this one would not have begun
        known = {**dict.fromkeys(rows, 0), **{name: rows[name] for name in before}}
        known[stage] = rows[stage] - missing
        self._counts: dict[str, tuple[int, int]] = {
            name: (known[name], rows[name]) for name in SHARDED if rows[name]
        }
        self._run, self._stage, self._busy = run, stage, missing > 0
        self._busy &= run.holder is None  # the card is that of the whole run
        self._record = run.record
        self._done, self._began = 0, time.monotonic()
        self._write()

    def advance(self, rows: int) -> None:
        """Count rows that are stored."""
        done, total = self._counts[self._stage]
        self._counts[self._stage] = done + rows, total
        self._done += rows
        if time.monotonic() - self._last >= EVERY:
            self._write()

    def stopped(self, why: str) -> None:
        """Say that the session ends before the run does."""
        self._write(why)

    def _write(self, why: str = "") -> None:
        self._last = time.monotonic()
        if not self._busy:
            return
        rate = self._done / max(self._last - self._began, 1e-9)
        card = render_running(
            self._record["name"], self._record["identity"], self._counts, self._stage, rate,
            datetime.now(UTC), why,
        )  # fmt: skip
        require_lease()
        with suppress(*UNREACHABLE):  # a card may be missed; the work goes on
            write_atomic(self._run.root / "README.md", card.encode())
