"""What becomes of a base's scheduler settings.

None is ignored silently: each one that changes results is *honoured*, *overruled* with a stated
reason, or *refused* with an error.
"""

from dataclasses import dataclass
from typing import Any, Literal, cast, final, get_args

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
