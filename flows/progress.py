"""Progress of a line as events; who shows them is the caller's business.

The listener travels in a context variable, because Prefect tasks take only plain parameters.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol


class Listener(Protocol):
    """Hears how a line gets on."""

    def begin(self, stage: str, total: int, done: int) -> None:
        """A stage starts with `total` rows, `done` of them already stored."""
        ...

    def advance(self, stage: str, rows: int) -> None:
        """Some rows of the stage are stored and vouched for."""
        ...

    def end(self, stage: str, seconds: float, note: str) -> None:
        """The stage is over."""
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


listener: ContextVar[Listener] = ContextVar("listener", default=Silent())  # noqa: B039 - frozen
