"""Options that several verbs share, each defined once, and the exit codes.

Exit codes: 0 fine, 1 anything else (in use by another driver, not writable), 2 bad input or
configuration, 3 quarantined, 4 undecided, 5 incomplete, 6 identity refused.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ood_core.errors import FarfieldError, IdentityRefused, InputError, Quarantined, RunIncomplete

if TYPE_CHECKING:
    from flows.settings import RunSettings

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Config = Annotated[Path, typer.Argument(help="Configuration file (YAML).")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key: generation.samples=64.")
]
Out = Annotated[
    str, typer.Option(help="Folder of the run or s3://bucket/prefix; the same resumes.")
]
Pool = Annotated[str | None, typer.Option("--pool", help="ray or inline.")]
Orchestrator = Annotated[str | None, typer.Option(help="prefect or none.")]
Cron = Annotated[str | None, typer.Option(help="Schedule, such as '0 2 * * *'.")]
Interval = Annotated[float | None, typer.Option(help="Schedule: every so many seconds.")]
Uri = Annotated[str, typer.Argument(help="Folder of a run, or s3://bucket/prefix.")]
OpenSets = Annotated[
    list[str] | None, typer.Option("--set", help="Override base, gate.KEY or execution.KEY.")
]
"""Overrides of what the identity of a stored run leaves open."""

EXIT_OF_STATE = {"quarantined": 3, "undecided": 4, "incomplete": 5}


def exit_of_state(state: str) -> int:
    """Exit code of a verb that ended with a run in this state."""
    return EXIT_OF_STATE.get(state, 0)


def exit_of_error(error: FarfieldError) -> int:
    """Exit code of a verb that ended with an error."""
    match error:
        case InputError():
            return 2
        case Quarantined():
            return 3
        case RunIncomplete():
            return 5
        case IdentityRefused():
            return 6
        case _:
            return 1


def overrides(
    sets: Sequence[str] | None, pool: str | None = None, orchestrator: str | None = None
) -> list[str]:
    """All overrides of a verb as `KEY=VALUE`."""
    chosen = {"pool": pool, "orchestrator": orchestrator}
    return [*(sets or ()), *(f"execution.{key}={value}" for key, value in chosen.items() if value)]


def load(
    config: Path, sets: list[str] | None, pool: str | None, orchestrator: str | None = None
) -> "RunSettings":
    """Read a configuration file with the overrides of a verb."""
    from flows.settings import load_settings

    return load_settings(config, overrides(sets, pool, orchestrator))
