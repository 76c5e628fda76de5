"""What can be seen of workers from outside: Ray's metrics, and a line of log per shard.

Ray gives the metrics to Prometheus with the address of the host and the number of the worker, as
`ray_farfield_*`; `deploy/grafana.json` draws them. Log lines go to the worker's error stream, which
Ray keeps as `worker-*.err` in the folder of its session.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any, final

import psutil
from ray.util.metrics import Counter, Gauge

from actors.workers import WorkerSpec
from ood_core.store.ledger import Receipt
from ood_core.store.plan import Shard

LOG = logging.getLogger("farfield")
TAGS = ("run", "stage")


@final
class WorkerMetrics:
    """Counts the shards of one worker, and says what became of each."""

    def __init__(self, logs: str) -> None:
        handler = logging.StreamHandler()
        handler.setFormatter(_Json() if logs == "json" else _Text())
        LOG.addHandler(handler)
        LOG.setLevel(logging.INFO)
        LOG.propagate = False
        self._rows = Counter("farfield_rows", "Rows stored: maps, or timesteps.", TAGS)
        self._shards = Counter("farfield_shards", "Shards stored.", TAGS)
        self._failed = Counter("farfield_failed_tries", "Tries of shards that failed.", TAGS)
        self._seconds = Counter("farfield_seconds", "Seconds by part.", (*TAGS, "part"))
        self._memory = Gauge("farfield_worker_bytes", "Resident memory of the worker.")

    def stored(self, spec: WorkerSpec, receipt: Receipt) -> None:
        """Count a shard that is stored."""
        tags = {"run": spec.uri, "stage": spec.stage}
        self._rows.inc(receipt.stop - receipt.start, tags)
        self._shards.inc(1, tags)
        for part, seconds in receipt.parts.items():
            if seconds > 0:  # Ray refuses to count nothing
                self._seconds.inc(seconds, {**tags, "part": part})
        self._memory.set(psutil.Process().memory_info().rss)
        facts = {"rows": receipt.stop - receipt.start, "seconds": round(receipt.seconds, 3)}
        LOG.info("stored", extra={"facts": {**tags, "shard": receipt.shard, **facts}})

    def failed(self, spec: WorkerSpec, shard: Shard, error: Exception) -> None:
        """Count a try that failed, with the traceback."""
        tags = {"run": spec.uri, "stage": spec.stage}
        self._failed.inc(1, tags)
        facts = {**tags, "shard": shard.index}
        LOG.warning("failed", extra={"facts": facts}, exc_info=error)


@final
class DriverMetrics:
    """What the driver alone knows: how many workers it has."""

    def __init__(self) -> None:
        self._workers = Gauge("farfield_workers", "Workers that have answered.", TAGS)

    def workers(self, spec: WorkerSpec, number: int) -> None:
        """Say how many workers there are."""
        self._workers.set(number, {"run": spec.uri, "stage": spec.stage})


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        facts = " ".join(f"{key}={value}" for key, value in _facts(record).items())
        return f"{super().formatMessage(record)} {facts}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": record.created,
            "level": record.levelname,
            "message": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return json.dumps(said)


def _facts(record: logging.LogRecord) -> Mapping[str, Any]:
    facts: Mapping[str, Any] = getattr(record, "facts", {})
    return facts
