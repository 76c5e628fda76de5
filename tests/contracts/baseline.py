"""What every baseline promises: maps by seed alone, of the targets' shape, and a clear refusal."""

import pytest
import torch

from benchmarks.rivals.baseline import Baseline
from ood_core.errors import TargetError
from ood_core.numerics.random import SeedRange
from tests.fields import smooth_fields

TOLERANCE = 1e-4  # of model range: batches change rounding, which solvers carry along


class BaselineContract:
    """Subclass with `method`; `needed` is the fewest targets that it takes."""

    needed = 1

    @pytest.fixture
    def method(self) -> Baseline:
        raise NotImplementedError

    @pytest.fixture
    def targets(self) -> torch.Tensor:
        maps = torch.from_numpy(smooth_fields(8))[:, None]
        return (maps - maps.mean()) / maps.std()

    def test_it_is_a_baseline(self, method: Baseline) -> None:
        assert isinstance(method, Baseline)

    def test_maps_are_functions_of_their_seeds(
        self, method: Baseline, targets: torch.Tensor
    ) -> None:
        whole = method(targets, ("flip", "rotate90"), SeedRange(5, 0, 5)).maps
        part = method(targets, ("flip", "rotate90"), SeedRange(5, 2, 4)).maps
        assert whole.shape == (5, *targets.shape[1:]) and whole.dtype == torch.float32
        assert whole.isfinite().all()
        torch.testing.assert_close(part, whole[2:4], rtol=0, atol=TOLERANCE)

    def test_seeds_and_roots_differ(self, method: Baseline, targets: torch.Tensor) -> None:
        maps = method(targets, (), SeedRange(5, 0, 6)).maps
        other = method(targets, (), SeedRange(6, 0, 6)).maps
        assert len(torch.unique(maps, dim=0)) > 1
        assert not torch.equal(maps, other)

    def test_too_few_targets_are_refused(self, method: Baseline, targets: torch.Tensor) -> None:
        with pytest.raises(TargetError, match=f"expected at least {self.needed}"):
            method(targets[: self.needed - 1], (), SeedRange(5, 0, 1))
