"""The latents that samples began from: drawn again, since they are a function of seed and prior."""

from ood_core.arrays import Latents
from ood_core.config.identity import read_method
from ood_core.estimators.choice import Prior
from ood_core.numerics.random import SeedRange, root_key
from ood_core.store.latents import read_latents
from ood_core.store.priors import read_prior
from ood_core.store.run import RunStore
from ood_core.synthesis.constructs import construct_of
from ood_core.synthesis.latents import draw

MAX_LATENTS = 4096  # latents; the first samples, since one draw is as random as another
MAX_VALUES = 2**25  # of all of them, an eighth of a gigabyte


def drawn_latents(run: RunStore, most: int = MAX_LATENTS) -> tuple[Latents, Latents, Prior]:
    """Return the latents of the fit targets, those of the first samples, and their prior."""
    references = read_latents(run)
    prior, geometry = read_prior(run.root / "prior.zarr")
    count = min(most, run.plan("generate").rows, max(2, MAX_VALUES // prior.mean.numel()))
    record = run.record
    method = read_method(record["identity_record"])
    seeds = SeedRange(root_key(record["identity"]), 0, count)
    construct = construct_of(method.draw, prior, references)
    return references, draw(construct, seeds, geometry, references).latents, prior
