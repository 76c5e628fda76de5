"""Checkpoints of Ho et al. 2020: parity with an independent network, and what its form tells."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.errors import BaseModelError
from ood_core.models.ho_layout import from_ho
from ood_core.models.imported import Imported, assemble, write_imported
from ood_core.models.importing import ImportOptions, import_checkpoint
from ood_core.models.loading import load_model
from tests.oracles.ho_unet import HoUnet, randomised
from tests.strategies import randn

State = dict[str, Tensor]
# Width, factors, blocks per level, levels with attention, channels of maps. Of 32 channels, each is
# a group of its own, and norms take away what is constant in a channel; 64 show that, too.
VARIANTS = {
    "attention at the lowest level": (32, (1, 2), 1, {1}, 3),
    "attention at the highest level": (32, (1, 2), 2, {0}, 1),
    "one width, so no shortcuts on the way down": (32, (1, 1), 1, {1}, 1),
    "three blocks, attention at all levels": (32, (1, 2), 3, {0, 1}, 2),
    "attention in the middle only": (32, (1, 1, 3), 1, set(), 1),
    "one level": (64, (1,), 1, {0}, 1),
}
SMALL = (64, (1, 2), 1, {1}, 1)


def oracle(variant: tuple[Any, ...] = SMALL, seed: int = 0) -> HoUnet:
    return randomised(HoUnet(*variant), seed)


def distance(ours: nn.Module, theirs: HoUnet, t: int, dtype: torch.dtype = torch.float32) -> float:
    """Largest difference of the two outputs, relative to the largest output."""
    channels = theirs.conv_in.in_channels
    x_t = 0.02 * randn(2, channels, 8, 8, seed=t).to(dtype)  # faint maps show the norm's epsilon
    with torch.no_grad():
        expected = theirs.to(dtype)(x_t, torch.full((2,), t))
        got = ours.to(dtype)(x_t, t).sample
    return float((got - expected).abs().max() / expected.abs().max())


def network(imported: Imported) -> nn.Module:
    return assemble(imported).eval()


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_an_imported_base_computes_what_its_network_did(
    variant: tuple[Any, ...], tmp_path: Path
) -> None:
    theirs = oracle(variant)
    torch.save(theirs.state_dict(), tmp_path / "any.ckpt")
    import_checkpoint(tmp_path / "any.ckpt", tmp_path / "base", ImportOptions(size=16))
    base = load_model(str(tmp_path / "base"))
    ours = base.denoiser.network
    assert (base.size, base.channels, base.prediction) == (16, variant[4], "epsilon")
    assert base.size_multiple == 2 ** (len(variant[1]) - 1)
    assert base.parameters == sum(p.numel() for p in theirs.parameters())
    # Channels last, a group norm takes its variance as E[x^2] - E[x]^2. Of faint maps the biases
    # are some 20 times the spread, so 6e-8 becomes 400 times as much in the first norm: 2.4e-5,
    # of which a few more layers make no more than 4 times as much.
    for t in (0, 1, 17, 500, 999):
        assert distance(ours, theirs, t) < 1e-4
    # As it was trained: some fifty layers that round to 6e-8 each; phases t f of the embedding
    # round to t 6e-8 and reach the output through a sum of many.
    plain = network(from_ho(theirs.state_dict(), 16))
    for t in (0, 1, 17, 500, 999):
        assert distance(plain, theirs, t) < 1e-5
    # At t = 0 the embedding is exact: what remains in float64 is rounding to 1e-16.
    assert distance(ours, theirs, 0, torch.float64) < 1e-12


@pytest.mark.parametrize(
    ("setting", "wrong", "t"),
    [
        ("downsample_padding", 1, 0),
        ("flip_sin_to_cos", True, 500),
        ("freq_shift", 0, 500),
        ("norm_eps", 1e-5, 0),
        ("norm_num_groups", 16, 0),
        ("act_fn", "gelu", 0),
        ("attention_head_dim", 32, 0),
    ],
)
def test_parity_fails_with_any_other_setting(setting: str, wrong: Any, t: int) -> None:
    theirs = oracle()
    right = from_ho(theirs.state_dict())
    spoilt = replace(right, unet={**right.unet, setting: wrong})
    assert right.unet[setting] != wrong
    assert distance(network(right), theirs, t) < 1e-5
    assert distance(network(spoilt), theirs, t) > 1e-4


def swap(state: State, one: str, other: str) -> State:
    turned = {one: other, other: one}
    return {turned.get(name, name): value for name, value in state.items()}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("down.1.attn.0.q.weight", "down.1.attn.0.k.weight"),
        ("mid.attn_1.v.weight", "mid.attn_1.proj_out.weight"),
        ("mid.block_1.conv1.weight", "mid.block_2.conv1.weight"),
        ("up.1.attn.0.norm.weight", "up.1.attn.1.norm.weight"),
        ("up.0.block.0.conv2.weight", "up.0.block.1.conv2.weight"),
        ("norm_out.weight", "norm_out.bias"),
    ],
)
def test_parity_fails_with_two_weights_swapped(one: str, other: str) -> None:
    theirs = oracle()
    state = theirs.state_dict()
    assert state[one].shape == state[other].shape
    assert distance(network(from_ho(swap(state, one, other))), theirs, 500) > 1e-4


def test_every_weight_has_the_gradient_that_it_had() -> None:
    """None is dropped, copied elsewhere or unused: one backward pass tells them all apart."""
    theirs = oracle().double().requires_grad_(True)
    ours = network(from_ho(theirs.state_dict())).double()
    x_t, weight = randn(2, 1, 8, 8), randn(2, 1, 8, 8, seed=1)
    (weight * theirs(x_t, torch.full((2,), 300))).sum().backward()
    (weight * ours(x_t, 300).sample).sum().backward()
    expected = from_ho({name: value.grad for name, value in theirs.named_parameters()}).state
    for name, value in ours.named_parameters():
        largest = float(expected[name].abs().max())
        if name.endswith("to_k.bias"):  # adds the same to all logits of a pixel: softmax forgets it
            assert largest < 1e-12
        else:  # float64 but for the phases, 300 f in float32: 2e-5
            assert largest > 1e-3
            assert float((value.grad - expected[name]).abs().max()) < 1e-4 * largest, name


def test_the_average_is_what_is_imported(tmp_path: Path) -> None:
    model, average = oracle(seed=1), oracle(seed=2)
    wrapped = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save([wrapped, {"param_groups": []}, 3, 4, average.state_dict()], tmp_path / "any.ckpt")
    origin = import_checkpoint(tmp_path / "any.ckpt", tmp_path / "base")
    assert (origin.layout, origin.place) == ("Ho et al. 2020", "[4]")
    ours = load_model(str(tmp_path / "base")).denoiser.network
    assert distance(ours, average, 100) < 1e-5
    assert distance(ours, model, 100) > 1e-1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_half_precision_and_weights_that_share_memory_are_imported(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    theirs = oracle().to(dtype)
    theirs.mid.attn_1.k = theirs.mid.attn_1.q
    state = dict(theirs.named_parameters(remove_duplicate=False))
    assert state["mid.attn_1.k.weight"] is state["mid.attn_1.q.weight"]
    torch.save(state, tmp_path / "any.ckpt")
    import_checkpoint(tmp_path / "any.ckpt", tmp_path / "base")
    assert distance(load_model(str(tmp_path / "base")).denoiser.network, theirs, 0) < 1e-5


def published(*variant: Any) -> State:
    """Names and shapes of a published network, without memory."""
    with torch.device("meta"):
        return HoUnet(*variant).state_dict()


@pytest.mark.parametrize(
    ("variant", "size", "millions"),
    [
        ((128, (1, 2, 2, 2), 2, {1}, 3), 32, 35.7),
        ((128, (1, 1, 2, 2, 4, 4), 2, {4}, 3), 256, 114),
    ],
)
def test_the_networks_of_the_paper(variant: tuple[Any, ...], size: int, millions: float) -> None:
    """Parameters as stated in appendix B; sides as of the data sets."""
    state = published(*variant)
    count = sum(value.numel() for value in state.values()) / 1e6
    assert round(count, 1 if millions < 100 else 0) == millions
    unet = from_ho(state).unet
    assert unet["sample_size"] == size
    assert unet["layers_per_block"] == 2
    assert unet["block_out_channels"] == [128 * factor for factor in variant[1]]
    level, levels = next(iter(variant[3])), len(variant[1])
    assert [kind.startswith("Attn") for kind in unet["down_block_types"]] == [
        i == level for i in range(levels)
    ]
    assert [kind.startswith("Attn") for kind in unet["up_block_types"]] == [
        i == levels - 1 - level for i in range(levels)
    ]


def test_the_schedule_is_the_linear_one(tmp_path: Path) -> None:
    write_imported(from_ho(oracle().state_dict()), tmp_path / "base")
    schedule = load_model(str(tmp_path / "base")).denoiser.schedule
    # Betas are float32 in diffusers: a thousand products of 6e-8.
    torch.testing.assert_close(schedule.alpha, NoiseSchedule.linear().alpha, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("attended", "size", "message"),
    [
        (set(), None, "attention at 0 levels.*give the side"),
        ({0, 1}, None, "attention at 2 levels.*give the side"),
        ({2}, 30, "got maps of 30 pixels; expected a multiple of 4"),
        ({2}, 0, "got maps of 0 pixels; expected a multiple of 4"),
        ({2}, -4, "got maps of -4 pixels; expected a multiple of 4"),
    ],
)
def test_sides_that_cannot_be_are_refused(
    attended: set[int], size: int | None, message: str
) -> None:
    state = published(32, (1, 1, 1), 1, attended, 1)
    with pytest.raises(BaseModelError, match=message):
        from_ho(state, size)
    assert from_ho(state, 8).unet["sample_size"] == 8


def test_a_derived_side_must_fit_the_levels_too() -> None:
    with pytest.raises(BaseModelError, match="got maps of 16 pixels; expected a multiple of 32"):
        from_ho(published(32, (1,) * 6, 1, {0}, 1))
