"""`farfield submit` to a real head with a dashboard and a token, over a line that can be cut."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from ood_core.store.run import RunStore
from tests.contracts.store import answers, assert_honest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
FOREIGN = (
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
)


class Line:
    """Passes connections on to a port; `cut` breaks those that are there and refuses others."""

    def __init__(self, port):
        self._port, self._pairs, self._whole = port, [], True
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        with suppress(OSError):
            while True:
                near, _ = self._door.accept()
                if not self._whole:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._port))
                self._pairs += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    @staticmethod
    def _pump(one, other):
        with suppress(OSError):
            while some := one.recv(2**16):
                other.sendall(some)
            other.shutdown(socket.SHUT_WR)

    def cut(self):
        self._whole = False
        for end in self._pairs:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def mend(self):
        self._whole = True

    def close(self):
        self.cut()
        self._door.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A home with the token, and the port of the dashboard of a head that asks for it."""
    home = tmp_path_factory.mktemp("home")
    port, ray = free_port(), [sys.executable, "-m", "ray.scripts.scripts"]
    options = ["--num-cpus=2", "--block", f"--dashboard-port={port}", f"--port={free_port()}"]
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    here = {"HOME": str(home), "PATH": path, "RAY_AUTH_MODE": "token", "PYTHONPATH": os.getcwd()}
    subprocess.run([*ray, "get-auth-token", "--generate"], env={**kept, **here}, check=True)
    process = subprocess.Popen(
        [*ray, "start", "--head", *options, "--object-store-memory=80000000"],
        env={**kept, **here},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break
        time.sleep(0.2)
    yield home, port
    process.terminate()
    process.wait(timeout=60)


@pytest.fixture
def line(head):
    found = Line(head[1])
    yield found
    found.close()


@pytest.fixture
def job(tmp_path, tiny_dict, base, targets_file):
    """A folder with configuration, base and targets, which names them by relative paths."""
    folder = tmp_path / "job"
    shutil.copytree(base, folder / "tiny-base")
    shutil.copy(targets_file, folder / "fields.npy")
    content = tiny_dict(base="tiny-base", targets={"path": "fields.npy"})
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    return folder


def submit(job, out, port, home):
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    command = [sys.executable, "-m", "flows.cli.main", "submit", str(job / "tiny.yaml")]
    command += ["--out", str(out), "--address", f"http://127.0.0.1:{port}"]
    return subprocess.Popen(
        [*command, "--working-dir", str(job), "--set", "generation.samples=10"],
        env={**kept, "HOME": str(home), "PYTHONUNBUFFERED": "1", "COLUMNS": "500"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until(process, text):
    """What a process says up to a line that has a text."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"no {text!r} in:\n{''.join(lines)}")


def test_a_job_outlives_whoever_handed_it_over_and_a_cut_line(head, line, job, tmp_path, unbroken):
    """The first command is killed; the same one finds the job, and follows it over a cut.

    Base and targets came with the working folder, and the token was found by itself.
    """
    home, out = head[0], tmp_path / "run"
    first = submit(job, out, line.port, home)
    said = until(first, "submitted as")
    number = said.partition("submitted as ")[2].partition(";")[0]
    first.kill()
    first.wait()
    second = submit(job, out, line.port, home)
    until(second, f"{number} is at work")
    line.cut()
    until(second, "is lost; the job goes on")
    line.mend()
    log, _ = second.communicate(timeout=200)
    run = RunStore.open(str(out))
    assert run.state == RunStore(unbroken).state == "complete", log
    assert second.returncode == 0, log
    assert log.count("✓ validate") == log.count("✓ calibrate") == 1  # nothing twice
    assert answers(out) == answers(unbroken)
    assert_honest(out)


def test_an_error_of_the_driver_is_that_of_the_command(head, line, job, tmp_path):
    """The targets did not travel, as the working folder lacks them."""
    (job / "fields.npy").unlink()
    done = submit(job, tmp_path / "run", line.port, head[0])
    log, _ = done.communicate(timeout=200)
    assert done.returncode == 2, log
    assert "error: " in log and "fields.npy" in log
    assert not (tmp_path / "run").exists()


def test_without_the_token_or_a_head_one_error_says_so(head, line, job, tmp_path):
    stranger = submit(job, tmp_path / "run", line.port, tmp_path)
    log, _ = stranger.communicate(timeout=60)
    assert stranger.returncode == 1
    assert "Ray Jobs cannot be used there" in log and "(2) the cluster asks for a token" in log
    nobody = submit(job, tmp_path / "run", free_port(), head[0])
    log, _ = nobody.communicate(timeout=60)
    assert nobody.returncode == 1
    assert log.count("\n") < 10 and "(1) no head with a dashboard" in log
