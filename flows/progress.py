"""Progress of a run as events, where its workers' seconds went, and numbers that JSON can hold.

The caller decides how events are shown: `bars_shown` draws them. The listener travels in a
context variable, because Prefect tasks take only plain parameters.
"""

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Listener(Protocol):
    """Receives the progress of a run."""

    def begin(self, stage: str, total: int, done: int) -> None:
        """A stage starts with `total` rows, `done` of them already stored."""
        ...

    def advance(self, stage: str, rows: int) -> None:
        """Some rows of the stage are stored, with their receipt."""
        ...

    def end(self, stage: str, seconds: float, note: str) -> None:
        """The stage is over."""
        ...

    def say(self, text: str) -> None:
        """Something is wrong, but the work goes on."""
        ...


@dataclass(frozen=True, slots=True)
class Silent:
    """Shows nothing."""

    def begin(self, stage: str, total: int, done: int) -> None:
        """Show nothing."""

    def advance(self, stage: str, rows: int) -> None:
        """Show nothing."""

    def end(self, stage: str, seconds: float, note: str) -> None:
        """Show nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""


listener: ContextVar[Listener] = ContextVar("listener", default=Silent())  # noqa: B039 - frozen


UNITS = {
    "calibrate": "timesteps",
    "invert": "maps",
    "generate": "maps",
    "pretrain": "steps",
    "check": "evaluations",
    "science": "cells",
    "utility": "trainings",
    "walk": "maps",
    "separate": "maps",
    "search": "timesteps",
    "export": "maps",
    "inpaint": "batches",
    "field": "batches",
}
"""What one row of a stage is, in the plural."""


@final
class RateColumn(ProgressColumn):
    """Rows per second."""

    def render(self, task: Task) -> Text:
        """Render the rate with its unit."""
        speed = task.finished_speed or task.speed
        unit = UNITS.get(task.description.removeprefix("coarse "), "rows")
        return Text(f"{speed:.1f} {unit}/s" if speed else "", style="cyan")


@final
class Bars:
    """A listener that draws one bar per stage."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.description:<10}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            RateColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._bars: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, stage: str, total: int, done: int) -> None:
        """Open a bar."""
        self._bars[stage] = self._progress.add_task(stage, total=total, completed=done)

    def advance(self, stage: str, rows: int) -> None:
        """Move the bar."""
        self._progress.advance(self._bars[stage], rows)

    def end(self, stage: str, seconds: float, note: str) -> None:
        """Close the stage with a line."""
        line = f" {stage:<10} {seconds:6.1f} s  {printable(note)}"
        self._progress.console.print(Text("✓", style="green") + Text(line))

    def say(self, text: str) -> None:
        """Print a line."""
        self._progress.console.print(Text("!", style="yellow") + Text(f" {printable(text)}"))


@contextmanager
def bars_shown() -> Iterator[None]:
    """While this lasts, stages draw their bars."""
    with Bars() as bars:
        token = listener.set(bars)
        try:
            yield
        finally:
            listener.reset(token)


PARTS = ("build", "wait", "draw", "compute", "fetch", "measure", "encode", "write")
"""Parts of a shard that do not contain one another; `network` is within `compute`."""


@final
@dataclass(frozen=True, slots=True)
class WorkerSeconds:
    """Seconds that workers, which come and go, have spent on the parts of shards since a moment."""

    began: float = field(default_factory=time.monotonic)
    since: dict[str, float] = field(default_factory=dict)
    parts: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, writer: str, parts: Mapping[str, float]) -> None:
        """Count the parts of one shard of one worker."""
        took = sum(parts.get(name, 0.0) for name in PARTS)
        self.since.setdefault(writer, max(self.began, time.monotonic() - took))
        for name, seconds in parts.items():
            self.parts[name] += seconds

    def end(self) -> dict[str, float]:
        """Seconds of every part, of all workers from their first shard on, and the rest: `idle`.

        Where shards are stored while others are computed, parts overlap, and `idle` is a lower
        bound.
        """
        slots = sum(time.monotonic() - since for since in self.since.values())
        idle = max(0.0, slots - sum(self.parts[name] for name in PARTS))
        return {"slots": slots, **self.parts, "idle": idle}


def shares(split: Mapping[str, float]) -> dict[str, float]:
    """Every part as a share of the seconds that the stage's workers had."""
    slots = split["slots"] or 1.0
    return {name: round(seconds / slots, 4) for name, seconds in split.items() if name != "slots"}


def finite(value: Any) -> Any:
    """Return a record with None for what is not a finite number."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def printable(text: str) -> str:
    """Return text with control characters spelled out: they could drive the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
