"""The whole run on a tiny base, without Prefect and Ray: what it stores and how it resumes."""

from typing import cast, get_args

import numpy as np
import pytest

from actors.workers import ROWS, WorkerSpec, build
from flows.runs.cost import evaluations
from flows.runs.lifecycle import make_run
from flows.runs.planning import WORK, inspect_inputs
from flows.runs.stages import STAGES, perform
from flows.settings import PROJECT, load_settings
from ood_core.denoising.calibrated import EXPERTS
from ood_core.errors import IdentityRefused, RunIncomplete
from ood_core.store.files import read_json, remove
from ood_core.store.fitted import read_calibration
from ood_core.store.run import PRIOR, RunStore
from ood_core.store.schema import SHARDED, ShardedStage
from ood_core.store.statistics import read_drawn
from ood_core.store.targets import load_targets
from tests.contracts.store import answers, assert_equal, assert_honest, assert_kept, marks


def without_validation(name, stage, run, settings):
    return "" if name == "validate" else perform(name, stage, run, settings)


def without_samples(name, stage, run, settings):
    return "" if name in ("generate", "validate") else perform(name, stage, run, settings)


def test_the_calibrated_run_ends_complete(unbroken):
    run = RunStore(unbroken)
    assert run.state == "complete"
    table = run.table("generate")
    np.testing.assert_array_equal(table.read("sample"), np.arange(10))
    assert np.isfinite(table.read("maps")).all()
    assert ((table.read("parents") >= 0) & (table.read("parents") < 7)).all()
    report = read_json(unbroken / "report" / "report.json")
    assert report
    page = (unbroken / "report" / "index.html").read_text()
    assert "<script src" not in page
    assert 'href="http' not in page.split("</style>")[0]


def test_samples_are_in_the_units_of_the_targets(unbroken):
    run = RunStore(unbroken)
    targets = load_targets(run)
    maps = run.table("generate").read("maps")
    back = targets.transform.forward(maps)
    np.testing.assert_allclose(targets.transform.inverse(back), maps, rtol=1e-5)


@pytest.mark.parametrize("quantization", [True, False])
def test_samples_are_as_coarse_as_the_targets(tmp_path, tiny, quantization):
    maps = np.random.default_rng(3).uniform(4, 9, (14, 1, 16, 16)).astype(np.float32)
    maps[:, :, :, :6] = -2  # three pixels in eight
    np.save(tmp_path / "maps.npy", maps)
    targets = {"path": str(tmp_path / "maps.npy")}
    settings = tiny(targets=targets, method={"quantization": quantization})
    make_run(settings, str(tmp_path / "run"), call=without_validation)
    made = RunStore(tmp_path / "run").table("generate").read("maps")
    assert bool((made == -2).any()) is quantization
    assert (
        bool(((made > -3) & (made < -2)).any()) is not quantization
    )  # what lies beyond is on it too
    assert len(np.unique(made)) > 100

    np.save(tmp_path / "maps.npy", np.round(10 * maps))
    make_run(settings, str(tmp_path / "counts"), call=without_validation)
    made = RunStore(tmp_path / "counts").table("generate").read("maps")
    assert bool((made == np.round(made)).all()) is quantization


def test_every_sharded_stage_is_in_every_table():
    assert set(SHARDED) == set(get_args(ShardedStage)) == set(WORK) == set(ROWS)
    assert [name for name, _ in STAGES if name in SHARDED] == list(SHARDED)
    assert len({table.name for table in SHARDED.values()}) == len(SHARDED)


def test_a_stage_that_is_in_no_table_is_an_error(unbroken):
    name, run = cast(ShardedStage, "brand_new"), RunStore(unbroken)
    with pytest.raises(KeyError, match="brand_new"):
        run.table(name)
    with pytest.raises(KeyError, match="brand_new"):
        build(WorkerSpec(str(unbroken), run.record["settings"]["base"], name, "cpu", "float32", 1))


def test_evaluations_are_those_of_the_estimate(unbroken, tiny):
    settings = tiny()
    maps, _, method = inspect_inputs(settings)
    wanted = evaluations(settings, method, maps.fit_count)
    run = RunStore(unbroken)
    counted = {s: sum(r.nfe for r in run.ledger(s).all(run.plan(s))) for s in SHARDED}
    assert counted == wanted


def test_the_network_is_called_where_it_has_weight_and_nowhere_else(tmp_path, tiny):
    calibration = {"draws": 1, "bands": 3, "n_clusters": 1, "patches": 0, "prune_tolerance": 0.2}
    settings = tiny(method={"steps": 4, "calibration": calibration})
    maps, _, method = inspect_inputs(settings)
    most = evaluations(settings, method, maps.fit_count)
    make_run(settings, str(tmp_path / "run"), call=without_validation)
    run = RunStore(tmp_path / "run")
    weights = read_calibration(run)[1].weights
    evaluated = int((weights[:, :, list(EXPERTS).index("base")] != 0).any(dim=1).sum())
    assert evaluated < len(weights)  # else this would say nothing
    counted = {s: sum(r.nfe for r in run.ledger(s).all(run.plan(s))) for s in SHARDED}
    # The ancestral solver evaluates once per timestep; calibration must evaluate to find out.
    rows = sum(shard.capacity for shard in run.plan("generate"))
    assert counted["generate"] == rows * evaluated <= most["generate"]
    assert counted["invert"] <= most["invert"] and counted["calibrate"] == most["calibrate"]


def test_the_discovery_preset_calibrates_nothing(tmp_path, tiny):
    settings = tiny(method={"preset": "discovery", "steps": 3, "t_max": 300,
                            "calibration": None, "steering": None})  # fmt: skip
    found = make_run(settings, str(tmp_path / "run"), call=without_validation)
    assert found["samples_done"] == 10
    (host,) = found["hosts"].values()
    assert (host["workers"], host["maps"]) == (1, 12)  # the last shard is stored whole
    assert host["maps_per_second_each"] > 0
    assert found["stages_missing"] == {"calibrate": 0, "invert": 0, "generate": 0}
    assert not (tmp_path / "run" / "calibration.zarr").exists()
    maps = RunStore(tmp_path / "run").table("generate").read("maps")
    assert np.isfinite(maps).all()
    assert len(np.unique(maps.reshape(10, -1)[:, 0])) == 10


def test_a_stopped_run_resumes_to_the_same_bytes(tmp_path, tiny, unbroken):
    out = tmp_path / "run"
    make_run(tiny(), str(out), call=without_samples)
    assert RunStore(out).state == "incomplete"
    before = marks(out)
    assert_honest(out)
    make_run(tiny(), str(out), call=without_validation)
    assert_kept(before, out)
    assert_equal(out, unbroken)


def test_a_finished_run_is_left_alone(finished, tiny, unbroken):
    before = marks(finished)
    times = {p: p.stat().st_mtime_ns for p in finished.glob("*.zarr/**/*")}
    found = make_run(tiny(), str(finished), call=without_validation)
    assert found["state"] == "complete"
    assert marks(finished) == before
    assert {p: p.stat().st_mtime_ns for p in finished.glob("*.zarr/**/*")} == times


def test_samples_do_not_depend_on_their_number_or_shards(tmp_path, tiny, unbroken):
    """Sample i is a function of (run identity, i): other shards give it up to rounding."""
    settings = tiny(generation={"samples": 5, "shard_size": 5})
    make_run(settings, str(tmp_path / "run"), call=without_validation)
    few, many = RunStore(tmp_path / "run"), RunStore(unbroken)
    assert few.record["identity"] == many.record["identity"]
    np.testing.assert_array_equal(
        few.table("generate").read("parents"), many.table("generate").read("parents", slice(0, 5))
    )
    drawn = [read_drawn(run, slice(0, 5))["attempts"] for run in (few, many)]
    np.testing.assert_array_equal(*drawn)
    maps = many.table("generate").read("maps", slice(0, 5))
    np.testing.assert_allclose(
        few.table("generate").read("maps"), maps, rtol=0, atol=1e-3 * np.ptp(maps)
    )


def test_failed_shards_are_listed_and_the_next_run_finishes(ready, tiny, unbroken):
    obstacle = ready / "dataset.zarr" / "maps" / "c" / "2" / "0" / "0" / "0" / "in the way"
    obstacle.mkdir(parents=True)
    with pytest.raises(RunIncomplete, match="1 of 3 shards failed") as error:
        make_run(tiny(), str(ready), call=without_validation)
    assert "shard 2: " in str(error.value)
    assert RunStore(ready).state == "incomplete"
    before = marks(ready)
    obstacle.rmdir()
    obstacle.parent.rmdir()
    make_run(tiny(), str(ready), call=without_validation)
    assert_kept(before, ready)
    assert_equal(ready, unbroken)


@pytest.mark.actors
@pytest.mark.usefixtures("local_ray")
def test_the_shipped_example_gives_the_same_bytes_in_both_pools(tmp_path):
    small = ["generation.samples=12", "generation.shard_size=4", "method.steps=2",
             "method.calibration.draws=1", "method.calibration.patches=4",
             "targets.held_out=368"]  # fmt: skip
    roots = []
    for pool in ("inline", "ray"):
        settings = load_settings(
            PROJECT / "examples" / "hubble.yaml", [*small, f"execution.pool={pool}"]
        )
        roots.append(tmp_path / pool)
        make_run(settings, str(roots[-1]), call=without_validation)
    assert len(answers(roots[0])) > 3
    assert_equal(*roots)


def test_another_number_type_is_refused_in_the_same_place(ready, tiny):
    with pytest.raises(IdentityRefused, match=r"dtype: float32 -> bfloat16"):
        make_run(tiny(execution={"dtype": "bfloat16"}), str(ready), call=without_validation)


def test_a_finished_run_has_nothing_to_do_until_its_gate_or_a_shard_changes(finished, tiny):
    def stages(settings):
        done = []

        def call(name, stage, run, settings):
            done.append(name)
            return perform(name, stage, run, settings)

        make_run(settings, str(finished), call=call)
        return done

    every = ["calibrate", "invert", "fit", "generate", "validate"]
    assert stages(tiny()) == []
    gated = tiny(gate={"min_held_out": 2})
    assert stages(gated) == every
    assert stages(gated) == []
    run = RunStore(finished)
    run.ledger("generate").revoke(run.plan("generate")[1])
    assert stages(gated) == every
    remove(run.root / PRIOR)
    assert stages(gated) == every[:-1]
    assert stages(gated) == []
