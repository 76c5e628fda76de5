"""What becomes of a base's scheduler settings.

None is ignored silently: each one that changes results is *honoured*, *overruled* with a stated
reason, or *refused* with an error. The noise levels are those of the scheduler's own class, on
integer time indices from the least noise upwards.
"""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, final, get_args

import torch

from ood_core.config.pretraining import Prediction
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.errors import BaseModelError
from ood_core.models.pretrained import Edm, Parametrisation, Score

Ruling = Literal["honoured", "overruled"]
Known = tuple[str, ...]

MAX_STEPS = 100_000
"""Noise levels of a schedule; usual ones have a thousand."""

PRESERVING: Known = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
)
"""Schedulers of networks that take `sqrt(abar) x0 + sqrt(1 - abar) eps` and an integer time."""
EXPLODING: Known = ("ScoreSdeVeScheduler",)
PRECONDITIONED: Known = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")

BETAS: Known = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
SIGMAS: Known = ("num_train_timesteps", "sigma_min", "sigma_max")

_GRID = "time grids are chosen by the method"
_SOLVER = "the method has solvers of its own"
_ODE = "the flow is deterministic and has no such step"
OVERRULED: dict[str, tuple[tuple[Any, ...], str]] = {
    "clip_sample": ((False,), "maps keep their physical range; a clamp would break inversion"),
    "steps_offset": ((0,), "time grids use the network's own indices"),
    "set_alpha_to_one": ((True,), "decoding ends at index 0 of the schedule, not at zero noise"),
    "final_sigmas_type": ((), "decoding ends at index 0 of the schedule, not at zero noise"),
    "timestep_spacing": ((), _GRID),
    "sampling_eps": ((), _GRID),
    "use_karras_sigmas": ((False,), _GRID),
    "use_exponential_sigmas": ((False,), _GRID),
    "use_beta_sigmas": ((False,), _GRID),
    "use_lu_lambdas": ((False,), _GRID),
    "skip_prk_steps": ((), _SOLVER),
    "algorithm_type": ((), _SOLVER),
    "solver_order": ((), _SOLVER),
    "solver_type": ((), _SOLVER),
    "snr": ((), _ODE),
    "correct_steps": ((), _ODE),
    "variance_type": (
        (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
        "a learned variance is left out: the flow needs the mean alone",
    ),
}
"""Setting to the values that need no ruling, and the reason against all others."""
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "thresholding": (
        (None, False),
        "which makes the denoiser depend on each map's own percentile; expected a base without "
        "it: set it to false if the base was trained without",
    ),
    "use_flow_sigmas": (
        (None, False),
        "the straight paths of flow matching; expected a base of a diffusion: set it to false if "
        "the base was trained on betas",
    ),
    "timestep_type": (
        (None, "discrete"),
        "times that are no indices of the betas; expected 'discrete', or an EDM scheduler for a "
        "network that takes ln(sigma)/4",
    ),
}
"""Setting to the values that do no harm, and what is expected instead."""


@final
@dataclass(frozen=True, slots=True)
class SettingRuling:
    """What became of one scheduler setting that changes results."""

    setting: str
    value: str
    ruling: Ruling
    reason: str


Reading = tuple[NoiseSchedule, Parametrisation, tuple[SettingRuling, ...], str]
"""The last is what states the noise levels, with defaults, for the digest of the base."""


def read_scheduler(config: dict[str, Any]) -> Reading:
    """Turn a diffusers scheduler configuration into a schedule, with a ruling per setting.

    Without a `_class_name` it is read as that of a `DDPMScheduler`.

    Raises:
        BaseModelError: a class that is not known, an unknown `prediction_type`, `beta_schedule` or
            `sigma_schedule`, impossible levels, or a setting that cannot be honoured.
    """
    for setting, (harmless, expected) in REFUSED.items():
        if config.get(setting) not in harmless:
            raise BaseModelError(f"got {setting}={config[setting]}, {expected}")
    steps = config.get("num_train_timesteps", 1)
    if not (isinstance(steps, int) and 1 <= steps <= MAX_STEPS):
        raise BaseModelError(
            f"got num_train_timesteps {str(steps)[:50]}; expected a whole number up to {MAX_STEPS}"
        )
    name = config.get("_class_name", "DDPMScheduler")
    if name in PRESERVING:
        return _preserving(name, config)
    if name in EXPLODING:
        return _exploding(name, config)
    if name in PRECONDITIONED:
        return _preconditioned(name, config)
    raise BaseModelError(
        f"got the scheduler {name!r}, of which it is not known what its network takes and gives; "
        f"expected one of {', '.join(PRESERVING + EXPLODING + PRECONDITIONED)}: save the base "
        "with the one of these that it was trained for"
    )


def suit_network(reading: Reading, config: dict[str, Any]) -> Reading:
    """Check that a network takes the schedule's times; settle in which range its maps lie.

    Raises:
        BaseModelError: a time embedding that has no value at some of these times.
    """
    schedule, parametrisation, rulings, levels = reading
    embedding = config.get("time_embedding_type", "positional")
    bad = {"fourier": not isinstance(parametrisation, Score)}  # the logarithm of the time
    bad |= {"learned": isinstance(parametrisation, Score | Edm)}  # a table of whole numbers
    if bad.get(embedding):
        raise BaseModelError(
            f"got a network with time_embedding_type {embedding!r} and parametrisation "
            f"{parametrisation}, evaluated at times that its embedding does not have; expected "
            "fourier with ScoreSdeVeScheduler, else positional: check that the scheduler is the "
            "network's own"
        )
    if not (isinstance(parametrisation, Score) and config.get("center_input_sample")):
        return reading
    ruling = SettingRuling("center_input_sample", "True", "honoured", "trained on maps in [0, 1]")
    doubled = NoiseSchedule(schedule.alpha, 2 * schedule.sigma)  # model range is twice as wide
    return doubled, Score(unit_range=True), (*rulings, ruling), levels


def _preserving(name: str, config: dict[str, Any]) -> Reading:
    prediction = _prediction(config, get_args(Prediction))
    given = _given(config, BETAS)
    rescaled = "rescale_betas_zero_snr"
    if rescaled in _settings_of(name) or config.get(rescaled):
        given[rescaled] = config.get(rescaled, False)
    built = _build(name, given)
    schedule = _rising(lambda: NoiseSchedule.variance_preserving(built.alphas_cumprod), given)
    rulings = _rulings(config, {"prediction_type": prediction, **given})
    return schedule, prediction, rulings, _stated(built, (*BETAS, rescaled))


def _exploding(name: str, config: dict[str, Any]) -> Reading:
    given = _given(config, SIGMAS)
    built = _build(name, given)
    sigma = built.discrete_sigmas.double()
    schedule = _rising(lambda: NoiseSchedule(torch.ones_like(sigma), sigma), given)
    return schedule, Score(), _rulings(config, given), _stated(built, SIGMAS)


def _preconditioned(name: str, config: dict[str, Any]) -> Reading:
    prediction = _prediction(config, ("epsilon", "v_prediction"))
    honoured = (*SIGMAS, "sigma_data", "sigma_schedule", "rho")
    given = _given(config, honoured)
    scheduler = _build(name, given)
    sigma = scheduler.sigmas[:-1].flip(0).double()  # from the least; the last one is zero
    schedule = _rising(lambda: NoiseSchedule(torch.ones_like(sigma), sigma), given)
    data = scheduler.config.sigma_data
    if not (isinstance(data, int | float) and data > 0):
        raise BaseModelError(f"got sigma_data {data!r}; expected a number above 0")
    rulings = _rulings(config, {"prediction_type": prediction, **given})
    return schedule, Edm(prediction, float(data)), rulings, _stated(scheduler, honoured)


def _prediction(config: dict[str, Any], known: Known) -> Any:
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in known:
        raise BaseModelError(f"got prediction_type {prediction!r}; expected one of {known}")
    return prediction


def _given(config: dict[str, Any], known: Known) -> dict[str, Any]:
    return {key: config[key] for key in known if config.get(key) is not None}


def _settings_of(name: str) -> set[str]:
    import diffusers

    return set(inspect.signature(getattr(diffusers, name).__init__).parameters)


def _build(name: str, given: dict[str, Any]) -> Any:
    import diffusers

    try:
        return getattr(diffusers, name)(**given)
    except Exception as error:  # what a wrong setting does inside the library, nobody has listed
        raise BaseModelError(f"scheduler configuration not understood: {error}") from error


def _stated(scheduler: Any, honoured: Known) -> str:
    """Settings that its noise levels follow from; numbers that are equal are written alike."""
    found = {key: scheduler.config.get(key) or False for key in honoured}
    plain = {k: float(v) if isinstance(v, int | float) else v for k, v in found.items()}
    return json.dumps(plain, sort_keys=True)


def _rising(make: Callable[[], NoiseSchedule], given: dict[str, Any]) -> NoiseSchedule:
    try:
        return make()
    except ValueError as error:
        raise BaseModelError(
            f"got a scheduler with {given}, whose noise levels do not rise; expected betas in "
            "(0, 1), or 0 < sigma_min < sigma_max and no more levels than float32 can tell apart"
        ) from error


def _rulings(config: dict[str, Any], honoured: dict[str, Any]) -> tuple[SettingRuling, ...]:
    rulings = [
        SettingRuling(key, str(value), "honoured", "defines schedule or parametrisation")
        for key, value in honoured.items()
    ]
    rulings += [
        SettingRuling(key, str(config[key]), "overruled", reason)
        for key, (neutral, reason) in OVERRULED.items()
        if key in config and config[key] not in neutral
    ]
    return tuple(rulings)
