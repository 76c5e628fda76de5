"""Walks between targets: ends are round trips, numbers add up, nothing else is disturbed."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from flows.runs.lifecycle import make_run
from flows.runs.stages import STAGES, perform
from ood_core.store.run import RunStore
from ood_core.store.targets import load_targets
from tests.fields import smooth_fields
from tests.runs import prepare

FILES = ["strip.png", "walk.gif", "walk.csv", "maps.npy", "walk.json"]


@pytest.fixture(scope="module")
def inverted(tmp_path_factory, tiny) -> str:
    """A run of the bare base with twelve fit targets, inverted."""
    folder = tmp_path_factory.mktemp("walk")
    np.save(folder / "many.npy", smooth_fields(24))
    method = {"preset": "cluster", "calibration": None, "steering": None, "steps": 4, "t_max": 400}
    settings = tiny(targets={"path": str(folder / "many.npy")}, method=method)
    run = prepare(settings, str(folder / "run"))
    perform("invert", dict(STAGES)["invert"], run, settings)
    return str(folder / "run")


def test_a_walk_leads_from_one_round_trip_to_the_other(farfield, inverted, tmp_path):
    out = tmp_path / "files"
    call = ("--from", "many:1", "--to", 4, "--steps", 5, "--transfer", 7, "--transfer", "many:0")
    answer = farfield("walk", inverted, *call, "--out", out, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert (found["from"], found["to"]) == ("many:1", "many:4")
    assert sorted(p.name for p in out.iterdir()) == sorted(FILES) == sorted(found["files"])
    stored = json.loads((out / "walk.json").read_text())
    assert stored["synthetic"] is True and stored["paths"] == found["paths"]

    run = RunStore.open(inverted)
    maps, targets = np.load(out / "maps.npy"), load_targets(run)
    assert maps.shape == (3, 5, 1, 16, 16)
    trips = targets.physical(torch.from_numpy(run.table("invert").read("round_trip")))
    # Latents are float32 and scaled twice: 1e-7, which decoding may enlarge some hundred times.
    close = 1e-4 * trips.std()
    for made, row in ((maps[0, 0], 1), (maps[0, -1], 4), (maps[1, 0], 7), (maps[2, 0], 0)):
        np.testing.assert_allclose(made, trips[row], rtol=0, atol=close)
    assert np.abs(maps[0, 2] - maps[0, 0]).max() > 100 * close

    latents = run.table("invert").read("latents").reshape(12, -1).astype(np.float64)
    norms = np.linalg.norm(latents, axis=1)
    cosine = latents[1] @ latents[4] / norms[1] / norms[4]
    assert found["angle_degrees"] == pytest.approx(np.degrees(np.arccos(cosine)))
    radii = [frame["radius"] for frame in found["paths"][0]["frames"]]
    assert radii == pytest.approx(np.linspace(norms[1], norms[4], 5))
    kept = [frame["radius"] for frame in found["paths"][1]["frames"]]
    assert kept == pytest.approx([norms[7]] * 5)

    with (out / "walk.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["start"] for row in rows] == ["many:1"] * 5 + ["many:7"] * 5 + ["many:0"] * 5
    assert float(rows[2]["mean"]) == found["paths"][0]["frames"][2]["mean"]
    assert rows[0]["nearest_target"] == "many:1"

    with Image.open(out / "walk.gif") as moving:
        assert moving.n_frames == 8  # there and back
        assert moving.info["loop"] == 0
        assert b"SYNTHETIC" in moving.info["comment"]
    with Image.open(out / "strip.png") as still:
        assert "SYNTHETIC" in still.text["Description"]


def test_separability_and_shared_attributes_are_of_the_run_and_not_of_the_walk(farfield, inverted):
    first = json.loads(farfield("walk", inverted, "--from", 0, "--to", 1, "--json").out)
    found = first["separability"]
    assert (found["in_domain"], found["targets"], found["t_max"]) == (12, 12, 400)
    for name in ("latents", "spectra"):
        assert 0 <= found[name]["auc"] <= 1
        assert found[name]["null_low"] < 0.6 and found[name]["null_high"] > 0.4
    # Smooth fields against what a random network makes of noise: their spectra are worlds apart.
    assert found["spectra"]["auc"] > 0.95 and found["spectra"]["p_value"] <= 0.01
    place = RunStore.open(inverted).root / "walks" / "separability.json"
    before = place.stat().st_mtime_ns
    shared = first["shared_attributes"]
    assert [row["attribute"] for row in shared] == ["mean", "spread", "small scales", "centre"]
    assert all(row["p_value"] <= row["adjusted"] <= 1 for row in shared)
    shown = farfield("walk", inverted, "--from", 0, "--to", 2)
    assert shown.code == 0 and "at t_max 400" in shown.out
    again = json.loads((place.parent / "many-0-to-many-2" / "walk.json").read_text())
    assert again["separability"] == found and place.stat().st_mtime_ns == before
    assert again["shared_attributes"] == shared
    assert json.loads(farfield("inspect", inverted, "--json").out)["separability"] == found


def test_searched_timesteps_are_printed_as_configuration(farfield, inverted):
    answer = farfield("models", "timesteps", inverted, "--steps", 2, "--maps", 2)
    assert answer.code == 0
    grid = json.loads(answer.out.partition("{timesteps: ")[2].partition("}")[0])
    assert len(grid) == 3 and grid == sorted(grid)


def test_a_walk_disturbs_nothing(farfield, ready, unbroken, tiny):
    """It is made before the samples are: they, verify and the state are as without it."""
    answer = farfield("walk", ready, "--from", 0, "--to", 5, "--steps", 2)
    assert answer.code == 0, answer.err
    assert "degrees apart" in answer.out
    place = ready / "walks" / "fields-0-to-fields-5"
    assert sorted(p.name for p in place.iterdir()) == sorted(FILES)
    make_run(tiny(), str(ready))
    assert farfield("verify", ready).code == 0
    maps = RunStore(ready).table("generate").read("maps")
    np.testing.assert_array_equal(maps, RunStore(unbroken).table("generate").read("maps"))
    assert place.is_dir() and not list(ready.rglob("*.partial"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--from", 0, "--to", 0), 2, "another target"),
        (("--from", 0, "--to", 99), 2, "0 to 6"),
        (("--from", "fields:8", "--to", 1), 2, "a fit target"),
        (("--from", 0, "--to", 1, "--steps", 1), 2, "2 to 500"),
        (("--from", 0, "--to", 1, "--transfer", "x"), 2, "'x'"),
        (("--from", 0, "--to", 1, "--set", "method.steps=3"), 2, "method.steps=3"),
    ],
)
def test_what_cannot_be_walked_is_said(farfield, unbroken, arguments, code, words):
    answer = farfield("walk", unbroken, *arguments)
    assert (answer.code, words in answer.err) == (code, True)
    assert "Traceback" not in answer.err
    assert not (unbroken / "walks").exists()


def test_without_inverted_targets_there_is_no_walk(farfield, ready):
    (ready / "receipts/invert/00000.json").unlink()
    answer = farfield("walk", ready, "--from", 0, "--to", 1)
    assert answer.code == 5 and "farfield run" in answer.err
