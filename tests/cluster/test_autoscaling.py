"""A cluster that has no worker until one is asked for, and grows as the run asks for more."""

import json
import os
import socket
import subprocess
import sys

import pytest
import ray

from tests.contracts.store import answers, assert_honest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
FOREIGN = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
MOST = 2
COMMANDS = (  # that a node would be set up by
    "cluster_synced_files", "initialization_commands", "setup_commands", "head_setup_commands",
    "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
)  # fmt: skip


@pytest.fixture
def growing(tmp_path, monkeypatch):
    """Address of a head without CPUs, whose autoscaler starts raylets of one CPU, two at most."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    address = f"{ray.util.get_node_ip_address()}:{port}"
    worker = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": MOST}
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    config = {
        "cluster_name": "growing",
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "disable_node_updaters": True,
        },
        "available_node_types": {"worker": worker, "head": head},
        "head_node_type": "head",
        "max_workers": MOST,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 1,
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{name: [] for name in COMMANDS},
    }
    file = tmp_path / "autoscaling.json"
    file.write_text(json.dumps(config))
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    fast = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    start = [sys.executable, "-u", "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    options = [f"--port={port}", "--num-cpus=0", "--include-dashboard=false"]
    options += [f"--autoscaling-config={file}", f"--object-store-memory={80 * 2**20}"]
    command = [*start, *options]
    running = subprocess.Popen(command, env=os.environ | fast, stdout=subprocess.PIPE, text=True)
    assert any("Ray runtime started" in line for line in running.stdout)
    yield address
    running.terminate()
    running.wait()


def test_a_run_makes_the_cluster_grow_to_its_end(growing, config, tmp_path, unbroken):
    """`workers: auto` begins where no node has a CPU; bytes are those of one process."""
    out = tmp_path / "run"
    settings = config(execution={"pool": "ray", "workers": "auto"})
    words = ["run", settings, "--out", out, "--orchestrator", "none"]
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.main", *map(str, words)],
        env=os.environ | {"RAY_ADDRESS": growing, "COLUMNS": "500"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert_honest(out)
    assert answers(out) == answers(unbroken)
