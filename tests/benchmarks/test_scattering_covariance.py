"""Scattering covariances against direct convolution, and what must not change them."""

import numpy as np
import pytest
import torch

from benchmarks.rivals.scattering_covariance import ScatteringCovariance
from ood_core.metrics.scattering import MIN_MODULUS, morlet_bank
from tests.oracles import fields

SIDE, ORIENTATIONS, SCALES = 16, 4, 3


def maps(n: int = 3, seed: int = 0) -> torch.Tensor:
    made = fields.gaussian(n, SIDE, lambda k: 1 / (0.2 + k) ** 2, seed)
    return torch.from_numpy(np.exp(0.5 * made))


TURNS = range(ORIENTATIONS)


class Direct:
    """The definition in pixels: maps of all orders, averaged; own loops, no Gram matrix."""

    def __init__(self, field: np.ndarray) -> None:
        bank = [morlet_bank(SIDE, j, ORIENTATIONS).double().numpy() for j in range(SCALES)]
        self.field, self.bank = field, bank
        self.response = [[self.passed(field, j, o) for o in TURNS] for j in range(SCALES)]
        self.moduli = [[np.abs(w) for w in row] for row in self.response]
        powers = [[np.sqrt((u**2).mean()) for u in row] for row in self.moduli]
        self.root = np.array(powers) + MIN_MODULUS

    def passed(self, x: np.ndarray, j: int, turn: int) -> np.ndarray:
        return np.asarray(np.fft.ifft2(np.fft.fft2(x) * self.bank[j][turn % ORIENTATIONS]))

    def third(self, a: int, c: int, step: int) -> float:
        values = []
        for o in TURNS:
            p = (o + step) % ORIENTATIONS
            product = self.response[c][p] * self.passed(self.moduli[a][o], c, p).conj()
            values.append(product.mean().real / self.root[a, o] / self.root[c, p])
        return float(np.mean(values))

    def fourth(self, a: int, b: int, c: int, second: int, third: int) -> float:
        values = []
        for o in TURNS:
            p = (o + second) % ORIENTATIONS
            left = self.passed(self.moduli[a][o], c, o + third)
            right = self.passed(self.moduli[b][p], c, o + third)
            values.append((left * right.conj()).mean().real / self.root[a, o] / self.root[b, p])
        return float(np.mean(values))

    def all(self) -> np.ndarray:
        found = [self.field.mean()]
        found += [np.log(u.mean() + MIN_MODULUS) for row in self.moduli for u in row]
        found += list(np.log(self.root).ravel())
        for c in range(1, SCALES):
            found += [self.third(a, c, step) for a in range(c) for step in TURNS]
            pairs = [(a, b) for b in range(c) for a in range(b + 1)]
            found += [self.fourth(a, b, c, s, t) for a, b in pairs for s in TURNS for t in TURNS]
        return np.array(found)


def test_they_are_the_averages_of_direct_convolution() -> None:
    found = ScatteringCovariance(SIDE)(maps(1))[0].numpy()
    expected = Direct(maps(1)[0, 0].numpy()).all()
    assert found.shape == expected.shape
    # The thinned band of scale 2 leaves out its wavelet's tail, of the order of 1e-3 in power.
    np.testing.assert_allclose(found, expected, atol=5e-3)
    assert np.abs(found - np.roll(expected, 1)).max() > 0.1  # the order of the features matters


def test_shifts_by_the_thinned_grid_change_nothing() -> None:
    statistics, x = ScatteringCovariance(SIDE), maps()
    torch.testing.assert_close(statistics(x.roll((4, 6), (-2, -1))), statistics(x))


def test_contrast_changes_first_orders_alone_and_sign_the_third() -> None:
    statistics, x = ScatteringCovariance(SIDE), 10 * maps()
    first = 1 + 2 * SCALES * ORIENTATIONS
    one, twice, minus = statistics(x), statistics(2 * x), statistics(-x)
    # MIN_MODULUS is 1e-3 under roots of about 1: relative changes stay below it.
    torch.testing.assert_close(twice[:, first:], one[:, first:], rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(minus[:, 1:first], one[:, 1:first])
    third = slice(first, first + ORIENTATIONS)  # of the first coarse scale
    torch.testing.assert_close(minus[:, third], -one[:, third])
    assert one[:, third].abs().max() > 0.05  # skewed fields have them


def test_channels_follow_one_another() -> None:
    statistics, x = ScatteringCovariance(SIDE), maps(2)
    both = statistics(torch.cat([x[:1], x[1:]], dim=1))
    torch.testing.assert_close(both[0], torch.cat([*statistics(x)]))


def test_maps_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 8 pixels"):
        ScatteringCovariance(4)
