"""Whether Prefect can be used here; asked before a run begins, and before Prefect is imported."""

import os
import tempfile
from pathlib import Path

from ood_core.errors import ServiceLost

WITHOUT = "`--orchestrator none` makes the same bytes without Prefect"
ANSWER_SECONDS = 10.0


def require_prefect() -> None:
    """Refuse to begin where Prefect cannot keep its files, or its server does not answer.

    Raises:
        ServiceLost: the home folder of Prefect cannot be written, or nobody answers at the API.
    """
    _require_home(Path(os.environ.get("PREFECT_HOME") or "~/.prefect"))
    from prefect.settings import PREFECT_API_URL

    if url := PREFECT_API_URL.value():
        _require_answer(url)


def _require_home(home: Path) -> None:
    try:
        folder = home.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError) as error:
        raise ServiceLost(
            f"Prefect keeps its files in {home}, which cannot be written ({error}); set "
            f"PREFECT_HOME to a folder that can, or {WITHOUT}"
        ) from error


def _require_answer(url: str) -> None:
    import httpx

    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=ANSWER_SECONDS).raise_for_status()
    except httpx.HTTPError as error:
        raise ServiceLost(
            f"the Prefect server at {url} does not answer ({error}); start it, name another in "
            f"PREFECT_API_URL, unset that for a server of this run's own, or {WITHOUT}"
        ) from error
