"""What people see in a terminal: progress bars with rate and remaining time, tables, errors."""

import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
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
from rich.table import Table
from rich.text import Text

from flows.progress import finite, listener
from ood_core.errors import TargetWarning

OUT = Console()
ERR = Console(stderr=True)
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
}


class RateColumn(ProgressColumn):
    """Rows per second."""

    def render(self, task: Task) -> Text:
        """Render the rate with its unit."""
        speed = task.finished_speed or task.speed
        unit = UNITS.get(task.description, "rows")
        return Text(f"{speed:.1f} {unit}/s" if speed else "", style="cyan")


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
            console=ERR,
        )
        self._bars: dict[str, Any] = {}

    def __enter__(self) -> "Bars":
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
        self._progress.console.print(f"[green]✓[/] {stage:<10} {seconds:6.1f} s  {shown(note)}")


@contextmanager
def bars_shown() -> Iterator[None]:
    """While this lasts, stages draw their bars."""
    with Bars() as bars:
        token = listener.set(bars)
        try:
            yield
        finally:
            listener.reset(token)


def show_json(record: Mapping[str, Any]) -> None:
    """Print a record for machines; what is not a finite number becomes null, as JSON has none."""
    sys.stdout.write(json.dumps(finite(record), indent=1, default=str, allow_nan=False) + "\n")


def show_fields(title: str, record: Mapping[str, Any]) -> None:
    """Print a record for people."""
    table = Table(title=shown(title), show_header=False, title_justify="left", box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in record.items():
        table.add_row(shown(str(key)), shown(_plain(value)))
    OUT.print(table)


def show_rows(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table."""
    table = Table(*header, title=shown(title), title_justify="left")
    for row in rows:
        table.add_row(*(shown(_plain(value)) for value in row))
    OUT.print(table)


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Show what a user should know of the targets in one line each, without a place in the code."""
    usual = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, TargetWarning):
            ERR.print(Text("note: ", style="bold yellow") + Text(printable(str(message))))
        else:
            usual(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual


def show_error(message: str) -> None:
    """Print one clear error."""
    ERR.print(Text("error: ", style="bold red") + Text(printable(message)))


def shown(text: str) -> str:
    """Return text as markup that shows it as it is: names can hold brackets and colours."""
    return escape(printable(text))


def printable(text: str) -> str:
    """Return text with control characters spelled out: they could drive the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return f"{len(value)}: {list(value)[:12]}" if len(value) > 12 else str(list(value))
    return str(value)
