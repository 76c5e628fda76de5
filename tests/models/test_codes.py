"""Autoencoders of latent bases: compared with diffusers called directly."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel, VQModel

from ood_core.arrays import Maps
from ood_core.errors import BaseModelError
from ood_core.models.autoencoder import BATCH, Autoencoder
from ood_core.models.loading import load_model
from tests.strategies import randn

SMALL: dict[str, Any] = {
    "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": (8, 8),
    "norm_num_groups": 4, "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2, "latent_channels": 3,
}  # fmt: skip
KINDS: dict[str, Callable[..., Any]] = {
    "vae": lambda **s: AutoencoderKL(**SMALL | {"scaling_factor": 0.7, "shift_factor": 0.2} | s),
    "vqvae": lambda **s: VQModel(**SMALL | {"scaling_factor": 1.9, "num_vq_embeddings": 6} | s),
}


def unet(channels: int) -> UNet2DModel:
    return UNet2DModel(
        sample_size=8, in_channels=channels, out_channels=channels, layers_per_block=1,
        block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip


def save(folder: Path, kind: str, channels: int = 3, **settings: Any) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        KINDS[kind](**settings).save_pretrained(folder / kind)
        unet(channels).save_pretrained(folder / "unet")
    DDIMScheduler().save_pretrained(folder / "scheduler")
    return str(folder)


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("latent") / request.param
    save(path, request.param)
    return path


def codes_of(folder: Path) -> Autoencoder:
    codes = load_model(str(folder)).codes
    assert codes is not None
    return codes


def judge(folder: Path) -> Any:
    """The network as diffusers itself loads it, in the mode for evaluation."""
    cls = AutoencoderKL if folder.name == "vae" else VQModel
    return cls.from_pretrained(folder / folder.name).eval()


def some_maps(count: int = 3) -> Maps:
    return randn(count, 1, 16, 24, seed=7).float()


@torch.no_grad()
def test_codes_and_maps_are_those_of_diffusers(folder: Path) -> None:
    ours, reference, maps = codes_of(folder), judge(folder), some_maps()
    if folder.name == "vae":
        expected = 0.7 * (reference.encode(maps).latent_dist.mode() - 0.2)
        back = reference.decode(expected / 0.7 + 0.2).sample
    else:
        expected = 1.9 * reference.encode(maps).latents
        back = reference.decode(expected / 1.9).sample
    found = ours.encode(maps)
    assert found.shape == (3, *ours.code_shape((1, 16, 24))) == (3, 3, 8, 12)
    # The same float32 network; the order of scaling and shifting may round once more.
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.decode(found), back, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_encoding_draws_nothing(tmp_path: Path) -> None:
    save(tmp_path / "vae", "vae")
    codes, maps = codes_of(tmp_path / "vae"), some_maps()
    first = codes.encode(maps)
    torch.manual_seed(1)
    assert torch.equal(first, codes.encode(maps))
    drawn = 0.7 * (judge(tmp_path / "vae").encode(maps).latent_dist.sample() - 0.2)
    assert float((drawn - first).abs().mean()) > 0.1  # a sample of the posterior is another


def test_batches_do_not_show(folder: Path) -> None:
    codes, maps = codes_of(folder), some_maps(BATCH + 3)
    alone = torch.cat([codes.encode(maps[i : i + 1]) for i in range(len(maps))])
    torch.testing.assert_close(codes.encode(maps), alone, rtol=1e-5, atol=1e-5)
    assert len(codes.decode(alone)) == len(maps)


def test_the_autoencoder_is_frozen(folder: Path) -> None:
    codes = codes_of(folder)
    assert not codes.network.training
    assert not any(p.requires_grad for p in codes.network.parameters())
    assert not codes.encode(some_maps().requires_grad_(True)).requires_grad


class Lossy(torch.nn.Module):
    """Keeps the share `kept` of every pixel, and twice the pixel as the code."""

    def __init__(self, kept: float) -> None:
        super().__init__()
        self.kept = kept

    def encode(self, maps: Maps) -> SimpleNamespace:
        return SimpleNamespace(latents=2 * maps)

    def decode(self, codes: Maps) -> SimpleNamespace:
        return SimpleNamespace(sample=self.kept * codes / 2)


@pytest.mark.parametrize("kept", [1.0, 0.9, 0.0])
def test_the_floor_is_what_the_round_trip_loses(kept: float) -> None:
    codes = Autoencoder(Lossy(kept), 1, 1, 1, scale=0.3, shift=0.5, digest="")
    maps = some_maps() - some_maps().mean()
    # Of maps without a mean, rms and standard deviation differ by 1 in 1152 pixels at most.
    assert codes.floor(maps) == pytest.approx(1 - kept, rel=1e-3, abs=1e-6)
    assert codes.floor(maps + 4.0) == pytest.approx(
        (1 - kept) * float((maps + 4.0).square().mean().sqrt() / maps.std()), rel=1e-5, abs=1e-5
    )


def test_a_latent_base_is_described_by_its_pixels(folder: Path) -> None:
    base = load_model(str(folder))
    assert (base.channels, base.size, base.size_multiple) == (1, 16, 4)
    assert base.code_shape((1, 64, 32)) == (3, 32, 16)
    codes = randn(2, 3, 8, 8).float()
    assert base.denoiser(codes, 300).shape == codes.shape


def test_a_base_of_pixels_has_no_codes(tmp_path: Path) -> None:
    save(tmp_path, "vae")
    shutil.rmtree(tmp_path / "vae")
    base = load_model(str(tmp_path))
    assert base.codes is None
    assert base.code_shape((3, 8, 8)) == (3, 8, 8)


def test_the_autoencoder_is_part_of_the_digest(folder: Path, tmp_path: Path) -> None:
    digests = {load_model(str(folder)).digest}
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert load_model(str(copy)).digest in digests
    edit(copy / folder.name / "config.json", scaling_factor=0.71)
    digests.add(load_model(str(copy)).digest)
    weights = copy / folder.name / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    digests.add(load_model(str(copy)).digest)
    shutil.rmtree(copy / folder.name)
    digests.add(load_model(str(copy)).digest)
    assert len(digests) == 4


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"_class_name": "AutoencoderTiny"}, "got a AutoencoderTiny in vae/; expected one of Auto"),
        ({"latents_mean": [0.0, 0.0, 0.0]}, "latents_mean or latents_std; expected one scaling"),
        ({"scaling_factor": 0.0}, "scaling_factor 0.0; expected more than 0"),
        ({"layers_per_block": 2}, "vae: weights do not fit the network: .* missing"),
    ],
)
def test_an_autoencoder_that_is_not_understood_is_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    source = save(tmp_path, "vae")
    edit(tmp_path / "vae" / "config.json", **settings)
    with pytest.raises(BaseModelError, match=message):
        load_model(source)


def test_an_autoencoder_of_another_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="network of 4 channels and codes of 3; expected as"):
        load_model(save(tmp_path / "a", "vae", channels=4))
    with pytest.raises(BaseModelError, match="autoencoder of 1 to 2 channels; expected as many"):
        load_model(save(tmp_path / "b", "vae", out_channels=2))


def test_missing_weights_of_the_autoencoder_are_named(tmp_path: Path) -> None:
    source = save(tmp_path, "vqvae")
    (tmp_path / "vqvae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(BaseModelError, match="expected safetensors weights.*vqvae/config.json"):
        load_model(source)
