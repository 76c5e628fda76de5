"""Frozen bases loaded from diffusers folders or hub ids, and digested."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, final

import torch

from ood_core.bases.denoiser import PretrainedDenoiser
from ood_core.bases.galaxygrad import PREFIX, find_weights, packaged, read_mixer
from ood_core.bases.networks import PATCH_KEY, read_network
from ood_core.bases.schedulers import SettingRuling, read_scheduler
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.errors import BaseModelError
from ood_core.specs import Prediction


@final
@dataclass(frozen=True, slots=True)
class BaseModel:
    """A frozen base: its denoiser and what there is to know about it.

    Maps must have `channels` channels and sides that are multiples of `size_multiple` pixels; with
    `fixed_size`, sides of exactly `size` pixels.
    """

    denoiser: PretrainedDenoiser
    digest: str
    channels: int
    size: int
    parameters: int
    prediction: Prediction
    rulings: tuple[SettingRuling, ...]
    source: str
    size_multiple: int
    fixed_size: bool = False


def load_base(
    source: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> BaseModel:
    """Load a diffusers folder or hub id, or `galaxygrad:NAME` from that package.

    Raises:
        BaseModelError: missing or unreadable files, an unknown scheduler setting, a network that
            is not an unconditional `UNet2DModel`, or a package that is not installed.
    """
    if source.startswith(PREFIX):
        return _load_packaged(source, device, dtype)
    folder = _folder(source)
    unet_dir = folder / "unet" if (folder / "unet" / "config.json").is_file() else folder
    config = _read_json(unet_dir / "config.json", source)
    schedule, prediction, rulings = read_scheduler(_scheduler_config(folder, unet_dir, source))
    weights = unet_dir / "diffusion_pytorch_model.safetensors"
    network = read_network(unet_dir, config, weights, source)
    patch = int(config.get(PATCH_KEY, 1))
    to_device = network.to(torch.device(device))
    return BaseModel(
        denoiser=PretrainedDenoiser(to_device, schedule, prediction, dtype),
        digest=weights_digest(weights, prediction, schedule),
        channels=int(config["in_channels"]) // patch**2,
        size=_square(config["sample_size"]) * patch,
        parameters=sum(p.numel() for p in network.parameters()),
        prediction=prediction,
        rulings=rulings,
        source=source,
        size_multiple=patch * 2 ** (len(config["block_out_channels"]) - 1),
    )


def _load_packaged(source: str, device: torch.device | str, dtype: torch.dtype) -> BaseModel:
    schedule, size = NoiseSchedule.linear(), packaged(source).size
    weights = find_weights(source)
    network = read_mixer(weights, size, schedule).to(torch.device(device))
    return BaseModel(
        denoiser=PretrainedDenoiser(network, schedule, "epsilon", dtype),
        digest=weights_digest(weights, "epsilon", schedule),
        channels=1,
        size=size,
        parameters=sum(p.numel() for p in network.parameters()),
        prediction="epsilon",
        rulings=(),
        source=source,
        size_multiple=size,
        fixed_size=True,
    )


def weights_digest(weights: Path, prediction: Prediction, schedule: NoiseSchedule) -> str:
    """SHA-256 of weights, parametrisation and schedule: all of a base that changes results."""
    digest = hashlib.sha256(weights.read_bytes())
    digest.update(prediction.encode())
    digest.update(schedule.alpha.numpy().tobytes() + schedule.sigma.numpy().tobytes())
    return digest.hexdigest()


def _folder(source: str) -> Path:
    if Path(source).is_dir():
        return Path(source)
    if Path(source).is_absolute() or source.count("/") != 1:
        raise BaseModelError(
            f"no folder {source!r}: expected a diffusers folder (with model_index.json or "
            "config.json) or a hub id such as 'owner/name'"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise BaseModelError(
            f"{source!r} is no local folder, and the hub did not give it ({type(error).__name__}): "
            "check the path, or the id and the network"
        ) from error


def _scheduler_config(folder: Path, unet_dir: Path, source: str) -> dict[str, Any]:
    for path in (
        folder / "scheduler" / "scheduler_config.json",
        unet_dir / "scheduler_config.json",
    ):
        if path.is_file():
            return _read_json(path, source)
    raise BaseModelError(
        f"{source}: no scheduler_config.json; expected it beside the network or in scheduler/: "
        "without it neither the noise schedule nor the prediction type is known"
    )


def _read_json(path: Path, source: str) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"{source}: cannot read {path.name} ({error}); expected a diffusers model folder"
        ) from error


def _square(sample_size: int | list[int]) -> int:
    return int(sample_size if isinstance(sample_size, int) else max(sample_size))
