"""Features kept between evaluations: which ones are whole, and what the others compute."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ood_core.decode import decode
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.errors import BaseModelError
from ood_core.models.caching import CachingUnet, caching
from ood_core.models.galaxygrad import read_mixer
from ood_core.models.networks import make_unet
from ood_core.models.pretrained import PretrainedDenoiser
from tests.oracles import mixer
from tests.strategies import randn

LINEAR = NoiseSchedule.linear()


def unet(patch: int = 1, levels: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    flags = tuple(level > 0 for level in range(levels))
    return make_unet(16, 1, (8, 16, 16)[:levels], 1, flags, 4, patch).eval()


def maps(seed: int, count: int = 2) -> Tensor:
    return randn(count, 1, 16, 16, seed=seed).float()


@contextmanager
def features_of(network: Any, x: Tensor, t: int) -> Iterator[None]:
    """While this lasts, what the finest level learns of the others is that of `x` at `t`."""
    kept: list[Tensor] = []
    block = network.up_blocks[-2]
    hook = block.register_forward_hook(lambda _module, _given, answer: kept.append(answer))
    network(x, t)
    hook.remove()
    hook = block.register_forward_hook(lambda _module, _given, _answer: kept[0])
    yield
    hook.remove()


@torch.no_grad()
def test_an_evaluation_between_has_the_features_of_the_last_whole_one() -> None:
    network = unet()
    cached = caching(unet(), 3)
    torch.testing.assert_close(cached(maps(1), 700).sample, network(maps(1), 700).sample)
    for t in (500, 300):
        found = cached(maps(t), t).sample
        with features_of(network, maps(1), 700):
            expected = network(maps(t), t).sample
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert float((found - network(maps(t), t).sample).abs().max()) > 1e-4  # and no whole one
    whole = network(maps(2), 100).sample
    torch.testing.assert_close(cached(maps(2), 100).sample, whole, rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    ("calls", "whole"),
    [
        (((9, 2), (8, 2), (7, 2), (6, 2), (5, 2)), "1 1 1"),
        (((9, 2), (8, 2), (9, 2), (8, 2)), "1 1 "),  # another way down
        (((9, 2), (8, 3), (7, 3)), "11 "),  # a batch of another size
        (((7, 2), (7, 2), (8, 2), (9, 2)), "1111"),  # as calibration and inversion ask
    ],
)
def test_every_second_evaluation_of_a_way_down_is_whole(
    calls: tuple[tuple[int, int], ...], whole: str
) -> None:
    network: Any = unet()
    cached, asked = caching(network, 2), []
    network.mid_block.register_forward_hook(lambda *_: asked.append(True))
    marks = []
    for t, count in calls:
        before = len(asked)
        cached(maps(t, count), t)
        marks.append("1" if len(asked) > before else " ")
    assert "".join(marks) == whole.ljust(len(calls))


@torch.no_grad()
def test_folded_pixels_and_real_valued_levels_are_cached_alike() -> None:
    folded: Any = caching(unet(patch=2), 2)
    assert isinstance(folded.unet, CachingUnet)
    first = folded(maps(1), torch.tensor(0.5)).sample
    second = folded(maps(1), torch.tensor(0.25)).sample
    torch.testing.assert_close(first, unet(patch=2)(maps(1), torch.tensor(0.5)).sample)
    assert float((second - unet(patch=2)(maps(1), torch.tensor(0.25)).sample).abs().max()) > 1e-4


def test_an_interval_of_one_changes_nothing_and_weights_are_not_copied() -> None:
    network = unet()
    plain = PretrainedDenoiser(network, LINEAR, "epsilon")
    assert plain.caching(1) is plain
    count = sum(p.numel() for p in network.parameters())
    assert sum(p.numel() for p in plain.caching(2).network.parameters()) == count


def test_two_batches_decode_alike_one_after_the_other() -> None:
    """Nothing of a batch is left for the next one."""
    denoiser = PretrainedDenoiser(unet(), LINEAR, "epsilon").caching(2)
    grid = LINEAR.log_snr_grid(6, 700)
    first = decode(denoiser, "ddim", maps(1), grid)
    decode(denoiser, "ddim", maps(2), grid)
    torch.testing.assert_close(decode(denoiser, "ddim", maps(1), grid), first, rtol=0, atol=0)
    whole = decode(PretrainedDenoiser(unet(), LINEAR, "epsilon"), "ddim", maps(1), grid)
    assert float((whole - first).abs().max()) > 1e-4


def test_networks_without_coarser_levels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"cache_interval.*UNet2DModel.*leave"):
        caching(unet(levels=1), 2)
    path = tmp_path / "weights"
    with path.open("wb") as file:
        mixer.write(file, mixer.random_arrays(32, 0))
    with pytest.raises(BaseModelError, match="cache_interval.*leave"):
        caching(read_mixer(path, 32, LINEAR), 2)
