"""Workers of a run: the pool of its settings, kept from stage to stage.

The pool travels in a context variable, because Prefect tasks take only plain parameters.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from actors.pool import InlinePool, Pool
from actors.workers import WorkerSpec
from flows.runs.lease_guard import require_lease
from flows.settings import Execution, RunSettings
from ood_core.store.run import RunStore
from ood_core.store.schema import ShardedStage

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
        workers=None if execution.workers == "auto" else execution.workers,
        cpus=execution.cpus_per_worker,
        gpus=execution.gpus_per_worker,
        accelerator=execution.accelerator,
        device=execution.device,
        tries=execution.attempts,
        patience=execution.patience,
        timeout=execution.timeout,
        logs=execution.logs,
    )


def require_workers(execution: Execution) -> None:
    """Join the cluster that `RAY_ADDRESS` names, before anything is written.

    Raises:
        ServiceLost: it cannot be joined.
    """
    if execution.pool == "ray" and os.environ.get("RAY_ADDRESS"):
        from actors.ray_cluster import connect

        connect()


def worker_count(execution: Execution) -> int:
    """Workers that would have room: in the cluster that `RAY_ADDRESS` names, or on this machine.

    Raises:
        ServiceLost: the cluster does not answer.
    """
    if execution.pool == "inline":
        return 1
    if execution.workers != "auto":
        return execution.workers
    from actors.ray_cluster import Demand, slots, usable_cpus
    from actors.ray_pool import RayPool

    if os.environ.get("RAY_ADDRESS"):
        pool = make_pool(execution)
        assert isinstance(pool, RayPool)
        return slots(pool.demand())
    gpus = 0 if execution.device == "cpu" else torch.cuda.device_count()
    here = {"CPU": float(usable_cpus()), "GPU": float(gpus)}
    wanted = Demand(execution.cpus_per_worker, execution.gpus_per_worker if gpus else 0)
    return max(1, wanted.room(here))


def worker_spec(run: RunStore, stage: ShardedStage, settings: RunSettings) -> WorkerSpec:
    """What the workers of a stage are built from; the same for every pool."""
    execution = settings.execution
    return WorkerSpec(
        uri=str(run.holder or run.root),
        base=settings.base,
        stage=stage,
        device=execution.device,
        dtype=run.dtype,
        threads=execution.cpus_per_worker,  # of any pool: rounding depends on it
        lease=require_lease(),
        max_base_bytes=execution.max_base_bytes,
        coarse=run.holder is not None,
    )
