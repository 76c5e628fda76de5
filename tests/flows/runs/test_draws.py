"""Runs with every latent sampler: what is stored of a draw; it resumes, replays and is shown."""

import json

import numpy as np
import pytest

from flows.report.inputs import draw_record
from flows.runs.lifecycle import stored_settings
from flows.runs.stages import STAGES, perform
from flows.tools.replay import replay_sample
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.errors import InputError
from ood_core.store.run import RunStore
from ood_core.store.statistics import read_drawn
from ood_core.synthesis.latents import ATTEMPTS
from tests.runs import prepare

PLAIN = {"calibration": None, "steering": None, "steps": 3, "t_max": 300}
DRAWS = {
    "slerp": {"preset": "discovery", "draw": {"sampler": "slerp", "share": "grid"}},
    "combination": {
        "preset": "discovery",
        "draw": {"sampler": "combination", "parents": 4, "accept": "latents"},
    },
    "cluster": {"preset": "cluster"},
}
SOURCES = {"slerp": 1, "combination": 4, "cluster": 0}


def made(settings, root, stages=("invert", "fit", "generate")) -> RunStore:
    run = prepare(settings, str(root))
    for name, stage in STAGES:
        if name in stages:
            perform(name, stage, run, settings)
    return run


@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_is_stored_with_what_it_was_made_of(tmp_path, tiny, name):
    run = made(tiny(method={**PLAIN, **DRAWS[name]}), tmp_path / "run")
    table = run.table("generate")
    drawn = read_drawn(run)
    attempts, refusals = drawn["attempts"], drawn["refusals"]
    kept = attempts == refusals[:, 0]
    assert (attempts[kept] == ATTEMPTS).all()
    assert (refusals[:, 0] <= refusals[:, 1:].sum(1)).all()
    assert (refusals[:, 1:] <= refusals[:, :1]).all()
    found = draw_record(run)
    assert found["drawn"] == attempts.sum()
    assert found["kept_though_refused"] == kept.sum()
    assert found["refused"]["distance"] == pytest.approx(refusals[:, 2].sum() / attempts.sum())
    assert ("sources" in dict(table.arrays())) == (SOURCES[name] > 0)
    if SOURCES[name]:
        sources = table.read("sources")
        assert sources.shape == table.read("source_weights").shape == (10, SOURCES[name])
        assert sources.min() >= 0 and sources.max() < 7
        np.testing.assert_array_equal(table.read("parents")[:, 0], sources[:, 0])
    again = replay_sample(run, stored_settings(run), 5, False, None)
    assert again["outcome"] == "equal"
    assert len(again["sources"]) == SOURCES[name]


def test_a_plain_draw_is_no_draw(tiny):
    spelled = tiny(method={"draw": {"sampler": "prior", "accept": "draws"}}).method
    assert spelled.resolve(NoiseSchedule.linear()).draw is None


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"preset": "discovery", "draw": {"sampler": "combination", "parents": 6}}, "at most 5"),
        ({"preset": "discovery", "draw": {"sampler": "slerp", "share": 1.0}}, "between 0 and 1"),
        ({"preset": "discovery", "draw": {"sampler": "prior", "share": 0.1}}, "slerp or norm"),
        ({"preset": "discovery", "draw": {"sampler": "slerp", "parents": 3}}, "combination"),
        ({"preset": "discovery", "draw": {"sampler": "slurp"}}, "draw.sampler"),
        ({"preset": "discovery", "draw": {"samplers": "slerp"}}, "draw.samplers"),
        ({"preset": "cluster", "steering": {"steps": 1}}, "cluster preset has neither"),
        ({"preset": "discovery", "solver": "ancestral", "eta": 0.1}, "only ddim"),
        ({"preset": "discovery", "eta": 1.5}, "0 to 1"),
    ],
)
def test_impossible_draws_are_refused(tmp_path, tiny, method, words):
    with pytest.raises(InputError, match=words):
        prepare(tiny(method={**PLAIN, **method}), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_inspect_and_report_tell_what_was_refused(farfield, unbroken):
    found = json.loads(farfield("inspect", unbroken, "--json").out)
    assert found["draws"]["drawn"] >= 10
    assert set(found["draws"]["refused"]) == {
        "all", "radius", "distance", "origin_angle", "pair_angle"
    }  # fmt: skip
    page = (unbroken / "report" / "index.html").read_text()
    assert "draws.refused.distance" in page
