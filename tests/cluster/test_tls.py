"""A Ray cluster whose processes speak TLS with each other, joined by a driver that has the keys."""

import os
import socket
import subprocess
import sys

import pytest
import ray
import yaml

from tests.contracts.store import answers, assert_honest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
FOREIGN = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")


def openssl(folder, *words):
    subprocess.run(["openssl", *map(str, words)], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Ray's settings for TLS, with a key that an authority of our own signed for this machine."""
    folder = tmp_path_factory.mktemp("keys")
    address = ray.util.get_node_ip_address()
    names = f"subjectAltName=IP:127.0.0.1,IP:{address},DNS:localhost"
    (folder / "names").write_text(names)
    new = ["req", "-newkey", "rsa:2048", "-nodes"]
    openssl(folder, *new, "-x509", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")
    openssl(folder, *new, "-subj", "/CN=ray", "-keyout", "ray.key", "-out", "ray.csr")
    signed = ["x509", "-req", "-in", "ray.csr", "-CA", "ca.crt", "-CAkey", "ca.key"]
    openssl(folder, *signed, "-CAcreateserial", "-extfile", "names", "-out", "ray.crt")
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(folder / "ray.crt"),
        "RAY_TLS_SERVER_KEY": str(folder / "ray.key"),
        "RAY_TLS_CA_CERT": str(folder / "ca.crt"),
    }


@pytest.fixture(scope="module")
def head(keys, tmp_path_factory):
    """Address of the head, and what its processes find around them."""
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    home = str(tmp_path_factory.mktemp("home"))
    here = {**kept, "HOME": home, "RAY_AUTH_MODE": "disabled"}
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    start = [sys.executable, "-u", "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    options = [f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    process = subprocess.Popen(
        [*start, *options, "--object-store-memory=80000000"],
        env={**here, **keys},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert any("Ray runtime started" in line for line in process.stdout)
    yield f"{ray.util.get_node_ip_address()}:{port}", here
    process.terminate()
    process.wait(timeout=60)


def run(config, out, address, environment):
    command = [sys.executable, "-m", "flows.cli.main", "run", str(config), "--out", str(out)]
    return subprocess.run(
        [*command, "--pool", "ray", "--orchestrator", "none"],
        env={**environment, "RAY_ADDRESS": address, "COLUMNS": "500"},
        capture_output=True,
        text=True,
    )


def test_tls_is_passed_on_and_who_has_no_key_is_refused(head, keys, tiny_dict, tmp_path, unbroken):
    address, here = head
    config, out = tmp_path / "tiny.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(tiny_dict()))
    refused = run(config, out, address, here)
    assert refused.returncode == 1, refused.stderr
    assert f"RAY_ADDRESS={address}: the Ray cluster cannot be joined" in refused.stderr
    assert not out.exists()
    done = run(config, out, address, {**here, **keys})
    assert done.returncode == 0, done.stderr
    assert answers(out) == answers(unbroken)
    assert_honest(out)
