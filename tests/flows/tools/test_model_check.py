"""`farfield models check`: exit codes, what is compared with the card, what is written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from flows.settings import PROJECT
from flows.tools import model_check
from ood_core.models.loading import load_model
from tests.oracles import mixer

SHIPPED = PROJECT / "models" / "dead-leaves-32"


@pytest.fixture(autouse=True)
def few_evaluations(monkeypatch):
    """Short round trips and timings; what is asserted does not depend on their length."""
    monkeypatch.setattr(model_check, "ROUND_TRIPS", (4,))
    monkeypatch.setattr(model_check, "BATCHES", (1,))


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return mixer.install(folder, {"eqx_hsc_ScoreNet32.eqx": 32})


def results(found):
    return {row["check"]: row["result"] for row in found["checks"]}


@pytest.mark.parametrize(
    ("name", "digest", "domain"),
    [("dead-leaves-32", "note", "dead leaves"), ("in-context-worlds", "pass", "procedural worlds")],
)
def test_a_shipped_base_is_what_it_says(farfield, tmp_path, name, digest, domain):
    out, folder = tmp_path / "checked", SHIPPED.parent / name
    answer = farfield(
        "models", "check", folder, "--samples", 8, "--steps", 6, "--out", out, "--json"
    )
    found = json.loads(answer.out)
    assert answer.code == 0, found["checks"]
    assert found["passed"] is True
    assert results(found) == {
        "digest": digest,  # a note where none is stated
        "prediction type": "pass",
        "denoises": "pass",
        "noise levels": "pass",
        "values": "pass",
    }
    assert found["base"]["digest"] == load_model(str(folder)).digest
    assert found["domain"] == domain
    assert found["round_trips"][0]["nfe"] == 4
    assert found["cost"][0]["ms_per_map"] > 0
    assert json.loads((out / "check.json").read_text()) == found
    assert (out / "check.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in out.iterdir()) == ["check.json", "check.png"]


@pytest.mark.parametrize("claim", ["epsilon", "sample"])
def test_a_wrong_prediction_type_is_not_believed(farfield, tmp_path, claim):
    folder = Path(shutil.copytree(SHIPPED, tmp_path / "claimed"))
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": claim}))
    answer = farfield("models", "check", folder, "--samples", 2, "--steps", 6)
    assert answer.code == 2
    assert "the network predicts v_prediction" in answer.out
    assert f"declared {claim}" in answer.out


def test_a_stated_digest_is_compared(farfield, base, tmp_path):
    folder = Path(shutil.copytree(base, tmp_path / "stated"))
    digest = load_model(str(folder)).digest
    for stated, result in ((digest, "pass"), ("0" * 64, "fail")):
        (folder / "training.json").write_text(json.dumps({"digest": stated}))
        found = model_check.check_model(str(folder), samples=2, steps=2)
        assert results(found)["digest"] == result
    (folder / "training.json").unlink()
    (folder / "README.md").write_text(f"---\ndomain: rust\ndigest: {digest}\n---\n\n# Rust\n")
    found = model_check.check_model(str(folder), samples=2, steps=2)
    assert (results(found)["digest"], found["domain"]) == ("pass", "rust")


def test_an_untrained_base_fails_and_is_still_described(farfield, base, tmp_path):
    answer = farfield("models", "check", base, "--samples", 3, "--steps", 3, "--json")
    found = json.loads(answer.out)
    assert answer.code == 2
    assert results(found)["denoises"] == "fail"
    assert results(found)["prediction type"] == "note"
    assert found["base"]["parameters"] == load_model(str(base)).parameters
    assert "check" in answer.err  # the bar is on the error stream


@pytest.mark.parametrize("text", ["---\n[\n---\n", "---\n- a\n---\n", "---\nplain\n---\n"])
def test_a_card_that_cannot_be_read_is_one_error(farfield, base, tmp_path, text):
    folder = Path(shutil.copytree(base, tmp_path / "card"))
    (folder / "README.md").write_text(text)
    out = tmp_path / "out"
    answer = farfield("models", "check", folder, "--out", out)
    assert answer.code == 2
    assert "expected YAML front matter" in answer.err
    assert not out.exists()


def test_bad_arguments_exit_with_two_and_write_nothing(farfield, base, tmp_path):
    out = tmp_path / "out"
    for arguments in (("--samples", 1), ("--steps", 0), ("--steps", 1000)):
        answer = farfield("models", "check", base, "--out", out, *arguments)
        assert answer.code == 2
        assert "1 to 999 steps" in answer.err
    assert not out.exists()
    out.write_text("kept")
    answer = farfield("models", "check", base, "--out", out)
    assert answer.code == 2
    assert "expected a folder" in answer.err
    assert out.read_text() == "kept"


def test_an_absent_package_is_one_error_with_its_remedy(farfield):
    answer = farfield("models", "check", "galaxygrad:hst")
    assert answer.code == 2
    assert "expected one of hsc32" in answer.err


def test_a_packaged_base_states_its_domain(farfield, package):
    found = model_check.check_model("galaxygrad:hsc32", samples=2, steps=2)
    assert found["domain"] == "galaxies of the HSC survey"
    assert found["base"]["fixed_size"] is True
    assert results(found)["denoises"] == "fail"  # random weights


def test_a_packaged_base_takes_maps_of_its_own_size_only(farfield, package, config, tmp_path):
    rng = np.random.default_rng(0)
    for side, code in ((32, 0), (64, 2)):
        np.save(tmp_path / "maps.npy", rng.random((8, side, side), dtype=np.float32))
        path = config(base="galaxygrad:hsc32", targets={"path": str(tmp_path / "maps.npy")})
        answer = farfield("plan", path)
        assert answer.code == code, answer.err
    assert "got maps of 64 x 64 px; expected 32 x 32 px" in answer.err
