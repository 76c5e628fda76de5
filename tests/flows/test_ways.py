"""The line with every way up and down: what it stores, counts and leaves out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.line import load_line
from actors.workers import calibration_rows
from flows.report.inspection import describe
from flows.runs.cost import evaluations
from flows.runs.lifecycle import run_line
from flows.runs.planning import ask, inspect_inputs, prepare
from flows.runs.stages import fit, perform
from flows.tools.level_search import search_levels
from ood_core.errors import ConfigError
from ood_core.invert import held, invert
from ood_core.numerics.random import SeedRange, Stream, normal
from ood_core.store.bundle import read_bundle
from ood_core.store.files import read_json, write_json
from ood_core.store.latents import failed_round_trips, read_latents
from ood_core.store.plan import Shard
from ood_core.store.run import SHARDED, RunStore
from ood_core.store.targets import load_targets
from tests.contracts.store import assert_equal

Settings = Callable[..., Any]


def without_validation(name: str, stage: Any, run: RunStore, settings: Any) -> str:
    return "" if name == "validate" else perform(name, stage, run, settings)


WAYS: dict[str, dict[str, Any]] = {
    "sde": {"solver": "dpmpp_2m_sde"},
    "eta": {"solver": "ddim", "eta": 0.5, "floor_noise": True},
    "bdia, teleport": {"inverter": "bdia", "solver": "heun", "teleport": 300},
    "obelm, base": {
        "inverter": "obelm", "solver": "dpmpp_2m", "teleport": 300, "preset": "discovery",
        "level": 500, "calibration": None, "steering": None,
    },
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_the_line_goes_every_way_and_counts_it(tmp_path: Path, tiny: Settings, way: str) -> None:
    settings = tiny(method={**WAYS[way], "steps": 3}, generation={"samples": 4})
    run_line(settings, str(tmp_path / "run"), call=without_validation)
    run = RunStore(tmp_path / "run")
    maps, _, method = inspect_inputs(settings)
    counted = {s: sum(r.nfe for r in run.receipts(s).all(run.plan(s))) for s in SHARDED}
    assert counted == evaluations(settings, method, maps.fit_count)
    assert np.isfinite(run.table("generate").read("maps")).all()
    line = load_line(run, settings.base, "cpu", "float32")
    assert int(line.grid[-1]) == (method.teleport or method.level)
    assert (line.above is not None) == bool(method.teleport)
    names = [name for name, _ in run.table("invert").arrays()]
    assert ("before" in names) == (method.inverter != "fixed_point")
    if method.inverter != "fixed_point":  # exact with any network, but for rounding of float32
        assert run.table("invert").read("error").max() < 1e-3


def test_a_grid_is_gone_as_it_is_said_and_another_is_found(tmp_path: Path, tiny: Settings) -> None:
    grid = [3, 120, 300, 600]
    words = {"grid": grid, "cache_interval": 2, "steps": None, "level": None}
    settings = tiny(method=words, generation={"samples": 4})
    run_line(settings, str(tmp_path / "run"), call=without_validation)
    run = RunStore(tmp_path / "run")
    assert run.table("calibrate").read("time_index").tolist() == grid
    assert load_line(run, settings.base, "cpu", "float32").grid.tolist() == grid
    found = search_levels(run, settings, steps=2, maps=4)
    assert found["grid"] == sorted(set(found["grid"]))
    assert (found["grid"][0], found["grid"][-1], len(found["grid"])) == (3, 600, 3)
    assert all(row["searched"] <= row["even"] for row in found["costs"])
    costs = [row["searched"] for row in found["costs"]]
    assert costs == sorted(costs, reverse=True)  # another step never hides more
    with pytest.raises(ConfigError, match="--steps: got 500"):
        search_levels(run, settings, steps=500, maps=4)


def test_the_order_of_levels_is_nothing_to_a_calibration_with_kept_features(
    tmp_path: Path, tiny: Settings
) -> None:
    """A worker may be given a lower level after a higher one, as after a failure."""
    words = {"grid": [3, 120, 300, 600], "cache_interval": 2, "steps": None, "level": None,
             "calibration": {"draws": 1, "bands": 3, "members": 2, "patches": 0}}  # fmt: skip
    settings = tiny(method=words, targets={"held_out": 6})  # eight to fit: halves of one size
    run = prepare(settings, str(tmp_path / "run"))
    shards = [Shard(number, number, number + 1, 1) for number in range(4)]
    found = []
    for order in (shards, shards[::-1]):
        rows = calibration_rows(run, load_line(run, settings.base, "cpu", "float32"))
        made = {shard.index: rows(shard)()["weights"] for shard in order}
        found.append(np.stack([made[shard.index] for shard in shards]))
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("inverter", ["fixed_point", "bdia"])
def test_nothing_of_a_way_that_was_broken_off_is_kept(
    tmp_path: Path, tiny: Settings, inverter: str
) -> None:
    words = {"preset": "discovery", "level": 500, "steps": 6, "inverter": inverter,
             "calibration": None, "steering": None, "cache_interval": 2}  # fmt: skip
    settings = tiny(method=words)
    line = load_line(prepare(settings, str(tmp_path / "run")), settings.base, "cpu", "float32")
    fit, seeds = line.targets.fit_ranged, SeedRange(1, 0, line.targets.fit_count)
    first = line.invert(line.base, fit, seeds).latents
    for left_at in (900, 400, 30):
        line.base(torch.zeros_like(fit), left_at)
        torch.testing.assert_close(
            line.invert(line.base, fit, seeds).latents, first, rtol=0, atol=0
        )
        line.base(torch.zeros_like(fit), 900)
        made = line.decode(line.base, first, seeds)
        line.base(torch.zeros_like(fit), left_at)
        torch.testing.assert_close(line.decode(line.base, first, seeds), made, rtol=0, atol=0)


@pytest.mark.parametrize("noised", [True, False])
def test_targets_go_up_with_the_noise_of_the_floor(
    tmp_path: Path, tiny: Settings, noised: bool
) -> None:
    settings = tiny(method={"preset": "discovery", "level": 500, "floor": 20, "steps": 6,
                            "calibration": None, "steering": None,
                            "floor_noise": noised})  # fmt: skip
    run_line(settings, str(tmp_path / "run"), call=lambda name, stage, run, given: (
        perform(name, stage, run, given) if name == "invert" else ""
    ))  # fmt: skip
    run = RunStore(tmp_path / "run")
    line, table = load_line(run, settings.base, "cpu", "float32"), run.table("invert")
    fit = line.targets.fit_ranged
    white = normal(SeedRange(line.root, 0, len(fit)), fit.shape[1:], stream=Stream.FLOOR)
    start = fit + line.base.schedule.noise_to_signal(20) * white
    expected = invert(line.base, start, line.grid, line.method.passes).latents
    gap = (torch.from_numpy(table.read("latents")) - expected).abs().max()
    # The same arithmetic but for the shape of batches: rounding of float32, six steps.
    assert (float(gap) < 1e-3) == noised
    back = torch.from_numpy(table.read("round_trip"))
    of_target = (back - fit).square().flatten(1).mean(dim=1).sqrt()  # and not of the noised one
    torch.testing.assert_close(torch.from_numpy(table.read("error")), of_target)


def test_a_stored_pair_leads_back_to_its_target(tmp_path: Path, tiny: Settings) -> None:
    from collections import deque

    from ood_core.diffusion.flow import descending, onward
    from ood_core.diffusion.paired import Bdia, Pair

    settings = tiny(method={"inverter": "bdia", "preset": "discovery", "level": 500, "steps": 6,
                            "calibration": None, "steering": None})  # fmt: skip
    run_line(settings, str(tmp_path / "run"), call=lambda name, stage, run, given: (
        perform(name, stage, run, given) if name == "invert" else ""
    ))  # fmt: skip
    run = RunStore(tmp_path / "run")
    line = load_line(run, settings.base, "cpu", "float32")
    schedule, grid, table = line.base.schedule, line.grid, run.table("invert")
    end = torch.from_numpy(table.read("latents")) * schedule.scale(int(grid[-1]))
    before = torch.from_numpy(table.read("before")) * schedule.scale(int(grid[-2]))
    way = onward(line.base, Bdia(), Pair(before, end, int(grid[-1])), descending(grid[:-1]))
    back = deque(way, maxlen=1)[0].x / float(schedule.alpha[int(grid[0])])
    error = (back - line.targets.fit_ranged).abs().max()
    assert float(error) < 1e-3  # rounding of float32, twice over six steps


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
    import shutil

    shutil.rmtree(ready / "prior.zarr")
    from flows.runs.lease_guard import holding

    with holding(run):
        note = fit(run, settings)
    name = load_targets(run).ids[2]
    assert name in note
    arrays, words = read_bundle(ready / "prior.zarr")
    assert words["left_out"] == [name] == describe(run)["left_out_of_prior"]
    other = np.array(arrays["mean"])
    np.testing.assert_allclose(other, kept.mean(0).numpy(), atol=1e-6)
    # Old runs have no such rule, and keep every target.
    content = read_json(ready / "run.json")
    del content["identity_record"]["method"]["round_trip_limit"]
    write_json(ready / "run.json", content)
    assert failed_round_trips(run) == []
    assert torch.equal(read_latents(run), everything)


def test_an_automatic_level_is_chosen_once(
    tmp_path: Path, tiny: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, out = tiny(method={"level": "auto"}), str(tmp_path / "run")
    run = prepare(settings, out)
    choice = run.record["level_choice"]
    assert choice["level"] == run.record["method"]["level"]
    assert choice["level"] in [point["index"] for point in choice["curve"]]
    assert describe(run)["level_choice"] == choice
    monkeypatch.setattr("flows.runs.level_choice.level_curve", None)  # it is read back from here on
    assert not ask(settings, out).is_new
    fixed = tiny(method={"level": choice["level"]})
    assert not ask(fixed, out).is_new  # the number alone names the run
    assert_equal(tmp_path / "run", tmp_path / "run")


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"eta": 0.5}, "only ddim"),
        ({"eta": 1.5, "solver": "ddim"}, "expected 0 to 1"),
        ({"level": 500, "teleport": 600}, "at most the level"),
        ({"level": 500, "teleport": 1}, "one step per index"),
        ({"level": "high"}, "level"),
        ({"inverter": "edict"}, "inverter"),
    ],
)
def test_impossible_ways_are_refused(
    tmp_path: Path, tiny: Settings, method: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        ask(tiny(method=method), str(tmp_path / "run"))
