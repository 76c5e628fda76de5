"""Fine-tuning of a network of one weight, whose training has a closed form."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.rivals.fine_tuning import FineTuning, tune
from ood_core.config.pretraining import PretrainSpec
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.errors import BaseModelError
from ood_core.models.loading import BaseModel
from ood_core.models.pretrained import PretrainedDenoiser
from ood_core.numerics.random import SeedRange
from ood_core.pretraining.trainer import learning_rate
from tests.contracts.baseline import BaselineContract
from tests.fields import SIZE


class Constant(nn.Module):
    """Returns `level` everywhere, whatever its input."""

    def __init__(self, level: float = 0.0) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level))

    def forward(self, x: torch.Tensor, t: object) -> SimpleNamespace:
        return SimpleNamespace(sample=self.level.expand_as(x))


def base(network: nn.Module, prediction: str = "sample") -> BaseModel:
    denoiser = PretrainedDenoiser(network, NoiseSchedule.linear(), "sample")
    return BaseModel(denoiser, "digest", 1, SIZE, 1, prediction, (), "toy", 1)


def constant(*levels: float) -> torch.Tensor:
    return torch.tensor(levels)[:, None, None, None].expand(-1, 1, 4, 4)


def how(**changes: float) -> FineTuning:
    settings = dict(evaluations=10**6, batch=2, every=5, patience=3, rate=0.01)
    return FineTuning(base=base(Constant()), **{**settings, **changes})


def averaged(steps: int, ema: float) -> float:
    """AdamW on `(level - 1)^2` with the trainer's rates, and its running mean; written apart."""
    spec = PretrainSpec(name="x", steps=steps, batch=2, rate=0.01, ema=ema)
    level = mean = first = second = 0.0
    for step in range(steps):
        gradient = float(np.clip(2 * (level - 1), -1, 1))  # the norm is clipped at 1
        rate = learning_rate(spec, step)
        level *= 1 - 0.01 * rate
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        unbiased = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        level -= rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
        decay = min(ema, (2 + step) / (11 + step))
        mean = decay * mean + (1 - decay) * level
    return mean


def test_the_average_is_its_closed_form() -> None:
    settings = how(evaluations=20 * (1 + 2) * 2 + 4 * 4)  # 4 checks of 1 map at 4 levels: 20 steps
    tuned = tune(settings, constant(1, 1, 1, 1), (), 0)
    assert tuned.steps == tuned.best_step == 20
    found = float(dict(tuned.network.named_parameters())["level"])
    assert found == pytest.approx(averaged(20, settings.ema), rel=1e-5)  # float32 over 20 steps
    assert tuned.losses[-1] == pytest.approx((1 - found) ** 2, rel=1e-5)


def test_it_stops_when_left_out_maps_get_worse_and_returns_the_base() -> None:
    tuned = tune(how(), constant(1, 1, 1, -1), (), 0)  # every fourth is left out
    assert (tuned.steps, tuned.best_step) == (15, 0)
    assert float(dict(tuned.network.named_parameters())["level"]) == 0
    assert list(tuned.losses) == sorted(tuned.losses)


def test_the_budget_bounds_the_evaluations() -> None:
    for budget in (1000, 2000):
        spent = tune(how(evaluations=budget), constant(1, 1, 1, 1), (), 0).evaluations
        assert budget - 34 - 4 < spent <= budget + 4  # a block of 5 steps and a check is 34


def test_the_base_stays_as_it_is() -> None:
    settings = how(evaluations=1)
    before = copy.deepcopy(settings.base.denoiser.network.state_dict())
    tune(settings, constant(1, 1, 1, 1), (), 0)
    assert settings.base.denoiser.network.state_dict() == before


def test_other_bases_are_refused() -> None:
    settings = FineTuning(base=base(Constant(), "edm epsilon, sigma_data 0.5"), evaluations=1)
    with pytest.raises(BaseModelError, match="linear schedule"):
        tune(settings, constant(1, 1, 1, 1), (), 0)


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor, t: object) -> SimpleNamespace:
        return SimpleNamespace(sample=self.layer(x))


class TestFineTuning(BaselineContract):
    needed = 4

    @pytest.fixture
    def method(self) -> FineTuning:
        return FineTuning(base=base(Convolution()), evaluations=200, batch=2, every=2)

    def test_evaluations_of_sampling_are_counted(
        self, method: FineTuning, targets: torch.Tensor
    ) -> None:
        assert method(targets, (), SeedRange(0, 0, 3)).nfe == 3 * 21
