"""Training on workers: shares add up to the whole, kills cost nothing, bases are gone on from."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from actors.training import run_training
from ood_core.config.pretraining import PretrainSpec
from ood_core.errors import BaseModelError, ConfigError, IdentityRefused
from ood_core.models.networks import save_base
from ood_core.pretraining.trainer import Share, TrainingState, start, train
from ood_core.store.training import TrainingFolder

SPEC = PretrainSpec(
    name="tiny", size=8, widths=(16, 16), attention=(False, False), steps=4, batch=4
)


def distance(a: TrainingState, b: TrainingState) -> float:
    pairs = zip(a.average.parameters(), b.average.parameters(), strict=True)
    return max(float((x - y).abs().max()) for x, y in pairs)


def travelled(state: TrainingState) -> float:
    return distance(state, start(SPEC))


def test_shares_of_a_batch_add_up_to_its_gradient() -> None:
    """Mean of the shares' losses is the whole batch's; equal shares, so to rounding alone."""
    whole = next(iter(train(SPEC, start(SPEC))))
    parts = [next(iter(train(SPEC, start(SPEC), share=Share(rank, 2)))) for rank in (0, 1)]
    assert parts[0] != parts[1]
    assert sum(parts) / 2 == pytest.approx(whole, rel=1e-5)


@pytest.mark.actors
def test_two_workers_train_as_one(tmp_path: Path) -> None:
    """Gradients are averaged; sums in another order change Adam's first steps by rounding.

    Adam divides by the gradient's own size, so that a parameter with a tiny gradient may move by
    another fraction of the rate; the bound is a hundredth of the way that one worker travels.
    """
    pytest.importorskip("ray.train", reason="needs the train extra")
    from actors.ray_training import train_on_workers

    alone = run_training(SPEC, tmp_path / "one", "commit", "cpu")
    train_on_workers(SPEC, tmp_path / "two", "commit", 2, gpu=False)
    folder = TrainingFolder(tmp_path / "two")
    together = start(SPEC)
    folder.restore(together, folder.open_record(SPEC, "commit"))
    assert together.step == SPEC.steps
    assert distance(alone, together) < 0.01 * travelled(alone)
    with pytest.raises(ConfigError, match="multiple of 3 workers"):
        train_on_workers(SPEC, tmp_path / "three", "commit", 3, gpu=False)


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    unbroken = run_training(SPEC, tmp_path / "a", "commit", "cpu")
    half, folder = start(SPEC), TrainingFolder(tmp_path / "b")
    record = folder.open_record(SPEC, "commit")
    for _ in train(SPEC, half):
        if half.step == 2:
            break
    folder.save(half, record)
    resumed = run_training(SPEC, tmp_path / "b", "commit", "cpu")
    assert distance(resumed, unbroken) == 0
    with pytest.raises(IdentityRefused, match="rate"):
        run_training(replace(SPEC, rate=1e-3), tmp_path / "b", "commit", "cpu")


def test_a_base_can_be_gone_on_from(tmp_path: Path) -> None:
    trained = run_training(SPEC, tmp_path / "work", "commit", "cpu")
    save_base(trained.average, SPEC.prediction, tmp_path / "base")
    more = replace(SPEC, start_from=str(tmp_path / "base"), steps=1, rate=1e-9)
    went_on = run_training(more, tmp_path / "more", "commit", "cpu")
    # Weights are stored in half precision: 2^-11 of weights of order one.
    assert distance(went_on, trained) < 1e-3 < travelled(trained)
    wide = replace(more, widths=(32, 16))
    with pytest.raises(BaseModelError, match="another shape"):
        run_training(wide, tmp_path / "wide", "commit", "cpu")


def test_half_precision_trains_to_nearly_the_same(tmp_path: Path) -> None:
    full = list(train(SPEC, start(SPEC)))
    half = list(train(replace(SPEC, dtype="bfloat16"), start(SPEC)))
    assert half != full
    assert half == pytest.approx(full, rel=0.05)  # bfloat16 keeps 8 bits, 0.4 % per operation
    assert all(p.dtype == torch.float32 for p in start(SPEC).network.parameters())
