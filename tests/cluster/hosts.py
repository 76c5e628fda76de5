"""Hosts that are network namespaces on one bridge, each with an address and a /tmp of its own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BRIDGE, NET = "ffbr0", "10.77.0"
GATEWAY = f"{NET}.1"
TRIES = 5
INSIDE = """
set -e
hostname "$1"
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /dev/shm
mkdir -p /tmp/home/.ray
exec sleep infinity
"""


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


def require_hosts():
    """Skip where this machine lets nobody make network namespaces."""
    probe = ["ip", "netns", "add", "ffprobe"]
    if shutil.which("ip") is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("needs root and the kernel's network namespaces (`ip netns add`)")
    ip("netns", "delete", "ffprobe")


class Host:
    """A host with the address `NET.(10 + number)`; its processes end with it."""

    def __init__(self, number):
        self.name, self.link = f"ffhost{number}", f"ffv{number}"
        self.address = f"{NET}.{10 + number}"
        ip("netns", "add", self.name)
        ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", self.link, "master", BRIDGE, "up")
        ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.name, "link", "set", "eth0", "up")
        ip("-n", self.name, "link", "set", "lo", "up")
        space = ["ip", "netns", "exec", self.name, "unshare", "--mount", "--uts", "--propagation"]
        self._root = subprocess.Popen([*space, "private", "sh", "-c", INSIDE, "sh", self.name])
        self._started = []
        end = time.monotonic() + 30
        while self.run("test", "-d", "/tmp/home/.ray", check=False).returncode:
            assert time.monotonic() < end and self._root.poll() is None, "the host does not come up"
            time.sleep(0.1)

    def _words(self, words):
        pid = str(self._root.pid)
        return ["nsenter", "--target", pid, "--mount", "--uts", "--net", *map(str, words)]

    def _environment(self, more):
        foreign = ("RAY_", "PREFECT_", "AWS_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        here = {"HOME": "/tmp/home", "PATH": path, "PYTHONPATH": os.getcwd(), "COLUMNS": "300"}
        return {**kept, **here, "OMP_NUM_THREADS": "1", **more}

    def run(self, *words, check=True, **more):
        """Run a command on this host, to its end."""
        return subprocess.run(
            self._words(words), env=self._environment(more), check=check, capture_output=True
        )

    def start(self, *words, **more):
        """Start a command on this host, in a process group of its own."""
        process = subprocess.Popen(
            self._words(words),
            env=self._environment(more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def join(self, *options, **more):
        """Start a node of Ray here; again where it took too long, as on a busy machine."""
        words = [sys.executable, "-u", "-m", "ray.scripts.scripts", "start", "--block"]
        words += [f"--node-ip-address={self.address}", "--object-store-memory=80000000"]
        for _ in range(TRIES):
            lines = self.start(*words, *options, **more).stdout
            if any("Ray runtime started" in line for line in lines):
                return
        raise AssertionError(f"no node of Ray starts on {self.name}")

    def send(self, folder, name):
        """Copy a folder to /tmp/NAME of this host."""
        archive = subprocess.run(
            ["tar", "c", "-C", str(folder), "."], check=True, capture_output=True
        )
        self.run("mkdir", "-p", f"/tmp/{name}")
        words = self._words(["tar", "x", "-C", f"/tmp/{name}"])
        subprocess.run(words, input=archive.stdout, check=True)

    def cut(self):
        """Pull the cable out."""
        ip("link", "set", self.link, "down")

    def kill(self):
        """Kill everything that runs on this host, at once."""
        found = subprocess.run(
            ["ip", "netns", "pids", self.name], check=True, capture_output=True, text=True
        )
        for pid in map(int, found.stdout.split()):
            if pid != self._root.pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        for process in self._started:
            process.wait()

    def remove(self):
        self.kill()
        self._root.kill()
        self._root.wait()
        ip("link", "delete", self.link)  # else it goes with the namespace, some time later
        ip("netns", "delete", self.name)


class Network:
    """A bridge with hosts, and this process at `GATEWAY`."""

    def __enter__(self):
        self._hosts = []
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", f"{GATEWAY}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        return self

    def __exit__(self, *_):
        for host in self._hosts:
            host.remove()
        ip("link", "delete", BRIDGE)

    def add(self):
        self._hosts.append(Host(len(self._hosts) + 1))
        return self._hosts[-1]
