"""A network tells sets that differ and where, and does not tell halves of one set."""

import pytest
import torch

from ood_core.errors import TargetError
from ood_core.metrics.convolutional import MIN_MAPS, convolutional_test
from ood_core.numerics.random import Root
from tests.strategies import randn

ROOT = Root.of("convolutional")
SIDE = 20


def maps(count: int, seed: int) -> torch.Tensor:
    return randn(count, 1, SIDE, SIDE, seed=seed).float()


def smooth(noise: torch.Tensor) -> torch.Tensor:
    return (noise + noise.roll(1, -1)) / 2**0.5  # same mean and spread of every pixel


def test_sets_of_another_texture_are_told_where_they_have_it() -> None:
    """The upper halves differ; the lower ones, and all one-point statistics, do not."""
    first, second = maps(80, 1), maps(80, 2)
    first[:, :, : SIDE // 2] = smooth(maps(80, 3))[:, :, : SIDE // 2]
    told = convolutional_test(first, second, ("flip",), ROOT)
    assert told.found.value > 0.9 and told.found.p_value < 1e-6
    assert told.where.shape == (80, 6, 6)
    upper, lower = told.where[:, :2].mean(), told.where[:, 4:].mean()
    assert float(upper) > 0 and float(upper - lower) > 3 * float(lower.abs())
    torch.testing.assert_close(told.logits, told.where.mean((1, 2)))
    again = convolutional_test(first, second, ("flip",), ROOT)
    assert torch.equal(again.where, told.where)


def test_halves_of_one_set_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four tests at level 0.05: more than two rejections have a probability of 0.0005."""
    monkeypatch.setattr("ood_core.metrics.convolutional.STEPS", 30)  # the level holds for any
    p = [
        convolutional_test(maps(40, 2 * i), maps(40, 2 * i + 1), (), ROOT.child(str(i))).found
        for i in range(4)
    ]
    assert sum(found.p_value <= 0.05 for found in p) <= 2
    assert 0.4 < sum(found.value for found in p) / 4 < 0.6  # 320 answers: 3.6 of 0.028


def test_too_few_maps_are_refused() -> None:
    with pytest.raises(TargetError, match="got maps of 11 pixels"):
        convolutional_test(maps(40, 1)[..., :11], maps(40, 2)[..., :11], (), ROOT)
    with pytest.raises(TargetError, match=f"got 31 maps in a set; expected at least {MIN_MAPS}"):
        convolutional_test(maps(31, 1), maps(40, 2), (), ROOT)
