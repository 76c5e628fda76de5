"""What people see in a terminal: progress bars with rate and remaining time, tables, errors."""

import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows.progress import finite, printable
from ood_core.errors import TargetWarning

OUT = Console()
ERR = Console(stderr=True)


def show_json(record: Mapping[str, Any]) -> None:
    """Print a record for machines; what is not a finite number becomes null, as JSON has none."""
    sys.stdout.write(json.dumps(finite(record), indent=1, default=str, allow_nan=False) + "\n")


def show(title: str, record: Mapping[str, Any], as_json: bool) -> None:
    """Print a record for machines, or for people."""
    show_json(record) if as_json else show_fields(title, record)


def show_fields(title: str, record: Mapping[str, Any]) -> None:
    """Print a record for people."""
    table = Table(title=shown(title), show_header=False, title_justify="left", box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in _said(record).items():
        table.add_row(shown(str(key).replace("_", " ")), shown(_plain(value, _unit(str(key)))))
    OUT.print(table)


def _said(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record of a run with a line for each of its wishes, if it has any."""
    if not isinstance(record.get("wishes"), Mapping):
        return record
    from ood_core.synthesis.met import Met

    return {**record, "wishes": str(Met.from_json(record["wishes"]))}


def show_rows(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table."""
    table = Table(*header, title=shown(title), title_justify="left")
    for row in rows:
        table.add_row(*(shown(_plain(value)) for value in row))
    OUT.print(table)


@contextmanager
def interruptible() -> Iterator[None]:
    """Say to whoever stops a run by Ctrl-C that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        ERR.print("stopped; what is stored is kept: the same command goes on")
        raise


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Show what a user should know of the targets in one line each, without a line of code."""
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
            _say(Text("note: ", style="bold yellow"), str(message))
        else:
            usual(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual


def show_error(message: str) -> None:
    """Print one clear error."""
    _say(Text("error: ", style="bold red"), message)


def _say(kind: Text, message: str) -> None:
    """Print to stderr; lines are broken on a terminal only, so that logs keep paths whole."""
    ERR.print(kind + Text(printable(message)), soft_wrap=not ERR.is_terminal)


def shown(text: str) -> str:
    """Return text as markup that shows it as it is: names can hold brackets and colours."""
    return escape(printable(text))


def _unit(key: str) -> str:
    """What numbers of this name are counted in, where that is known."""
    words = key.split("_")
    return next((unit for unit in ("seconds", "bytes") if unit in words), "")


def _plain(value: Any, unit: str = "") -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v, unit)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return f"{len(value)}: {list(value)[:12]}" if len(value) > 12 else str(list(value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if unit == "bytes":
        return decimal(round(value))
    number = str(value) if isinstance(value, int) else f"{value:.4g}"
    return f"{number} s" if unit == "seconds" else number
