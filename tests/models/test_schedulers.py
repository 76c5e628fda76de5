"""Schedulers by class: noise levels, rulings and refusals."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.errors import BaseModelError
from ood_core.models.pretrained import Score
from ood_core.models.schedulers import (
    EXPLODING,
    PRECONDITIONED,
    PRESERVING,
    read_scheduler,
    suit_network,
)

LINEAR = NoiseSchedule.linear()


@pytest.mark.parametrize("name", PRESERVING)
def test_the_levels_are_those_of_the_scheduler_s_own_class(name: str) -> None:
    settings = {"beta_schedule": "scaled_linear", "num_train_timesteps": 400}
    for given in ({}, settings):
        schedule, kind, _, _ = read_scheduler({"_class_name": name, **given})
        bar = getattr(diffusers, name)(**given).alphas_cumprod.double()
        assert kind == "epsilon"
        torch.testing.assert_close(schedule.alpha**2, bar, rtol=1e-12, atol=0)


def test_classes_differ_in_their_defaults() -> None:
    heun = read_scheduler({"_class_name": "HeunDiscreteScheduler"})[0]
    assert heun.noise_to_signal(0) != pytest.approx(LINEAR.noise_to_signal(0), rel=0.1)


def test_exploding_levels_are_geometric_from_the_least_upwards() -> None:
    config = {"sigma_min": 0.02, "sigma_max": 30.0, "num_train_timesteps": 50}
    schedule, kind, _, _ = read_scheduler({"_class_name": "ScoreSdeVeScheduler", **config})
    assert kind == Score()
    expected = torch.from_numpy(np.geomspace(0.02, 30.0, 50))
    torch.testing.assert_close(schedule.sigma, expected, rtol=1e-6, atol=0)  # float32 there
    assert torch.equal(schedule.alpha, torch.ones(50, dtype=torch.float64))


@pytest.mark.parametrize(("name", "points"), list(zip(PRECONDITIONED, (41, 40), strict=True)))
@pytest.mark.parametrize("kind", ["karras", "exponential"])
def test_edm_levels_are_those_of_the_paper(name: str, points: int, kind: str) -> None:
    config = {"sigma_min": 0.01, "sigma_max": 20.0, "num_train_timesteps": 40, "rho": 5.0}
    schedule = read_scheduler({"_class_name": name, "sigma_schedule": kind, **config})[0]
    ramp = np.linspace(0, 1, points)
    expected = (0.01**0.2 + ramp * (20.0**0.2 - 0.01**0.2)) ** 5
    if kind == "exponential":
        expected = 0.01 * 2000.0**ramp
    # Float32 roots of the ends, raised to the fifth power again.
    torch.testing.assert_close(schedule.sigma, torch.from_numpy(expected), rtol=1e-5, atol=0)


def test_an_unknown_scheduler_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(BaseModelError, match="got the scheduler 'FlowMatchEuler'") as refusal:
        read_scheduler({"_class_name": "FlowMatchEuler"})
    assert all(name in str(refusal.value) for name in PRESERVING + EXPLODING + PRECONDITIONED)


def ruled(config: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {r.setting: (r.ruling, r.value) for r in read_scheduler(config)[2]}


def test_settings_of_pndm_have_rulings() -> None:
    given = {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}
    found = ruled({"_class_name": "PNDMScheduler", "beta_end": 0.012, **given})
    assert {found[name] for name in given} == {("overruled", str(v)) for v in given.values()}
    assert found["beta_end"] == ("honoured", "0.012")


def test_levels_for_sampling_do_not_change_those_of_the_network() -> None:
    karras = {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}
    assert ruled(karras)["use_karras_sigmas"] == ("overruled", "True")
    assert torch.equal(read_scheduler(karras)[0].sigma, read_scheduler({})[0].sigma)
    assert "use_karras_sigmas" not in ruled({**karras, "use_karras_sigmas": False})


def test_settings_of_scores_and_edm_have_rulings() -> None:
    found = ruled({"_class_name": "ScoreSdeVeScheduler", "sigma_max": 9.0, "snr": 0.2,
                   "correct_steps": 1, "sampling_eps": 1e-5})  # fmt: skip
    assert found["sigma_max"] == ("honoured", "9.0")
    assert {found[n][0] for n in ("snr", "correct_steps", "sampling_eps")} == {"overruled"}
    found = ruled({"_class_name": "EDMEulerScheduler", "sigma_data": 0.3,
                   "final_sigmas_type": "zero", "prediction_type": "v_prediction"})  # fmt: skip
    assert found["sigma_data"] == ("honoured", "0.3")
    assert found["prediction_type"] == ("honoured", "v_prediction")
    assert found["final_sigmas_type"] == ("overruled", "zero")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_flow_sigmas": True}, "straight paths of flow matching"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "EDM sched"),
        ({"_class_name": "PNDMScheduler", "rescale_betas_zero_snr": True}, "not understood"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "sample"}, "type 'sample'; exp"),
        ({"_class_name": "EDMEulerScheduler", "sigma_schedule": "zigzag"}, "not understood"),
        ({"_class_name": "EDMEulerScheduler", "sigma_data": 0}, "sigma_data 0; expected"),
        ({"_class_name": "EDMEulerScheduler", "sigma_data": "a"}, "sigma_data 'a'; expected"),
        ({"_class_name": "EDMDPMSolverMultistepScheduler", "thresholding": True}, "thresholding"),
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_min": 2, "sigma_max": 1}, "do not rise"),
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_min": -1}, "not understood"),
        ({"trained_betas": [0.1, -0.2, 0.1]}, "do not rise"),
    ],
)
def test_what_cannot_be_honoured_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(BaseModelError, match=message):
        read_scheduler(config)


@pytest.mark.parametrize(
    ("name", "embedding"),
    [
        ("DDPMScheduler", "fourier"),
        ("EDMEulerScheduler", "fourier"),
        ("ScoreSdeVeScheduler", "learned"),
        ("EDMEulerScheduler", "learned"),
    ],
)
def test_a_network_that_cannot_be_asked_at_the_times_is_refused(name: str, embedding: str) -> None:
    reading = read_scheduler({"_class_name": name})
    with pytest.raises(BaseModelError, match=f"time_embedding_type '{embedding}'"):
        suit_network(reading, {"time_embedding_type": embedding})
