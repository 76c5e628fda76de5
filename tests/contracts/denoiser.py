"""What every denoiser promises, whatever is inside it."""

import pytest
import torch

from ood_core.arrays import Maps
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule


class DenoiserContract:
    """Subclass with `denoiser` and `maps`; `timesteps` are time indices, low to high."""

    tolerance = 2e-5  # float32 sums over a map, relative to maps of order one
    zero_noise = 0.1  # largest |D(alpha x0) - x0| at index 0; each law derives its own
    timesteps = (0, 300, 999)

    @pytest.fixture
    def denoiser(self) -> Denoiser:
        raise NotImplementedError

    @pytest.fixture
    def maps(self) -> Maps:
        raise NotImplementedError

    def rows(self, denoiser: Denoiser, order: list[int]) -> Denoiser:
        """The denoiser of some rows of the batch, for those that are made per batch."""
        return denoiser

    def test_is_a_denoiser_with_a_schedule(self, denoiser: Denoiser) -> None:
        assert isinstance(denoiser, Denoiser)
        assert isinstance(denoiser.schedule, NoiseSchedule)

    def test_keeps_shape_and_dtype_and_leaves_its_input_alone(
        self, denoiser: Denoiser, maps: Maps
    ) -> None:
        for t in self.timesteps:
            before = maps.clone()
            x0 = denoiser(maps, t)
            assert (x0.shape, x0.dtype) == (maps.shape, maps.dtype)
            assert bool(torch.isfinite(x0).all())
            assert torch.equal(maps, before)

    def test_one_map_is_a_batch(self, denoiser: Denoiser, maps: Maps) -> None:
        for t in self.timesteps:
            batch = denoiser(maps, t)
            for row in range(len(maps)):
                alone = self.rows(denoiser, [row])(maps[row : row + 1], t)[0]
                assert float((alone - batch[row]).abs().max()) <= self.tolerance * _size(batch)

    def test_permuting_maps_permutes_answers(self, denoiser: Denoiser, maps: Maps) -> None:
        order = list(range(len(maps)))[::-1]
        for t in self.timesteps:
            straight = denoiser(maps, t)
            turned = self.rows(denoiser, order)(maps[order], t)
            assert float((straight[order] - turned).abs().max()) <= self.tolerance * _size(straight)

    def test_the_same_question_has_the_same_answer(self, denoiser: Denoiser, maps: Maps) -> None:
        first = [denoiser(maps, t) for t in self.timesteps]
        again = [denoiser(maps, t) for t in reversed(self.timesteps)]
        assert all(torch.equal(a, b) for a, b in zip(first, reversed(again), strict=True))

    def test_without_noise_the_map_comes_back(self, denoiser: Denoiser, maps: Maps) -> None:
        gap = denoiser(float(denoiser.schedule.alpha[0]) * maps, 0) - maps
        assert float(gap.abs().max()) <= self.zero_noise


def _size(x0: Maps) -> float:
    return max(1.0, float(x0.abs().max()))
