"""Cubes: the law along the axis is recovered, whites stay white, and slices stay samples."""

import numpy as np
import pytest
import torch

import ood_core as ff
from ood_core.errors import InputError
from ood_core.numerics.random import SeedRange, Stream, normal, normals
from ood_core.synthesis.cubes import AlongAxis, AxisLaw, correlations, octaves

SIDE, LENGTH = 16, 3.0
AR = float(np.exp(-1 / LENGTH))


def cubes(count: int, depth: int, seed: int = 0, length: float = LENGTH) -> torch.Tensor:
    """White maps whose pixels are AR(1) along the axis: correlation `exp(-lag / length)`."""
    law = AxisLaw(torch.full((4,), length).double(), torch.ones(4).double())
    whole = [
        normal(SeedRange(seed, i, i + depth, AlongAxis(law, range(i, i + depth))), (1, SIDE, SIDE))
        for i in range(0, count * depth, depth)
    ]
    return torch.stack(whole)


def test_every_mode_has_its_octave():
    """The mean and one wave, two, three to five, six and more of a map of 16 px."""
    found = octaves(16, 16)
    assert [int(found[0, k]) for k in range(9)] == [0, 0, 1, 2, 2, 2, 3, 3, 3]
    assert int(found[1, 1]) == 0 and int(found[2, 2]) == 1


def test_mixed_whites_have_the_stated_covariance():
    """Exactly: mixing unit vectors gives a root of the matrix of correlations, octave by octave."""
    law = AxisLaw(torch.tensor([9.0, 4, 2, 0.5]).double(), torch.tensor([2, 1.5, 1, 0.5]).double())
    mix, waves = AlongAxis(law, range(6)), torch.arange(SIDE) / SIDE
    lags = torch.arange(6)[:, None] - torch.arange(6)
    for octave, wave in enumerate((1, 2, 4, 7)):
        shape = torch.cos(2 * torch.pi * wave * waves).expand(1, SIDE, SIDE).double()
        unit = torch.eye(6).double()[:, :, None, None, None] * shape / shape.norm()
        roots = torch.stack([(mix(row) * shape / shape.norm()).sum((1, 2, 3)) for row in unit])
        wanted = (-((lags.abs() / law.length[octave]) ** law.power[octave])).exp()
        assert torch.allclose(roots @ roots.T, wanted, atol=1e-9)
        assert torch.allclose((roots @ roots.T).diagonal(), torch.ones(6).double(), atol=1e-9)


def test_some_rows_are_those_of_the_whole():
    """As for parts of a batch; normals without mixing are what they were."""
    law = AxisLaw(torch.full((4,), 3.0).double(), torch.ones(4).double())
    mixing, shape = AlongAxis(law, range(8, 16)), (1, SIDE, SIDE)
    whole = normals(SeedRange(1, 8, 16, mixing), shape, (0, 5), Stream.SOLVER)
    part = normals(SeedRange(1, 10, 13, mixing), shape, (0, 5), Stream.SOLVER)
    assert torch.equal(whole[:, 2:5], part)
    assert torch.equal(normal(SeedRange(1, 8, 16), (3,)), normal(SeedRange(1, 0, 16), (3,))[8:])


def test_a_known_law_is_recovered():
    """Correlation of an AR(1) at lag 1: its standard error over `n` pairs is below `1 / sqrt(n)`.

    With 8 cubes of 8 slices an octave of `m` modes has `n = 8 * 7 * m` pairs: of 5 real ones in the
    lowest octave, 280, so that four standard errors are 0.24. The control has no correlation.
    """
    found = correlations(cubes(8, 8))[1]
    modes = torch.bincount(octaves(SIDE, SIDE).flatten(), minlength=4)
    error = 4 / (8 * 7 * modes.double()).sqrt()
    assert ((found - AR).abs() < error).all()
    law = AxisLaw.fit(cubes(8, 8))
    assert ((law.at(torch.ones(())) - AR).abs() < error + 0.03).all()  # 0.03: the grid, the mean
    apart = AxisLaw.fit(cubes(8, 8, length=1e-3)).at(torch.ones(()))
    assert (apart < error).all() and float(apart[-1]) < 0.05


@pytest.fixture(scope="module")
def synth(base):
    """Fitted to eight Gaussian cubes of eight smooth slices, AR(1) along the axis, unsteered."""
    white = cubes(16, 8, seed=3).flatten(0, 1)[:, 0].numpy()  # half are held out
    k = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)) * SIDE
    maps = np.fft.ifft2(np.fft.fft2(white) / (1 + k)).real.astype(np.float32)
    method = ff.Method(steps=8, steering=None, calibration=ff.CalibrationSpec(draws=1, patches=0))
    return ff.Synthesizer(ff.load_model(str(base)), method).fit(
        ff.TargetSet.from_arrays(maps), progress=False
    )


def test_slices_of_cubes_correlate_as_those_of_the_targets_and_are_samples(synth):
    """A Gaussian denoiser is linear, so slices correlate as their noise: AR(1) of 0.72 at lag 1.

    Over 12 cubes the lowest octave has 12 * 7 * 5 pairs: four standard errors are 0.20, and the
    law itself is known to 0.24 from 8 cubes. Independent slices are the control. Powers of 96
    correlated slices are worth some 12 * 8 * (1 - 0.72) / (1 + 0.72) = 16 independent ones, of 5
    modes: four standard errors of a log ratio are 0.65 there and less above.
    """
    made = np.concatenate([synth.cube(8, 8, number=i) for i in range(12)])
    apart = synth.sample(96, progress=False)
    rows = [correlations(torch.from_numpy(maps).unflatten(0, (12, 8))) for maps in (made, apart)]
    error = torch.tensor([0.31, 0.25, 0.15, 0.15])
    assert ((rows[0][1] - AR).abs() < error).all()
    assert ((rows[1][1] - AR).abs() > error).all()
    powers = [np.abs(np.fft.rfft2(m - m.mean(0))) ** 2 for m in (made[:, 0], apart[:, 0])]
    where = octaves(SIDE, SIDE).numpy()
    for octave in range(4):
        ratio = powers[0][:, where == octave].mean() / powers[1][:, where == octave].mean()
        assert abs(np.log(ratio)) < 0.65


def test_slices_whose_noise_is_one_are_one_map_though_each_is_steered(base):
    """The mean over modes of what slices differ by; independent samples are the control."""
    targets = ff.TargetSet.from_arrays(cubes(16, 8, seed=3, length=1e9).flatten(0, 1)[:, 0].numpy())
    method = ff.Method(steps=3, calibration=ff.CalibrationSpec(draws=1, patches=0))
    synth = ff.Synthesizer(ff.load_model(str(base)), method).fit(targets, progress=False)
    spread = [m.std(axis=0).mean() for m in (synth.cube(6, 8), synth.sample(6, progress=False))]
    assert spread[0] < 0.1 * spread[1]


def test_a_cube_is_a_function_of_its_number_and_samples_stay(synth):
    before = synth.sample(3, progress=False)
    one = synth.cube(5, 8, number=2)
    assert one.shape == (5, 1, SIDE, SIDE) and one.dtype == np.float32
    assert np.array_equal(one, synth.cube(5, 8, number=2))
    assert not np.allclose(one, synth.cube(5, 8, number=3))
    assert np.array_equal(before, synth.sample(3, progress=False))


@pytest.mark.parametrize(("depth", "slices"), [(0, 8), (4, 7), (4, 2), (4, 65)])
def test_what_is_no_cube_is_refused(synth, depth, slices):
    with pytest.raises(InputError, match="cube: got"):
        synth.cube(depth, slices)
