"""Workers of a run: the pool of its settings, kept from stage to stage.

The pool travels in a context variable, because Prefect tasks take only plain parameters.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch

from actors.pool import InlinePool, Pool
from actors.workers import WorkerSpec
from flows.runs.lease_guard import require_lease
from flows.settings import Execution, RunSettings
from ood_core.store.run import RunStore
from ood_core.store.schema import ShardedStage

QUOTA = Path("/sys/fs/cgroup/cpu.max")
_shared: ContextVar[Pool | None] = ContextVar("pool", default=None)


@contextmanager
def shared_pool(execution: Execution) -> Iterator[Pool]:
    """Share one pool among the stages of this context; its workers end with it."""
    with make_pool(execution).standing() as pool:
        token = _shared.set(pool)
        try:
            yield pool
        finally:
            _shared.reset(token)


def pool_for(execution: Execution) -> Pool:
    """The pool of this context, or a new one for a stage that runs by itself."""
    return _shared.get() or make_pool(execution)


def make_pool(execution: Execution) -> Pool:
    """The pool of the settings."""
    if execution.pool == "inline":
        return InlinePool(tries=execution.attempts)
    from actors.ray_pool import RayPool

    return RayPool(
        workers=worker_count(execution),
        cpus=execution.cpus_per_worker,
        gpus=int(_gpus(execution) > 0),
        tries=execution.attempts,
    )


def worker_count(execution: Execution) -> int:
    """One actor per GPU, or per CPU slot where there is none; one in this process if inline."""
    if execution.pool == "inline":
        return 1
    if execution.workers != "auto":
        return execution.workers
    if gpus := _gpus(execution):
        return gpus
    return max(1, _usable_cpus() // execution.cpus_per_worker)


def _usable_cpus() -> int:
    """CPUs that this process may use: those it is bound to, and no more than its cgroup's quota."""
    from psutil import cpu_count

    affinity = getattr(os, "sched_getaffinity", None)
    bound = len(affinity(0)) if affinity else cpu_count(logical=True) or 1
    try:
        quota, period = QUOTA.read_text().split()
        return min(bound, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup of version 2, or "max"
        return bound


def worker_spec(run: RunStore, stage: ShardedStage, settings: RunSettings) -> WorkerSpec:
    """What the workers of a stage are built from; the same for every pool."""
    execution = settings.execution
    return WorkerSpec(
        uri=str(run.root),
        base=settings.base,
        stage=stage,
        device=execution.device,
        dtype=run.dtype,
        threads=execution.cpus_per_worker,  # of any pool: rounding depends on it
        lease=require_lease(),
        max_base_bytes=execution.max_base_bytes,
    )


def _gpus(execution: Execution) -> int:
    return torch.cuda.device_count() if execution.device in ("auto", "cuda") else 0
