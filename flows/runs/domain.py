"""Maps of the base's own domain: what it makes from noise alone, to see whether samples look alike.

The driver draws them once per run and stores their features. The cost is bounded: no more maps
than fit targets, fewer evaluations than inverting those takes, and of large maps only so many that
the network sees as many pixels.
"""

from jaxtyping import Float
from torch import Tensor

from actors.loading import NUMBERS, require_base
from flows.settings import RunSettings
from ood_core.arrays import Latents, Maps
from ood_core.diffusion.sampling import decode
from ood_core.errors import BaseModelMissing, IdentityRefused
from ood_core.evaluation.features import FeatureExtractor
from ood_core.models.loading import BaseModel, load_model
from ood_core.numerics.random import SeedRange, normal, root_key
from ood_core.store.run import RunStore
from ood_core.store.statistics import read_domain, write_domain
from ood_core.synthesis.pipeline import choose_device

MAX_MAPS = 48
MIN_MAPS = 8  # of fewer, the share that is nearer says nothing
PIXELS = 2**17  # of a channel, of all maps: 32 maps of 64 px, and 8 of 128
STEPS = 24


def domain_features(
    run: RunStore, settings: RunSettings, extractor: FeatureExtractor
) -> Float[Tensor, "b f"] | None:
    """Scattering features `(b, f)` of maps in the base's domain, or None.

    None where fewer than `MIN_MAPS` targets are fitted, the run's own base cannot be found, or its
    maps are not finite.

    Raises:
        BaseModelError: the base is there and cannot be loaded, or is larger than the settings
            allow: to skip the check silently would look like passing it.
    """
    if (stored := read_domain(run)) is not None:
        return stored
    channels, height, width = extractor.fit.shape[1:]
    count = domain_count(len(extractor.fit), height * width)
    if count < MIN_MAPS:
        return None
    device = choose_device(settings.execution.device)
    try:
        max_bytes = settings.execution.max_base_bytes
        model = load_model(settings.base, device, NUMBERS[run.dtype], max_bytes)
        require_base(model, run.record)
    except (BaseModelMissing, IdentityRefused):
        return None
    shape = model.code_shape((channels, height, width))
    noise = normal(SeedRange(root_key(run.record["identity"] + "/domain"), 0, count), shape)
    maps = draw_domain(model, noise.to(device))
    if not maps.isfinite().all():
        return None
    features = extractor.extract(maps)["scattering"]
    write_domain(run, features)
    return features


def domain_count(targets: int, pixels: int) -> int:
    """How many maps are drawn: `MIN_MAPS` or more of any size, if there are as many targets."""
    return min(MAX_MAPS, targets, max(MIN_MAPS, PIXELS // pixels))


def draw_domain(model: BaseModel, noise: Latents) -> Maps:
    """Decode noise from the last timestep of the base's schedule to maps in model range."""
    schedule = model.denoiser.schedule
    grid = schedule.log_snr_grid(STEPS + 1, len(schedule) - 1)
    made = decode(model.denoiser, "ddim", noise, grid)
    return (made if model.codes is None else model.codes.decode(made)).cpu()
