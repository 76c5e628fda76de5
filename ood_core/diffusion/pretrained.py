"""Frozen base models in diffusers format: loaded, digested, checked. Sole importer of diffusers.

Scheduler settings are never ignored silently. Each one that changes results is *honoured*,
*overruled* with a stated reason, or *refused* with an error.
"""

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, final, get_args

import torch
from torch import nn

from ood_core.arrays import Maps
from ood_core.diffusion.denoiser import clean_from_output
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.errors import BaseModelError
from ood_core.specs import Prediction

Ruling = Literal["honoured", "overruled"]


@final
@dataclass(frozen=True, slots=True)
class SettingRuling:
    """What became of one scheduler setting that changes results."""

    setting: str
    value: str
    ruling: Ruling
    reason: str


@final
@dataclass(frozen=True, slots=True)
class BaseModel:
    """A frozen base: its denoiser and what there is to know about it.

    Maps must have `channels` channels and sides that are multiples of `size_multiple` pixels.
    """

    denoiser: "PretrainedDenoiser"
    digest: str
    channels: int
    size: int
    parameters: int
    prediction: Prediction
    rulings: tuple[SettingRuling, ...]
    source: str
    size_multiple: int


@final
class PretrainedDenoiser:
    """`E[x0 | x_t]` of a frozen `UNet2DModel`, evaluated without gradients."""

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        prediction: Prediction,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self._schedule = schedule
        self._prediction: Prediction = prediction
        self._dtype = dtype

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule the network was trained on."""
        return self._schedule

    @torch.no_grad()
    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return `E[x0 | x_t]`; state in float32, network in the dtype given at construction."""
        alpha, sigma = float(self._schedule.alpha[t]), float(self._schedule.sigma[t])
        with torch.autocast(x_t.device.type, self._dtype, self._dtype != torch.float32):
            output = self.network(x_t, t).sample
        return clean_from_output(output.float(), x_t, alpha, sigma, self._prediction)


def load_base(
    source: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> BaseModel:
    """Load a diffusers folder or hub id.

    Raises:
        BaseModelError: missing or unreadable files, an unknown scheduler setting, or a network
            that is not an unconditional `UNet2DModel`.
    """
    folder = _folder(source)
    unet_dir = folder / "unet" if (folder / "unet" / "config.json").is_file() else folder
    config = _read_json(unet_dir / "config.json", source)
    schedule, prediction, rulings = read_scheduler(_scheduler_config(folder, unet_dir, source))
    weights = unet_dir / "diffusion_pytorch_model.safetensors"
    network = _network(unet_dir, config, weights, source)
    to_device = network.to(torch.device(device))
    return BaseModel(
        denoiser=PretrainedDenoiser(to_device, schedule, prediction, dtype),
        digest=weights_digest(weights, prediction, schedule),
        channels=int(config["in_channels"]),
        size=_square(config["sample_size"]),
        parameters=sum(p.numel() for p in network.parameters()),
        prediction=prediction,
        rulings=rulings,
        source=source,
        size_multiple=2 ** (len(config["block_out_channels"]) - 1),
    )


def weights_digest(weights: Path, prediction: Prediction, schedule: NoiseSchedule) -> str:
    """SHA-256 of weights, parametrisation and schedule: all of a base that changes results."""
    digest = hashlib.sha256(weights.read_bytes())
    digest.update(prediction.encode())
    digest.update(schedule.alpha.numpy().tobytes() + schedule.sigma.numpy().tobytes())
    return digest.hexdigest()


def read_scheduler(
    config: dict[str, Any],
) -> tuple[NoiseSchedule, Prediction, tuple[SettingRuling, ...]]:
    """Turn a diffusers scheduler configuration into a schedule, with a ruling per setting.

    Raises:
        BaseModelError: unknown `prediction_type` or `beta_schedule`, or dynamic thresholding.
    """
    from diffusers import DDPMScheduler

    prediction = config.get("prediction_type", "epsilon")
    if prediction not in get_args(Prediction):
        raise BaseModelError(
            f"got prediction_type {prediction!r}; expected one of {get_args(Prediction)}"
        )
    if config.get("thresholding"):
        raise BaseModelError(
            "got thresholding=True, which makes the denoiser depend on each map's own percentile; "
            "expected a base without it: set it to false if the base was trained without"
        )
    known = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    given = {key: config[key] for key in known if config.get(key) is not None}
    given["rescale_betas_zero_snr"] = config.get("rescale_betas_zero_snr", False)
    try:
        scheduler = DDPMScheduler(**given)
    except (NotImplementedError, ValueError, TypeError) as error:
        raise BaseModelError(f"scheduler configuration not understood: {error}") from error
    schedule = NoiseSchedule.variance_preserving(scheduler.alphas_cumprod)
    return schedule, cast(Prediction, prediction), _rulings(config, given, prediction)


def _rulings(
    config: dict[str, Any], given: dict[str, Any], prediction: str
) -> tuple[SettingRuling, ...]:
    honoured = {"prediction_type": prediction, **given}
    rulings = [
        SettingRuling(key, str(value), "honoured", "defines schedule or parametrisation")
        for key, value in honoured.items()
    ]
    overruled = {
        "clip_sample": (False, "maps keep their physical range; a clamp would break inversion"),
        "steps_offset": (0, "time grids use the network's own indices"),
        "set_alpha_to_one": (True, "decoding ends at index 0 of the schedule, not at zero noise"),
        "timestep_spacing": ("", "time grids are chosen by the method"),
    }
    rulings += [
        SettingRuling(key, str(config[key]), "overruled", reason)
        for key, (neutral, reason) in overruled.items()
        if key in config and config[key] != neutral
    ]
    return tuple(rulings)


def make_unet(
    size: int,
    channels: int,
    widths: tuple[int, ...],
    layers: int,
    attention: tuple[bool, ...],
    norm_groups: int,
) -> nn.Module:
    """Build an untrained unconditional `UNet2DModel`; one width and attention flag per level."""
    from diffusers import UNet2DModel

    return cast(
        nn.Module,
        UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=layers,
            block_out_channels=widths,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attention),
            up_block_types=tuple(
                "AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)
            ),
            norm_num_groups=norm_groups,
            attention_head_dim=16,
        ),
    )


def save_base(network: nn.Module, prediction: Prediction, folder: Path) -> None:
    """Write a diffusers folder: float16 safetensors, network and scheduler configuration."""
    from diffusers import DDPMPipeline, DDPMScheduler

    scheduler = DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        prediction_type=prediction,
        clip_sample=False,
    )
    pipeline = DDPMPipeline(unet=copy.deepcopy(network).half(), scheduler=scheduler)
    pipeline.save_pretrained(str(folder), safe_serialization=True)


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


def _network(unet_dir: Path, config: dict[str, Any], weights: Path, source: str) -> nn.Module:
    from diffusers import UNet2DModel

    if config.get("_class_name") != "UNet2DModel":
        raise BaseModelError(
            f"{source}: got a {config.get('_class_name')}; expected an unconditional UNet2DModel"
        )
    if not weights.is_file():
        raise BaseModelError(f"{source}: no {weights.name}; expected safetensors weights")
    try:
        network = UNet2DModel.from_pretrained(
            str(unet_dir), torch_dtype=torch.float32, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise BaseModelError(f"{source}: weights do not fit the network: {error}") from error
    return cast(nn.Module, network)


def _square(sample_size: int | list[int]) -> int:
    return int(sample_size if isinstance(sample_size, int) else max(sample_size))
