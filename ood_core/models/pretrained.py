"""The denoiser of a frozen network, for each convention of input and output.

    eps, v, x0   output = F(x_t, t)                     `ood_core.diffusion.denoiser`
    score        output = F(x, sigma) = grad ln p       D = x + sigma^2 output
    EDM          output = F(c_in x, ln(sigma) / 4)      D = c_skip x + c_out output

The second line is Tweedie's formula for `x = x0 + sigma eps`, the networks those of Song et al.
2021 (score SDE; NCSN++). The third is Karras et al. 2022, table 1 and eq. 7.
"""

import copy
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import nn
from torch.nn.functional import pad

from ood_core.arrays import Maps
from ood_core.config.pretraining import Prediction
from ood_core.diffusion.denoiser import BasesContext, clean_from_output
from ood_core.diffusion.schedule import NoiseSchedule


@final
@dataclass(frozen=True, slots=True)
class Score:
    """A network that takes `sigma` and returns the score; `alpha` is 1.

    A `unit_range` network was trained on maps in [0, 1]. With `y = (x + 1) / 2` its noise has half
    the `sigma` of model range, and Tweedie's formula for `y` gives `D = x + sigma^2 output / 2`.
    """

    unit_range: bool = False

    def __str__(self) -> str:
        return "score, maps in [0, 1]" if self.unit_range else "score"


@final
@dataclass(frozen=True, slots=True)
class Edm:
    """Preconditioning of Karras et al. 2022 for data of standard deviation `sigma_data`.

    It keeps input and output of the network at unit variance; `alpha` is 1. The sign of `c_out` is
    the only difference between the two predictions.
    """

    prediction: Literal["epsilon", "v_prediction"]
    sigma_data: float

    def __str__(self) -> str:
        return f"edm {self.prediction}, sigma_data {self.sigma_data!r}"

    def c_in(self, sigma: float) -> float:
        """Factor of the network's input."""
        return 1 / math.hypot(sigma, self.sigma_data)

    def c_skip(self, sigma: float) -> float:
        """Share of the noised map in the estimate."""
        return (self.sigma_data * self.c_in(sigma)) ** 2

    def c_out(self, sigma: float) -> float:
        """Factor of the network's output."""
        size = sigma * self.sigma_data * self.c_in(sigma)
        return size if self.prediction == "epsilon" else -size


Parametrisation = Prediction | Score | Edm
"""What a network takes and what its output means; its `str` is part of a base's digest."""


@final
class PretrainedDenoiser:
    """`E[x0 | x_t]` of a frozen `UNet2DModel`, evaluated without gradients.

    Weights of convolutions are laid out channels last, which they are faster with (by a fifth on
    CPUs, `farfield bench speed --only network`). It changes rounding, and nothing else.

    A network of `channels` 1 sees every channel of a map by itself. It sees maps mirrored beyond
    their right and lower borders up to sides that are multiples of `size_multiple` pixels.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        parametrisation: Parametrisation,
        dtype: torch.dtype = torch.float32,
        channels: int | None = None,
        size_multiple: int = 1,
    ) -> None:
        frozen = network.eval().requires_grad_(False)
        self.network = frozen.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._schedule = schedule
        self._parametrisation: Parametrisation = parametrisation
        self._dtype = dtype
        self._channels, self._multiple = channels, size_multiple

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule the network was trained on."""
        return self._schedule

    def to(self, device: torch.device | str) -> "PretrainedDenoiser":
        """A copy on a device."""
        network = copy.deepcopy(self.network).to(device)
        return PretrainedDenoiser(
            network, self._schedule, self._parametrisation, self._dtype, self._channels,
            self._multiple,
        )  # fmt: skip

    @torch.no_grad()
    def __call__(self, x_t: Maps, t: int, *context: Any) -> Maps:
        """Return `E[x0 | x_t]`; state in float32, network in the dtype given at construction.

        `context` is what `BaseModel.show` returned, for a network that is shown maps.
        """
        alpha, sigma = float(self._schedule.alpha[t]), float(self._schedule.sigma[t])
        match self._parametrisation:
            case Score(unit_range=True):
                return x_t + sigma**2 / 2 * self._output((x_t + 1) / 2, sigma / 2, *context)
            case Score():
                return x_t + sigma**2 * self._output(x_t, sigma, *context)
            case Edm() as edm:
                output = self._output(edm.c_in(sigma) * x_t, math.log(sigma) / 4, *context)
                return edm.c_skip(sigma) * x_t + edm.c_out(sigma) * output
            case prediction:
                output = self._output(x_t, t, *context)
                return clean_from_output(output, x_t, alpha, sigma, prediction)

    def _output(self, x: Maps, time: int | float, *context: Any) -> Maps:
        """The network's output in float32, without the variances that some networks add to it."""
        # A plain number would be uploaded with every call, and cut to a whole one.
        host = getattr(self.network, "host_time", False)
        when = time if host else torch.full((), time, device=x.device)
        plain = self._dtype == torch.float32
        height, width = x.shape[-2:]
        seen = suited(x, self._channels, self._multiple)
        with nullcontext() if plain else torch.autocast(x.device.type, self._dtype):
            output = self.network(seen, when, *context).sample
        means = output[:, : seen.shape[1], :height, :width].reshape(x.shape)
        found: Maps = means.float().contiguous()  # as everything outside is
        return found


@final
class SeveralDenoisers:
    """Frozen networks as one base: the first is asked, unless the context asks another.

    `x_t` and `t` are of the first one's schedule. Another sees the same map, scaled, at that index
    of its own whose noise-to-signal ratio is nearest; where its schedule ends earlier, the last.
    """

    def __init__(self, each: Sequence[PretrainedDenoiser]) -> None:
        self._each = tuple(each)

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule of the first."""
        return self._each[0].schedule

    @property
    def network(self) -> nn.Module:
        """Network of the first."""
        first: nn.Module = self._each[0].network
        return first

    def to(self, device: torch.device | str) -> "SeveralDenoisers":
        """A copy on a device."""
        return SeveralDenoisers([one.to(device) for one in self._each])

    def __call__(self, x_t: Maps, t: int, *context: Any) -> Maps:
        """Return `E[x0 | x_t]` of the network that `BasesContext` names, or of the first."""
        asked = context[0] if context else BasesContext(((),))
        one, own = self._each[asked.number], asked.context[asked.number]
        if asked.number == 0:
            return one(x_t, t, *own)
        ours, theirs = self.schedule, one.schedule
        ratio = ours.noise_to_signal(t)
        above = theirs.index_of(ratio)
        near = min(
            (max(above - 1, 0), above),
            key=lambda i: abs(math.log(theirs.noise_to_signal(i) / ratio)),
        )
        return one(x_t * float(theirs.alpha[near] / ours.alpha[t]), near, *own)


def suited(maps: Maps, channels: int | None, multiple: int) -> Maps:
    """Maps as a network of these channels sees them: `PretrainedDenoiser`."""
    more = [-side % multiple for side in maps.shape[-2:]]
    alone = maps.flatten(0, 1)[:, None] if channels == 1 else maps
    return pad(alone, (0, more[1], 0, more[0]), mode="reflect") if any(more) else alone
