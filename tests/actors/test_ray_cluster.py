"""Clusters of several nodes, which come, go, are too small or cannot work: real raylets here."""

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray
from ray._private import ray_constants
from ray.cluster_utils import Cluster

from actors import ray_cluster, ray_pool
from actors.pool import Notice
from actors.ray_cluster import Demand, slots, started
from actors.ray_pool import RayPool
from actors.workers import build
from ood_core.errors import InputError, InUse, RunIncomplete
from ood_core.store.ledger import Receipt
from tests.contracts.pool import missing, spec_of
from tests.contracts.store import answers, assert_honest

pytestmark = [pytest.mark.actors, pytest.mark.timeout(900)]
SMALL = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
TRIES = 8


@pytest.fixture(scope="module")
def head():
    """A head without CPUs, which this process is the driver of."""
    arguments = {"num_cpus": 0, **SMALL}
    found = started(lambda: Cluster(initialize_head=True, head_node_args=arguments), TRIES)
    ray.init(found.address, log_to_driver=False, configure_logging=False)
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture
def cluster(head, monkeypatch):
    """The head alone; nodes are added by tests, and go with them."""
    monkeypatch.setenv("RAY_ADDRESS", head.address)
    monkeypatch.setattr(ray_pool, "NOTICE_SECONDS", 2.0)
    yield head
    for node in list(head.worker_nodes):
        head.remove_node(node)
    end = time.monotonic() + 120
    while len(ray_cluster.nodes()) > 1:
        assert time.monotonic() < end, "a node that was removed is still listed"
        time.sleep(0.1)


def add(cluster, **resources):
    arguments = {"num_cpus": 1, **SMALL, **resources}
    return started(lambda: cluster.add_node(wait=True, **arguments), TRIES)


def outcomes(pool, root):
    """Receipts and notices of a whole stage."""
    found = list(pool.run(spec_of(root), missing(root)))
    receipts = [one for one in found if isinstance(one, Receipt)]
    return receipts, [one.text for one in found if isinstance(one, Notice)]


def test_a_killed_node_costs_its_shards_in_flight_and_the_run_goes_on(cluster, ready, unbroken):
    """With one try: they are not charged. Nobody waits for a node that does not come back.

    How many it stored before its end reached it depends on the machine; none is lost or told twice.
    """
    nodes = [add(cluster), add(cluster)]
    run = RayPool(workers=2, tries=1, queued=0).run(spec_of(ready), missing(ready))
    first = next(one for one in run if isinstance(one, Receipt))
    raylet = psutil.Process(int(first.writer.rpartition(":")[2])).parent().cmdline()
    mine = [n for n in nodes if f"--raylet_socket_name={n.raylet_socket_name}" in raylet]
    cluster.remove_node(mine[0], allow_graceful=False)
    rest = list(run)
    receipts = [first, *(one for one in rest if isinstance(one, Receipt))]
    assert sorted(one.shard for one in receipts) == [0, 1, 2]
    assert answers(ready) == answers(unbroken)
    assert_honest(ready)


def test_a_node_that_is_added_takes_part(cluster, ready, unbroken):
    """There is none at first: the run says so, and waits."""
    run = RayPool().run(spec_of(ready), missing(ready))
    notice = next(run)
    assert isinstance(notice, Notice) and "1 CPU each" in notice.text
    assert "1 nodes with 0 CPU" in notice.text
    add(cluster)
    assert {one.shard for one in run if isinstance(one, Receipt)} == {0, 1, 2}
    assert answers(ready) == answers(unbroken)


def test_what_cannot_be_placed_is_said_and_the_run_goes_on(cluster, ready, unbroken):
    add(cluster)
    receipts, notices = outcomes(RayPool(workers=3), ready)
    assert len({one.writer for one in receipts}) == 1
    said = "asked for 3 workers of 1 CPU each; the cluster has room for 1 "
    assert [text.startswith(said) for text in notices].count(True) == 1
    assert answers(ready) == answers(unbroken)


def test_a_run_that_nobody_can_work_for_ends_incomplete_with_the_reason(cluster, ready):
    add(cluster)
    with pytest.raises(
        RunIncomplete, match=r"workers of 1 CPU and 2 GPU H100 .* 2 nodes with 1 CPU"
    ):
        list(
            RayPool(gpus=2, accelerator="H100", device="cuda", patience=3).run(
                spec_of(ready), missing(ready)
            )
        )
    assert len(missing(ready)) == 3


def test_slots_are_those_of_the_cluster(cluster):
    """Two nodes of 1 CPU and 4 GPUs: eight GPUs that this process does not see; mixed nodes."""
    for _ in range(2):
        add(cluster, num_cpus=4, num_gpus=4)
    add(cluster, num_cpus=3)
    assert slots(Demand(1, 1)) == 8
    assert slots(Demand(1, 0.5)) == 8  # as many as there are CPUs beside the GPUs
    assert slots(Demand(2, 1)) == 4
    assert slots(Demand(1, 3)) == 2
    assert slots(Demand(2)) == 5
    assert slots(Demand(1, 1, "H100")) == 0
    assert RayPool(gpus=1).demand() == Demand(1, 1)
    assert RayPool(gpus=1, device="cpu").demand() == Demand(1)
    assert RayPool(gpus=8).demand() == Demand(1)  # no node has so many


def late(door):
    """The actor's body, which waits for a door to open on hosts that see the run.

    Local, so that it travels by value.
    """

    class Late(ray_pool._Actor):
        def prepare(self, turn, spec):
            while Path(spec.uri).expanduser().exists() and not door.exists():
                time.sleep(0.1)
            return ray_pool._Actor.prepare(self, turn, spec)

    return Late


def test_a_host_that_does_not_see_the_run_is_named_and_left_out(
    cluster, ready, unbroken, tmp_path, monkeypatch
):
    """Its home is another folder. One of the others does the work; all alike end the run.

    The other one waits, since it could be done before this one has answered.
    """
    (tmp_path / "empty").mkdir()
    spec = replace(spec_of(ready), uri="~/ready")
    add(cluster, env_vars={"HOME": str(tmp_path / "empty")})
    with pytest.raises(InputError, match=f"{socket.gethostname()} sees no run at"):
        list(RayPool().run(spec, missing(ready)))
    add(cluster, env_vars={"HOME": str(tmp_path)})
    door, found = tmp_path / "door", []
    monkeypatch.setattr(ray_pool, "_Actor", late(door))
    for one in RayPool().run(spec, missing(ready)):
        found.append(one)
        if isinstance(one, Notice) and one.text.startswith(f"{socket.gethostname()} is left out"):
            door.touch()
    assert len({one.writer for one in found if isinstance(one, Receipt)}) == 1
    assert answers(ready) == answers(unbroken)


def test_a_copy_of_the_run_on_another_disk_is_no_place_to_work(ready):
    """The driver's lease is not there."""
    with pytest.raises(InUse):
        build(replace(spec_of(ready), lease=7))


HERE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": str(int(ray_constants.ENABLE_RAY_CLUSTER))}
"""Whether nodes have addresses of the network: in other processes as in this one."""
JOIN = """
import sys
from actors import ray_cluster
from actors.ray_cluster import Demand, connect, slots
ray_cluster.JOIN_SECONDS = float(sys.argv[1])
from ood_core.errors import ServiceLost
try:
    connect()
    print("room for", slots(Demand()))
except ServiceLost as error:
    print(error)
"""


def join(home, address, patience=120):
    """What a driver with a home of its own says when it joins."""
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", JOIN, str(patience)],
        env={**kept, "HOME": str(home), "RAY_ADDRESS": address, **HERE},
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """Address of a cluster that asks for a token, a home that has it, what its owner is told."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("0123456789abcdef0123456789abcdef")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--num-cpus=3", "--include-dashboard=false", "--block"]
    head = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--head",
            f"--port={port}",
            *options,
        ],
        env={**os.environ, "HOME": str(home), "RAY_AUTH_MODE": "token", **HERE},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"{ray.util.get_node_ip_address()}:{port}"
    end = time.monotonic() + 400
    while (said := join(home, address)) != "room for 3" and time.monotonic() < end:
        time.sleep(0.5)  # its port is open before it answers, and that before its node is there
    yield address, home, said
    head.terminate()
    head.wait(timeout=200)


def test_a_cluster_with_a_token_is_joined_by_whoever_has_it(guarded):
    """As on every machine where Ray has run before."""
    *_, said = guarded
    assert said == "room for 3"


def test_a_cluster_without_a_token_is_joined_by_whoever_has_one(cluster, guarded):
    add(cluster)
    assert join(guarded[1], cluster.address) == "room for 1"


def test_without_the_token_one_error_says_so(guarded, tmp_path):
    said = join(tmp_path, guarded[0])
    assert f"RAY_ADDRESS={guarded[0]}: the Ray cluster cannot be joined" in said
    assert "token is missing or incorrect" in said
    assert "(1) no `ray start --head`" in said and "(2) the cluster asks for a token" in said


def test_an_address_where_nobody_answers_is_given_up(tmp_path):
    """A port that is open and says nothing is the slowest of all."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        said = join(tmp_path, f"127.0.0.1:{mute.getsockname()[1]}", patience=5)
    assert "the Ray cluster cannot be joined (no answer in 5 s)" in said


LOCAL = """
from actors.ray_cluster import connect
from ood_core.errors import ServiceLost
try:
    connect(1)
except ServiceLost as error:
    print(error)
"""


LISTENING = """
import psutil, ray
for process in psutil.Process().children(recursive=True) + [psutil.Process()]:
    for one in process.net_connections("tcp"):
        if one.status == "LISTEN" and not one.laddr.ip.replace("::ffff:", "").startswith("127."):
            print(process.name(), *one.laddr)
"""


def local(home, script=LOCAL, **more):
    """What a driver with a local Ray of its own says."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**kept, "HOME": str(home), **more},
        capture_output=True,
        text=True,
    )
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize("loopback", [True, False])
def test_a_local_ray_listens_on_loopback_alone_and_its_token_is_its_owners(tmp_path, loopback):
    """By Ray's own default it does not: several sockets are then open to the network."""
    more = {} if loopback else {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
    assert (local(tmp_path, LOCAL + LISTENING, **more) == []) is loopback
    token = tmp_path / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600


def test_a_home_that_cannot_be_written_gives_one_error(tmp_path):
    """As a file where the folder should be: it stops the administrator as well."""
    (tmp_path / ".ray").write_text("")
    (said,) = local(tmp_path)
    assert said.startswith("no local Ray can be started")
    assert "--pool inline" in said
