"""Surroundings of all tests: no network, no telemetry, nothing in the user's own folders.

The environment is set before any library reads it. pytest-socket (options in `pyproject.toml`)
lets this process connect to loopback and unix sockets only, which Ray and Prefect need.
"""

import atexit
import os
import shutil
import tempfile

_HOME = tempfile.mkdtemp(prefix="farfield-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ.update(
    PREFECT_HOME=f"{_HOME}/prefect",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS="1",
    PREFECT_RUNNER_POLL_FREQUENCY="1",
    PREFECT_LOGGING_LEVEL="WARNING",
    DO_NOT_TRACK="1",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    MPLBACKEND="Agg",
)
for _name in ("PREFECT_API_URL", "RAY_ADDRESS", "NO_COLOR", "FORCE_COLOR"):
    os.environ.pop(_name, None)

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Prefect sets logging up anew when imported, which fails once absl (of mlcroissant) is bound to
# a stream that a test has closed: so it is given one that stays open.
import absl.logging
import numpy as np
import prefect  # noqa: F401

absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__
import pytest
import yaml

from tests.fields import SIZE, TARGETS, smooth_fields


def pytest_addoption(parser: pytest.Parser) -> None:
    help_ = "crash a run in a bucket before each of its changes, not before some of them"
    parser.addoption("--every-crash", action="store_true", help=help_)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with random weights, saved in diffusers format."""
    import torch

    from ood_core.models.networks import make_unet, save_base

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_base(make_unet(SIZE, 1, (8, 16), 1, (False, False), 4), "epsilon", folder)
    return folder


@pytest.fixture(scope="session")
def targets_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("targets") / "fields.npy"
    np.save(path, smooth_fields(TARGETS))
    return path


@pytest.fixture(scope="session")
def tiny_dict(base: Path, targets_file: Path) -> Callable[..., dict[str, Any]]:
    """Configuration of a tiny run; keyword arguments update its sections."""

    def make(**sections: Any) -> dict[str, Any]:
        content: dict[str, Any] = {
            "name": "tiny",
            "base": str(base),
            "targets": {"path": str(targets_file)},
            "method": {
                "preset": "calibrated",
                "steps": 2,
                # Every expert is asked, so that evaluations can be counted beforehand.
                "calibration": {
                    "draws": 1,
                    "bands": 3,
                    "n_clusters": 2,
                    "patches": 2,
                    "prune_tolerance": 0,
                },
                "steering": {"steps": 1, "neighbours": 2},
            },
            "generation": {"samples": 10, "shard_size": 4},
            # Two steps make smooth maps, and those lie near to any: all of ten may be flagged.
            "gate": {"copies_p": 1e-6},
            "execution": {"pool": "inline", "orchestrator": "none"},
        }
        for name, value in sections.items():
            both = isinstance(value, dict) and isinstance(content.get(name), dict)
            content[name] = {**content[name], **value} if both else value
        return content

    return make


@pytest.fixture(scope="session")
def tiny(tiny_dict: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    """Settings of a tiny run."""

    def make(**sections: Any) -> Any:
        from flows.settings import parse

        return parse(tiny_dict(**sections))

    return make


@pytest.fixture
def config(tmp_path: Path, tiny_dict: Callable[..., dict[str, Any]]) -> Callable[..., Path]:
    """A tiny configuration file."""

    def make(**sections: Any) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(tiny_dict(**sections)))
        return path

    return make


@pytest.fixture(scope="session")
def _ready(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Any]) -> Path:
    from flows.runs.stages import STAGES, perform
    from tests.runs import prepare

    root = tmp_path_factory.mktemp("runs") / "ready"
    settings = tiny()
    run = prepare(settings, str(root))
    for name, stage in STAGES:
        if name in ("calibrate", "invert", "fit"):
            perform(name, stage, run, settings)
    return root


@pytest.fixture(scope="session")
def _finished(
    tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Any], _ready: Path
) -> Path:
    from flows.runs.lifecycle import make_run

    root = tmp_path_factory.mktemp("runs") / "finished"
    make_run(tiny(), str(root))
    return root


@pytest.fixture
def ready(tmp_path: Path, _ready: Path) -> Path:
    """A private copy of a run that has everything but samples."""
    return Path(shutil.copytree(_ready, tmp_path / "ready"))


@pytest.fixture(scope="session")
def unbroken(_finished: Path) -> Path:
    """The finished tiny run that others are compared with; read only."""
    return _finished


@pytest.fixture
def finished(tmp_path: Path, _finished: Path) -> Path:
    """A private copy of the finished tiny run."""
    return Path(shutil.copytree(_finished, tmp_path / "finished"))


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


@pytest.fixture
def farfield(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """The command line in this process, from arguments to exit code."""

    def call(*arguments: Any) -> Answer:
        from flows.cli import console
        from flows.cli.main import main

        for place in (console.OUT, console.ERR):
            monkeypatch.setattr(place, "_width", 2000)  # messages are not wrapped
        monkeypatch.setattr(sys, "argv", ["farfield", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        found = capfd.readouterr()
        code = stop.value.code
        return Answer(int(code or 0), found.out, found.err.strip())

    return call


@pytest.fixture(scope="session")
def object_server() -> Iterator[Any]:
    """One real S3 server on loopback for the whole session, named by the environment."""
    from tests.object_server import ObjectServer

    server = ObjectServer()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server
    server.stop()


@pytest.fixture
def bucket(object_server: Any) -> str:
    """The address of a new bucket."""
    return str(object_server.bucket())


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """One local Ray for a whole file; others start clusters."""
    import ray

    from actors.ray_cluster import started

    def begin() -> None:
        ray.shutdown()
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=80 * 2**20,
            log_to_driver=False,
            configure_logging=False,
            _node_ip_address="127.0.0.1",
        )

    started(begin)
    yield
    ray.shutdown()


@pytest.fixture(scope="module", autouse=True)
def no_ray_left() -> Iterator[None]:
    """Leave the Ray that a test joined before another file of tests runs in this process."""
    yield
    if "ray" in sys.modules:
        import ray

        ray.shutdown()


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One real Prefect server on loopback for the whole session; gives the address of its API."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("prefect") / "server.log"
    command = [sys.executable, "-m", "prefect", "server", "start", "--no-ui"]
    with log.open("wb") as sink:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}/api"
    try:
        _await_health(url, server, log)
        from prefect.settings import PREFECT_API_URL, temporary_settings

        os.environ["PREFECT_API_URL"] = url  # for the processes that tests start
        with temporary_settings(updates={PREFECT_API_URL: url}):
            yield url
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        server.terminate()
        server.wait(timeout=60)


def _await_health(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"the Prefect server did not start:\n{log.read_text()[-3000:]}")
