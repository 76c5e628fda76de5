"""Fields larger than the targets: their size, their borders and what they are a function of."""

import numpy as np
import pytest
import torch

import ood_core as ff
from ood_core.errors import InputError
from ood_core.synthesis.fields import FieldMaker
from tests.fields import smooth_fields


@pytest.fixture(scope="module")
def targets():
    return ff.TargetSet.from_arrays(smooth_fields(24))


@pytest.fixture(scope="module")
def synth(base, targets):
    method = ff.Method(steps=4, steering=None, calibration=ff.CalibrationSpec(draws=1, patches=0))
    model = ff.load_model(str(base))
    return ff.Synthesizer(model, method, batch=7).fit(targets, progress=False)


def seam(field: np.ndarray, period: int) -> float:
    """Mean step from column to column across borders, over that everywhere."""
    steps = np.abs(np.diff(field, axis=1)).mean(axis=0)
    return float(steps[period - 1 :: period].mean() / steps.mean())


def test_fields_of_any_size_without_seams(synth, targets):
    """The control: 64 maps laid side by side have seams, 1.36 with a spread of 0.034 by seed."""
    field = synth.field(41, 50)
    assert field.shape == (1, 41, 50) and field.dtype == np.float32 and np.isfinite(field).all()
    tiled = np.concatenate(list(synth.sample(64, progress=False)[:, 0]), axis=1)
    assert seam(field[0], 8) < 1.15 and seam(tiled, 16) > 1.2
    assert 0.4 < field.std() / targets.values.std() < 2.5


def test_a_field_is_a_function_of_its_number(synth, capsys):
    one = synth.field(32, 32, number=1, progress=False)
    assert capsys.readouterr().err == ""  # and with a bar, by default:
    assert np.array_equal(one, synth.field(32, 32, number=1))
    assert "denoising" in capsys.readouterr().err
    assert not np.allclose(one, synth.field(32, 32, number=2))


def test_opposite_borders_of_a_periodic_field_continue_one_another(synth):
    """The control: a field that is not periodic, rolled the same way."""

    def at_the_border(field):
        steps = np.abs(np.diff(np.roll(field[0], 8, axis=1), axis=1)).mean(axis=0)
        return steps[7] / np.delete(steps, 7).mean()

    # Means of three: one field's step may be no larger by chance, as that of number 0 is.
    closed, open_ = (
        sum(at_the_border(synth.field(64, 64, number=n, periodic=periodic)) for n in range(3)) / 3
        for periodic in (True, False)
    )
    assert closed < 1.2 and open_ > 1.3


def test_fields_are_steered_under_the_weights_of_windows_and_samples_are_not(base, targets):
    """What a pixel at a border is, which has hardly any weight, no aim of a field can tell."""
    method = ff.Method(steps=2, calibration=ff.CalibrationSpec(draws=1, patches=0))
    synth = ff.Synthesizer(ff.load_model(str(base)), method, batch=4).fit(targets, progress=False)
    samples, sampler = synth.sample(4, progress=False), synth._fit.sampler
    maker = FieldMaker(synth._fit.pipeline, sampler, 4)
    assert np.isfinite(synth.field(16, 24, progress=False)).all()
    assert np.array_equal(samples, synth.sample(4, progress=False))
    maps = targets.fit_ranged[:3]
    lit = maps.clone()
    lit[..., 0, :] += 1  # of weight sin^2(pi / 32) = 0.0096
    own, others = (s._statistics.by_name(lit)["mean"] for s in (maker._sampler, sampler))
    before, plain = (s._statistics.by_name(maps)["mean"] for s in (maker._sampler, sampler))
    # A row is 1/16 of a map; under the weights, whose mean along it is 1/2, 0.0096 / 32 of one.
    assert (others - plain).allclose(torch.full((3, 1), 1 / 16), atol=1e-5)
    assert (own - before).allclose(torch.full((3, 1), 0.0096 / 32), atol=1e-5)


@pytest.mark.parametrize(
    ("size", "number", "periodic"),
    [((8, 16), 0, False), ((16, 16), -1, False), ((16, 20), 0, True)],
)
def test_a_size_that_cannot_be_is_refused(synth, size, number, periodic):
    with pytest.raises(InputError, match="field: got"):
        synth.field(*size, number=number, periodic=periodic)


def test_targets_that_are_not_the_same_everywhere_are_refused(base):
    """Maps that are bright in their centres."""
    bump = np.zeros((16, 16), np.float32)
    bump[6:10, 6:10] = 10
    targets = ff.TargetSet.from_arrays(smooth_fields(24) + bump)
    method = ff.Method(steps=4, steering=None, calibration=ff.CalibrationSpec(draws=1, patches=0))
    synth = ff.Synthesizer(ff.load_model(str(base)), method).fit(targets, progress=False)
    with pytest.raises(InputError, match="mean map varies by"):
        synth.field(32, 32)
