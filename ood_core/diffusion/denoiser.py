"""The one contract of all denoisers, and the conversions between network parametrisations.

A denoiser returns the posterior mean `E[x0 | x_t]`, whatever its network predicts. With
`x_t = alpha x0 + sigma eps` (Salimans & Ho 2022, appendix D, for `v = alpha eps - sigma x0`):

    eps-prediction   x0 = (x_t - sigma eps) / alpha
    v-prediction     x0 = (alpha x_t - sigma v) / (alpha^2 + sigma^2)
    x0-prediction    x0 = output
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol, final, runtime_checkable

from torch import Tensor

from ood_core.arrays import Maps
from ood_core.config.pretraining import Prediction
from ood_core.diffusion.schedule import NoiseSchedule


@runtime_checkable
class Denoiser(Protocol):
    """Posterior mean of the clean map given the noised one."""

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule whose indices `t` the denoiser understands."""
        ...

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return `E[x0 | x_t]` at time index `t`, of the shape of `x_t`."""
        ...


class Base(Denoiser, Protocol):
    """Posterior mean by a frozen network, which may be one that is shown maps, or by several."""

    def __call__(self, x_t: Maps, t: int, *context: Any) -> Maps:
        """Return `E[x0 | x_t, context]`; `context` is what the network made of some maps."""
        ...


@final
@dataclass(frozen=True, slots=True)
class BasesContext:
    """Context of several bases: what each has made of some maps, and which one to call."""

    context: tuple[tuple[Any, ...], ...]
    number: int = 0

    def further(self) -> "tuple[BasesContext, ...]":
        """The same for every base but the first."""
        return tuple(replace(self, number=number) for number in range(1, len(self.context)))


def further(context: tuple[Any, ...]) -> tuple[BasesContext, ...]:
    """Contexts that ask the further bases, where `context` is of several."""
    several = len(context) == 1 and isinstance(context[0], BasesContext)
    return context[0].further() if several else ()


def clean_from_output(
    output: Maps, x_t: Maps, alpha: float, sigma: float, prediction: Prediction
) -> Maps:
    """Convert a network output to the posterior mean of the clean map."""
    match prediction:
        case "epsilon":
            return (x_t - sigma * output) / alpha
        case "v_prediction":
            return (alpha * x_t - sigma * output) / (alpha**2 + sigma**2)
        case "sample":
            return output


def training_target(
    x0: Maps, eps: Maps, alpha: Tensor, sigma: Tensor, prediction: Prediction
) -> Maps:
    """What a network of the given parametrisation must output for `(x0, eps)`.

    `alpha` and `sigma` broadcast against the maps.
    """
    match prediction:
        case "epsilon":
            return eps
        case "v_prediction":
            return alpha * eps - sigma * x0
        case "sample":
            return x0
