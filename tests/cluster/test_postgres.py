"""A Prefect server on PostgreSQL whose schedule fires, is killed with what it runs, and resumes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from ood_core.store.run import RunStore
from tests.contracts.store import answers, assert_honest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]
PYTHON = sys.executable


def program(name):
    """A program of PostgreSQL, which Debian keeps off the path."""
    found = shutil.which(name) or next(
        map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None
    )
    return found or pytest.skip("needs PostgreSQL (Debian's package postgresql)")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture
def database(tmp_path):
    """Address of an empty database, of a server of its own that listens on loopback alone."""
    initdb, postgres, port = program("initdb"), program("postgres"), free_port()
    folder = Path("/tmp") / f"farfield-postgres-{os.getpid()}"  # others may not enter tmp_path
    folder.mkdir()
    as_user = []
    if os.geteuid() == 0:  # which it refuses
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    data = folder / "data"
    options = ["--auth=trust", "--username=prefect", "--no-sync"]
    subprocess.run([*as_user, initdb, "-D", data, *options], check=True, capture_output=True)
    settings = ["-k", folder, "-h", "127.0.0.1", "-p", str(port), "-F"]
    with (tmp_path / "postgres.log").open("wb") as log:
        server = subprocess.Popen(
            [*as_user, postgres, "-D", data, *settings], stdout=log, stderr=log
        )
    try:
        until(lambda: (tmp_path / "postgres.log").read_text().count("ready to accept"), 60)
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)
        shutil.rmtree(folder)


def until(fact, seconds):
    end = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < end
        time.sleep(0.3)
    return found


class Service:
    """Prefect's server and `farfield serve`, which may both be killed and started again."""

    def __init__(self, folder, database, config, out):
        self._folder, self._config, self._out, self._port = folder, config, out, free_port()
        api = {"PREFECT_API_URL": f"http://127.0.0.1:{self._port}/api"}
        leases = {
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
                "prefect.server.concurrency.lease_storage.filesystem"
            ),
            # The slot of a run that was killed is free after this, not after 300 s.
            "PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION": "60",
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_DATABASE_CONNECTION_URL": database,
        }
        self._environment = {**os.environ, **api, **leases}
        self._running = []

    def start(self):
        port = ["--host", "127.0.0.1", "--port", str(self._port), "--no-ui"]
        self._launch("prefect", "server", "start", *port)
        until(self._answers, 180)
        self._launch(
            "flows.cli.main", "serve", self._config, "--out", self._out, "--interval", "15"
        )

    def _launch(self, module, *words):
        with (self._folder / f"{module}.log").open("ab") as log:
            self._running.append(
                subprocess.Popen(
                    [PYTHON, "-m", module, *map(str, words)],
                    env=self._environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def _answers(self):
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/health", timeout=5),
        ):
            return True

    def kill(self):
        for process in self._running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._running.clear()


def test_a_schedule_that_is_killed_in_mid_run_resumes(database, tiny_dict, unbroken, tmp_path):
    """Server, schedule and run die at once, some samples are stored; the bytes are the same."""
    config, out = tmp_path / "tiny.yaml", tmp_path / "set"
    config.write_text(yaml.safe_dump(tiny_dict()))
    service = Service(tmp_path, database, config, out)
    try:
        service.start()
        until(lambda: list(out.glob("receipts/invert/*.json")), 300)
        service.kill()
        assert RunStore.open(str(out)).state in ("incomplete", "running")
        before = {str(path): path.stat().st_mtime_ns for path in out.glob("receipts/*/*.json")}
        service.start()
        until(lambda: RunStore.open(str(out)).state == "complete", 600)
    finally:
        service.kill()
    after = {str(path): path.stat().st_mtime_ns for path in out.glob("receipts/*/*.json")}
    assert before.items() <= after.items()
    assert answers(out) == answers(unbroken)
    assert_honest(out)
