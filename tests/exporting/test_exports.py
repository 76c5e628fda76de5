"""Maps out: every format is read back by the reader that people use; places, resume, words."""

import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import ood_core as ff
from ood_core.errors import ConfigError, IdentityRefused, InputError, StoreUnwritable
from ood_core.exporting import formats
from ood_core.exporting.exports import plan_export
from ood_core.exporting.formats import EXPORTERS
from ood_core.exporting.source import About, MemorySource
from ood_core.limits import USUAL
from ood_core.maps.fits import read_fits
from ood_core.maps.readers import read_maps
from ood_core.store.arrays import Column

HEADER = "\n".join(
    [
        "TELESCOP= 'HST     '",
        "OBJECT  = 'M31     '",
        "CTYPE1  = 'RA---TAN'",
        "CTYPE2  = 'DEC--TAN'",
        "CDELT1  = -0.01",
        "CDELT2  = 0.01",
        "CRVAL1  = 10.0",
    ]
)
HOSTILE = (
    "a\nb|c", "<script>alert(1)</script>", "\u00b5'quote'\"", "\u202eevil", "x" * 300, "\x00nul",
    "SIMPLE  =  F", "# [l](http://e.x) `c`",
)  # fmt: skip


def source(count=10, channels=1, run="f" * 64, names=HOSTILE, **words):
    """Maps as of a run, with the columns that a run has; blocks of three."""
    rng = np.random.default_rng(count)
    columns = (
        Column("sample", (), (), "int64", "number of the sample"),
        Column("attempts", (), (), "int16", "draws"),
        Column("parents", ("parent",), (2,), "int32", "targets | of it"),
        Column("aim_distance", (), (), "float32", "distance"),
        Column("flag", (), (), "int8", "a flag"),
        Column("maps", ("channel", "y", "x"), (channels, 16, 12), "float32", "map", "Jy/beam"),
    )
    rows = {
        "sample": np.arange(count, dtype=np.int64),
        "attempts": np.arange(count, dtype=np.int16) + 1,
        "parents": np.stack([np.arange(count) % len(names), np.arange(count) % 3], 1).astype("i4"),
        "aim_distance": rng.random(count).astype("f4"),
        "flag": -np.ones(count, dtype=np.int8),
        "maps": rng.normal(size=(count, channels, 16, 12)).astype("f4"),
    }
    about = About(run, "a run", "published", 7, "Jy/beam", HEADER, names, columns)
    found = MemorySource(replace(about, **words), rows)
    return Blocks(found.about, found.columns)


class Blocks(MemorySource):
    """Says how many blocks were read."""

    block_rows = 3
    read = 0

    def blocks(self, start, stop):
        for block in super().blocks(start, stop):
            type(self).read += 1
            yield block


def write(maps, dest, format=None, per_file=None):
    return plan_export(maps, str(dest), format, per_file).write()


def everything(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", list(EXPORTERS))
def test_the_two_lines_of_the_readme_give_the_maps(tmp_path, monkeypatch, name, channels):
    """And `sha256sum -c` finds every file whole, and a changed byte damaged."""
    maps = source(channels=channels)
    per_file = None if EXPORTERS[name].whole else 4
    found = write(maps, tmp_path / "out", name, per_file)
    assert found["maps"] == 10 and found["files"] == (3 if per_file else 1)
    monkeypatch.chdir(tmp_path / "out")
    text = Path("README.md").read_text()
    assert "**These maps are synthetic." in text
    space: dict[str, object] = {}
    exec(text.split("```python\n")[1].split("```")[0], space)
    first = maps.columns["maps"][: per_file or 10]
    read = np.asarray(space["maps"])
    assert read.dtype.kind == "f" and read.dtype.itemsize == 4
    np.testing.assert_array_equal(read.reshape(first.shape), first)
    check = ["sha256sum", "-c", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, capture_output=True).returncode == 0
    files = [path for path in Path().rglob("*") if path.is_file()]
    listed = [path for path in files if path.name not in ("README.md", "SHA256SUMS")]
    assert len(listed) == len(Path("SHA256SUMS").read_text().splitlines()) - 1
    victim = listed[-1]
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    assert subprocess.run(check, capture_output=True).returncode == 1


@pytest.mark.parametrize("name", list(EXPORTERS))
def test_the_same_maps_give_the_same_bytes_and_only_what_lacks_is_written(tmp_path, name):
    """A finished file is not touched; a lost and a damaged one come back as they were."""
    per_file = None if EXPORTERS[name].whole else 4
    for place in ("a", "b"):
        write(source(), tmp_path / place, name, per_file)
    before = everything(tmp_path / "a")
    assert before == everything(tmp_path / "b")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("maps*")}
    Blocks.read = 0
    found = write(source(), tmp_path / "a", name, per_file)
    assert (found["files_kept"], Blocks.read) == (found["files"], 0)
    assert times == {path: path.stat().st_mtime_ns for path in times}
    victim = max(path for path in (tmp_path / "a").glob("maps*/**/*") if path.is_file()) \
        if EXPORTERS[name].whole else max(times)  # fmt: skip
    for harm in (lambda: victim.unlink(), lambda: victim.write_bytes(b"")):
        harm()
        found = write(source(), tmp_path / "a", name, per_file)
        assert found["files_kept"] == found["files"] - 1
        assert everything(tmp_path / "a") == before


@pytest.mark.parametrize("name", list(EXPORTERS))
def test_an_export_that_was_cut_short_goes_on(tmp_path, monkeypatch, name):
    """It dies in the second file; nothing half-written has a final name."""
    per_file = None if EXPORTERS[name].whole else 4
    write(source(), tmp_path / "whole", name, per_file)
    monkeypatch.setattr("ood_core.exporting.zarr_folders.SHARD_BYTES", 1)  # a shard per block
    maps, seen = source(), []

    def dies(start, stop):
        for block in MemorySource.blocks(maps, start, stop):
            if block["sample"][0] >= 4:
                raise KeyboardInterrupt
            seen.append(block["sample"][0])
            yield block

    monkeypatch.setattr(Blocks, "blocks", lambda self, a, b: dies(a, b))
    with pytest.raises(KeyboardInterrupt):
        write(maps, tmp_path / "cut", name, per_file)
    final = [p for p in (tmp_path / "cut").glob("maps*") if not p.name.endswith(".partial")]
    assert len(final) == (1 if per_file else 0)
    monkeypatch.setattr(Blocks, "blocks", lambda self, a, b: again(self, a, b))
    read = []

    def again(self, start, stop):
        for block in MemorySource.blocks(self, start, stop):
            read.append(int(block["sample"][0]))
            yield block

    write(source(), tmp_path / "cut", name, per_file)
    assert min(read) == (4 if per_file else 6)  # shards of zarr have three rows here
    if per_file:
        assert everything(tmp_path / "cut") == everything(tmp_path / "whole")
    else:
        stored = read_maps(str(tmp_path / "cut" / "maps.zarr"), "maps", USUAL)
        np.testing.assert_array_equal(stored.values, maps.columns["maps"])
    assert not list((tmp_path / "cut").rglob("*.partial"))


def test_more_samples_of_the_same_run_keep_the_full_files(tmp_path):
    write(source(10), tmp_path, "fits", 4)
    longer = source(10)
    longer.columns.update({k: np.concatenate([v, v[:3]]) for k, v in longer.columns.items()})
    found = write(longer, tmp_path, "fits", 4)
    assert (found["files"], found["files_kept"]) == (4, 2)
    assert [len(fits.getdata(p)) if fits.getval(p, "NAXIS") == 3 else 1
            for p in sorted(tmp_path.glob("*.fits"))] == [4, 4, 4, 1]  # fmt: skip


def test_another_verdict_of_the_gate_is_written_into_every_file(tmp_path):
    write(source(), tmp_path / "o", "fits", 4)
    write(source(state="quarantined"), tmp_path / "o", "fits", 4)
    states = {fits.getval(p, "RUNSTATE") for p in (tmp_path / "o").glob("*.fits")}
    assert states == {"quarantined"}
    assert "**refused**" in (tmp_path / "o" / "README.md").read_text()


def test_places_that_hold_something_else_are_refused(tmp_path):
    """Nothing is overwritten: neither files of others nor exports of other runs."""
    (tmp_path / "m.fits").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    (tmp_path / "side.npz.README.md").write_text("mine")
    for dest, name in (
        ("m.fits", None),
        ("full", "fits"),
        ("side.npz", None),
        ("m.fits/y.npz", None),
    ):
        before = everything(tmp_path)
        with pytest.raises(InputError):
            write(source(), tmp_path / dest, name)
        assert everything(tmp_path) == before
    write(source(), tmp_path / "o.npz")
    with pytest.raises(IdentityRefused, match="run"):
        write(source(run="e" * 64), tmp_path / "o.npz")
    write(source(), tmp_path / "o", "fits", 4)
    for name, per_file in (("npz", 4), ("fits", 5)):
        with pytest.raises(IdentityRefused):
            write(source(), tmp_path / "o", name, per_file)


@pytest.mark.parametrize(
    ("dest", "format", "per_file", "words"),
    [
        ("m.xyz", None, None, "no format has"),
        ("m", None, None, "--format"),
        ("m.fits.gz", None, None, ".gz"),
        ("m", "csv", None, "webdataset"),
        ("m.fits", "npz", None, ".npz"),
        ("m.npz/", None, None, "--format"),
        ("m.fits", None, 4, "--per-file"),
        ("m", "fits", 0, "--per-file"),
        ("m", "zarr", 4, "--per-file"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, dest, format, per_file, words
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        write(source(), dest, format, per_file)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    for name, extra in (("hdf5", "hdf5"), ("netcdf", "netcdf"), ("parquet", "parquet")):
        with pytest.raises(ConfigError, match=rf"pip install 'farfield\[{extra}\]'"):
            write(source(), tmp_path / "o", name)
    assert list(tmp_path.iterdir()) == []
    write(source(), tmp_path / "o.fits")  # the others need none


def test_a_full_disk_is_said_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    maps = source()

    def full(self, start, stop):
        raise OSError(28, "No space left on device")
        yield

    monkeypatch.setattr(Blocks, "blocks", full)
    with pytest.raises(StoreUnwritable, match="No space"):
        write(maps, tmp_path / "o.fits")
    assert [path.name for path in tmp_path.iterdir()] == ["o.fits.sha256"]
    monkeypatch.undo()
    write(source(), tmp_path / "o.fits")
    assert len(fits.getdata(tmp_path / "o.fits")) == 10


def test_importing_the_exports_loads_no_optional_package():
    code = (
        "import sys, ood_core.exporting.exports\n"
        "bad = {'h5py', 'h5netcdf', 'webdataset', 'xarray', 'astropy'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_columns_and_words_come_back_by_the_real_readers(tmp_path):
    """Numbers of parents, and the names they stand for, in each format as it has them."""
    import h5py
    import pyarrow.parquet as pq
    import xarray as xr

    maps = source(names=("one", "\u00b5two", "three"))
    parents = maps.columns["parents"]
    for ending in ("nc", "zarr", "h5", "parquet", "npz", "tar"):
        write(maps, tmp_path / f"m.{ending}")
    with xr.open_dataset(tmp_path / "m.nc", engine="h5netcdf") as nc:
        assert nc.maps.dims == ("sample", "channel", "y", "x") and nc.maps.units == "Jy/beam"
        assert list(nc.sample.values) == list(range(10)) and nc.flag.values[0] == -1
        np.testing.assert_array_equal(nc.parents, parents)
        assert list(nc.target_names.values) == ["one", "\u00b5two", "three"]
        assert (nc.attrs["run"], nc.attrs["state"], nc.attrs["seed"]) == ("f" * 64, "published", 7)
        assert nc.attrs["synthetic"].startswith("true")
    with xr.open_zarr(tmp_path / "m.zarr") as z:
        np.testing.assert_array_equal(z.parents, parents)
        assert z.attrs["target_names"][1] == "\u00b5two" and z.maps.units == "Jy/beam"
    with h5py.File(tmp_path / "m.h5") as h:
        np.testing.assert_array_equal(h["parents"], parents)
        assert h["target_names"][1].decode() == "\u00b5two" and h["maps"].dims[3].label == "x"
    table = pq.read_table(tmp_path / "m.parquet")
    words = json.loads(table.schema.metadata[b"farfield"])
    assert (words["unit"], words["shape"], words["run"]) == ("Jy/beam", [1, 16, 12], "f" * 64)
    np.testing.assert_array_equal(np.array(table["parents"].to_pylist()), parents)
    with np.load(tmp_path / "m.npz") as npz:
        np.testing.assert_array_equal(npz["parents"], parents)
        assert (str(npz["unit"]), npz["target_names"][1]) == ("Jy/beam", "\u00b5two")
        assert json.loads(str(npz["about"]))["run"] == "f" * 64
    with tarfile.open(tmp_path / "m.tar") as tar:
        record = json.load(tar.extractfile("000000004.json"))
    assert record["parent_names"] == ["\u00b5two", "\u00b5two"] and record["sample"] == 4


def test_hugging_face_shows_maps_as_arrays_of_their_shape(tmp_path, monkeypatch):
    import datasets

    write(source(channels=3), tmp_path / "m.parquet", "hf")
    data = datasets.Dataset.from_parquet(str(tmp_path / "m.parquet"), cache_dir=str(tmp_path / "c"))
    assert data.features["maps"] == datasets.Array3D((3, 16, 12), "float32")
    assert data.features["parents"] == datasets.List(datasets.Value("int32"), length=2)
    assert data.features["sample"] == datasets.Value("int64")


@pytest.mark.parametrize("name", list(EXPORTERS))
def test_hostile_words_are_written_and_read_as_words(tmp_path, name):
    """Names of targets and runs come from files: line breaks, markup, NUL, quotes."""
    words = {"name": "n\x00\n# [x](y) <b>", "unit": "\u00b5Jy / beam\u00b2"}
    maps = source(4, **words)
    write(maps, tmp_path / "out", name)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "<script>" not in text and "<b>" not in text and "\x00" not in text
    assert sum(line.startswith("# ") for line in text.splitlines()) == 1
    if not name.startswith("fits"):
        return
    with fits.open(tmp_path / "out" / "maps-00000.fits", checksum=True) as hdus:
        hdus.verify("exception")
        header = hdus["MAP", 1].header if name == "fits-mef" else hdus[0].header
        assert header["BUNIT"] == "uJy / beam\\xb2" and header["SYNTH"] is True
        assert len(hdus["TARGETS"].data) == len(HOSTILE)
        if name == "fits-mef":
            assert [h.header["PARENT1"][:3] for h in hdus[1:5]] == ["a b", "<sc", "u'q", "\\u2"]
            assert hdus["MAP", 1].header["PARENT2"] == "a b|c"


def test_a_name_with_a_line_break_is_checked_and_resumed(tmp_path):
    dest = tmp_path / "a\nb\\c.npz"
    write(source(), dest)
    sums = f"{dest}.sha256"
    check = subprocess.run(["sha256sum", "-c", sums], cwd=tmp_path, capture_output=True)
    assert check.returncode == 0
    assert write(source(), dest)["files_kept"] == 1


# FITS


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["fits", "fits-mef"])
def test_fits_is_valid_and_our_own_reader_takes_it(tmp_path, name, channels):
    maps = source(channels=channels)
    write(maps, tmp_path / "m.fits", name)
    with fits.open(tmp_path / "m.fits", checksum=True) as hdus:
        hdus.verify("exception")
        table = hdus["SAMPLES"].data
        np.testing.assert_array_equal(table["parents"], maps.columns["parents"])
        assert table["flag"][3] == -1 and table["sample"][9] == 9
        header = hdus[1].header if name == "fits-mef" else hdus[0].header
    own = {"SYNTH": True, "RUN": "f" * 64, "SEED": 7, "BUNIT": "Jy/beam", "ORIGIN": "Farfield"}
    kept = {"TELESCOP": "HST", "CDELT1": -0.01, "CDELT2": 0.01, "CUNIT1": "deg"}
    assert {key: header.get(key) for key in own | kept} == own | kept
    assert "OBJECT" not in header and "CRVAL1" not in header and "CTYPE1" not in header
    assert header["CREATOR"].startswith("Farfield") and len(header["HISTORY"]) == 2
    numbers = ("SAMPLE0", "SAMPLE1") if name == "fits" else ("SAMPLE", "EXTVER")
    assert [header[key] for key in numbers] == ([0, 9] if name == "fits" else [0, 1])
    found = read_fits(str(tmp_path / "m.fits"), None, USUAL)
    np.testing.assert_array_equal(found.values, maps.columns["maps"])
    assert found.unit == "Jy/beam"


def test_the_pixel_scale_is_a_valid_wcs_without_a_place(tmp_path):
    from astropy.wcs import WCS
    from astropy.wcs.utils import proj_plane_pixel_scales

    write(source(), tmp_path / "m", "fits", 1)
    files = sorted((tmp_path / "m").glob("*.fits"))
    assert len(files) == 10
    header = fits.getheader(files[4])
    assert (header["NAXIS"], header["SAMPLE"], header["PARENT2"]) == (
        2,
        4,
        "<script>alert(1)</script>",
    )
    wcs = WCS(header)
    np.testing.assert_allclose(proj_plane_pixel_scales(wcs), [0.01, 0.01])
    assert not wcs.has_celestial


IMAGE = "NAXIS   = 2\n"
PIXEL = f"{IMAGE}CDELT1  = 0.1\nCDELT2  = 0.2"


@pytest.mark.parametrize(
    ("header", "scale"),
    [
        (f"{PIXEL}\nEND\n{PIXEL}", (0.1, 0.2)),
        (f"{PIXEL}\nEND\n{IMAGE}CDELT1  = 0.1\nCDELT2  = 0.3", None),
        (f"{PIXEL}\nEND\n{IMAGE}OBJECT  = 'x'", None),
        (f"NAXIS   = 0\nEND\n{PIXEL}", (0.1, 0.2)),
        (f"{IMAGE}CDELT1  = 0.1", None),
        (f"{IMAGE}CDELT1  = 'x'\nCDELT2  = 0.2", None),
        (f"{IMAGE}CD1_1   = -0.3\nCD2_1   = 0.4\nCD1_2   = 0.4\nCD2_2   = 0.3", (-0.5, 0.5)),
        ("", None),
        ("garbage \x00 \xff = = '\nCDELT1 == 3\n\nCONTINUE 'x", None),
    ],
)  # fmt: skip
def test_the_pixel_scale_is_written_only_where_all_targets_share_it(tmp_path, header, scale):
    write(source(header=header), tmp_path / "m.fits")
    found = fits.getheader(tmp_path / "m.fits")
    assert ((found["CDELT1"], found["CDELT2"]) if "CDELT1" in found else None) == scale


def test_cards_on_which_targets_differ_are_left_out(tmp_path):
    blocks = "TELESCOP= 'HST'\nFILTER  = 'F814W'\nBSCALE  = 2\nEND\nTELESCOP= 'JWST'\nSYNTH   = F"
    write(source(header=blocks), tmp_path / "m.fits")
    found = fits.getheader(tmp_path / "m.fits")
    assert "TELESCOP" not in found and "BSCALE" not in found
    assert (found["FILTER"], found["SYNTH"]) == ("F814W", True)


# memory


def test_maps_in_memory_are_written_and_written_anew(tmp_path):
    rng = np.random.default_rng(0)
    targets = ff.TargetSet.from_arrays(
        rng.normal(size=(8, 16, 16)).astype("f4"), unit="K", header=HEADER
    )
    first, second = rng.normal(size=(2, 5, 1, 16, 16)).astype("f4")
    path = tmp_path / "m.fits"
    for maps in (first, second):
        ff.write_maps(path, maps, targets)
        np.testing.assert_array_equal(fits.getdata(path), maps[:, 0])
    header = fits.getheader(path)
    assert (header["BUNIT"], header["TELESCOP"], header["SYNTH"]) == ("K", "HST", True)
    assert "RUN" not in header and "SEED" not in header
    ff.write_maps(tmp_path / "plain.npz", second[:, 0])
    with pytest.raises(InputError, match="as the targets have"):
        ff.write_maps(tmp_path / "x.npz", np.zeros((2, 1, 8, 8)), targets)
    with pytest.raises(InputError, match="expected maps"):
        ff.write_maps(tmp_path / "x.npz", np.zeros((0, 1, 8, 8)))
    write(source(), tmp_path / "run.npz")
    with pytest.raises(IdentityRefused):
        ff.write_maps(tmp_path / "run.npz", second)
