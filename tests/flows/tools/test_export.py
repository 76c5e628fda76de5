"""`farfield export`: which runs, which exit codes, the stored maps in the file."""

import json

import numpy as np
import pytest
from astropy.io import fits

from ood_core.errors import ShardCorrupt
from ood_core.exporting.source import RunSource
from ood_core.store.run import RunStore


def stored(root):
    return RunStore(root).table("generate").read("maps")


def test_a_run_becomes_fits_with_its_numbers_and_parents(farfield, unbroken, tmp_path):
    answer = farfield("export", unbroken, tmp_path / "m.fits", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert (found["format"], found["maps"], found["files"]) == ("fits", 10, 1)
    np.testing.assert_array_equal(fits.getdata(tmp_path / "m.fits"), stored(unbroken)[:, 0])
    header = fits.getheader(tmp_path / "m.fits")
    assert header["RUN"] == RunStore(unbroken).record["identity"]
    assert (header["RUNNAME"], header["SEED"], header["SAMPLE1"]) == ("tiny", 0, 9)
    table = fits.getdata(tmp_path / "m.fits", "SAMPLES")
    parents = RunStore(unbroken).table("generate").read("parents")
    np.testing.assert_array_equal(table["parents"], parents)
    assert fits.getdata(tmp_path / "m.fits", "TARGETS")["name"][0] == "fields:0"
    again = json.loads(farfield("export", unbroken, tmp_path / "m.fits", "--json").out)
    assert again["files_kept"] == 1


def test_files_that_cut_shards_have_all_samples_once(farfield, unbroken, tmp_path):
    dest = tmp_path / "out"
    arguments = ("--format", "npz", "--per-file", 3)
    assert farfield("export", unbroken, dest, *arguments).code == 0
    parts = [np.load(path) for path in sorted(dest.glob("*.npz"))]
    assert [len(part["maps"]) for part in parts] == [3, 3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([p["maps"] for p in parts]), stored(unbroken))
    assert list(np.concatenate([p["sample"] for p in parts])) == list(range(10))


def test_a_quarantined_run_is_refused_unless_forced(farfield, config, finished, tmp_path):
    gate = {"min_held_out": 2, "spectrum_error": 0.0}
    assert farfield("run", config(gate=gate), "--out", finished).code == 3
    refused = farfield("export", finished, tmp_path / "m.fits")
    assert refused.code == 3 and "quarantined" in refused.err and "--force" in refused.err
    assert len(refused.err.splitlines()) == 1 and not (tmp_path / "m.fits").exists()
    assert farfield("export", finished, tmp_path / "m.fits", "--force").code == 0
    assert fits.getval(tmp_path / "m.fits", "RUNSTATE") == "quarantined"
    assert "**refused**" in (tmp_path / "m.fits.README.md").read_text()


def test_an_unfinished_run_is_refused_unless_forced(farfield, finished, ready, tmp_path):
    (finished / "receipts" / "generate" / "00001.json").unlink()
    refused = farfield("export", finished, tmp_path / "m.npz")
    assert refused.code == 5 and "--force" in refused.err and not list(tmp_path.glob("m*"))
    assert farfield("export", finished, tmp_path / "m.npz", "--force").code == 0
    with np.load(tmp_path / "m.npz") as found:  # the samples before the first that is missing
        np.testing.assert_array_equal(found["maps"], stored(finished)[:4])
    assert "**not finished**" in (tmp_path / "m.npz.README.md").read_text()
    nothing = farfield("export", ready, tmp_path / "n.npz", "--force")
    assert nothing.code == 5 and "no samples" in nothing.err


@pytest.mark.parametrize(
    ("dest", "arguments", "words"),
    [
        ("m.jpg", (), "no format has"),
        ("m", (), "--format"),
        ("m.fits", ("--format", "hf"), "expected .parquet"),
        ("https://host/m.fits", (), "expected s3://bucket/prefix"),
    ],
)
def test_bad_arguments_exit_with_two(
    farfield, unbroken, tmp_path, monkeypatch, dest, arguments, words
):
    monkeypatch.chdir(tmp_path)
    answer = farfield("export", unbroken, dest, *arguments)
    assert (answer.code, words in answer.err) == (2, True), answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_its_receipt_does_not_vouch_for_is_not_exported(finished):
    """And the negative control: the shards before it are."""
    run = RunStore(finished)
    table, shard = run.table("generate"), run.plan("generate")[1]
    rows = table.rows(4, 8)
    table.write(shard, {**rows, "maps": rows["maps"] + np.float32(1)})
    source = RunSource(run, "complete", 10)
    assert len(list(source.blocks(0, 4))) == 1
    with pytest.raises(ShardCorrupt, match="samples 4 to 7"):
        list(source.blocks(0, 8))


def test_replay_writes_fits(farfield, unbroken, tmp_path):
    assert farfield("replay", unbroken, "--sample", 5, "--out", tmp_path / "x.fits").code == 0
    header = fits.getheader(tmp_path / "x.fits")
    np.testing.assert_array_equal(fits.getdata(tmp_path / "x.fits"), stored(unbroken)[5, 0])
    parent = RunStore(unbroken).table("generate").read("parents")[5, 0]
    assert (header["SAMPLE"], header["PARENT1"]) == (5, f"fields:{parent}")


@pytest.mark.parametrize(
    ("ending", "magic"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")]
)
def test_pictures_are_of_the_kind_that_the_ending_says(farfield, unbroken, tmp_path, ending, magic):
    """The same bytes each time, and each says that the map is synthetic."""
    found = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.{ending}"
        assert farfield("replay", unbroken, "--sample", 0, "--alone", "--out", path).code == 0
        found.append(path.read_bytes())
    assert found[0] == found[1] and found[0].startswith(magic)
    assert farfield("gallery", unbroken, "--out", tmp_path / f"g.{ending}").code == 0
    assert (tmp_path / f"g.{ending}").read_bytes().startswith(magic)
    assert ending != "svg" or b"SYNTHETIC" in found[0]


def test_an_unknown_picture_is_refused(farfield, unbroken, tmp_path):
    for name in ("g.jpg", "g"):
        answer = farfield("gallery", unbroken, "--out", tmp_path / name)
        assert answer.code == 2 and ".svg or .pdf" in answer.err
    assert list(tmp_path.iterdir()) == []


def test_masks_of_the_targets_come_back_on_the_samples(farfield, config, tiny_dict, tmp_path):
    """Every mask is one of a fit target's, in every export the same; nothing else changes."""
    maps = np.load(tiny_dict()["targets"]["path"]).astype("f4")
    for number, field in enumerate(maps):
        field[..., number % 7, 3:6] = np.nan
    np.save(tmp_path / "holes.npy", maps)
    targets = {"path": str(tmp_path / "holes.npy"), "missing": {"fill": "gaussian"}}
    done = farfield("run", config(targets=targets), "--out", tmp_path / "run")
    assert done.code in (0, 3, 4), done.err
    assert "miss pixels" in done.err
    words = ("--force", "--mask", "resample", "--format", "npz")
    for place, more in (("a", ()), ("b", ("--per-file", 3))):
        assert farfield("export", tmp_path / "run", tmp_path / place, *words, *more).code == 0
    whole = np.concatenate([np.load(p)["maps"] for p in sorted((tmp_path / "a").glob("*.npz"))])
    cut = np.concatenate([np.load(p)["maps"] for p in sorted((tmp_path / "b").glob("*.npz"))])
    np.testing.assert_array_equal(whole, cut)
    run = RunStore(tmp_path / "run")
    masks = run.targets.read("missing")[run.targets.read("held_out") == 0].astype(bool)
    known = {mask.tobytes() for mask in masks}
    drawn = {np.isnan(sample).tobytes() for sample in whole}
    assert drawn <= known and len(drawn) > 1
    np.testing.assert_array_equal(
        whole[~np.isnan(whole)], stored(tmp_path / "run")[~np.isnan(whole)]
    )
    assert np.isfinite(stored(tmp_path / "run")).all()


def test_masks_need_targets_with_missing_pixels(farfield, unbroken, tmp_path):
    answer = farfield("export", unbroken, tmp_path / "m.npz", "--mask", "resample")
    assert answer.code == 2 and "without missing pixels" in answer.err
    assert list(tmp_path.iterdir()) == []
