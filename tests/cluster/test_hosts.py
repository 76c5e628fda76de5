"""Three hosts with addresses and file systems of their own, and a store over the S3 protocol."""

import secrets
import shutil
import sys
import time

import pytest
import yaml

from flows.runs.lifecycle import make_run
from ood_core.store.objects import ObjectPlace
from tests.cluster.hosts import GATEWAY, Network, require_hosts
from tests.faults.drivers import without_validation
from tests.object_server import ObjectServer, answers, stored, tables

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1200),
    pytest.mark.allow_hosts(["127.0.0.1", "localhost", GATEWAY]),
]
HEAD = ["--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false"]
SAMPLES = 160


@pytest.fixture
def network():
    require_hosts()
    with Network() as found:
        yield found


@pytest.fixture
def server(network, monkeypatch):
    """An S3 server that answers after 50 ms, so that there is time for something to happen."""
    found = ObjectServer(host=GATEWAY)
    here = {**found.environment, "AWS_ENDPOINT_URL": found.url}
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    found.delay = 0.05
    yield found
    found.stop()


@pytest.fixture
def inputs(tiny_dict, base, targets_file, tmp_path):
    """A folder with base, targets and configuration, as it will lie on every host."""
    folder = tmp_path / "inputs"
    shutil.copytree(base, folder / "base")
    shutil.copy(targets_file, folder / "fields.npy")
    content = tiny_dict(
        base="/tmp/inputs/base",
        targets={"path": "/tmp/inputs/fields.npy"},
        generation={"samples": SAMPLES},
    )
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture
def auth():
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}


def run(head, out, **more):
    """Start the driver on the host that is the head."""
    command = [sys.executable, "-m", "flows.cli.main", "run", "/tmp/inputs/tiny.yaml"]
    options = ["--out", out, "--pool", "ray", "--orchestrator", "none"]
    return head.start(*command, *options, RAY_ADDRESS=f"{head.address}:6379", **more)


def receipts(place):
    return [n for n in (place / "receipts" / "generate").objects()]


def until(place, number, driver):
    """Wait until there are so many receipts of samples."""
    end = time.monotonic() + 600
    while len(receipts(place)) < number:
        assert driver.poll() is None, driver.stdout.read()
        assert time.monotonic() < end, f"{len(receipts(place))} of {number} receipts"
        time.sleep(0.5)


def test_a_cable_a_host_and_another_host(network, server, tiny, inputs, auth, tmp_path):
    """One loses its link, one all its processes, one comes: the bytes are those of one machine."""
    s3 = {**server.environment, "AWS_ENDPOINT_URL": server.url}
    head, first, second = (network.add() for _ in range(3))
    worker = [f"--address={head.address}:6379", "--num-cpus=1"]
    for host, options in ((head, HEAD), (first, worker), (second, worker)):
        host.send(inputs, "inputs")
        host.join(*options, **auth, **s3)
    bucket = server.bucket()
    place = ObjectPlace.at(f"{bucket}/run")
    driver = run(head, f"{bucket}/run", **auth, **s3)
    until(place, 4, driver)
    second.cut()
    until(place, 12, driver)
    third = network.add()
    third.send(inputs, "inputs")
    third.join(*worker, **auth, **s3)
    first.kill()
    log, _ = driver.communicate(timeout=900)
    assert driver.returncode == 4, log  # undecided: few targets are held out
    files = stored(place)
    writers = {str(files[name]).partition('"writer": "')[2].partition(":")[0]
               for name in files if name.startswith("receipts/generate")}  # fmt: skip
    assert {first.name, third.name} <= writers <= {first.name, second.name, third.name}

    server.delay = 0.0
    make_run(
        tiny(generation={"samples": SAMPLES}), str(tmp_path / "alone"), call=without_validation
    )
    alone = tmp_path / "alone"
    there = {str(p.relative_to(alone)): p.read_bytes() for p in alone.rglob("*") if p.is_file()}
    assert answers(files) == answers(there)
    made = {name: content for name, content in tables(files).items() if "domain" not in name}
    differ = {name for name in {**made, **there} if made.get(name) != tables(there).get(name)}
    assert differ <= {"targets.zarr/zarr.json"}  # which says where the file lay


def test_a_folder_that_hosts_do_not_share_is_said_before_any_work(network, inputs, auth):
    """Every host has a /tmp of its own."""
    head, worker = network.add(), network.add()
    for host, options in ((head, HEAD), (worker, [f"--address={head.address}:6379"])):
        host.send(inputs, "inputs")
        host.join(*options, **auth)
    driver = run(head, "/tmp/run", **auth)
    log, _ = driver.communicate(timeout=300)
    assert driver.returncode == 2, log
    said = log.index(
        "the run lies in the folder /tmp/run, which all 2 hosts of the cluster must share"
    )
    assert said < log.index(f"{worker.name} sees no run at /tmp/run")
