"""What a finished run shows: card, twins and pictures on disk, and the verb for the sheet."""

import hashlib
import json
from glob import glob

import mlcroissant
import xarray as xr
from PIL import Image
from rocrate.rocrate import ROCrate


def test_the_twins_describe_the_files_that_are_there(unbroken):
    described = mlcroissant.Dataset(str(unbroken / "croissant.json")).metadata
    metadata, shards = described.distribution
    content = (unbroken / metadata.content_url).read_bytes()
    assert hashlib.sha256(content).hexdigest() == metadata.sha256
    found = glob(shards.includes[0], root_dir=unbroken, recursive=True)
    data = xr.open_zarr(unbroken / "dataset.zarr")
    fields = described.record_sets[0].fields
    assert {field.name for field in fields} == set(data.variables)
    # A shard of every array for each of the three shards of 4, 4 and 2 samples.
    assert len([path for path in found if (unbroken / path).is_file()]) == 3 * len(fields)
    for field in fields:
        stored = data[field.name]
        assert (field.array_shape_tuple if field.is_array else ()) == stored.shape[1:]
        assert str(field.data_types[0]).lower().endswith(f"/{stored.dtype}")


def test_every_part_of_the_crate_exists_and_every_file_of_the_report_is_one(unbroken):
    parts = {part.id for part in ROCrate(unbroken).root_dataset["hasPart"]}
    assert all((unbroken / part).exists() for part in parts)
    shown = {f"report/{path.name}" for path in (unbroken / "report").iterdir()}
    assert shown <= parts


def test_report_renews_the_card(farfield, finished):
    before = (finished / "README.md").read_text()
    for name in ("README.md", "croissant.json", "ro-crate-metadata.json", "report/scores.csv"):
        (finished / name).unlink()
    assert farfield("report", finished).code == 0
    assert (finished / "README.md").read_text() == before
    assert (finished / "croissant.json").is_file() and (finished / "report/scores.csv").is_file()


def test_gallery_writes_a_picture_where_it_is_asked(farfield, finished, tmp_path):
    out = tmp_path / "a" / "sheet.png"
    answer = farfield("gallery", finished, "--out", out, "--rows", 2, "--json")
    assert answer.code == 0 and json.loads(answer.out) == {"picture": str(out)}
    (finished / "report" / "gallery.png").unlink()
    assert farfield("gallery", finished).code == 0
    with Image.open(out) as small, Image.open(finished / "report" / "gallery.png") as tall:
        assert small.width == tall.width and small.height < tall.height


def test_gallery_refuses_what_it_cannot_draw(farfield, finished, ready, tmp_path):
    out = tmp_path / "sheet.png"
    assert farfield("gallery", finished, "--rows", 0, "--out", out).code == 2
    assert farfield("gallery", tmp_path / "none", "--out", out).code == 2
    assert farfield("gallery", ready, "--out", out).code == 5
    (tmp_path / "file").write_text("")
    assert farfield("gallery", finished, "--out", tmp_path / "file" / "a.png").code == 2
    assert not out.exists()


def test_walks_of_the_run_are_in_the_report_once_they_are_whole(farfield, finished):
    for name, whole in (("a-to-b", True), ("c-to-d", False)):
        place = finished / "walks" / name
        place.mkdir(parents=True)
        (place / "strip.png").write_bytes((finished / "report" / "gallery.png").read_bytes())
        if whole:  # the numbers are written last
            (place / "walk.json").write_text(json.dumps({"from": name[0], "to": name[-1]}))
    assert farfield("report", finished).code == 0
    page = (finished / "report" / "index.html").read_text()
    assert "From a to b" in page and "../walks/a-to-b/walk.csv" in page and "c-to-d" not in page
