"""The Ray cluster that this process works with: joining it, and room for workers there."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
if os.environ.get("RAY_ADDRESS", "local") == "local":
    # As on a Mac: Ray's sockets are on loopback, where otherwise some listen on all interfaces.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import joblib
import ray

from ood_core.errors import ConfigError, ServiceLost

JOIN_SECONDS = 25.0
"""A cluster that has not answered for so long is not there."""
OBJECT_STORE_BYTES = 128 * 2**20  # receipts only: arrays never travel through Ray
PROBE = """
import sys
from ray.scripts.scripts import healthcheck
print(flush=True)
healthcheck(["--address", sys.argv[1]])
"""
MODE = "RAY_AUTH_MODE"
TOKEN = Path(".ray/auth_token")
Started = TypeVar("Started")


@final
@dataclass(frozen=True, slots=True)
class Demand:
    """What one worker asks for: CPUs, GPUs (whole ones, or a part of one) and their type."""

    cpus: float = 1
    gpus: float = 0
    accelerator: str = ""

    def room(self, resources: Mapping[str, float]) -> int:
        """Workers that a node with such resources has room for."""
        if self.accelerator and not resources.get(f"accelerator_type:{self.accelerator}"):
            return 0
        rooms = [_times(resources.get("CPU", 0), self.cpus)]
        if self.gpus:
            rooms.append(_times(resources.get("GPU", 0), self.gpus))
        return min(rooms)

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        kind = f" {self.accelerator}" if self.accelerator else ""
        return f"{self.cpus:g} CPU{gpus}{kind}"


def _times(there: float, each: float) -> int:
    """How often `each` fits; a part of a GPU is never taken from two of them."""
    if each < 1:
        return int(there) * int(1 / each + 1e-6)
    return int(there / each + 1e-6)


def usable_cpus() -> int:
    """CPUs that this process may use: those it is bound to, and no more than its cgroup's quota."""
    return int(joblib.cpu_count())


def connect(cpus: int = 0) -> None:
    """Join the cluster that `RAY_ADDRESS` names, or start a local one with at least `cpus`.

    A local one listens on loopback alone, and is guarded by a token as well.

    Raises:
        ServiceLost: no cluster answers, it refuses us, or none can be started here.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "")
    try:
        if address and address != "local":
            _adopt_token_mode(address)
            ray.init(log_to_driver=False, configure_logging=False)
        else:
            _start_local(max(cpus, usable_cpus()))
    except ServiceLost:
        raise
    except (Exception, SystemExit) as error:  # Ray raises what comes, and gives up by an exit
        reason = str(error).strip().partition("\n")[0]
        raise (_not_joined(address, reason) if address else _not_started(reason)) from error


def started(begin: Callable[[], Started], tries: int = 3) -> Started:
    """Start a node; on a busy machine again: it waits 15 s for its agents, and Ray 30 s for it."""
    for left in reversed(range(tries)):
        try:
            return begin()
        except Exception as error:
            if not left or "timed out" not in str(error).lower():
                raise
    raise AssertionError("the last try returns or raises")


def _start_local(cpus: int) -> None:
    """Start a Ray of this machine alone."""

    def begin() -> None:
        ray.shutdown()  # what is left of a try before
        ray.init(
            "local",
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            configure_logging=False,
        )

    started(begin)
    with suppress(OSError):  # Ray leaves it readable by everybody
        (Path.home() / TOKEN).chmod(0o600)


def _adopt_token_mode(address: str) -> None:
    """See that the cluster answers, and use a token if it asks for one.

    Ray does not tell by itself: a client without a token is refused by a cluster with one, and one
    with a token gets no worker from a cluster without.

    Raises:
        ServiceLost: it does not answer, or refuses us.
    """
    if address.startswith("ray://"):
        raise _not_joined(address, "an address of Ray Client; expected HOST:PORT")
    _require_listener(address)
    left, said = JOIN_SECONDS, ""
    for mode in (os.environ[MODE],) if MODE in os.environ else ("disabled", "token"):
        probe = subprocess.Popen(
            [sys.executable, "-c", PROBE, address],
            env={**os.environ, MODE: mode},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert probe.stdout is not None
        probe.stdout.readline()  # it has started, which takes long on a busy machine
        began = time.monotonic()
        try:
            _, errors = probe.communicate(timeout=max(1.0, left))
        except subprocess.TimeoutExpired:
            probe.kill()
            probe.communicate()
            raise _not_joined(address, f"no answer in {JOIN_SECONDS:g} s") from None
        left -= time.monotonic() - began
        if probe.returncode == 0:
            os.environ[MODE] = mode
            # Ray has read the mode when it was imported, and has no public way to read it again:
            # pyproject.toml holds Ray to the version for which this was tested.
            from ray._raylet import Config  # type: ignore[attr-defined]

            Config.initialize("")
            return
        named = [line for line in errors.split("\n") if "Error: " in line]
        said = said or (named[-1] if named else "no answer")
        if "AuthenticationError" not in said:
            break
    raise _not_joined(address, said.partition(" Note:")[0][:300])


def _require_listener(address: str) -> None:
    """See that somebody listens at `HOST:PORT`, which Ray itself waits for.

    Raises:
        ServiceLost: nobody does, or there is no such host.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal():  # Ray knows the others, such as `auto`
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), JOIN_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _not_joined(address, str(error)) from error


def _not_joined(address: str, reason: str) -> ServiceLost:
    return ServiceLost(
        f"RAY_ADDRESS={address}: the Ray cluster cannot be joined ({reason}). Likely causes: "
        "(1) no `ray start --head` runs there, or the port is closed; "
        "(2) the cluster asks for a token, and this machine has none or another: copy "
        "~/.ray/auth_token from the head and set RAY_AUTH_MODE=token on all machines; "
        "(3) this machine is no node of the cluster, or its Ray or Python is of another version "
        f"than {ray.__version__} here: `ray start --address={address}` says which. "
        "Unset RAY_ADDRESS for a Ray of this machine alone"
    )


def _not_started(reason: str) -> ServiceLost:
    return ServiceLost(
        f"no local Ray can be started ({reason}); expected room in memory and in the folder for "
        f"temporary files, and a home folder that can be written for {TOKEN}: set RAY_TMPDIR or "
        "HOME, or take `--pool inline` for the same bytes without Ray"
    )


def nodes() -> list[dict[str, Any]]:
    """Nodes that are alive."""
    return [node for node in ray.nodes() if node["Alive"]]


def slots(demand: Demand) -> int:
    """Workers that all nodes together have room for, whoever uses them now."""
    return sum(demand.room(node["Resources"]) for node in nodes())


def resources(found: Mapping[str, float]) -> str:
    """CPUs and GPUs of the cluster, in words."""
    gpus = f", {found['GPU']:g} GPU" if found.get("GPU") else ""
    return f"{found.get('CPU', 0):g} CPU{gpus}"


def there_is() -> str:
    """What the cluster has and what of it is free, in words."""
    everything, free = ray.cluster_resources(), ray.available_resources()
    return f"{len(nodes())} nodes with {resources(everything)}, free {resources(free)}"


def require_node() -> None:
    """Check that this driver's own node is alive: without it no actor ever starts again.

    Raises:
        ServiceLost: it is not. Other nodes may come and go, and the cluster replaces them.
    """
    here = ray.get_runtime_context().get_node_id()
    if any(node["NodeID"] == here for node in nodes()):
        return
    raise ServiceLost(
        "the Ray node of this driver died (its raylet was killed, or ran out of memory); expected "
        "it to live as long as the run. What is stored is kept: run the same command again"
    )


def require_grant(device: str, gpus: int) -> None:
    """Check that Ray gave an actor GPUs if, and only if, it computes on them.

    Else all actors of a host would share its first GPU, or one would lie idle.

    Raises:
        ConfigError: it did not.
    """
    if (device == "cuda") != (gpus > 0):
        raise ConfigError(
            f"got device {device} and {gpus} GPUs from Ray for this worker; expected GPUs for cuda "
            "alone: set execution.device or execution.gpus_per_worker"
        )
