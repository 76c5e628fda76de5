"""`farfield inspect TARGETS`: what it says, draws and writes."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.settings import load_settings
from flows.tools.targets_inspection import inspect_targets, write_configuration
from ood_core.config.targets import MissingSpec, TargetsSpec
from ood_core.errors import InputError
from ood_core.maps.target_set import TargetSet
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
    maps[3, 2, 5] = np.nan
    maps[15] = maps[0]
    found = inspected(saved(tmp_path, maps))
    assert "NaN" in found["refused"]
    assert found["missing"]["maps"] == 1 and "maps:3 0.10%" in found["missing"]["named"]
    spec = TargetsSpec(path=str(tmp_path / "maps.npy"))
    with pytest.raises(InputError, match="a run would refuse"):
        write_configuration(tmp_path / "c.yaml", spec, found)
    assert not (tmp_path / "c.yaml").exists()
    maps[3, 2, 5] = 1
    assert "identical" in inspected(saved(tmp_path, maps))["refused"]


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
