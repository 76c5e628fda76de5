"""Runs: settings, stages, Prefect flows and the command line; `flows.run` makes one from Python.

Telemetry of the libraries underneath is off unless the user turns it on; this must be said before
they are imported.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.handle import RunHandle, run

__all__ = ["RunHandle", "run"]

for _name, _value in {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}.items():
    os.environ.setdefault(_name, _value)


def __getattr__(name: str) -> Any:
    """Import the interface when it is used: the command line's help does without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from flows import handle

    return getattr(handle, name)
