"""Held-out maps choose nothing: with others in their place, all that is chosen is the same bits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flows.runs.timestep_choice import _measured
from flows.settings import parse
from flows.tools.timestep_search import search_timesteps
from ood_core.errors import TargetError
from ood_core.evaluation.evaluate import evaluate
from ood_core.maps.target_set import TargetSet
from ood_core.models.loading import BaseModel, load_model
from ood_core.store.run import RunStore
from ood_core.synthesis.synthesizer import Synthesizer
from tests.fields import smooth_fields

FIT = 8


@pytest.fixture(scope="module")
def targets() -> TargetSet:
    return TargetSet.from_arrays(smooth_fields(FIT + 6), held_out=6, transform="asinh")


@pytest.fixture(scope="module")
def model(base: Path) -> BaseModel:
    return load_model(str(base))


def blanked(targets: TargetSet, rows: slice) -> TargetSet:
    """The targets with some of them of no numbers: what they are handed to becomes none, too."""
    values, ranged = targets.values.copy(), targets.model_range.clone()
    values[rows], ranged[rows] = np.nan, np.nan
    return replace(targets, values=values, model_range=ranged)


HELD_OUT, ONE_FIT = slice(FIT, None), slice(0, 1)


def test_samples_and_all_that_is_fitted(
    targets: TargetSet, model: BaseModel, tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prior, weights, quantisation, transform and samples, under one name."""
    monkeypatch.setattr(
        TargetSet, "digest", lambda self: "0" * 64
    )  # which names the random numbers
    method = replace(tiny().method, quantization=True)
    found = [
        Synthesizer(model, method, batch=4).fit(some, progress=False).sample(4, progress=False)
        for some in (targets, blanked(targets, HELD_OUT))
    ]
    np.testing.assert_array_equal(*found)


def test_the_highest_timestep(targets: TargetSet, model: BaseModel) -> None:
    found, same = (_measured(t, model, 3) for t in (targets, blanked(targets, HELD_OUT)))
    assert (found.t_max, found.curve) == (same.t_max, same.curve)
    brighter = targets.model_range.clone()
    brighter[ONE_FIT] += 0.1  # negative control
    assert found.curve != _measured(replace(targets, model_range=brighter), model, 3).curve


def test_the_grid_of_a_run(unbroken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunStore(unbroken)
    settings = parse(run.record["settings"])
    found = search_timesteps(run, settings, steps=2, maps=4)

    def refused(self: TargetSet) -> None:
        raise AssertionError("held-out maps were asked for")

    for name in ("held_out", "held_out_ranged"):
        monkeypatch.setattr(TargetSet, name, property(refused))
    assert search_timesteps(run, settings, steps=2, maps=4) == found


def test_what_judges_does_see_them(targets: TargetSet) -> None:
    """Negative control."""
    maps = targets.fit[:4] + np.float32(0.1)
    assert evaluate(maps, targets, progress=False).count == 4
    with pytest.raises(TargetError, match="not finite"):
        evaluate(maps, blanked(targets, HELD_OUT), progress=False)
    assert not torch.isfinite(blanked(targets, ONE_FIT).fit_ranged).all()
