"""The line of a stored run, loaded by the driver to work beside it."""

import torch

from actors.loading import load_pipeline
from flows.settings import RunSettings
from ood_core.errors import RunIncomplete
from ood_core.store.files import read_json
from ood_core.store.run import RunStore, ShardedStage
from ood_core.synthesis.pipeline import Pipeline

FITTED: tuple[ShardedStage, ...] = ("calibrate", "invert")


def fitted_pipeline(run: RunStore, settings: RunSettings) -> Pipeline:
    """Load the line of a run whose targets are inverted.

    Raises:
        RunIncomplete: they are not yet.
        InputError: no such base.
        IdentityRefused: another base than the run's.
    """
    for stage in FITTED:
        if run.receipts(stage).missing(run.plan(stage)):
            raise RunIncomplete(f"{run.root}: {stage} is not finished; `farfield run` it first")
    torch.set_num_threads(settings.execution.cpus_per_worker)  # as workers do: rounding depends
    dtype = read_json(run.root / "plan.json")["dtype"]
    most = settings.execution.max_base_bytes
    return load_pipeline(run, settings.base, settings.execution.device, dtype, most)
