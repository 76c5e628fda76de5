"""Training of a base: one pure step after another, a function of the spec and the step number.

Loss: mean squared error of the network's own target (v-prediction by default; Salimans & Ho 2022),
with `ln(sigma/alpha)` drawn from a normal distribution (Karras et al. 2022, section 5) instead of a
uniform time index, since the linear schedule spends half its indices where maps are all but gone.
Weights are averaged exponentially with a warm-up (Karras et al. 2024, section 3.1, in its simplest
form).

Several workers take equal shares of every batch. The mean of their gradients is the gradient of the
whole batch, so that their number changes rounding alone.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from ood_core.arrays import Maps
from ood_core.config.pretraining import PretrainSpec
from ood_core.diffusion.denoiser import training_target
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.models.networks import make_unet
from ood_core.numerics.random import Stream, generator
from ood_core.pretraining.domains import Draw, training_stream

LOG_NOISE_MEAN, LOG_NOISE_SPREAD = -0.5, 1.6


@final
@dataclass(slots=True)
class TrainingState:
    """Everything that a resumed training needs; `step` batches have been learnt."""

    network: nn.Module
    average: nn.Module
    optimiser: torch.optim.Optimizer
    step: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return tensors and numbers only, so that `torch.load(weights_only=True)` reads it."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
        }

    def load_dict(self, saved: dict[str, Any]) -> None:
        """Restore what `as_dict` returned."""
        self.network.load_state_dict(saved["network"])
        self.average.load_state_dict(saved["average"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.step = int(saved["step"])


@final
@dataclass(frozen=True, slots=True)
class Share:
    """The rows `rank::of` of every batch, and how the network's gradients are shared."""

    rank: int = 0
    of: int = 1
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network


def start(spec: PretrainSpec, device: torch.device | str = "cpu") -> TrainingState:
    """Initialise network, average and optimiser from the spec's seed."""
    with torch.random.fork_rng():
        torch.manual_seed(spec.seed)
        network = make_unet(
            spec.size, 1, spec.widths, spec.layers, spec.attention, spec.norm_groups, spec.patch
        )
    return training_of(spec, network.to(device))


def go_on_from(spec: PretrainSpec, weights: dict[str, Tensor]) -> TrainingState:
    """Initialise a training from the weights of a base of the same shape.

    Raises:
        RuntimeError: names or shapes differ.
    """
    state = start(spec)
    state.network.load_state_dict(weights)
    return training_of(spec, state.network)


def train(
    spec: PretrainSpec, state: TrainingState, draw: Draw | None = None, share: Share | None = None
) -> Iterator[float]:
    """Advance the state to the spec's last step, yielding each step's loss over the share.

    `draw` gives the maps of a batch number; by default the recipe's own stream.
    """
    share = share or Share()
    draw = draw or training_stream(spec)
    network = share.wrap(state.network)
    while state.step < spec.steps:
        yield _step(spec, state, network, draw(state.step), share)


def learning_rate(spec: PretrainSpec, step: int) -> float:
    """Linear warm-up over 2 % of the steps, then cosine decay to 1 % of the peak."""
    warm = max(1, spec.steps // 50)
    if step < warm:
        return spec.rate * (step + 1) / warm
    progress = (step - warm) / max(1, spec.steps - warm)
    return spec.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def training_of(spec: PretrainSpec, network: nn.Module) -> TrainingState:
    """Begin a training of a network, whose weights it changes in place."""
    average = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(network.parameters(), lr=spec.rate, weight_decay=0.01)
    return TrainingState(network.train(), average, optimiser)


def _step(
    spec: PretrainSpec, state: TrainingState, network: nn.Module, x0: Maps, share: Share
) -> float:
    schedule = NoiseSchedule.linear()
    t, eps = _noise(spec, schedule, state.step, tuple(x0.shape))
    device = next(state.network.parameters()).device
    rows = slice(share.rank, None, share.of)
    x0, t, eps = (part[rows].to(device, non_blocking=True) for part in (x0, t, eps))
    alpha, sigma = (s.float().to(device)[t, None, None, None] for s in _scales(schedule))
    with torch.autocast(device.type, torch.bfloat16, spec.dtype == "bfloat16"):
        output = network(alpha * x0 + sigma * eps, t).sample
    target = training_target(x0, eps, alpha, sigma, spec.prediction)
    loss = torch.nn.functional.mse_loss(output.float(), target)
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(spec, state.step)
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), 1.0)
    state.optimiser.step()
    state.step += 1
    _average(spec, state)
    return float(loss.detach())


def _noise(
    spec: PretrainSpec, schedule: NoiseSchedule, step: int, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Time indices and noise of one whole batch."""
    rng = generator(spec.seed, step, attempt=1, stream=Stream.TRAINING)
    wanted = np.exp(LOG_NOISE_MEAN + LOG_NOISE_SPREAD * rng.standard_normal(shape[0]))
    ratio = (schedule.sigma / schedule.alpha).numpy()
    t = torch.from_numpy(np.searchsorted(ratio, wanted).clip(0, len(ratio) - 1))
    return t, torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def _scales(schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    return schedule.alpha, schedule.sigma


@torch.no_grad()
def _average(spec: PretrainSpec, state: TrainingState) -> None:
    decay = min(spec.ema, (1 + state.step) / (10 + state.step))
    for mean, value in zip(state.average.parameters(), state.network.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)
