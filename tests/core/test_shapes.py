"""Shapes of objects: equal laws pass, rounder or fainter ones are seen, fields have no objects."""

import numpy as np
import pytest
import torch

from ood_core.evaluation.morphology import centred, shapes
from tests.oracles import fields

SIDE = 24


def blobs(n: int, seed: int, ratio: float = 0.6, flux: float = 100.0) -> torch.Tensor:
    """Gaussian blobs of scattered axis ratio, angle and flux, on a background of 7."""
    rng = fields.rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    angle, q = rng.uniform(0, np.pi, n), np.clip(rng.normal(ratio, 0.05, n), 0.2, 1)
    c, s = (f(angle)[:, None, None] for f in (np.cos, np.sin))
    u, v = c * x + s * y, (c * y - s * x) / q[:, None, None]
    light = np.exp(-(u**2 + v**2) / (2 * 3.0**2))
    light *= flux * rng.uniform(0.5, 1.5, n)[:, None, None] / light.sum((1, 2), keepdims=True)
    return torch.from_numpy(7 + light + 0.001 * rng.standard_normal(light.shape))[:, None].float()


REAL, FIT = blobs(80, 1), blobs(30, 2)


def test_objects_of_one_law_pass() -> None:
    found = shapes(blobs(120, 3), REAL, FIT)
    assert found is not None and found.measured == 120
    assert [row.name for row in found.rows] == ["flux", "concentration", "ellipticity"]
    assert all(row.adjusted > 0.01 for row in found.rows)
    flux, _, ellipticity = found.rows
    # Axis ratio q has |e| = (1 - q^2) / (1 + q^2): 0.47 at 0.6. Flux is uniform about 100.
    assert ellipticity.real[1] == pytest.approx(0.47, abs=0.03)
    assert flux.samples[1] == pytest.approx(100, abs=10) and flux.samples[0] < flux.samples[1]
    assert float(found.real.median[0, 0]) > 10 * abs(float(found.real.median[0, -1]))


def test_rounder_objects_differ_in_ellipticity_and_fainter_ones_in_flux() -> None:
    round_, faint = (
        shapes(blobs(120, 3, ratio=0.85), REAL, FIT),
        shapes(blobs(120, 3, flux=50), REAL, FIT),
    )
    assert round_ is not None and faint is not None
    assert {row.name for row in round_.rows if row.adjusted < 1e-3} >= {"ellipticity"}
    assert [row.adjusted < 1e-3 for row in faint.rows] == [True, False, False]


def test_fields_have_no_objects() -> None:
    noise = torch.from_numpy(fields.gaussian(60, SIDE, fields.smooth(2.0), 1))
    assert not centred(noise) and centred(REAL)
    assert shapes(noise, noise, noise) is None
    assert shapes(REAL, REAL, FIT[:2]) is None and shapes(REAL[:2], REAL, FIT) is None
