"""Leak: the base's own maps are drawn once, kept, and missing ones are said to be missing."""

import numpy as np
import pytest
import torch

from flows.runs import domain
from flows.runs.domain import domain_count, domain_features, draw_domain
from flows.runs.lifecycle import stored_settings
from ood_core.errors import BaseModelError
from ood_core.evaluation.features import FeatureExtractor
from ood_core.models.loading import load_model
from ood_core.numerics.random import SeedRange, normal, root_key
from ood_core.store.run import RunStore
from ood_core.store.statistics import feature_extractor
from ood_core.store.targets import load_targets
from tests.fields import smooth_fields
from tests.runs import prepare


@pytest.fixture
def planned(tmp_path, tiny) -> tuple[RunStore, FeatureExtractor]:
    """A run with twelve fit targets, with nothing done."""
    np.save(tmp_path / "many.npy", smooth_fields(24))
    run = prepare(tiny(targets={"path": str(tmp_path / "many.npy")}), str(tmp_path / "run"))
    return run, feature_extractor(load_targets(run))


def test_rows_are_those_of_what_the_base_makes_of_noise(planned):
    run, extractor = planned
    settings = stored_settings(run)
    rows = domain_features(run, settings, extractor)
    noise = normal(SeedRange(root_key(run.record["identity"] + "/domain"), 0, 12), (1, 16, 16))
    maps = draw_domain(load_model(settings.base), noise)
    # One by one: another batch, other rounding, which a random network of 24 steps amplifies.
    alone = torch.cat([draw_domain(load_model(settings.base), z[None]) for z in noise[:2]])
    torch.testing.assert_close(alone, maps[:2], rtol=1e-3, atol=1e-3 * float(maps.std()))
    assert rows is not None and rows.equal(extractor.extract(maps)["scattering"])


def test_they_are_drawn_once_and_need_the_base_no_more(planned, monkeypatch):
    run, extractor = planned
    settings = stored_settings(run)
    rows = domain_features(run, settings, extractor)
    away = settings.model_copy(update={"base": "gone/away/x"})
    assert domain_features(run, away, extractor).equal(rows)
    monkeypatch.setattr("ood_core.store.statistics.DEFINITION", 99)
    assert domain_features(run, away, extractor) is None  # they would be of another definition


def test_large_maps_are_fewer():
    counts = [domain_count(64, side**2) for side in (32, 64, 128, 256)]
    assert counts == [48, 32, 8, 8]
    assert domain_count(6, 256**2) == 6  # too few to measure a leak


@pytest.mark.parametrize("where", ["gone/away/x", "other"])
def test_without_the_runs_own_base_nothing_is_measured(planned, tmp_path, where):
    from ood_core.models.networks import make_unet, save_base

    run, extractor = planned
    save_base(make_unet(16, 1, (8, 16), 1, (False, False), 4), "epsilon", tmp_path / "other")
    place = str(tmp_path / "other") if where == "other" else where
    settings = stored_settings(run).model_copy(update={"base": place})
    assert domain_features(run, settings, extractor) is None
    assert not (run.root / "domain.zarr.zip").exists()


def test_few_targets_tell_nothing(unbroken):
    run = RunStore(unbroken)
    extractor = feature_extractor(load_targets(run))
    assert len(extractor.fit) < domain.MIN_MAPS
    assert domain_features(run, stored_settings(run), extractor) is None
    assert "Leakage of the base's own domain: not measured" in (
        (unbroken / "report" / "index.html").read_text()
    )


def test_a_base_that_is_too_large_is_refused_and_not_passed_over(planned):
    """A leak check that silently vanishes looks like one that was passed."""
    run, extractor = planned
    settings = stored_settings(run)
    small = settings.execution.model_copy(update={"max_base_bytes": 100})
    with pytest.raises(BaseModelError, match="max_base_bytes"):
        domain_features(run, settings.model_copy(update={"execution": small}), extractor)
