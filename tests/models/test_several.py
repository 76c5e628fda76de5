"""Several frozen bases as experts of one run: each on its schedule, asked where it is missed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import ood_core as ff
from flows.runs.cost import estimate_cost
from flows.runs.lifecycle import make_run
from flows.settings import load_settings
from ood_core.config.method import CalibrationSpec
from ood_core.denoising.calibrated import BASE, EXPERTS, TargetExperts, calibrate_timestep
from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.denoiser import BasesContext
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.errors import BaseModelError, ConfigError
from ood_core.maps.paths import BOTH
from ood_core.models.loading import load_model, together
from ood_core.models.pretrained import PretrainedDenoiser, Score, SeveralDenoisers
from ood_core.numerics.covariance import Diagonal
from ood_core.store.run import RunStore
from tests.oracles.exact_network import ExactNetwork
from tests.strategies import randn

SIDE, LINEAR = 8, NoiseSchedule.linear()
EXPLODING = NoiseSchedule(
    torch.ones(1000, dtype=torch.float64), torch.logspace(-2.2, 2.4, 1000, dtype=torch.float64)
)
LAW = np.zeros(SIDE**2), np.diag(np.linspace(0.1, 2.0, SIDE**2))


def exact(kind, schedule: NoiseSchedule) -> PretrainedDenoiser:
    return PretrainedDenoiser(ExactNetwork(kind, schedule, *LAW), schedule, kind)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> str:
    from ood_core.models.networks import make_unet, save_base

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("models") / "other"
    save_base(make_unet(16, 1, (8, 16), 1, (False, False), 4), "v_prediction", folder)
    return str(folder)


@pytest.mark.parametrize("t", [20, 300, 900])
def test_every_base_is_asked_at_the_noise_level_of_the_first(t: int) -> None:
    """Networks without error on other schedules agree, to half a step of `ln(sigma/alpha)`.

    Steps of the second are 0.0106, so the ratio `r` is within 0.0053, and `1/(1 + r^2/s^2)` changes
    by twice that relative change at most.
    """
    both = SeveralDenoisers([exact("v_prediction", LINEAR), exact(Score(), EXPLODING)])
    x_t = randn(3, 1, SIDE, SIDE, seed=1).float()
    first, second = both(x_t, t), both(x_t, t, BasesContext(((), ()), 1))
    assert both.schedule is LINEAR and torch.equal(first, both(x_t, t, BasesContext(((), ()))))
    assert torch.allclose(first, second, rtol=0.0107, atol=1e-4) and not torch.equal(first, second)


def test_a_base_has_weight_where_it_is_missed() -> None:
    """The law's own denoiser is kept wherever it stands; a base that knows nothing is left out.

    Half of the pixels have no signal, which no filter of wavenumbers knows.
    """
    spread = torch.where(torch.arange(16) % 8 < 4, 1.0, 0.01).expand(1, 16, 16)
    mean = torch.zeros(1, 16, 16)
    truth = GaussianDenoiser(LINEAR, mean, Diagonal(spread**2))
    poor = GaussianDenoiser(LINEAR, mean, Diagonal(torch.full((1, 16, 16), 1e-4)))
    targets = spread * randn(16, 1, 16, 16, seed=3).float()
    spec = CalibrationSpec(draws=4, bands=8, ridge=1e-3, prune_tolerance=0.02)
    folds = [TargetExperts(poor, (poor,), torch.ones(1), (), (BasesContext(((), ())),))] * 2
    for known in (0, 1):

        class Both:
            schedule, right = LINEAR, known

            def __call__(self, x_t, t, asked):
                good = asked.number == self.right
                return truth(x_t, t) if good else torch.zeros_like(x_t)

        weights, gate, _ = calibrate_timestep(targets, Both(), folds, mean, 300, spec, (), 7)
        assert weights.shape[1] == len(EXPERTS) + 1 == gate.weights.shape[-1]
        columns = weights[:, [BASE, len(EXPERTS)]].abs().amax(dim=0)
        assert columns[known] > 0.3 and columns[1 - known] == 0


def test_the_digest_is_of_all_in_order_and_one_alone_keeps_its_own(base, other) -> None:
    one, two = load_model(str(base)), load_model(other)
    both, turned = load_model(f"{base}{BOTH}{other}"), load_model(f"{other}{BOTH}{base}")
    assert len({one.digest, two.digest, both.digest, turned.digest}) == 4
    assert one.each == (one,) and both.parameters == one.parameters + two.parameters
    for twice in ([one, one], [one, replace(two, codes=object())]):
        with pytest.raises(BaseModelError, match="expected different ones"):
            together(twice, "both")


def test_a_run_of_a_list_of_bases_is_that_of_the_object(config, base, other, tmp_path) -> None:
    """Stored bytes are those in memory, evaluations those counted, trust names every base."""
    settings = load_settings(config(base=[str(base), other]))
    assert settings.base == f"{base}{BOTH}{other}"
    make_run(settings, str(tmp_path / "run"))
    run = RunStore.open(str(tmp_path / "run"))
    stored = run.table("generate").read("maps", slice(0, 4))
    synth = ff.Synthesizer(ff.load_model(settings.base), settings.method, batch=4)
    synth.fit(ff.TargetSet.of(settings.targets), progress=False)
    assert np.array_equal(stored, synth.sample(4, progress=False))
    assert synth.identity == run.record["identity"]
    assert synth.trust().evaluations["base 2"] == len(synth.trust().noise_to_signal)
    counted = estimate_cost(settings)["network_evaluations_at_most"]
    for stage in ("calibrate", "generate"):
        receipts = run.ledger(stage).all(run.plan(stage))
        assert counted[stage] == sum(receipt.nfe for receipt in receipts)
    synth.save(tmp_path / "fitted.npz")
    again = ff.Synthesizer.load(tmp_path / "fitted.npz", synth.model, batch=4)
    assert np.array_equal(again.sample(4, progress=False), stored)
    alone = config(base=[str(base), other], method={"calibration": None, "steering": None})
    with pytest.raises(ConfigError, match="without calibration"):
        make_run(load_settings(alone), str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
