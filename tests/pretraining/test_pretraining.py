"""Training of a base: a function of the spec and the step, resumed exactly; dead leaves."""

import io
import itertools
import math

import pytest
import torch

from ood_core.config.pretraining import PretrainSpec
from ood_core.pretraining.domains import dead_leaves
from ood_core.pretraining.trainer import TrainingState, learning_rate, start, train

SPEC = PretrainSpec(
    name="tiny",
    size=8,
    widths=(16, 16),
    attention=(False, False),
    norm_groups=8,
    steps=6,
    batch=2,
)


def parameters(state: TrainingState) -> list[torch.Tensor]:
    return [*state.network.state_dict().values(), *state.average.state_dict().values()]


@pytest.fixture(scope="module")
def unbroken() -> tuple[TrainingState, list[float]]:
    state = start(SPEC)
    return state, list(train(SPEC, state))


@pytest.mark.parametrize("stop", [1, 4])
def test_stopped_and_resumed_equals_unbroken(
    unbroken: tuple[TrainingState, list[float]], stop: int
) -> None:
    first, losses = start(SPEC), []
    for loss in train(SPEC, first):
        losses.append(loss)
        if first.step == stop:
            break
    file = io.BytesIO()
    torch.save(first.as_dict(), file)
    file.seek(0)
    torch.manual_seed(12345)  # ambient randomness plays no part
    second = start(SPEC)
    second.load_dict(torch.load(file, weights_only=True))
    losses += list(train(SPEC, second))
    state, expected = unbroken
    assert losses == expected
    assert second.step == SPEC.steps
    assert all(
        torch.equal(a, b) for a, b in zip(parameters(second), parameters(state), strict=True)
    )


def test_another_seed_is_another_training(unbroken: tuple[TrainingState, list[float]]) -> None:
    other = PretrainSpec(
        name="tiny", seed=1, size=8, widths=(16, 16), attention=(False, False), steps=1, batch=2
    )
    assert next(iter(train(other, start(other)))) != unbroken[1][0]


def test_starting_leaves_ambient_randomness_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    start(SPEC)
    assert torch.equal(torch.rand(2), expected)


def test_a_finished_training_does_nothing(unbroken: tuple[TrainingState, list[float]]) -> None:
    assert list(train(SPEC, unbroken[0])) == []


def test_the_average_lags_behind_the_weights(unbroken: tuple[TrainingState, list[float]]) -> None:
    begin, state = start(SPEC), unbroken[0]
    moved = averaged = 0.0
    for a, b, c in zip(
        begin.network.parameters(),
        state.network.parameters(),
        state.average.parameters(),
        strict=True,
    ):
        moved += float((b - a).detach().square().sum())
        averaged += float((c - a).detach().square().sum())
    assert 0 < averaged < moved
    assert not any(p.requires_grad for p in state.average.parameters())


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_other_parametrisations_train(prediction: str) -> None:
    spec = PretrainSpec(
        name="tiny",
        size=8,
        widths=(16, 16),
        attention=(False, False),
        steps=2,
        batch=2,
        prediction=prediction,
    )
    assert all(math.isfinite(loss) and loss > 0 for loss in train(spec, start(spec)))


def test_learning_rate_warms_up_and_ends_at_a_hundredth() -> None:
    spec = PretrainSpec(name="long", steps=1000, rate=4e-4)
    assert learning_rate(spec, 0) == pytest.approx(4e-4 / 20)
    assert learning_rate(spec, 19) == pytest.approx(4e-4)
    assert learning_rate(spec, 20) == pytest.approx(4e-4)
    assert learning_rate(spec, 510) == pytest.approx(4e-4 * 0.505)
    # The last step is one step short of the end of the cosine: 0.99 pi^2 / 4 / 980^2.
    assert learning_rate(spec, 999) == pytest.approx(4e-6, rel=1e-3)
    rates = [learning_rate(spec, step) for step in range(1000)]
    assert rates.index(max(rates)) in (19, 20)
    assert all(a >= b for a, b in itertools.pairwise(rates[20:]))


def test_dead_leaves_are_a_function_of_root_and_batch() -> None:
    maps = dead_leaves(1, 2, 4, 16)
    torch.manual_seed(9)
    assert torch.equal(maps, dead_leaves(1, 2, 4, 16))
    assert not torch.isclose(maps, dead_leaves(1, 3, 4, 16)).all()
    assert not torch.isclose(maps, dead_leaves(2, 2, 4, 16)).all()


@pytest.mark.parametrize("size", [8, 32])
def test_dead_leaves_lie_in_model_range_and_are_not_flat(size: int) -> None:
    maps = dead_leaves(5, 0, 16, size)
    assert (maps.shape, maps.dtype) == ((16, 1, size, size), torch.float32)
    assert float(maps.min()) >= -1
    assert float(maps.max()) <= 1
    assert float(maps.flatten(1).std(1).min()) > 0.02
    assert float(maps.std()) > 0.2


def test_dead_leaves_have_the_same_law_at_every_size() -> None:
    """A leaf is placed in units of the side: a larger frame is the same scene, finer."""
    coarse, fine = dead_leaves(5, 0, 16, 16), dead_leaves(5, 0, 16, 64)
    shrunk = torch.nn.functional.avg_pool2d(fine, 4)
    rows = torch.stack([coarse.flatten(), shrunk.flatten()])
    assert float(torch.corrcoef(rows)[0, 1]) > 0.9
    other = torch.stack([coarse.flatten(), shrunk.roll(1, 0).flatten()])
    assert float(torch.corrcoef(other)[0, 1]) < 0.5  # negative control: another scene
