"""Frozen bases: what is read, honoured, overruled and refused; and the reference sampler."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from diffusers import DDIMScheduler

from ood_core.config.pretraining import Prediction
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.diffusion.solvers import ddim_step
from ood_core.errors import BaseModelError
from ood_core.models.loading import BaseModel, load_model
from ood_core.models.networks import make_unet, save_base
from ood_core.models.pretrained import PretrainedDenoiser
from ood_core.models.schedulers import read_scheduler
from tests.strategies import randn

LINEAR = NoiseSchedule.linear()


def tiny(seed: int = 1) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make_unet(8, 1, (16, 16), 1, (False, True), 8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    save_base(tiny(), "v_prediction", folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to be spoiled."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def test_a_saved_base_comes_back(saved: Path) -> None:
    base = load_model(str(saved))
    assert (base.channels, base.size, base.size_multiple) == (1, 8, 2)
    assert base.prediction == "v_prediction"
    original = tiny()
    assert base.parameters == sum(p.numel() for p in original.parameters())
    loaded = base.denoiser.network.state_dict()
    for name, value in original.state_dict().items():
        assert torch.equal(loaded[name], value.half().float()), name  # stored in float16
    # Betas are float32 in diffusers: a thousand products of 6e-8.
    torch.testing.assert_close(base.denoiser.schedule.alpha, LINEAR.alpha, rtol=1e-4, atol=0)


def test_loading_twice_gives_the_same_answer_and_digest(saved: Path) -> None:
    first, second = load_model(str(saved)), load_model(str(saved))
    x_t = randn(2, 1, 8, 8).float()
    assert torch.equal(first.denoiser(x_t, 300), second.denoiser(x_t, 300))
    assert first.digest == second.digest


def test_a_bare_network_folder_with_its_scheduler_beside_it_loads(folder: Path) -> None:
    shutil.copy(folder / "scheduler" / "scheduler_config.json", folder / "unet")
    assert load_model(str(folder / "unet")).digest == load_model(str(folder)).digest


def spoil_weights(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_weights,
        lambda f: edit(f / "scheduler/scheduler_config.json", prediction_type="epsilon"),
        lambda f: edit(f / "scheduler/scheduler_config.json", beta_end=0.021),
        lambda f: edit(f / "scheduler/scheduler_config.json", num_train_timesteps=999),
    ],
    ids=["a weight's last bit", "prediction_type", "beta_end", "num_train_timesteps"],
)
def test_what_changes_results_changes_the_digest(
    saved: Path, folder: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(folder)
    assert load_model(str(folder)).digest != load_model(str(saved)).digest


def test_settings_that_do_not_matter_leave_the_digest_alone(saved: Path, folder: Path) -> None:
    edit(folder / "scheduler/scheduler_config.json", clip_sample=True, variance_type="fixed_large")
    assert load_model(str(folder)).digest == load_model(str(saved)).digest


def rulings(base: BaseModel) -> dict[str, tuple[str, str]]:
    return {r.setting: (r.value, r.ruling) for r in base.rulings}


def test_every_setting_has_a_ruling(folder: Path) -> None:
    edit(folder / "scheduler/scheduler_config.json", clip_sample=True, steps_offset=1)
    ruled = rulings(load_model(str(folder)))
    assert ruled["clip_sample"] == ("True", "overruled")
    assert ruled["steps_offset"] == ("1", "overruled")
    assert ruled["prediction_type"] == ("v_prediction", "honoured")
    assert ruled["beta_schedule"] == ("linear", "honoured")
    assert ruled["num_train_timesteps"] == ("1000", "honoured")


def test_a_clamp_that_is_off_needs_no_ruling(saved: Path) -> None:
    assert "clip_sample" not in rulings(load_model(str(saved)))


def test_clipping_is_overruled_in_deed(folder: Path) -> None:
    edit(folder / "scheduler/scheduler_config.json", clip_sample=True)
    assert float(load_model(str(folder)).denoiser(5 * randn(1, 1, 8, 8).float(), 5).abs().max()) > 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"thresholding": True}, "thresholding=True.*set it to false"),
        ({"prediction_type": "flow"}, "prediction_type 'flow'; expected one of"),
        ({"beta_schedule": "zigzag"}, "scheduler configuration not understood"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(BaseModelError, match=message):
        read_scheduler(config)


def test_an_absent_prediction_type_is_the_format_s_default() -> None:
    assert read_scheduler({})[1] == "epsilon"


def test_scaled_linear_betas_are_honoured() -> None:
    schedule, _, _, _ = read_scheduler({"beta_schedule": "scaled_linear"})
    betas = torch.linspace(1e-4**0.5, 0.02**0.5, 1000, dtype=torch.float64) ** 2
    expected = torch.cumprod(1 - betas, 0).sqrt()
    torch.testing.assert_close(schedule.alpha, expected, rtol=1e-4, atol=0)  # float32 products


@pytest.mark.parametrize(
    ("spoil", "remedy"),
    [
        (
            lambda f: (f / "scheduler/scheduler_config.json").unlink(),
            "no scheduler_config.json; expected it beside the network or in scheduler/",
        ),
        (
            lambda f: (f / "unet/diffusion_pytorch_model.safetensors").unlink(),
            "no diffusion_pytorch_model.safetensors; expected safetensors weights",
        ),
        (
            lambda f: (f / "unet/config.json").unlink(),
            "cannot read config.json .*expected a diffusers model folder",
        ),
        (
            lambda f: (f / "unet/config.json").write_text("{"),
            "cannot read config.json .*expected a diffusers model folder",
        ),
        (
            lambda f: edit(f / "unet/config.json", _class_name="UNet2DConditionModel"),
            "got a UNet2DConditionModel; expected an unconditional UNet2DModel",
        ),
        (
            lambda f: edit(f / "unet/config.json", block_out_channels=[32, 32]),
            "weights do not fit the network",
        ),
    ],
    ids=["scheduler", "weights", "config", "broken config", "class", "other widths"],
)
def test_a_spoiled_folder_is_refused_with_the_remedy(
    folder: Path, spoil: Callable[[Path], None], remedy: str
) -> None:
    spoil(folder)
    with pytest.raises(BaseModelError, match=remedy):
        load_model(str(folder))


def test_a_missing_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"no folder .*nowhere.*expected a diffusers folder"):
        load_model(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("t", [1, 250, 600])
@pytest.mark.parametrize("prediction", get_args(Prediction))
def test_one_step_is_that_of_the_reference_sampler(prediction: Prediction, t: int) -> None:
    reference = DDIMScheduler(prediction_type=prediction, clip_sample=False)
    reference.set_timesteps(1000)
    schedule = NoiseSchedule.variance_preserving(reference.alphas_cumprod)
    denoiser = PretrainedDenoiser(tiny(), schedule, prediction)
    x_t = randn(2, 1, 8, 8, seed=t).float()
    with torch.no_grad():
        output = denoiser.network(x_t, t).sample
    expected = reference.step(output, t, x_t, eta=0.0).prev_sample
    # Float32 on both sides: 1e-7 of numbers below 10, cancelling by 1/alpha < 20.
    ours = ddim_step(schedule, x_t, denoiser(x_t, t), t, t - 1)
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("timesteps", [(600, 250), (250, 600)])
def test_longer_strides_follow_the_same_formula(timesteps: tuple[int, int]) -> None:
    """`x_t = sqrt(bar_t) x0 + sqrt(1 - bar_t) eps` with one `eps`, up and down."""
    s, t = timesteps
    denoiser = PretrainedDenoiser(tiny(), LINEAR, "epsilon")
    x_s = randn(2, 1, 8, 8).float()
    with torch.no_grad():
        eps = denoiser.network(x_s, s).sample
    x0 = (x_s - LINEAR.sigma[s] * eps) / LINEAR.alpha[s]
    expected = (LINEAR.alpha[t] * x0 + LINEAR.sigma[t] * eps).float()
    ours = ddim_step(LINEAR, x_s, denoiser(x_s, s), s, t)
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5)  # as above


def test_half_precision_is_of_the_network_alone(saved: Path) -> None:
    x_t = randn(1, 1, 8, 8).float()
    full, half = load_model(str(saved)), load_model(str(saved), dtype=torch.bfloat16)
    out = half.denoiser(x_t, 300)
    assert out.dtype == torch.float32
    # Eight bits of mantissa through some ten layers.
    torch.testing.assert_close(out, full.denoiser(x_t, 300), rtol=0, atol=0.1)
    assert half.digest == full.digest
