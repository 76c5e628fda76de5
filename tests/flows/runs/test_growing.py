"""Data sets that grow with their targets: what is kept, what is made anew, what is said."""

import json
import shutil

import numpy as np
import pytest

from actors.workers import kept_latents
from flows.progress import Silent, listener
from flows.runs.lifecycle import make_run
from flows.runs.planning import plan_run
from flows.runs.stages import perform
from ood_core.errors import IdentityRefused, InputError
from ood_core.store.files import read_json
from ood_core.store.place import place_at
from ood_core.store.run import RunStore
from ood_core.store.series import record_version
from ood_core.store.targets import load_targets
from tests.contracts.pool import spec_of
from tests.contracts.store import assert_honest
from tests.fields import smooth_fields

FIELDS = smooth_fields(24)


def put(folder, numbers, prefix="map"):
    folder.mkdir(exist_ok=True)
    for number in numbers:
        np.save(folder / f"{prefix}-{number:02d}.npy", FIELDS[number : number + 1])


@pytest.fixture
def files(tmp_path):
    put(tmp_path / "maps", range(14))
    return tmp_path / "maps"


def some(stages):
    def call(name, stage, run, settings):
        return perform(name, stage, run, settings) if name in stages else ""

    return call


@pytest.fixture
def grow(files, tiny):
    """Makes the version that the files give up to its latents; returns its run and what is said."""

    def call(out, stages=("calibrate", "invert"), **sections):
        said = []
        settings = tiny(targets={"path": str(files), "grow": True}, **sections)
        heard = type("Heard", (Silent,), {"say": lambda self, text: said.append(text)})()
        token = listener.set(heard)
        try:
            found = make_run(settings, str(out), call=some(stages))
        finally:
            listener.reset(token)
        return RunStore.open(found["uri"]), said

    return call


def everything(run):
    return {str(p): p.read_bytes() for p in run.root.rglob("*") if p.is_file()}


def latents(run):
    table, targets = run.table("invert"), load_targets(run)
    return dict(zip(targets.ids[: targets.fit_count], table.read("latents"), strict=True))


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_new_files_alone_are_inverted_and_make_a_version(files, grow, tmp_path, request, where):
    out = tmp_path / "set" if where == "folder" else f"{request.getfixturevalue('bucket')}/set"
    samples = ("fit", "generate") if where == "folder" else ()
    first, said = grow(out, ("calibrate", "invert", *samples))
    assert (first.root.name, said) == ("v0001", [])
    before = everything(first) if where == "folder" else {}
    put(files, range(14, 18))
    second, said = grow(out, ("calibrate", "invert", *samples))
    assert second.root.name == "v0002"
    (text,) = said
    assert text.startswith("targets since v0001: 4 new (map-14") and "alone are inverted" in text
    assert {**before} == (everything(first) if where == "folder" else {})

    grown = second.record["grown_from"]
    assert (grown["version"], grown["identity"]) == ("v0001", first.record["identity"])
    assert len(grown["added"]) == 4 and grown["frame"] == first.record["identity"]
    assert second.record["identity"] != first.record["identity"]
    assert read_json(place_at(str(out)) / "series.json") == {"newest": 2, "published": 0}

    old, new = latents(first), latents(second)
    assert len(old) == 7 and len(new) == 9
    assert all(np.array_equal(new[name], old[name]) for name in old)
    per_map = sum(r.nfe for r in first.ledger("invert").all(first.plan("invert"))) / 7
    spent = sum(r.nfe for r in second.ledger("invert").all(second.plan("invert")))
    assert 0 < spent <= 9 * per_map  # one batch, padded
    kept = [run.table("calibrate").load() for run in (first, second)]
    np.testing.assert_array_equal(*(rows["fitted"] for rows, _ in kept))
    assert kept[0][1] == kept[1][1]
    assert load_targets(second).transform == load_targets(first).transform
    if where == "folder":
        maps = [run.table("generate").read("maps") for run in (first, second)]
        assert np.isfinite(maps[1]).all() and not np.array_equal(*maps)
    third, said = grow(out)
    assert third.root == second.root and said == []


def test_kept_latents_are_those_of_inverting_all(files, grow, tmp_path):
    """The version before is moved away: then there is nothing to keep."""
    grow(tmp_path / "set")
    put(files, range(14, 18))
    second, _ = grow(tmp_path / "set")
    kept = latents(second)
    assert len(kept_latents(second, load_targets(second))) == 7
    (tmp_path / "set" / "v0001").rename(tmp_path / "away")
    for shard in second.plan("invert"):
        second.ledger("invert").revoke(shard)
    from actors.pool import InlinePool

    list(InlinePool().run(spec_of(second.root, "invert"), list(second.plan("invert"))))
    anew = latents(second)
    for name, values in kept.items():
        np.testing.assert_allclose(anew[name], values, atol=1e-4)  # another batch shape rounds
    assert_honest(second.root)


def test_the_calibration_of_a_grown_version_can_be_renewed(files, grow, tmp_path):
    """It is that of the frame, to the bit: by its targets, and its stream of random numbers."""
    grow(tmp_path / "set")
    put(files, range(14, 18))
    second, _ = grow(tmp_path / "set")
    weights = second.table("calibrate").read("fitted")
    shutil.rmtree(second.root / "calibration.zarr" / "fitted" / "c")
    for shard in second.plan("calibrate"):
        second.ledger("calibrate").revoke(shard)
    from actors.pool import InlinePool

    list(InlinePool().run(spec_of(second.root, "calibrate"), list(second.plan("calibrate"))))
    np.testing.assert_array_equal(second.table("calibrate").read("fitted"), weights)


@pytest.mark.parametrize("what", ["removed", "changed", "before"])
def test_what_the_frame_was_fitted_to_is_fitted_to_or_all_is_made_anew(files, grow, tmp_path, what):
    """Files that come first in order would put targets of the frame among the held-out ones."""
    first, _ = grow(tmp_path / "set")
    if what == "removed":
        (files / "map-03.npy").unlink()
    elif what == "changed":
        np.save(files / "map-03.npy", FIELDS[20:21])
    else:
        put(files, range(14, 18), prefix="a")
    second, (text,) = grow(tmp_path / "set")
    grown = second.record["grown_from"]
    assert grown["frame"] == "" and "everything is fitted anew" in text
    name = load_targets(first).ids[3]
    wanted = {"removed": [name], "changed": [name], "before": []}[what]
    assert grown["removed"] + grown["changed"] == wanted
    assert not (second.root / "frame.zarr").exists()
    if what == "removed":
        alone, _ = grow(tmp_path / "alone")
        assert alone.record["identity"] == second.record["identity"]
        assert latents(second).keys() == latents(alone).keys()


def test_other_settings_are_refused_and_nothing_is_written(files, grow, tmp_path):
    grow(tmp_path / "set")
    put(files, range(14, 18))
    with pytest.raises(IdentityRefused, match="generation.seed: 0 -> 3"):
        grow(tmp_path / "set", generation={"seed": 3})
    assert not (tmp_path / "set" / "v0002").exists()


def test_runs_and_versions_keep_apart(grow, finished, tiny, tmp_path):
    with pytest.raises(InputError, match="holds a single run"):
        grow(finished)
    grow(tmp_path / "set")
    with pytest.raises(InputError, match="holds versions"):
        plan_run(tiny(), str(tmp_path / "set"))


def test_what_is_read_moves_on_published_alone(finished, tmp_path):
    """Versions one and three are published, two is quarantined."""
    series = tmp_path / "set"
    for number, outcome in enumerate(("published", "quarantined", "published"), start=1):
        run = RunStore(series / f"v000{number}")
        shutil.copytree(finished, run.root)
        gate = json.loads((run.root / "gate.json").read_text())
        (run.root / "gate.json").write_text(json.dumps({**gate, "outcome": outcome}))
        record_version(run)
        told = read_json(series / "series.json")
        assert told == {"newest": number, "published": {1: 1, 2: 1, 3: 3}[number]}
        assert RunStore.open(str(series)).root == series / f"v000{told['published']}"
