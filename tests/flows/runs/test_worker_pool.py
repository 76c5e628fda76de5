"""How many workers a machine gets: no more than the CPUs that this process may use."""

import os
import re
import socket
import subprocess
import sys
import tomllib

import pytest
import ray
from packaging.requirements import Requirement

from actors.ray_cluster import Demand
from flows.runs.worker_pool import require_workers, worker_count
from flows.settings import PROJECT, Execution, parse
from ood_core.errors import ConfigError, ServiceLost

COUNT = (
    "from flows.runs.worker_pool import worker_count; from flows.settings import Execution; "
    "print(worker_count(Execution(device='cpu', cpus_per_worker={each})))"
)


@pytest.mark.parametrize("each", [1, 2])
def test_one_cpu_gives_one_worker(each):
    """As `taskset -c 0` does."""
    one = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, "-c", COUNT.format(each=each)],
        preexec_fn=lambda: os.sched_setaffinity(0, {one}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("demand", "resources", "room"),
    [
        (Demand(1), {"CPU": 8}, 8),
        (Demand(3), {"CPU": 8}, 2),
        (Demand(4), {"CPU": 2}, 0),
        (Demand(0.1), {"CPU": 2}, 20),
        (Demand(1, 1), {"CPU": 8, "GPU": 2}, 2),
        (Demand(1, 1), {"CPU": 1, "GPU": 4}, 1),
        (Demand(1, 1), {"CPU": 8}, 0),
        (Demand(1, 0.3), {"CPU": 8, "GPU": 2}, 6),  # three on each; a fourth would need both
        (Demand(1, 2), {"CPU": 8, "GPU": 3}, 1),
        (Demand(1, 1, "H100"), {"CPU": 8, "GPU": 2}, 0),
        (Demand(1, 1, "H100"), {"CPU": 8, "GPU": 2, "accelerator_type:H100": 1}, 2),
    ],
)
def test_room_of_a_node(demand, resources, room):
    assert demand.room(resources) == room


def test_a_number_that_was_set_is_taken():
    assert worker_count(Execution(device="cpu", workers=5)) == 5
    assert worker_count(Execution(device="cpu", workers=5, pool="inline")) == 1


def test_a_part_of_two_gpus_is_refused(tiny_dict):
    with pytest.raises(ConfigError, match="part of one GPU"):
        parse(tiny_dict(execution={"gpus_per_worker": 1.5}))


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "nowhere.invalid:{}", "127.0.0.1:1{}"])
def test_an_address_where_nobody_listens_is_refused(monkeypatch, address):
    """A closed port, a host that is none, a port that is none."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", address.format(closed.getsockname()[1]))
        with pytest.raises(ServiceLost, match="the Ray cluster cannot be joined"):
            require_workers(Execution(pool="ray"))


def test_what_is_private_in_ray_is_of_the_version_that_is_tested():
    """One name, and a bound on Ray's version that lets no other one in."""
    lines = [line for path in PROJECT.glob("actors/*.py") for line in path.read_text().split("\n")]
    private = [line.strip() for line in lines if re.search(r"\bray\._[a-z]", line)]
    assert private == ["from ray._raylet import Config  # type: ignore[attr-defined]"]
    wanted = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    (bound,) = [Requirement(one).specifier for one in wanted if one.startswith("ray[")]
    assert ray.__version__ in bound
    assert "2.59.9" not in bound and "2.61.0" not in bound
