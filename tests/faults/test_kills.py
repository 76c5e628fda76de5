"""Real kills: SIGKILL of driver, worker, raylet and Prefect's process, at moments from a seed.

Each is followed by a resume, equal bytes and no litter. The moments are counted in finished shards,
with a pause of some milliseconds on top, and the driver stops itself, so that they fall into the
run on any machine. The long version is `benchmarks/reliability/kills.py`.
"""

import json
import os
import random
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from flows.runs.lifecycle import make_run
from ood_core.store.lease import highest
from ood_core.store.run import RunStore
from tests.contracts.store import assert_equal, assert_honest, assert_kept, marks
from tests.faults.drivers import (
    SERVICE_LOST,
    Moment,
    ended,
    receipts,
    start,
    until,
    until_stopped,
    wake,
    without_validation,
)

KILLS = 6
MAX_MOMENTS = 24
"""Finished shards, of forty, before the last kill: the run must not end before it comes."""
PAUSE = 0.03
"""About as long as a tiny shard takes, so that a kill falls anywhere into one."""


@pytest.fixture(scope="module")
def many(tiny):
    """Thirty-six shards of samples."""
    return tiny(generation={"samples": 36, "shard_size": 1})


@pytest.fixture(scope="module")
def whole(tmp_path_factory, many):
    root = tmp_path_factory.mktemp("kills") / "whole"
    make_run(many, str(root), call=without_validation)
    return root


@pytest.fixture
def begun(tmp_path, whole):
    """A copy of the whole run that lacks its samples."""
    root = Path(shutil.copytree(whole, tmp_path / "begun"))
    shutil.rmtree(root / "receipts" / "generate")
    shutil.rmtree(root / "dataset.zarr" / "maps" / "c")
    return root


def kill(process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    assert ended(process) == -signal.SIGKILL


def test_a_driver_killed_again_and_again_ends_with_the_unbroken_run(tmp_path, many, whole):
    """The first kill falls into planning, the others wherever the seed says."""
    out, rng = tmp_path / "run", random.Random(0)
    moments = [0, *sorted(rng.sample(range(1, MAX_MOMENTS), KILLS - 1))]
    for number, least in enumerate(moments, start=1):
        shards, pause = max(1, least - receipts(out)), rng.uniform(0, PAUSE)
        before = marks(out)
        if least:
            driver = start(many, out, moment=Moment(signal.SIGKILL, (shards,), pause))
            assert ended(driver) == -signal.SIGKILL
            assert receipts(out) >= least
        else:
            driver = start(many, out)
            until(lambda: highest(out / "lease") == 1, driver)
            kill(driver)
        assert highest(out / "lease") == number
        assert_honest(out)
        assert_kept(before, out)
    assert receipts(out) < receipts(whole)
    before = marks(out)
    make_run(many, str(out), call=without_validation)
    assert_kept(before, out)
    assert_equal(out, whole)


def of(driver, name: str) -> list[psutil.Process]:
    """Processes that a driver has started, by a part of their command."""
    found = []
    for child in psutil.Process(driver.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            found += [child] if name in " ".join(child.cmdline()) else []
    assert found, f"the driver has started no {name}"
    return found


@pytest.mark.actors
def test_a_killed_worker_is_replaced_and_a_killed_raylet_ends_the_session(begun, many, whole):
    """Ray notices a dead raylet by failed health checks; here it may look more often.

    The worker dies with it, since it would otherwise finish the run before anyone notices. The
    driver stops for both kills; it has two shards in flight, so the second worker has done some of
    the ten that it has heard of.
    """
    settings = many.model_copy(
        update={"execution": many.execution.model_copy(update={"pool": "ray", "workers": 1})}
    )
    health = {"RAY_health_check_period_ms": "300", "RAY_health_check_failure_threshold": "3"}
    driver = start(settings, begun, environment=health, moment=Moment(signal.SIGSTOP, (2, 10)))
    until_stopped(driver)
    os.kill(of(driver, "ray::_Actor")[0].pid, signal.SIGKILL)
    wake(driver)
    until_stopped(driver)
    for victim in (*of(driver, "raylet/raylet"), *of(driver, "ray::_Actor")):
        victim.kill()
    wake(driver)
    assert ended(driver) == SERVICE_LOST
    assert_honest(begun)
    before = marks(begun)
    make_run(many, str(begun), call=without_validation)
    assert_kept(before, begun)
    assert_equal(begun, whole)
    writers = {
        json.loads(path.read_text())["writer"]
        for path in (begun / "receipts" / "generate").glob("*.json")
    }
    assert len(writers) == 3  # the killed worker, its successor, this process


@pytest.mark.flows
def test_a_killed_prefect_process_leaves_a_run_that_goes_on(begun, many, whole, prefect_api):
    """Prefect calls such a flow run *Running* for ever; the store knows better."""
    settings = many.model_copy(
        update={"execution": many.execution.model_copy(update={"orchestrator": "prefect"})}
    )
    at_start = marks(begun)
    moment = Moment(signal.SIGKILL, (3,))
    driver = start(settings, begun, environment={"PREFECT_API_URL": prefect_api}, moment=moment)
    assert ended(driver) == -signal.SIGKILL
    before = marks(begun)
    assert len(before) >= len(at_start) + 3
    assert RunStore(begun).state == "incomplete"
    assert_honest(begun)
    make_run(many, str(begun), call=without_validation)
    assert_kept(before, begun)
    assert_equal(begun, whole)


class Heard:
    """A listener that keeps its events."""

    def __init__(self) -> None:
        self.calls = []

    def begin(self, *said) -> None:
        self.calls.append(said)

    def advance(self, *said) -> None:
        self.calls.append(said)


@pytest.mark.filterwarnings("ignore:Artifact creation outside")
def test_progress_that_no_server_hears_costs_no_shard(monkeypatch):
    """Nothing listens on the port: each request is refused by the system."""
    from httpx import TransportError
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from flows.orchestration import prefect_flows

    monkeypatch.setattr(prefect_flows, "ARTIFACT_SECONDS", -1.0)  # tell everything
    heard = Heard()
    artifacts = prefect_flows.Artifacts(heard, "tiny")
    gone = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(updates=gone):
        with pytest.raises(TransportError):
            prefect_flows.create_progress_artifact(progress=0.0, key="farfield-generate")
        artifacts.begin("generate", 10, 0)
        for _ in range(3):
            artifacts.advance("generate", 1)
    assert heard.calls == [("generate", 10, 0), *[("generate", 1)] * 3]
