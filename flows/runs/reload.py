"""What was fitted in a stored run, loaded for the driver; latents of its samples, drawn again."""

import torch

from actors.loading import load_pipeline
from flows.settings import RunSettings
from ood_core.arrays import Latents
from ood_core.config.identity import read_method
from ood_core.errors import RunIncomplete
from ood_core.estimators.gaussian import GaussianPrior
from ood_core.numerics.random import SeedRange, root_key
from ood_core.store.files import read_json
from ood_core.store.fitted import read_prior
from ood_core.store.run import PRIOR, RunStore
from ood_core.store.schema import ShardedStage
from ood_core.store.targets import read_latents
from ood_core.synthesis.latent_samplers import latent_sampler
from ood_core.synthesis.latents import draw
from ood_core.synthesis.pipeline import Pipeline

FITTED: tuple[ShardedStage, ...] = ("calibrate", "invert")
MAX_LATENTS = 4096
"""The first samples, since one draw is as random as another."""
MAX_VALUES = 2**25
"""Values in all latents, an eighth of a gigabyte."""


def fitted_pipeline(run: RunStore, settings: RunSettings) -> Pipeline:
    """Load the pipeline of a run whose targets are inverted.

    Raises:
        RunIncomplete: they are not yet.
        InputError: no such base.
        IdentityRefused: another base than the run's.
    """
    for stage in FITTED:
        if run.ledger(stage).missing(run.plan(stage)):
            raise RunIncomplete(f"{run.root}: {stage} is not finished; `farfield run` it first")
    torch.set_num_threads(settings.execution.cpus_per_worker)  # as workers do: rounding depends
    dtype = read_json(run.root / "plan.json")["dtype"]
    most = settings.execution.max_base_bytes
    return load_pipeline(
        run, settings.base, settings.execution.device, dtype, most, calibrated=True
    )


def redraw_latents(
    run: RunStore, most: int = MAX_LATENTS
) -> tuple[Latents, Latents, GaussianPrior]:
    """Return the latents of the fit targets, those of the first samples, and their prior.

    Latents of samples are not stored: they are drawn again from seed and prior.
    """
    references = read_latents(run)
    prior, geometry = read_prior(run.root / PRIOR)
    count = min(most, run.plan("generate").rows, max(2, MAX_VALUES // prior.mean.numel()))
    record = run.record
    method = read_method(record["identity_record"])
    seeds = SeedRange(root_key(record["identity"]), 0, count)
    sampler = latent_sampler(method.draw, prior, references)
    return references, draw(sampler, seeds, geometry, references).latents, prior
