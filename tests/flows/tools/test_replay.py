"""One sample again: equal bits, rounding, real differences, and samples that are not there yet."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from flows.runs.lifecycle import stored_settings
from flows.settings import PROJECT
from flows.tools.replay import TOLERANCE, Replay, replay_sample
from ood_core.store.plan import Shard
from ood_core.store.run import RunStore
from ood_core.store.statistics import read_drawn


def again(root, sample, alone=False, out=None):
    run = RunStore(root)
    return replay_sample(run, stored_settings(run), sample, alone, out)


@pytest.mark.parametrize("sample", [0, 5, 9])
def test_a_stored_sample_comes_out_bit_for_bit(unbroken, tmp_path, sample):
    """In a full shard, and in the last one, which shows two of its four rows."""
    found = again(unbroken, sample, out=str(tmp_path / "map.npy"))
    assert (found["outcome"], found["difference_in_std"]) == ("equal", 0.0)
    table = RunStore(unbroken).table("generate")
    stored = table.read("maps")[sample]
    now = np.load(tmp_path / "map.npy")
    assert now.tobytes() == stored.tobytes() and now.dtype == np.float32
    assert found["values"]["max"] == pytest.approx(float(stored.max()))
    parents = [f"fields:{p}" for p in table.read("parents")[sample]]
    assert found["parents"] == parents
    assert found["seed"]["attempt"] == read_drawn(RunStore(unbroken))["attempts"][sample] - 1


def test_alone_it_is_the_same_sample_up_to_rounding(unbroken):
    """A sample is a function of (identity, i) alone; one step of steering amplifies little.

    The negative control: the neighbour's map is another one altogether.
    """
    found = again(unbroken, 6, alone=True)
    assert found["outcome"] in ("equal", "within tolerance")
    maps = RunStore(unbroken).table("generate").read("maps")
    assert np.abs(maps[5] - maps[6]).max() > 100 * TOLERANCE * maps[6].std()


def rows(shift=0.0, **changes):
    maps = np.random.default_rng(0).standard_normal((1, 8, 8)).astype(np.float64)
    maps[0, 0, 0] += shift * maps.std()
    kept = {"attempts": np.int16(1), "parents": np.array([3, 4]), "aim_distance": np.float32(0.5)}
    return {"maps": maps, **kept, **changes}


@pytest.mark.parametrize(
    ("now", "outcome"),
    [
        (rows(), "equal"),
        (rows(0.9 * TOLERANCE), "within tolerance"),
        (rows(-0.9 * TOLERANCE), "within tolerance"),
        (rows(1.1 * TOLERANCE), "differs"),
        (rows(aim_distance=np.float32(0.6)), "within tolerance"),
        (rows(parents=np.array([4, 3])), "differs"),
        (rows(attempts=np.int16(2)), "differs"),
        (rows(np.nan), "differs"),
    ],
)
def test_outcomes(now, outcome):
    pair = Replay(0, Shard(0, 0, 4, 4), now, rows())
    assert pair.outcome == outcome
    assert replace(pair, stored=None).outcome == "not generated yet"
    assert replace(pair, stored=None).difference is None


def test_a_map_that_is_another_one_exits_with_one(farfield, finished):
    run = RunStore(finished)
    table, shard = run.table("generate"), run.plan("generate")[1]
    stored = {name: table.read(name, slice(4, 8)) for name, _ in table.arrays()}
    stored["maps"] = stored["maps"] * np.float32(1.01)
    table.write(shard, stored)
    answer = farfield("replay", finished, "--sample", 6, "--json")
    assert answer.code == 1
    found = json.loads(answer.out)
    assert found["outcome"] == "differs"
    assert found["difference_in_std"] > TOLERANCE
    assert "rounding" in found["note"]


def test_a_sample_that_is_not_there_yet_is_the_one_that_comes(farfield, ready, unbroken, tmp_path):
    answer = farfield("replay", ready, "--sample", 9, "--out", tmp_path / "map.npy", "--json")
    assert answer.code == 0
    found = json.loads(answer.out)
    assert (found["outcome"], found["difference_in_std"]) == ("not generated yet", None)
    stored = RunStore(unbroken).table("generate").read("maps")[9]
    np.testing.assert_array_equal(np.load(tmp_path / "map.npy"), stored)
    assert not list(ready.glob("receipts/generate/*"))


def test_a_picture_can_be_opened(farfield, unbroken, tmp_path):
    from PIL import Image

    assert farfield("replay", unbroken, "--sample", 1, "--out", tmp_path / "map.png").code == 0
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.size == (256, 256)


def test_what_made_it_then_and_now(farfield, finished):
    record = json.loads((finished / "run.json").read_text())
    record["versions"]["torch"] = "1.0"
    (finished / "run.json").write_text(json.dumps(record))
    found = json.loads(farfield("replay", finished, "--sample", 0, "--json").out)
    assert found["versions"]["torch"].startswith("1.0, now ")
    assert found["versions"]["numpy"] == np.__version__
    assert found["seed"]["philox_key"][1] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--sample", "-1"), 2, "0 or more"),
        (("--sample", "0", "--out", "map.jpg"), 2, ".svg or .pdf"),
        (("--sample", "0", "--set", "method.steps=3"), 2, "method.steps=3"),
        (("--sample", "0", "--set", "base=no/such/base/here"), 2, "no folder"),
    ],
)
def test_what_cannot_be_replayed_is_said(
    farfield, unbroken, tmp_path, monkeypatch, arguments, code, words
):
    monkeypatch.chdir(tmp_path)
    answer = farfield("replay", unbroken, *arguments)
    assert (answer.code, words in answer.err) == (code, True)
    assert "Traceback" not in answer.err
    assert list(tmp_path.iterdir()) == []


def test_lost_statistics_are_one_error_with_the_remedy(farfield, finished):
    shutil.rmtree(finished / "statistics.zarr")
    answer = farfield("replay", finished, "--sample", "0")
    assert answer.code == 1
    assert "is lost; run `farfield verify`" in " ".join(answer.err.split())
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("part", ["receipts/calibrate/00001.json", "receipts/invert/00000.json"])
def test_an_unfinished_fit_is_incomplete(farfield, ready, part):
    (ready / part).unlink()
    answer = farfield("replay", ready, "--sample", 0)
    assert answer.code == 5
    assert "farfield run" in answer.err


def test_the_examples_of_the_data_schema_give_the_stored_sample(unbroken):
    """The blocks of docs/data_schema.md that draw a sample again, run as they stand."""
    text = (PROJECT / "docs" / "data_schema.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text.partition("By hand: sample `i`")[2], re.DOTALL)
    assert len(blocks) == 2
    code = "".join(blocks).replace("17", "6").replace("18", "7").replace("runs/demo", str(unbroken))
    found: dict[str, object] = {}
    exec(code, found)
    stored = RunStore(unbroken).table("generate").read("maps")[6]
    assert found["again"].tobytes() == stored.tobytes()
    assert found["latent"].shape == (1, 1, 16, 16)
