"""Fine-tuning: the base is trained on the targets, with averaged weights and an early stop.

The loss is that of pretraining (`ood_core.pretraining.trainer`). Every fourth target is left out;
the others, each time under a random symmetry, make the batches. Every few steps the averaged
weights are scored on noised maps that were left out, always the same ones. The weights that do best
are kept, and training ends when none have done better for a while, or when its budget is spent: it
counts network evaluations of single maps, a step forward and backward as three.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from benchmarks.rivals.baseline import Made, draw_images, parts, require_targets
from ood_core.arrays import Maps
from ood_core.config.pretraining import Prediction, PretrainSpec
from ood_core.config.targets import Symmetry
from ood_core.diffusion.denoiser import training_target
from ood_core.diffusion.sampling import decode
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.diffusion.solvers import CountingDenoiser
from ood_core.errors import BaseModelError
from ood_core.models.loading import BaseModel
from ood_core.models.pretrained import PretrainedDenoiser
from ood_core.numerics.random import SeedRange, Stream, normal, root_key
from ood_core.pretraining.trainer import (
    LOG_NOISE_MEAN,
    LOG_NOISE_SPREAD,
    train,
    training_of,
)

BACKWARD = 2  # evaluations that a backward pass costs
NOISE_OFFSETS = (-1.5, -0.5, 0.5, 1.5)  # of left-out maps, in spreads of the training's log noise
MIN_NOISE = 0.05  # of the last step of sampling
LEFT_OUT = 4  # every fourth target


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FineTuning:
    """`evaluations` is the budget of the training; left-out maps are scored `every` steps.

    Sampling starts from white noise at the last timestep and takes `sampling_steps` ancestral
    steps.
    """

    base: BaseModel
    evaluations: int
    rate: float = 4e-4
    batch: int = 16
    ema: float = 0.98
    every: int = 10
    patience: int = 5
    sampling_steps: int = 20

    def __call__(self, targets: Maps, symmetries: Sequence[Symmetry], seeds: SeedRange) -> Made:
        """Tune once, then make one map per seed; see `Baseline`.

        Raises:
            BaseModelError: a base of codes, or of another schedule than that of pretraining.
        """
        tuned = tune(self, targets, symmetries, seeds.root)
        schedule = self.base.denoiser.schedule
        steps, t_min = self.sampling_steps, schedule.index_of(MIN_NOISE)
        grid = schedule.log_snr_grid(steps + 1, len(schedule) - 1, t_min)
        denoiser = CountingDenoiser(
            PretrainedDenoiser(tuned.network, schedule, prediction_of(self.base))
        )
        shape = targets.shape[1:]
        made = [
            decode(denoiser, "ancestral", normal(part, shape), grid, part) for part in parts(seeds)
        ]
        return Made(torch.cat(made), denoiser.nfe, tuned.notes)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """The averaged network of the best check; `losses` are those of left-out maps, step 0 first."""

    network: nn.Module
    losses: tuple[float, ...]
    steps: int
    best_step: int
    evaluations: int

    @property
    def notes(self) -> dict[str, float]:
        """Figures for the table."""
        return {
            "steps": self.steps,
            "best_step": self.best_step,
            "tuning_evaluations": self.evaluations,
            "left_out_loss_before": self.losses[0],
            "left_out_loss": min(self.losses),
        }


def tune(how: FineTuning, targets: Maps, symmetries: Sequence[Symmetry], root: int) -> Tuned:
    """Train until nothing improves or the budget is spent.

    Raises:
        TargetError: fewer than 4 targets.
        BaseModelError: a base of codes, or of another schedule than that of pretraining.
    """
    require_targets(targets, LEFT_OUT)
    prediction = prediction_of(how.base)
    left_out = targets[LEFT_OUT - 1 :: LEFT_OUT]
    kept = torch.ones(len(targets), dtype=torch.bool)
    kept[LEFT_OUT - 1 :: LEFT_OUT] = False
    check = len(left_out) * len(NOISE_OFFSETS)
    block = how.every * (1 + BACKWARD) * how.batch + check
    spec = PretrainSpec(
        name="fine-tuning", seed=root, steps=max(1, how.evaluations // block) * how.every,
        batch=how.batch, rate=how.rate, ema=how.ema, prediction=prediction,
    )  # fmt: skip
    state = training_of(spec, copy.deepcopy(how.base.denoiser.network).requires_grad_(True))

    def draw(step: int) -> Maps:
        seeds = SeedRange(root, step * how.batch, (step + 1) * how.batch)
        return draw_images(targets[kept], symmetries, seeds)[:, 0]

    losses = [left_out_loss(state.average, left_out, prediction, root)]
    best, best_step = _weights(state.average), 0
    for _ in train(spec, state, draw):
        if state.step % how.every:
            continue
        losses.append(left_out_loss(state.average, left_out, prediction, root))
        if losses[-1] < min(losses[:-1]):
            best, best_step = _weights(state.average), state.step
        elif state.step - best_step >= how.patience * how.every:
            break
    state.average.load_state_dict(best)
    spent = state.step // how.every * block + check
    return Tuned(state.average, tuple(losses), state.step, best_step, spent)


@torch.no_grad()
def left_out_loss(network: nn.Module, maps: Maps, prediction: Prediction, root: int) -> float:
    """Mean squared error of the network's own target, on noised maps that stay the same."""
    schedule, losses = NoiseSchedule.linear(), []
    noise_root = root_key(f"{root}/left out")
    for number, offset in enumerate(NOISE_OFFSETS):
        t = schedule.index_of(math.exp(LOG_NOISE_MEAN + LOG_NOISE_SPREAD * offset))
        alpha, sigma = schedule.alpha[t].float(), schedule.sigma[t].float()
        seeds = SeedRange(noise_root, number * len(maps), (number + 1) * len(maps))
        eps = normal(seeds, maps.shape[1:], stream=Stream.TRAINING)
        output = network(alpha * maps + sigma * eps, t).sample
        target = training_target(maps, eps, alpha, sigma, prediction)
        losses.append(float((output - target).square().mean()))
    return sum(losses) / len(losses)


def prediction_of(base: BaseModel) -> Prediction:
    """Return what the network predicts, where pretraining can go on with it.

    Raises:
        BaseModelError: a base of codes, or of another schedule than that of pretraining.
    """
    schedule, linear = base.denoiser.schedule, NoiseSchedule.linear()
    same = len(schedule) == len(linear) and torch.allclose(schedule.alpha, linear.alpha)
    known = base.prediction in ("epsilon", "v_prediction", "sample")
    if base.codes is not None or not (same and known):
        raise BaseModelError(
            f"{base.source}: got a base of prediction {base.prediction}; fine-tuning goes on with "
            "bases of pixels on the linear schedule of DDPM only: choose another base"
        )
    return cast(Prediction, base.prediction)


def _weights(network: nn.Module) -> dict[str, Any]:
    state: dict[str, Tensor] = network.state_dict()
    return {name: value.clone() for name, value in state.items()}
