"""Downstream gain: true maps help where real ones are few, wrong labels hurt, and that is said."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ood_core.errors import InputError
from ood_core.evaluation import probes
from ood_core.evaluation.downstream import (
    SEEDS,
    DownstreamResult,
    Labelled,
    Task,
    downstream_gain,
    gaussian_fields,
    inherited,
    mixed,
    multiples,
    trainings,
    turned,
)
from ood_core.evaluation.probes import PROBES, Examples, linear, network
from ood_core.numerics.random import Root
from tests.oracles import fields

SIDE = 16
SLOPES = Task("slope", ("steep", "flat"))


def two_slopes(n: int, seed: int) -> Labelled:
    """Fields of two spectra, of the same variance: only statistics of pairs tell them apart."""
    parts = []
    for number, radius in enumerate((1.0, 0.75)):
        made = fields.gaussian(n // 2, SIDE, fields.smooth(radius), 2 * seed + number)
        parts.append(torch.from_numpy(made / made.std()).float())
    return Labelled(torch.cat(parts), torch.arange(2).repeat_interleave(n // 2).double())


def gained(synthetic: Labelled, task: Task = SLOPES, **known: Labelled) -> DownstreamResult:
    real, held_out = known.get("real", two_slopes(8, 1)), known.get("held_out", two_slopes(80, 2))
    return downstream_gain(
        task, real, held_out, synthetic, ("flip",), Root(5), samples=len(synthetic.labels)
    )


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "STEPS", 12)


@pytest.fixture(scope="module")
def helped() -> DownstreamResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "STEPS", 12)
        return gained(two_slopes(80, 3))


def test_maps_of_the_true_law_help_where_real_ones_are_few(helped: DownstreamResult) -> None:
    most = helped.of("linear", "real+10")
    assert most.helps and not most.hurts and most.gain_low > 0.02
    assert helped.of("linear", "synthetic").score > helped.of("linear", "real").score
    assert most.low <= most.score <= most.high
    assert [helped.of("linear", f"real+{k}").maps for k in (1, 3, 10)] == [16, 32, 88]
    assert helped.summary.startswith("Synthetic maps help a linear model on statistics")


def test_wrong_labels_hurt_and_the_sentence_says_so() -> None:
    wrong = two_slopes(80, 3)
    found = gained(replace(wrong, labels=1 - wrong.labels))
    assert found.of("linear", "real+10").hurts and found.of("linear", "synthetic").score < 0.5
    assert found.summary.startswith("Synthetic maps hurt a linear model")


def test_maps_that_tell_nothing_are_not_called_a_help() -> None:
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.standard_normal((80, 1, SIDE, SIDE))).float()
    found = gained(Labelled(noise, torch.from_numpy(rng.integers(2, size=80)).double()))
    assert not any(found.of(name, "real+10").helps for name in PROBES)
    assert "Synthetic maps do not help" in found.summary or "hurt" in found.summary


def test_real_maps_alone_gain_nothing_and_chance_is_one_half(helped: DownstreamResult) -> None:
    for name in PROBES:
        alone = helped.of(name, "real")
        assert (alone.gain, alone.gain_low, alone.gain_high) == (0, 0, 0)
    assert helped.chance == 0.5 and helped.metric == "balanced accuracy"


def test_trainings_are_counted_as_they_are_done() -> None:
    done: list[int] = []
    downstream_gain(
        SLOPES, two_slopes(8, 1), two_slopes(8, 2), two_slopes(24, 3), (), Root(5), samples=24,
        on_training=done.append,
    )  # fmt: skip
    assert sum(done) == trainings(8, 24) == 2 * SEEDS * 8
    assert multiples(8, 24) == (1, 3) and multiples(8, 7) == ()


def test_values_are_told_by_their_share_of_variance() -> None:
    def bright(n: int, seed: int) -> Labelled:
        level = fields.rng(seed).uniform(-1, 1, n)
        noise = fields.rng(seed + 50).standard_normal((n, 1, SIDE, SIDE))
        return Labelled(
            torch.from_numpy(level[:, None, None, None] + 0.1 * noise).float(),
            torch.from_numpy(level),
        )

    found = gained(bright(30, 3), Task("level"), real=bright(30, 1), held_out=bright(40, 2))
    assert found.metric == "R²" and found.chance == 0
    assert found.of("linear", "real").score > 0.98  # the mean of 256 pixels tells it to 0.006
    # A value drawn at random is no better than the mean: R^2 is -1 on average.
    rows = fields.rng(9).permutation(30)
    shuffled = replace(bright(30, 3), labels=bright(30, 3).labels[rows])
    wrong = gained(shuffled, Task("level"), real=bright(30, 1), held_out=bright(40, 2))
    assert wrong.of("linear", "synthetic").score < 0.2


def test_the_network_learns_what_a_line_on_pixels_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "STEPS", 60)
    # Sign of the field flips at random: stripes up or across, told by shape alone.
    stripes = torch.sin(torch.arange(SIDE) * 1.5)[None, None, :, None].expand(60, 1, SIDE, SIDE)
    signs = torch.from_numpy(fields.rng(1).choice([-1, 1], size=(60, 1, 1, 1)))
    maps, labels = (stripes * signs).clone().float(), torch.arange(60) % 2
    maps[labels == 1] = maps[labels == 1].transpose(-2, -1)
    examples = Examples.of(
        maps + 0.1 * torch.from_numpy(fields.rng(2).standard_normal(maps.shape)), labels
    )
    train, test = examples.taken(np.arange(30)), examples.taken(np.arange(30, 60))
    for learn in (network, linear):
        said = learn(train, test, 2, np.random.default_rng(3))
        assert (said == test.labels).double().mean() > 0.9
    assert not torch.equal(maps[0], maps[1])


def test_a_training_set_of_one_class_says_that_one() -> None:
    examples = Examples.of(two_slopes(8, 1).maps, torch.ones(8))
    assert linear(examples, examples, 3, np.random.default_rng(0)).tolist() == [1.0] * 8


def test_gaussian_fields_keep_power_and_mean_and_nothing_else() -> None:
    maps = torch.exp(two_slopes(6, 1).maps)
    made = gaussian_fields(maps, Root(1), 2)
    modes, own = torch.fft.fft2(made.double()), torch.fft.fft2(maps.double())
    torch.testing.assert_close(modes.abs(), own.abs(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made.mean((-2, -1)), maps.mean((-2, -1)))
    assert not torch.allclose(made, maps, atol=0.1)
    assert not torch.allclose(gaussian_fields(maps, Root(1), 3), made, atol=0.1)


def test_rotations_and_mixtures_keep_their_labels() -> None:
    real = two_slopes(6, 1)
    maps, labels = turned(real, 2, ("rotate90",), Root(1))
    assert maps.shape == (12, 1, SIDE, SIDE) and labels.equal(real.labels.repeat(2))
    # The four pixels about the middle are turned into one another, nearly.
    middle = slice(SIDE // 2 - 1, SIDE // 2 + 1)
    means = [m[..., middle, middle].mean((-2, -1)) for m in (maps[:6], real.maps)]
    assert float((means[0] - means[1]).abs().max()) < 0.3 * float(real.maps.std())
    assert not torch.allclose(maps[:6], real.maps, atol=0.1)
    some, classes = mixed(real, 2, SLOPES, Root(1))
    assert classes.equal(real.labels.repeat(2))
    for row in range(12):  # on the line from its map to another of its class
        alike = real.maps[real.labels == classes[row]].flatten(1)
        parts = torch.linalg.lstsq(alike.T.double(), some[row].flatten()[:, None].double()).solution
        assert float(parts.sum()) == pytest.approx(1, abs=1e-4)
        assert int((parts.abs() > 1e-4).sum()) == 2 and float(parts.min()) > -1e-4
    values = mixed(Labelled(real.maps, torch.arange(6.0)), 3, Task("value"), Root(2))[1]
    assert float(values.min()) >= 0 and float(values.max()) <= 5 and len(values.unique()) > 6


def test_samples_inherit_what_their_parents_share() -> None:
    labels, parents = (
        torch.tensor([0.0, 1.0, 1.0, torch.nan]),
        torch.tensor([[0, 0], [0, 1], [1, 2], [2, 3]]),
    )
    classes = inherited(labels, parents, SLOPES)
    assert classes.nan_to_num(9).tolist() == [0, 9, 1, 9]
    assert inherited(labels, parents, Task("v")).nan_to_num(9).tolist() == [0, 0.5, 1, 9]


def test_a_record_comes_back_from_json(helped: DownstreamResult) -> None:
    record = json.loads(json.dumps(helped.to_json(), allow_nan=False))
    assert DownstreamResult.from_json(record) == helped
    with pytest.raises(InputError, match="another version"):
        DownstreamResult.from_json({**record, "task": None})


@pytest.mark.parametrize(
    ("real", "held_out", "synthetic", "words"),
    [
        (two_slopes(2, 1), two_slopes(8, 2), two_slopes(8, 3), "got 2 fit targets"),
        (two_slopes(8, 1), two_slopes(2, 2), two_slopes(8, 3), "got 2 held-out targets"),
        (two_slopes(8, 1), two_slopes(8, 2), two_slopes(6, 3), "got 6 synthetic maps"),
        (replace(two_slopes(8, 1), labels=torch.zeros(8)), two_slopes(8, 2), two_slopes(8, 3),
         "got one label"),
    ],
)  # fmt: skip
def test_too_little_is_refused(
    real: Labelled, held_out: Labelled, synthetic: Labelled, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        gained(synthetic, real=real, held_out=held_out)
