"""What rounding adds to the error of an estimate, against closed forms."""

import pytest
import torch

from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.models.rounding import rounding_share


class Biased:
    """Gives the clean map plus a constant."""

    schedule = NoiseSchedule.linear()

    def __init__(self, clean, offset):
        self._clean, self._offset = clean, offset

    def __call__(self, x_t, t):
        return self._clean + self._offset * (1 + t / 1000)


def test_the_share_is_that_of_the_worst_level():
    """Exact errs by `a`, narrow by `a + b (1 + t/1000)`: the share is `b (1 + t/1000) / a`."""
    clean = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    class Fixed(Biased):
        def __call__(self, x_t, t):
            return self._clean + self._offset

    narrow = Biased(clean + 0.5, 0.01)
    share = rounding_share(Fixed(clean, 0.5), narrow, clean, [0, 500])
    assert share == pytest.approx(0.01 * 1.5 / 0.5, rel=1e-4)


def test_no_rounding_no_share():
    clean = torch.zeros(2, 1, 4, 4)
    same = Biased(clean, 0.3)
    assert rounding_share(same, same, clean, [3, 900]) == 0.0
