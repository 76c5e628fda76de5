"""Whether a base denoises as its settings say, measured with the network alone; no data are needed.

Read by a prediction type, a network is a denoiser `D` that draws samples `x0` of its own. If the
type is the right one, they are its domain, `D` is the posterior mean on them, and once they are
noised again two things hold at every noise level `s = sigma/alpha`:

    E|D - x0|^2 <= c s^2 / (c + s^2)        per pixel: the loss of the best linear denoiser that
                                            knows only the mean map and the spread c = var(x0)
    E[eps e] = E[e^2]                       e = (x_t - alpha D) / sigma, the estimated noise

The first is the optimality of posterior means, the second their orthogonality to their errors. A
network read by a wrong type follows another flow to maps that it does not know: its loss there is
far above that of the right type, mostly above the linear denoiser's. A schedule that differs much
from the one trained on breaks the second.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final, get_args

from ood_core.arrays import Maps
from ood_core.config.pretraining import Prediction
from ood_core.diffusion.denoiser import Denoiser
from ood_core.models.pretrained import PretrainedDenoiser
from ood_core.numerics.random import Stream, normal_like

NOISE_LEVELS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Noise-to-signal ratios that a base is evaluated at, in units of its samples' spread."""
USEFUL_LOSS = 0.9
"""Loss, relative to the linear denoiser's, that a trained base stays below on its own samples."""
CLEAR_MARGIN = 0.8
"""Share of the runner-up's loss that the recognised prediction type stays below."""
SLOPE_FACTOR = 1.5
"""Factor by which slopes may miss 1: sampling in some twenty steps narrows spreads by up to 1.25"""


@final
@dataclass(frozen=True, slots=True)
class Denoising:
    """How well a denoiser does on maps, one number per noise level.

    `losses` are relative to the linear denoiser's; `slopes` are `E[eps e] / E[e^2]`.
    """

    losses: tuple[float, ...]
    slopes: tuple[float, ...]

    @property
    def loss(self) -> float:
        """Geometric mean of the losses."""
        return math.exp(sum(math.log(max(x, 1e-12)) for x in self.losses) / len(self.losses))

    @property
    def useful(self) -> bool:
        """Whether the network denoises better than one that knows only mean and spread."""
        return self.loss < USEFUL_LOSS

    @property
    def noise_fits(self) -> bool:
        """Whether the maps held as much noise as the network took them to hold."""
        return all(1 / SLOPE_FACTOR < slope < SLOPE_FACTOR for slope in self.slopes)


def denoising(denoiser: Denoiser, maps: Maps, root: int) -> Denoising:
    """Measure a denoiser on two maps or more, noised with numbers of `root`.

    Maps that are not finite, or do not differ from one another, have infinite losses: no denoiser
    comes from them.
    """
    spread = float(maps.double().var(dim=0).mean())
    if not (math.isfinite(spread) and spread > 0):
        return Denoising((math.inf,) * len(NOISE_LEVELS), (math.nan,) * len(NOISE_LEVELS))
    rows = [_at_noise(denoiser, maps, spread, i, root) for i in range(len(NOISE_LEVELS))]
    losses, slopes = zip(*rows, strict=True)
    return Denoising(losses, slopes)


def readings(denoiser: PretrainedDenoiser, declared: str) -> dict[str, Denoiser]:
    """Return the denoiser as declared, and those that its network is by other prediction types."""
    types = get_args(Prediction)
    others = [kind for kind in types if kind != declared] if declared in types else []
    read = {kind: PretrainedDenoiser(denoiser.network, denoiser.schedule, kind) for kind in others}
    return {declared: denoiser, **read}


def recognised(found: Mapping[str, Denoising]) -> str | None:
    """Return the prediction type that the network was trained for, if that is clear.

    Each type was measured on the samples that the network draws by it. It is not clear for an
    untrained network, nor for white noise of unit variance, whose v-network is zero.
    """
    best, *others = sorted(found, key=lambda kind: found[kind].loss)
    clear = all(found[best].loss < CLEAR_MARGIN * found[kind].loss for kind in others)
    return best if clear and found[best].useful else None


def _at_noise(
    denoiser: Denoiser, maps: Maps, spread: float, index: int, root: int
) -> tuple[float, float]:
    schedule = denoiser.schedule
    t = schedule.index_of(NOISE_LEVELS[index] * math.sqrt(spread))
    alpha, sigma = float(schedule.alpha[t]), float(schedule.sigma[t])
    white = (sigma / alpha) ** 2
    eps = normal_like(maps, root, index, Stream.CALIBRATION)
    x_t = alpha * maps + sigma * eps
    clean = denoiser(x_t, t)
    estimated = ((x_t - alpha * clean) / sigma).double()
    loss = float(((clean - maps).double() ** 2).mean()) / (spread * white / (spread + white))
    slope = float((eps * estimated).sum()) / max(float((estimated**2).sum()), 1e-300)
    return loss if math.isfinite(loss) else math.inf, slope
