"""`farfield inspect TARGETS`: what it says, draws and writes."""

import json
import os
import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli.main import app
from flows.settings import load_settings
from flows.tools.targets_inspection import inspect_targets, write_configuration
from ood_core.config.targets import MissingSpec, TargetsSpec
from ood_core.errors import InputError
from ood_core.maps.target_set import TargetSet
from ood_core.report.pictures import CELL, DOTS, LACKING, target_sheet
from tests.maps.test_advice import stationary

MAPS = np.exp(stationary(6, 16)[:, 0] / stationary(6).std()).astype("f4")


def inspected(*words: str) -> dict:
    done = CliRunner().invoke(app, ["inspect", *words, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def saved(folder: Path, maps: np.ndarray) -> str:
    np.save(folder / "maps.npy", maps)
    return str(folder / "maps.npy")


def test_what_is_told_is_what_the_maps_are(tmp_path: Path) -> None:
    found = inspected(saved(tmp_path, MAPS))
    assert (found["maps"], found["channels"], found["files"]) == (16, 1, 1)
    assert found["split"]["first_held_out"] == "maps:8"
    (values,) = found["values"]
    assert values["p50"] == pytest.approx(np.median(MAPS), rel=1e-6)
    assert values["max"] == pytest.approx(MAPS.max(), rel=1e-6) and values["share_negative"] == 0
    assert found["transform"]["advice"] == "log" and found["transform"]["log_normal"]
    assert found["refused"] is None and found["missing"]["share"] == 0
    assert found["base"]["advice"].startswith("models/")
    assert set(found["symmetries"]) == {"flip", "rotate90", "translate"}


def test_what_a_run_would_refuse_is_told_and_not_written(tmp_path: Path) -> None:
    maps = MAPS.copy()
    maps[15] = maps[0]
    found = inspected(saved(tmp_path, maps))
    assert "identical" in found["refused"]
    spec = TargetsSpec(path=str(tmp_path / "maps.npy"))
    with pytest.raises(InputError, match="a run would refuse"):
        write_configuration(tmp_path / "c.yaml", spec, found)
    assert not (tmp_path / "c.yaml").exists()
    maps[3, 2, 5] = np.nan
    assert "identical" in inspected(saved(tmp_path, maps))["refused"], "a rule would not help"


@pytest.mark.parametrize(("rows", "limit"), [(1, 0.1), (6, 0.2), (31, 63 / 64)])
def test_maps_that_lack_pixels_get_a_rule_by_which_they_run(
    tmp_path: Path, rows: int, limit: float
) -> None:
    """Of 32 rows, 1 is within the usual limit, 6 (18.75 %) and 31 are not."""
    maps = MAPS.copy()
    maps[3, :rows], maps[6, 2, 5] = np.nan, np.nan
    found = inspected(saved(tmp_path, maps), "--write", str(tmp_path / "c.yaml"))
    assert "NaN" in found["refused"], "without the rule"
    assert found["missing"]["maps"] == 2 and "maps:3" in found["missing"]["named"]
    settings = load_settings(tmp_path / "c.yaml").targets
    assert settings.missing == MissingSpec(fill="gaussian", limit=limit)
    assert "of the worst" in (tmp_path / "c.yaml").read_text(), "why"
    targets = TargetSet.of(replace(settings, transform="auto"))
    assert targets.transform.kind == "log" == settings.transform
    np.testing.assert_array_equal(targets.known[:, 0], maps)
    again = inspected(str(tmp_path / "c.yaml"))
    assert again["refused"] is None and again["missing"]["advice"] is None


def test_rules_that_were_given_are_left_alone(tmp_path: Path) -> None:
    """A limit that is set is meant; an empty map has no mean given its pixels."""
    maps = MAPS.copy()
    maps[3, :9] = np.nan
    spec = TargetsSpec(path=saved(tmp_path, maps), missing=MissingSpec(limit=0.2))
    found, _ = inspect_targets(spec)
    assert found["missing"]["advice"] is None and "at most 20.00%" in found["refused"]
    maps[3] = np.nan
    found, _ = inspect_targets(TargetsSpec(path=saved(tmp_path, maps)))
    assert found["missing"]["advice"] is None and "maps:3 100.00%" in found["refused"]


def test_missing_pixels_are_grey_and_many_files_are_not_listed(tmp_path: Path) -> None:
    for number, values in enumerate(MAPS):
        np.save(tmp_path / f"m{number}.npy", values)
    picture = tmp_path / "m.svg"
    inspected(str(tmp_path / "m*.npy"), "--picture", str(picture))
    told = picture.read_text()
    assert "16 files, m0 … m15" in told and str(tmp_path) not in told and "grey" not in told

    def greys() -> int:
        picture = target_sheet(maps[:, None], "K", "m")
        pixels = np.asarray(Image.open(BytesIO(picture)).convert("RGB"))
        return int((pixels == int(LACKING[1:3], 16)).all(2).sum())

    maps = MAPS[:1].copy()
    before = greys()
    maps[0, :8] = np.nan
    maps[0, 8:16] = np.inf
    tile = (DOTS * CELL) ** 2
    assert greys() - before > 0.3 * tile, "half of one map without its border"


def test_the_configuration_that_is_written_is_ready(tmp_path: Path) -> None:
    np.save(tmp_path / "my maps [1].npy", np.moveaxis(MAPS[:, None], 1, -1))
    place, picture = tmp_path / "my.yaml", tmp_path / "m.svg"
    words = (str(tmp_path / "my maps [1].npy"), "--axes", "nyxc")
    inspected(*words, "--write", str(place), "--picture", str(picture))
    settings = load_settings(place)
    assert settings.targets.axes == "nyxc" and settings.targets.transform == "log"
    assert os.path.isdir(settings.base)
    np.testing.assert_array_equal(TargetSet.of(settings.targets).values[:, 0], MAPS)
    assert inspected(str(place))["maps"] == 16
    assert b"<svg" in picture.read_bytes()
    before = place.read_bytes()
    done = CliRunner().invoke(app, ["inspect", *words, "--write", str(place)])
    assert isinstance(done.exception, InputError) and place.read_bytes() == before


def test_what_was_said_of_missing_pixels_is_written_too(tmp_path: Path) -> None:
    maps = MAPS.copy()
    maps[::4, 3:6, 3:6] = np.nan
    said = {"path": saved(tmp_path, maps), "missing": {"fill": "gaussian", "limit": 0.2}}
    (tmp_path / "a.yaml").write_text(
        json.dumps({"name": "a", "base": "models/dead-leaves-32", "targets": said})
    )
    inspected(str(tmp_path / "a.yaml"), "--write", str(tmp_path / "b.yaml"))
    assert load_settings(tmp_path / "b.yaml").targets.missing == MissingSpec(
        fill="gaussian", limit=0.2
    )


def test_few_or_odd_maps_are_described(tmp_path: Path) -> None:
    found, _ = inspect_targets(TargetsSpec(path=saved(tmp_path, MAPS[:1])))
    assert found["maps"] == 1 and "at least 4" in found["refused"]
    found, _ = inspect_targets(TargetsSpec(path=saved(tmp_path, MAPS[:12, :24])))
    assert found["refused"] is None and found["maps"] == 12
    found, _ = inspect_targets(TargetsSpec(path=saved(tmp_path, np.ones((8, 16, 16)))))
    assert "constant" in found["refused"] and "transform" not in found


def test_words_that_a_shell_gives(farfield, tmp_path, monkeypatch) -> None:
    """The folder that one is in, a pattern that the shell has replaced, a user that is not."""
    np.save(tmp_path / "m.npy", MAPS)
    monkeypatch.chdir(tmp_path)
    answer = farfield("inspect", ".", "--json")
    assert answer.code == 0 and json.loads(answer.out)["maps"] == 16, answer
    for words, said in (
        (("a.npy", "b.npy"), "got 2 paths; expected one; .* in quotes"),
        (("~no-such-user/m.npy",), "no home folder of ~no-such-user; expected"),
    ):
        answer = farfield("inspect", *words)
        assert answer.code == 2 and re.search(said, answer.err), answer
