"""Runs with every way up and down: what it stores, counts and leaves out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.loading import load_pipeline
from flows.report.inspection import describe
from flows.runs.cost import evaluations
from flows.runs.lifecycle import make_run
from flows.runs.planning import inspect_inputs, plan_run
from flows.runs.stages import fit, perform
from flows.tools.timestep_search import search_timesteps
from ood_core.diffusion.sampling import held
from ood_core.errors import ConfigError
from ood_core.store.bundle import read_bundle
from ood_core.store.plan import Shard
from ood_core.store.run import RunStore
from ood_core.store.schema import SHARDED
from ood_core.store.targets import failed_round_trips, load_targets, read_latents
from tests.contracts.store import assert_equal
from tests.runs import prepare

Settings = Callable[..., Any]


def without_validation(name: str, stage: Any, run: RunStore, settings: Any) -> str:
    return "" if name == "validate" else perform(name, stage, run, settings)


WAYS: dict[str, dict[str, Any]] = {
    "eta": {"solver": "ddim", "eta": 0.5},
    "teleport": {"solver": "ddim", "teleport": 300},
    "base, teleport": {
        "solver": "ancestral", "teleport": 300, "preset": "discovery", "t_max": 500,
        "calibration": None, "steering": None,
    },
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_the_run_goes_every_way_and_counts_it(tmp_path: Path, tiny: Settings, way: str) -> None:
    settings = tiny(method={**WAYS[way], "steps": 3}, generation={"samples": 4})
    make_run(settings, str(tmp_path / "run"), call=without_validation)
    run = RunStore(tmp_path / "run")
    maps, _, method = inspect_inputs(settings)
    counted = {s: sum(r.nfe for r in run.ledger(s).all(run.plan(s))) for s in SHARDED}
    assert counted == evaluations(settings, method, maps.fit_count)
    assert np.isfinite(run.table("generate").read("maps")).all()
    pipeline = load_pipeline(run, settings.base, "cpu", "float32")
    assert int(pipeline.timesteps[-1]) == (method.teleport or method.ends[1])
    assert (pipeline.shortcut is not None) == bool(method.teleport)


def test_a_grid_is_gone_as_it_is_said_and_another_is_found(tmp_path: Path, tiny: Settings) -> None:
    grid = [3, 120, 300, 600]
    words = {"timesteps": grid, "steps": None, "t_max": None}
    settings = tiny(method=words, generation={"samples": 4})
    make_run(settings, str(tmp_path / "run"), call=without_validation)
    run = RunStore(tmp_path / "run")
    assert run.table("calibrate").attributes["timesteps"] == grid
    assert load_pipeline(run, settings.base, "cpu", "float32").timesteps.tolist() == grid
    found = search_timesteps(run, settings, steps=2, maps=4)
    assert found["timesteps"] == sorted(set(found["timesteps"]))
    assert (found["timesteps"][0], found["timesteps"][-1], len(found["timesteps"])) == (3, 600, 3)
    assert all(row["searched"] <= row["even"] for row in found["costs"])
    costs = [row["searched"] for row in found["costs"]]
    assert costs == sorted(costs, reverse=True)  # another step never hides more
    with pytest.raises(ConfigError, match="--steps: got 500"):
        search_timesteps(run, settings, steps=500, maps=4)


def test_round_trips_fail_by_the_rule() -> None:
    error = torch.tensor([0.01, 0.01, 0.02, 0.01, 0.01, 0.30, 0.30])
    spread = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.05, 1.0, 9.0])
    assert held(error, spread, 0.1).tolist() == [True] * 5 + [False, True]  # both limits count
    assert held(error, spread, 0.0).all()
    many = torch.tensor([1.0, 2.0, 100.0, 100.0, 100.0])
    assert held(many, torch.full((5,), 0.1), 0.1).all()  # a set that errs alike says nothing
    few = torch.tensor([1.0, 1.0, 100.0, 100.0])
    assert held(few, torch.full((4,), 0.1), 0.1).all()  # a prior needs four


def test_targets_whose_round_trip_fails_are_left_out_by_name(ready: Path, tiny: Settings) -> None:
    run, settings = RunStore(ready), tiny()
    assert failed_round_trips(run) == []
    table, everything = run.table("invert"), read_latents(run)
    rows = table.rows(0, len(everything))
    rows["error"] = rows["error"].copy()
    rows["error"][2] = 1e3
    table.write(Shard(0, 0, len(everything), run.plan("invert").shard_rows), rows)
    assert failed_round_trips(run) == [2]
    kept = torch.cat([everything[:2], everything[3:]])
    assert torch.equal(read_latents(run), kept)

    (ready / "prior.zarr.zip").unlink()
    from flows.runs.lease_guard import hold_lease

    with hold_lease(run):
        note = fit(run, settings)
    name = load_targets(run).ids[2]
    assert name in note
    arrays, words = read_bundle(ready / "prior.zarr.zip")
    assert words["left_out"] == [name] == describe(run)["left_out_of_prior"]
    other = np.array(arrays["mean"])
    np.testing.assert_allclose(other, kept.mean(0).numpy(), atol=1e-6)


def test_an_automatic_t_max_is_chosen_once(
    tmp_path: Path, tiny: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, out = tiny(method={"t_max": "auto"}), str(tmp_path / "run")
    run = prepare(settings, out)
    choice = run.record["timestep_choice"]
    assert choice["t_max"] == run.record["method"]["t_max"]
    assert choice["t_max"] in [point["index"] for point in choice["curve"]]
    assert describe(run)["timestep_choice"] == choice
    monkeypatch.setattr(
        "flows.runs.timestep_choice.timestep_curve", None
    )  # it is read back from here on
    assert not plan_run(settings, out).is_new
    fixed = tiny(method={"t_max": choice["t_max"]})
    assert not plan_run(fixed, out).is_new  # the number alone names the run
    assert_equal(tmp_path / "run", tmp_path / "run")


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"eta": 0.5}, "only ddim"),
        ({"eta": 1.5, "solver": "ddim"}, "expected 0 to 1"),
        ({"t_max": 500, "teleport": 600}, "at most t_max"),
        ({"t_max": 500, "teleport": 1}, "one step per index"),
        ({"t_max": "high"}, "t_max"),
        ({"inverter": "bdia"}, "inverter"),
    ],
)
def test_impossible_ways_are_refused(
    tmp_path: Path, tiny: Settings, method: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        plan_run(tiny(method=method), str(tmp_path / "run"))
