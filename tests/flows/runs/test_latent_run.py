"""The whole run on a latent base: codes inside, pixels and physical units outside."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel

from actors.loading import load_pipeline
from flows.report.inspection import describe_model
from flows.runs.lifecycle import make_run
from flows.runs.planning import inspect_inputs
from flows.runs.stages import perform
from ood_core.errors import IdentityRefused, TargetError
from ood_core.models.loading import load_model
from ood_core.numerics.random import SeedRange, root_key
from ood_core.store.files import read_json
from ood_core.store.fitted import read_prior
from ood_core.store.run import RunStore
from ood_core.store.statistics import read_drawn
from ood_core.store.targets import load_targets
from tests.runs import prepare

SIDE, MAPS, SCALE = 32, 14, 0.6


def save_latent_base(folder: Path, seed: int, channels: int = 1) -> Path:
    torch.manual_seed(seed)
    AutoencoderKL(
        in_channels=channels, out_channels=channels, latent_channels=2, layers_per_block=1,
        block_out_channels=(8, 8), norm_num_groups=4, scaling_factor=SCALE,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).save_pretrained(folder / "vae")  # fmt: skip
    UNet2DModel(
        sample_size=16, in_channels=2, out_channels=2, layers_per_block=1,
        block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    ).save_pretrained(folder / "unet")  # fmt: skip
    DDPMScheduler().save_pretrained(folder / "scheduler")
    return folder


def without_validation(name: str, stage: Any, run: Any, settings: Any) -> str:
    return "" if name == "validate" else perform(name, stage, run, settings)


@pytest.fixture(scope="module")
def latent_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_latent_base(tmp_path_factory.mktemp("models") / "latent", 0)


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    rough = rng.standard_normal((MAPS, SIDE // 4, SIDE // 4)).repeat(4, 1).repeat(4, 2)
    path = tmp_path_factory.mktemp("targets") / "fields.npy"
    np.save(path, np.exp(0.3 * rough + 0.05 * rng.standard_normal((MAPS, SIDE, SIDE))))
    return path


@pytest.fixture(scope="module")
def settings(tiny: Any, latent_base: Path, fields: Path) -> Any:
    return tiny(base=str(latent_base), targets={"path": str(fields), "transform": "log"})


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory, settings: Any) -> RunStore:
    root = tmp_path_factory.mktemp("runs") / "calibrated"
    make_run(settings, str(root))
    return RunStore(root)


def test_the_calibrated_run_ends_complete_in_pixels(calibrated: RunStore) -> None:
    assert calibrated.state == "complete"
    samples = calibrated.table("generate").read("maps")
    assert samples.shape == (10, 1, SIDE, SIDE)
    assert np.isfinite(samples).all()
    assert (samples > 0).all()  # out through the logarithm
    assert calibrated.table("invert").read("latents").shape == (7, 2, 16, 16)
    for name in ("targets", "latents", "dataset"):
        assert xr.open_zarr(calibrated.root / f"{name}.zarr").sizes["channel"] == 1


def test_codes_are_stored_once_and_are_what_the_method_sees(
    calibrated: RunStore, latent_base: Path
) -> None:
    targets = load_targets(calibrated)
    vae = AutoencoderKL.from_pretrained(latent_base / "vae").eval()
    with torch.no_grad():
        expected = SCALE * vae.encode(targets.fit_ranged).latent_dist.mode()
    assert targets.codes is not None
    assert targets.fit_seen.equal(targets.codes[: targets.fit_count])
    torch.testing.assert_close(targets.fit_seen, expected, rtol=1e-5, atol=1e-5)
    pipeline = load_pipeline(calibrated, str(latent_base), "cpu", "float32")
    assert pipeline.experts is not None
    assert pipeline.experts.gaussian.mean.shape == (2, 16, 16)


def test_the_round_trip_is_measured_on_pixels(calibrated: RunStore) -> None:
    targets, table = load_targets(calibrated), calibrated.table("invert")
    gap = table.read("round_trip") - targets.fit_ranged.numpy()
    error = np.sqrt((gap.astype(np.float64) ** 2).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(table.read("error"), error, rtol=1e-5)


def test_the_decoder_floor_is_on_record(calibrated: RunStore, latent_base: Path) -> None:
    targets = load_targets(calibrated)
    vae = AutoencoderKL.from_pretrained(latent_base / "vae").eval()
    with torch.no_grad():
        back = vae.decode(vae.encode(targets.fit_ranged).latent_dist.mode()).sample
    floor = float((back - targets.fit_ranged).square().mean().sqrt() / targets.fit_ranged.std())
    assert calibrated.record["base"]["decoder_floor"] == pytest.approx(floor, rel=1e-4)
    report = read_json(calibrated.root / "report" / "report.json")
    assert report["base"]["decoder_floor"] == pytest.approx(floor, rel=1e-4)
    assert "decoder_floor" in (calibrated.root / "report" / "index.html").read_text()


def test_a_base_of_pixels_has_no_floor_and_no_codes(ready: Path) -> None:
    run = RunStore(ready)
    assert "decoder_floor" not in run.record["base"]
    assert load_targets(run).codes is None
    assert "codes" not in dict(run.targets.arrays())


def test_samples_are_decoded_codes(
    tmp_path: Path, tiny: Any, latent_base: Path, fields: Path
) -> None:
    """Sample by sample the published protocol, with diffusers alone, from the stored prior."""
    method = {"preset": "discovery", "steps": 3, "t_max": 300, "calibration": None,
              "steering": None}  # fmt: skip
    targets = {"path": str(fields), "transform": "log"}
    settings = tiny(base=str(latent_base), method=method, targets=targets)
    make_run(settings, str(tmp_path / "run"), call=without_validation)
    run = RunStore(tmp_path / "run")
    prior, _ = read_prior(run.root / "prior.zarr.zip")
    attempts = read_drawn(run)["attempts"]
    assert (attempts[:4] == 1).all()
    vae = AutoencoderKL.from_pretrained(latent_base / "vae").eval()
    unet = UNet2DModel.from_pretrained(latent_base / "unet").eval()
    bar = DDPMScheduler().alphas_cumprod.double()
    codes = prior.sample(SeedRange(root_key(run.record["identity"]), 0, 4))
    with torch.no_grad():
        for s, t in ((300, 200), (200, 100), (100, 0)):
            eps = unet(codes, s).sample
            clean = (codes - (1 - bar[s]).sqrt() * eps) / bar[s].sqrt()
            codes = (bar[t].sqrt() * clean + (1 - bar[t]).sqrt() * eps).float()
        maps = vae.decode(codes / bar[0].sqrt().float() / SCALE).sample
    stored = load_targets(run).transform.forward(run.table("generate").read("maps", slice(0, 4)))
    # Three steps of a small network in float32, once through the logarithm and back.
    np.testing.assert_allclose(stored, maps.numpy(), atol=1e-4)
    assert stored.std() > 0.05


def test_another_autoencoder_is_refused(calibrated: RunStore, tmp_path: Path) -> None:
    other = save_latent_base(tmp_path / "other", 1)
    with pytest.raises(IdentityRefused, match="weights or schedule differ"):
        load_pipeline(calibrated, str(other), "cpu", "float32")


def test_maps_with_other_channels_or_sides_are_refused_before_anything_is_written(
    tmp_path: Path, tiny: Any, latent_base: Path, fields: Path
) -> None:
    rgb = save_latent_base(tmp_path / "rgb", 0, channels=3)
    with pytest.raises(TargetError, match="got 1 channels; expected 3, as the base has"):
        prepare(tiny(base=str(rgb), targets={"path": str(fields)}), str(tmp_path / "run"))
    for side, message in ((34, "multiples of 4 px"), (28, "at least 32 px a side")):
        path = tmp_path / f"{side}.npy"
        np.save(path, np.random.default_rng(1).random((MAPS, side, side)))
        with pytest.raises(TargetError, match=message):
            prepare(tiny(base=str(latent_base), targets={"path": str(path)}), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_costs_are_those_of_codes(settings: Any, latent_base: Path) -> None:
    from flows.runs.cost import estimate_cost

    maps, model, _ = inspect_inputs(settings)
    cost = estimate_cost(settings)
    assert cost["targets"]["shape"] == list(maps.shape) == [1, SIDE, SIDE]
    assert cost["dataset_bytes"] == 10 * 4 * SIDE * SIDE
    assert describe_model(str(latent_base))["pixels_per_code"] == 2
    assert model.digest == load_model(str(latent_base)).digest
