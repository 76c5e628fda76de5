"""Guided-diffusion checkpoints: parity with a network written apart, and their settings."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file
from torch import Tensor

from ood_core.models.guided_layout import from_guided
from ood_core.models.imported import Imported
from ood_core.models.loading import load_model
from ood_core.models.schedulers import read_scheduler
from tests.oracles.guided_unet import DOG, Settings, random_network, shapes_only
from tests.strategies import randn

PLAIN = Settings(blocks=2, attention=frozenset({2}), heads=4)
CASES = {
    "plain": PLAIN,
    "plain, one head": replace(PLAIN, heads=1),
    "plain, scale and shift, variance": replace(PLAIN, scale_shift=True, learn_sigma=True),
    "dog": DOG,
    "dog, two blocks": replace(DOG, blocks=2),
    "residual, shift only": replace(DOG, scale_shift=False),
    "attention in three levels of three widths": replace(
        DOG, multipliers=(1, 2, 3), attention=frozenset({1, 2, 4}), head_channels=32
    ),
    "new order": replace(DOG, new_order=True),
    "no attention but the middle": replace(PLAIN, attention=frozenset()),
    "one level": replace(PLAIN, multipliers=(1,), attention=frozenset({1})),
    "one channel": replace(DOG, channels=1),
}


def disagreement(settings: Settings, imported: Imported, **config: Any) -> float:
    """Largest difference, as a share of the largest value, at the worst of some indices."""
    ours = UNet2DModel(**imported.unet | config).double().eval()
    ours.load_state_dict(imported.state)
    x_t, t = randn(4, settings.channels, 16, 16), torch.tensor([0, 1, 300, 999])
    with torch.no_grad():
        expected = random_network(settings)(x_t, t)[:, : settings.channels]
        got = ours(x_t, t).sample
    apart = (got - expected).abs().amax((1, 2, 3)) / expected.abs().amax((1, 2, 3))
    return float(apart.max())


# Float64: 1e-16 in each of some hundred operations. Both sides have the embedding of time in
# float32, as published, by the same operations.
SAME = 1e-12


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES.keys())
def test_the_imported_network_is_the_published_one(settings: Settings) -> None:
    imported = from_guided(random_network(settings).state_dict(), **settings.untold())
    assert disagreement(settings, imported) < SAME


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        (DOG, {"new_attention_order": True}),
        (replace(DOG, new_order=True), {"new_attention_order": False}),
        (PLAIN, {"new_attention_order": True}),
        (DOG, {"head_channels": 32}),
        (PLAIN, {"heads": 2}),
    ],
)
def test_another_reading_of_the_attention_is_another_network(
    settings: Settings, wrong: dict[str, Any]
) -> None:
    imported = from_guided(random_network(settings).state_dict(), **settings.untold() | wrong)
    assert disagreement(settings, imported) > 1e-3


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        (DOG, {"flip_sin_to_cos": False}),
        (DOG, {"freq_shift": 1}),
        (DOG, {"norm_eps": 1e-6}),
        (DOG, {"attention_head_dim": 32}),
        (PLAIN, {"downsample_padding": 0}),
    ],
)
def test_every_setting_of_the_network_counts(settings: Settings, wrong: dict[str, Any]) -> None:
    imported = from_guided(random_network(settings).state_dict(), **settings.untold())
    assert disagreement(settings, imported, **wrong) > 1e3 * SAME


def test_with_one_head_both_orders_agree() -> None:
    state = random_network(replace(PLAIN, heads=1)).state_dict()
    old, new = (from_guided(state, size=16, heads=1, new_attention_order=o) for o in (False, True))
    for name, value in old.state.items():
        assert torch.equal(new.state[name], value), name


ADM = {
    "head_channels": 64,
    "blocks": 2,
    "residual": True,
    "scale_shift": True,
    "learn_sigma": True,
}


@pytest.mark.parametrize(
    ("settings", "millions"),
    [
        (Settings(192, (1, 2, 3, 4), attention=frozenset({2, 4, 8}), **ADM | {"blocks": 3}), 296),
        (Settings(256, (1, 1, 2, 3, 4), attention=frozenset({4, 8, 16}), **ADM), 422),
        (Settings(256, (1, 1, 2, 2, 4, 4), attention=frozenset({8, 16, 32}), **ADM), 554),
        (Settings(256, (0.5, 1, 1, 2, 2, 4, 4), attention=frozenset({16, 32, 64}), **ADM), 559),
    ],
    ids=["64", "128", "256", "512"],
)
def test_the_network_written_apart_has_the_published_size(
    settings: Settings, millions: int
) -> None:
    """Networks for ImageNet in Dhariwal & Nichol (2021); these also embed 1000 classes."""
    count = sum(p.numel() for p in shapes_only(settings).parameters()) + 1000 * 4 * settings.width
    assert round(count / 1e6) == millions


def test_the_afhq_dog_network_is_read_from_its_keys() -> None:
    settings = replace(
        DOG, width=128, multipliers=(1, 1, 2, 2, 4, 4), attention=frozenset({16}), head_channels=64
    )
    state = shapes_only(settings).state_dict()
    imported = from_guided(state)
    with torch.device("meta"):
        ours = UNet2DModel(**imported.unet)
    shapes = {name: value.shape for name, value in ours.state_dict().items()}
    assert {name: value.shape for name, value in imported.state.items()} == shapes
    # All that is left out is the last layer's half for the variance.
    count = sum(value.numel() for value in imported.state.values())
    assert count == sum(value.numel() for value in state.values()) - 3 * (9 * 128 + 1)
    expected = {
        "sample_size": 256,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 1,
        "block_out_channels": [128, 128, 256, 256, 512, 512],
        "down_block_types": 4 * ["ResnetDownsampleBlock2D"]
        + ["AttnDownBlock2D", "ResnetDownsampleBlock2D"],
        "up_block_types": ["ResnetUpsampleBlock2D", "AttnUpBlock2D"]
        + 4 * ["ResnetUpsampleBlock2D"],
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "attention_head_dim": 64,
    }
    assert {key: imported.unet[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("multipliers", "size"),
    [((1, 1, 2, 2, 4, 4), 256), ((1, 1, 2, 3, 4), 128), ((1, 2, 3, 4), 64), ((1, 2, 2, 2), 32)],
)
def test_the_usual_sizes_are_known(multipliers: tuple[int, ...], size: int) -> None:
    state = shapes_only(replace(DOG, multipliers=multipliers)).state_dict()
    assert from_guided(state, head_channels=32).unet["sample_size"] == size


def test_a_written_folder_loads_as_a_base(tmp_path: Path) -> None:
    imported = from_guided(random_network(DOG).state_dict(), **DOG.untold())
    (tmp_path / "unet").mkdir()
    (tmp_path / "scheduler").mkdir()
    config = {"_class_name": "UNet2DModel"} | imported.unet
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config))
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(imported.scheduler))
    weights = {name: value.float() for name, value in imported.state.items()}
    save_file(weights, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    base = load_model(str(tmp_path))
    assert (base.channels, base.size, base.size_multiple) == (3, 16, 8)
    assert base.prediction == "epsilon"
    x_t = randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = random_network(DOG)(x_t, torch.tensor([300, 300]))[:, :3]
        got = base.denoiser.network(x_t.float(), 300).sample
    # Float32: 6e-8 in each of some hundred operations, of values near 1.
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-5


def linear() -> Tensor:
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def cosine() -> Tensor:
    """Nichol & Dhariwal (2021), eq. 17, betas below 0.999."""
    points = torch.arange(1001, dtype=torch.float64) / 1000
    bar = torch.cos((points + 0.008) / 1.008 * torch.pi / 2) ** 2
    return torch.cumprod((bar[1:] / bar[:-1]).clamp(min=0.001), 0)


@pytest.mark.parametrize("closed_form", [linear, cosine])
def test_the_schedule_is_the_trained_one(closed_form: Callable[[], Tensor]) -> None:
    state = shapes_only(DOG).state_dict()
    name = closed_form.__name__
    imported = from_guided(state, size=16, head_channels=16, noise_schedule=name)
    schedule, prediction, _, _ = read_scheduler(imported.scheduler)
    assert prediction == "epsilon"
    # Betas are float32 in diffusers: thousands of products of 6e-8, and as much again where
    # 1 - beta = 0.001 has lost four digits.
    torch.testing.assert_close(schedule.alpha**2, closed_form(), rtol=1e-3, atol=0)
