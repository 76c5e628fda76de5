"""Networks by parametrisation: exact laws and diffusers' own samplers as the judges."""

import os
import subprocess
import sys
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    ScoreSdeVeScheduler,
    UNet2DModel,
)

from flows.settings import PROJECT
from ood_core.arrays import Maps
from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.sampling import decode
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.diffusion.solvers import ddim_step
from ood_core.models.loading import load_model
from ood_core.models.pretrained import Edm, Parametrisation, PretrainedDenoiser, Score
from ood_core.models.schedulers import read_scheduler
from tests.contracts.denoiser import DenoiserContract
from tests.oracles import gaussian
from tests.oracles.exact_network import ExactNetwork
from tests.oracles.gaussian import dense, flat
from tests.strategies import COVARIANCES, randn

SHAPE = (2, 3, 4)
LINEAR = NoiseSchedule.linear()
DEAD_LEAVES = PROJECT / "models" / "dead-leaves-32"
GOLDEN = "1a1b9a921a0b9fceae7c183ebca9fbb2217bce6734eab592f3272bf19f426af0"
VE = read_scheduler({"_class_name": "ScoreSdeVeScheduler", "sigma_max": 50.0})[0]
EDM = read_scheduler({"_class_name": "EDMEulerScheduler"})[0]
WIDE = NoiseSchedule(VE.alpha, 2 * VE.sigma)
LAW = GaussianDenoiser(LINEAR, randn(*SHAPE, seed=6), COVARIANCES["low_rank"](SHAPE, 8))
MEAN, COV = flat(LAW.mean[None])[0], dense(LAW.covariance.apply, SHAPE)

PARAMETRISATIONS: list[tuple[NoiseSchedule, Parametrisation]] = [
    (LINEAR, "epsilon"),
    (LINEAR, "v_prediction"),
    (LINEAR, "sample"),
    (VE, Score()),
    (WIDE, Score(unit_range=True)),
    (EDM, Edm("epsilon", 0.5)),
    (EDM, Edm("v_prediction", 1.7)),
]
KINDS = [str(kind) for _, kind in PARAMETRISATIONS]


def unet(**settings: Any) -> UNet2DModel:
    small: dict[str, Any] = {
        "sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1,
        "block_out_channels": (8, 8), "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return UNet2DModel(**small | settings)


def saved(folder: Any, network: Any, scheduler: Any) -> str:
    network.save_pretrained(folder)
    scheduler.save_pretrained(folder)
    return str(folder)


def relative_error(
    schedule: NoiseSchedule, network: Parametrisation, read_as: Parametrisation, t: int
) -> float:
    """Largest gap to the exact denoiser of the law, over the size of the noised map."""
    exact = GaussianDenoiser(schedule, LAW.mean, LAW.covariance)
    noise = float(schedule.sigma[t]) * randn(3, *SHAPE, seed=t + 1)
    x_t = float(schedule.alpha[t]) * randn(3, *SHAPE, seed=t) + noise
    found = PretrainedDenoiser(ExactNetwork(network, LINEAR, MEAN, COV), schedule, read_as)(x_t, t)
    size = x_t.abs().max() / float(schedule.alpha[t])
    return float((found - exact(x_t, t)).abs().max() / size)


@pytest.mark.parametrize("t", [0, 5, 300, 700, 999])
@pytest.mark.parametrize(("schedule", "kind"), PARAMETRISATIONS, ids=KINDS)
def test_the_perfect_network_of_a_gaussian_gives_its_exact_denoiser(
    schedule: NoiseSchedule, kind: Parametrisation, t: int
) -> None:
    # The answer passes through float32 (6e-8), and so does the time where it is a real number:
    # ln(sigma)/4 < 2 to 1.2e-7 moves sigma by 5e-7, of which the clean map feels a share below 1.
    assert relative_error(schedule, kind, kind, t) < 2e-6


@pytest.mark.parametrize(("schedule", "kind"), PARAMETRISATIONS, ids=KINDS)
def test_the_perfect_network_decodes_by_the_closed_form(
    schedule: NoiseSchedule, kind: Parametrisation
) -> None:
    network = ExactNetwork(kind, LINEAR, MEAN, COV)
    grid = schedule.log_snr_grid(12, schedule.index_of(12.0))
    levels = [schedule.noise_to_signal(int(t)) for t in reversed(grid.tolist())]
    latents = randn(3, *SHAPE, seed=3)
    made = decode(PretrainedDenoiser(network, schedule, kind), "ddim", latents, grid)
    start = flat(latents) * schedule.scale(int(grid[-1])) / float(schedule.alpha[grid[-1]])
    expected = gaussian.ddim(start, levels, MEAN, COV)
    # Eleven steps, each with one answer in float32 of maps that start at 12 standard deviations.
    np.testing.assert_allclose(flat(made), expected, atol=11 * 12 * 4 * 6e-8)


@pytest.mark.parametrize(
    ("schedule", "network", "read_as"),
    [
        (VE, Score(), Score(unit_range=True)),
        (WIDE, Score(unit_range=True), Score()),
        (EDM, Edm("epsilon", 0.5), Edm("v_prediction", 0.5)),
        (EDM, Edm("epsilon", 0.5), Edm("epsilon", 0.6)),
        (EDM, Score(), Edm("epsilon", 0.5)),
    ],
)
def test_a_network_taken_for_another_kind_is_far_off(
    schedule: NoiseSchedule, network: Parametrisation, read_as: Parametrisation
) -> None:
    t = schedule.index_of(1.0)
    assert relative_error(schedule, network, read_as, t) > 1e-2


class TestScore(DenoiserContract):
    tolerance = 1e-4  # a network of some ten layers in float32, times sigma up to 50
    timesteps = (0, 700, 1999)
    zero_noise = 0.1  # sigma = 0.01 times an output, sigma * score, below 10

    @pytest.fixture(params=[Score(), Score(unit_range=True)], ids=str)
    def denoiser(self, request: pytest.FixtureRequest) -> Denoiser:
        return PretrainedDenoiser(unet(time_embedding_type="fourier"), VE, request.param)

    @pytest.fixture
    def maps(self) -> Maps:
        return randn(3, 1, 8, 8, seed=5).float()


class TestEdm(DenoiserContract):
    tolerance = 1e-4  # as above
    timesteps = (0, 500, 1000)
    zero_noise = 0.02  # c_out = 0.002 times an output below 10

    @pytest.fixture(params=["epsilon", "v_prediction"])
    def denoiser(self, request: pytest.FixtureRequest) -> Denoiser:
        return PretrainedDenoiser(unet(), EDM, Edm(request.param, 0.5))

    @pytest.fixture
    def maps(self) -> Maps:
        return randn(3, 1, 8, 8, seed=5).float()


@pytest.mark.parametrize("t", [1, 400, 1700, 1999])
def test_a_score_step_is_that_of_the_reference_sampler(t: int) -> None:
    """Its mean is `x + (sigma_t^2 - sigma_{t-1}^2) score`; ours follows from `D`."""
    reference = ScoreSdeVeScheduler(sigma_max=50.0)
    reference.set_timesteps(2000)
    reference.set_sigmas(2000)
    denoiser = PretrainedDenoiser(unet(time_embedding_type="fourier"), VE, Score())
    x_t = float(VE.sigma[t]) * randn(2, 1, 8, 8, seed=t).float()
    with torch.no_grad():
        score = denoiser.network(x_t, torch.full((2,), float(VE.sigma[t]))).sample
    time = (t + 0.5) / 1999  # the sampler cuts time * 1999 to an index
    expected = reference.step_pred(score, time, x_t).prev_sample_mean
    gone = 1 - float(VE.sigma[t - 1] / VE.sigma[t]) ** 2
    ours = x_t + gone * (denoiser(x_t, t) - x_t)
    # Float32 of numbers up to sigma; the reference subtracts squares of close levels.
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6 * float(VE.sigma[t]) + 1e-6)


@pytest.mark.parametrize("t", [3, 400, 999])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_an_edm_step_is_that_of_the_reference_sampler(prediction: Any, t: int) -> None:
    reference = EDMEulerScheduler(prediction_type=prediction, sigma_data=0.7)
    config = dict(reference.config) | {"_class_name": "EDMEulerScheduler"}
    schedule, kind, _, _ = read_scheduler(config)
    denoiser = PretrainedDenoiser(unet(), schedule, kind)
    x_t = float(schedule.sigma[t]) * randn(2, 1, 8, 8, seed=t).float()
    reference.set_timesteps(1001)
    time = reference.timesteps[1000 - t]
    with torch.no_grad():
        output = denoiser.network(reference.scale_model_input(x_t, time), time).sample
    step = reference.step(output, time, x_t)
    # Float32 on both sides, relative to the noised map.
    size = 2e-6 * float(x_t.abs().max()) + 1e-6
    torch.testing.assert_close(denoiser(x_t, t), step.pred_original_sample, rtol=0, atol=size)
    ours = ddim_step(schedule, x_t, denoiser(x_t, t), t, t - 1)
    torch.testing.assert_close(ours, step.prev_sample, rtol=0, atol=size)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_edm_preconditioning_is_that_of_the_multistep_sampler(prediction: Any) -> None:
    reference = EDMDPMSolverMultistepScheduler(prediction_type=prediction, sigma_data=0.3)
    edm = Edm(prediction, 0.3)
    x, output = randn(2, *SHAPE, seed=1), randn(2, *SHAPE, seed=2)
    for sigma in (0.002, 0.3, 80.0):
        ours = edm.c_skip(sigma) * x + edm.c_out(sigma) * output
        expected = reference.precondition_outputs(x, output, sigma)
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-15)
        scaled = reference.precondition_inputs(x, sigma)
        torch.testing.assert_close(edm.c_in(sigma) * x, scaled, rtol=1e-12, atol=1e-15)


def test_a_folder_of_ncsnpp_is_a_score_base(tmp_path: Any) -> None:
    network = unet(time_embedding_type="fourier")
    base = load_model(saved(tmp_path, network, ScoreSdeVeScheduler(sigma_max=50.0)))
    assert base.prediction == "score"
    x, t = 3 * randn(2, 1, 8, 8).float(), VE.index_of(3.0)
    with torch.no_grad():  # network(x, sigma) is the score already: it divides by sigma itself
        score = network(x, torch.tensor(float(VE.sigma[t]))).sample
    expected = x + float(VE.sigma[t]) ** 2 * score
    torch.testing.assert_close(base.denoiser(x, t), expected, rtol=1e-6, atol=1e-6)


def test_a_score_network_that_centres_its_maps_was_trained_on_zero_to_one(tmp_path: Any) -> None:
    network = unet(time_embedding_type="fourier", center_input_sample=True)
    base = load_model(saved(tmp_path, network, ScoreSdeVeScheduler(sigma_max=50.0)))
    assert base.prediction == "score, maps in [0, 1]"
    assert "center_input_sample" in {r.setting for r in base.rulings}
    torch.testing.assert_close(base.denoiser.schedule.sigma, 2 * VE.sigma)
    x, t = 3 * randn(2, 1, 8, 8).float(), VE.index_of(1.5)
    unit, sigma = (x + 1) / 2, float(VE.sigma[t])
    with torch.no_grad():
        clean = unit + sigma**2 * network(unit, torch.tensor(sigma)).sample
    torch.testing.assert_close(base.denoiser(x, t), 2 * clean - 1, rtol=1e-5, atol=1e-5)


def test_a_folder_of_edm_loads_and_runs(tmp_path: Any) -> None:
    base = load_model(saved(tmp_path, unet(), EDMEulerScheduler(sigma_data=0.4)))
    assert base.prediction == "edm epsilon, sigma_data 0.4"
    x = randn(2, 1, 8, 8).float()
    assert float((base.denoiser(x, 0) - x).abs().max()) < 0.02  # c_out = sigma = 0.002, F < 10


def test_preconditioning_and_range_are_part_of_the_digest(tmp_path: Any) -> None:
    network = unet(time_embedding_type="positional")
    digests = set()
    schedulers = [
        EDMEulerScheduler(),
        EDMEulerScheduler(sigma_data=0.4),
        EDMEulerScheduler(prediction_type="v_prediction"),
        EDMEulerScheduler(sigma_max=40.0),
        ScoreSdeVeScheduler(),
        ScoreSdeVeScheduler(sigma_min=0.02),
    ]
    for number, scheduler in enumerate(schedulers):
        digests.add(load_model(saved(tmp_path / str(number), network, scheduler)).digest)
    assert len(digests) == len(schedulers)
    again = load_model(
        saved(tmp_path / "again", network, EDMEulerScheduler(final_sigmas_type="sigma_min"))
    )
    assert again.digest in digests


def test_the_digest_of_the_shipped_base_is_golden() -> None:
    """A changed value here makes every stored run refuse its base."""
    assert load_model(str(DEAD_LEAVES)).digest == GOLDEN


def test_the_digest_is_the_same_on_other_cpus() -> None:
    """Its schedule has other last bits there: runs resume, and hire workers, all the same."""
    load = f"load_model({str(DEAD_LEAVES)!r})"
    code = f"from ood_core.models.loading import load_model; print({load}.digest)"
    cpu = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | cpu,
        text=True,
        capture_output=True,
        check=True,
    )
    assert found.stdout.strip() == GOLDEN


def test_learned_variances_are_left_out(tmp_path: Any) -> None:
    network = unet(out_channels=2)
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range")
    base = load_model(saved(tmp_path, network, scheduler))
    assert "variance_type" in {r.setting for r in base.rulings}
    x, t = randn(2, 1, 8, 8).float(), 300
    with torch.no_grad():
        eps = network(x, t).sample[:, :1]
    alpha, sigma = (float(row[t]) for row in (LINEAR.alpha, LINEAR.sigma))
    torch.testing.assert_close(base.denoiser(x, t), (x - sigma * eps) / alpha, rtol=1e-4, atol=1e-4)
