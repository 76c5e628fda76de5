"""Which files a path means, which reader takes each, and bad input through the command line."""

import bz2
import gzip
import lzma
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from astropy.io import fits

from ood_core.errors import InputError, TargetError, TargetWarning
from ood_core.limits import USUAL, Limits
from ood_core.maps.mapset import MapSet
from ood_core.maps.readers import read_maps
from ood_core.maps.target_set import TargetSet
from tests.fields import SIZE, smooth_fields


def read(path: Path, array: str | None = None, limits: Limits = USUAL) -> MapSet:
    return read_maps(str(path), array, limits)


def write_zarr(path: Path, **arrays: np.ndarray) -> None:
    group = zarr.create_group(str(path))
    for name, values in arrays.items():
        group.create_array(name, data=values, attributes={"units": "mK"})


def test_every_format_gives_the_same_maps(tmp_path):
    fields = smooth_fields(12)
    np.save(tmp_path / "a.npy", fields)
    np.savez(tmp_path / "b.npz", maps=fields)
    write_zarr(tmp_path / "c.zarr", maps=fields, weights=fields)
    fits.PrimaryHDU(fields).writeto(tmp_path / "d.fits")
    for name in ("a.npy", "b.npz", "c.zarr", "d.fits"):
        found = read(tmp_path / name)
        np.testing.assert_array_equal(found.values[:, 0], fields)
    assert read(tmp_path / "c.zarr").unit == "mK"


def test_a_glob_reads_its_files_in_sorted_order(tmp_path):
    fields = smooth_fields(3)
    for number in (2, 0, 1):
        np.save(tmp_path / f"map-{number}.npy", fields[number])
    found = read(tmp_path / "map-*.npy")
    np.testing.assert_array_equal(found.values[:, 0], fields)
    assert found.ids == ("map-0", "map-1", "map-2")


def test_a_glob_may_mix_formats(tmp_path):
    fields = smooth_fields(4)
    np.save(tmp_path / "a.npy", fields[:2])
    fits.PrimaryHDU(fields[2:]).writeto(tmp_path / "b.fits")
    found = read(tmp_path / "*")
    np.testing.assert_array_equal(found.values[:, 0], fields)


def test_a_run_can_be_the_target_of_another(unbroken):
    found = read(unbroken / "dataset.zarr")
    assert found.values.shape == (10, 1, SIZE, SIZE)


@pytest.mark.parametrize("name", ["missing.fits", "nothing-*.npy", "no/such/folder/a.zarr"])
def test_a_missing_path_is_named(tmp_path, name):
    with pytest.raises(TargetError, match=r"no such file.*check targets\.path") as error:
        read(tmp_path / name)
    assert name in str(error.value)


def test_unknown_content_is_named_with_what_is_understood(tmp_path):
    (tmp_path / "maps.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(TargetError, match=r"maps\.mat: got content .*MATLAB.*\.npy.*convert"):
        read(tmp_path / "maps.mat")


@pytest.mark.parametrize(("pack", "name"), [(gzip, "gzip"), (bz2, "bzip2"), (lzma, "xz")])
def test_packed_files_are_called_so(tmp_path: Path, pack: Any, name: str) -> None:
    np.save(tmp_path / "m.npy", smooth_fields(4))
    (tmp_path / "m.npy.x").write_bytes(pack.compress((tmp_path / "m.npy").read_bytes()))
    with pytest.raises(TargetError, match=rf"m\.npy\.x: got a file packed by {name}; .*{name} -d"):
        read(tmp_path / "m.npy.x")


def test_zarr_groups_without_a_choice_ask_for_one(tmp_path):
    write_zarr(tmp_path / "t.zarr", one=smooth_fields(2), two=smooth_fields(2))
    with pytest.raises(TargetError, match=r"got the arrays \[.*targets\.array"):
        read(tmp_path / "t.zarr")
    assert len(read(tmp_path / "t.zarr", "two")) == 2


def test_a_folder_that_is_no_zarr_is_refused(tmp_path):
    (tmp_path / "t.zarr").mkdir()
    with pytest.raises(TargetError, match=r"t\.zarr"):
        read(tmp_path / "t.zarr")


def test_zarr_beyond_the_limit_is_refused_before_it_is_read(tmp_path):
    write_zarr(tmp_path / "t.zarr", maps=smooth_fields(4))
    with pytest.raises(TargetError, match="max_bytes"):
        read(tmp_path / "t.zarr", limits=Limits(max_bytes=100))


def fits_file(path: Path, fields: np.ndarray) -> None:
    with path.open("wb") as file:
        fits.PrimaryHDU(fields).writeto(file)


def packed_fits(path: Path, fields: np.ndarray) -> None:
    hdu = fits.CompImageHDU(fields, compression_type="GZIP_1", quantize_level=0)
    with path.open("wb") as file:
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(file)


def zipped_fits(path: Path, fields: np.ndarray) -> None:
    fits_file(path.with_name("plain"), fields)
    path.write_bytes(gzip.compress(path.with_name("plain").read_bytes()))
    path.with_name("plain").unlink()


def npy(path: Path, fields: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, fields)


def npz(path: Path, fields: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, maps=fields)


def zarr_zip(path: Path, fields: np.ndarray, inside: str = "", format: int = 3) -> None:
    with tempfile.TemporaryDirectory() as folder:
        zarr.create_group(folder, zarr_format=format).create_array("maps", data=fields)
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(Path(folder).rglob("*")):
                if file.is_file():
                    archive.write(file, inside + str(file.relative_to(folder)))


@pytest.mark.parametrize(
    "name", ["a.fits.fz", "a.fit.gz", "a.fts", "a.npy", "a.zarr.zip", "a", "a.x.y"]
)
@pytest.mark.parametrize("write", [fits_file, packed_fits, zipped_fits, npy, npz, zarr_zip])
def test_content_decides_and_not_the_name(tmp_path: Path, name: str, write: Any) -> None:
    fields = smooth_fields(3)
    write(tmp_path / name, fields)
    np.testing.assert_array_equal(read(tmp_path / name).values[:, 0], fields)


@pytest.mark.parametrize(
    ("name", "stem"),
    [("m.fits.fz", "m"), ("m.fits.gz", "m"), ("m.v2.fts", "m.v2"), ("m.fit", "m"), ("m", "m")],
)
def test_names_of_fits_maps_leave_endings_out(tmp_path: Path, name: str, stem: str) -> None:
    fits_file(tmp_path / name, smooth_fields(1)[0])
    assert read(tmp_path / name).ids == (stem,)


@pytest.mark.parametrize("inside", ["", "t.zarr/"])
@pytest.mark.parametrize("format", [2, 3])
def test_a_zip_archive_of_a_zarr_folder(tmp_path: Path, inside: str, format: int) -> None:
    zarr_zip(tmp_path / "t.zarr.zip", smooth_fields(3), inside, format)
    maps = read(tmp_path / "t.zarr.zip")
    np.testing.assert_array_equal(maps.values[:, 0], smooth_fields(3))
    assert maps.ids == ("t:0", "t:1", "t:2")
    with pytest.raises(TargetError, match=r"t\.zarr\.zip.*max_bytes"):
        read(tmp_path / "t.zarr.zip", limits=Limits(max_bytes=100))


@pytest.mark.parametrize(
    ("member", "words"),
    [("readme.txt", "without Zarr metadata"), ("../../zarr.json", "expected names inside")],
)
def test_other_zip_archives_are_refused(tmp_path: Path, member: str, words: str) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr(member, "{}")
    with pytest.raises(TargetError, match=rf"t\.zip: got .*{words}"):
        read(tmp_path / "t.zip")


def test_a_zip_archive_that_was_cut_off_is_called_one(tmp_path: Path) -> None:
    zarr_zip(tmp_path / "t.zip", smooth_fields(3))
    (tmp_path / "t.zip").write_bytes((tmp_path / "t.zip").read_bytes()[:-60])
    with pytest.raises(TargetError, match=r"got a zip archive that cannot .*copy it again"):
        read(tmp_path / "t.zip")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zarr.json", bytes(2**22))
    with pytest.raises(TargetError, match=r"unpacks to more.*targets\.max_bytes"):
        read(tmp_path / "t.zip", limits=Limits(max_bytes=2**20, max_header_bytes=2**20))


def test_a_folder_means_its_files_in_natural_order(tmp_path: Path) -> None:
    fields = smooth_fields(12)
    for number, field in enumerate(fields):
        np.save(tmp_path / f"map{number}.npy", field)
    (tmp_path / ".hidden.npy").write_bytes(b"no array")
    (tmp_path / "README.txt").write_text("words")
    found = read(tmp_path)
    np.testing.assert_array_equal(found.values[:, 0], fields)
    assert found.files == 12
    assert len(found.notes) == 1 and "README.txt" in found.notes[0]


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", None])
def test_a_damaged_file_among_maps_of_its_ending_is_not_passed_over(
    tmp_path: Path, content: bytes | None
) -> None:
    """Empty, a page of HTML, or a link that leads nowhere; notes of another ending are no maps."""
    for number in range(2):
        fits.writeto(tmp_path / f"m{number}.fits", smooth_fields(4))
    (tmp_path / "notes.txt").write_text("mine")
    assert len(read(tmp_path).values) == 8
    damaged = tmp_path / "m2.fits"
    damaged.symlink_to("nowhere") if content is None else damaged.write_bytes(content)
    with pytest.raises(TargetError, match=r"m2\.fits: got (content|a link)"):
        read(tmp_path)


def test_a_folder_without_maps_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("words")
    with pytest.raises(TargetError, match=r"folder without files of maps \(.*README\.txt\)"):
        read(tmp_path)


def test_a_folder_among_files_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", smooth_fields(3))
    (tmp_path / "b").mkdir()
    with pytest.raises(TargetError, match=r"b: got a folder; expected FITS"):
        read(tmp_path / "*")


def test_the_order_of_names_is_told_where_it_decides_the_split(tmp_path: Path) -> None:
    for number, field in enumerate(smooth_fields(12)):
        np.save(tmp_path / f"map{number}.npy", field)
    with pytest.warns(
        TargetWarning, match="natural order of 12 file names.* from map8 on are held"
    ):
        targets = TargetSet.read(str(tmp_path / "map*.npy"), held_out=3 + 1)
    assert targets.ids[-4:] == ("map8", "map9", "map10", "map11")


@pytest.mark.parametrize("folder", ["run [v1]", "a*b", "what?", "$HOME", "~", "x [0-9]"])
@pytest.mark.parametrize("pattern", ["m[1].npy", "*.npy", "", "m?1?.npy"])
def test_a_path_that_exists_is_that_path(tmp_path: Path, folder: str, pattern: str) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / "run v").mkdir()  # what a pattern would find
    np.save(tmp_path / folder / "m[1].npy", smooth_fields(3))
    np.save(tmp_path / "run v" / "m1.npy", smooth_fields(4))
    assert len(read(tmp_path / folder / pattern)) == 3


def test_variables_and_home_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "m.npy", smooth_fields(3))
    monkeypatch.setenv("DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NOWHERE", raising=False)
    for path in ("$DATA/m.npy", "${DATA}/*.npy", "~/m.npy", "~/*.npy"):
        assert len(read_maps(path, None, USUAL)) == 3
    with pytest.raises(TargetError, match=r"\$NOWHERE/m.npy: got no such file.*variable NOWHERE"):
        read_maps("$NOWHERE/m.npy", None, USUAL)
    with pytest.raises(InputError, match="no home folder of ~no-such-user; expected"):
        read_maps("~no-such-user/m.npy", None, USUAL)
    with pytest.raises(TargetError, match="got an empty path; expected"):
        read_maps("", None, USUAL)


def test_a_configuration_finds_paths_with_brackets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Any
) -> None:
    from flows.settings import load_settings

    place = tmp_path / "run [v1]"
    place.mkdir()
    np.save(place / "m.npy", smooth_fields(3))
    monkeypatch.setenv("DATA", str(place))
    monkeypatch.chdir(place)
    for path in ("m.npy", "*.npy", "$DATA/m.npy", str(place / "*.npy")):
        found = load_settings(config(targets={"path": path})).targets.path
        assert Path(found).is_absolute()
        assert len(read_maps(found, None, USUAL)) == 3


def test_several_arrays_in_one_npy_file_are_not_half_read(tmp_path: Path) -> None:
    with (tmp_path / "m.npy").open("wb") as file:
        np.save(file, smooth_fields(3))
        np.save(file, smooth_fields(3))
    with pytest.raises(TargetError, match=r"m\.npy: got \d+ bytes after the end of the array"):
        read(tmp_path / "m.npy")


def test_a_changed_byte_in_an_npz_file_is_seen(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", maps=smooth_fields(3))
    data = bytearray((tmp_path / "m.npz").read_bytes())
    data[600] ^= 1
    (tmp_path / "m.npz").write_bytes(data)
    with pytest.raises(TargetError, match=r"m\.npz: got a file that cannot be read .*CRC"):
        read(tmp_path / "m.npz")


@pytest.mark.parametrize(("held_out", "code"), [(8, 2), (4, 0)])
def test_the_same_maps_under_two_names(
    tmp_path: Path, config: Any, farfield: Any, held_out: int, code: int
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number, field in enumerate(smooth_fields(16)[:8]):
        np.save(data / f"a{number}.npy", field)
        if code:
            np.save(data / f"copy of a{number}.npy", field)
    np.save(data / "0more.npy", smooth_fields(16)[8:])
    if not code:
        np.save(data / "a1b.npy", smooth_fields(16)[1])
    answer = farfield("plan", config(targets={"path": str(data), "held_out": held_out}))
    assert answer.code == code
    assert ("a0 = copy of a0" if code else "note: ") in answer.err
    assert "identical" in answer.err


def nothing(path: Path) -> str:
    return str(path / "none-*.npy")


def not_finite(path: Path) -> str:
    fields = smooth_fields(12)
    fields[5, 3, 3] = np.nan
    np.save(path / "f.npy", fields)
    return str(path / "f.npy")


def mixed_shapes(path: Path) -> str:
    np.save(path / "a.npy", smooth_fields(6))
    np.save(path / "b.npy", smooth_fields(6)[:, :12, :12])
    return str(path / "*.npy")


def odd_shape(path: Path) -> str:
    np.save(path / "f.npy", smooth_fields(12)[:, :15, :15])
    return str(path / "f.npy")


def oblong(path: Path) -> str:
    np.save(path / "f.npy", smooth_fields(12)[:, :, :12])
    return str(path / "f.npy")


def small(path: Path) -> str:
    np.save(path / "f.npy", smooth_fields(12)[:, :8, :8])
    return str(path / "f.npy")


def two_channels(path: Path) -> str:
    np.save(path / "f.npy", smooth_fields(12).reshape(6, 2, SIZE, SIZE))
    return str(path / "f.npy")


def constant(path: Path) -> str:
    fields = smooth_fields(12)
    fields[4] = 1.0
    np.save(path / "f.npy", fields)
    return str(path / "f.npy")


def truncated_fits(path: Path) -> str:
    fits.PrimaryHDU(smooth_fields(12)).writeto(path / "f.fits")
    (path / "f.fits").write_bytes((path / "f.fits").read_bytes()[:-3000])
    return str(path / "f.fits")


def truncated_npy(path: Path) -> str:
    np.save(path / "f.npy", smooth_fields(12))
    (path / "f.npy").write_bytes((path / "f.npy").read_bytes()[:-100])
    return str(path / "f.npy")


def empty_fits(path: Path) -> str:
    fits.PrimaryHDU().writeto(path / "f.fits")
    return str(path / "f.fits")


def too_few(path: Path) -> str:
    np.save(path / "f.npy", smooth_fields(6))
    return str(path / "f.npy")


def text(path: Path) -> str:
    (path / "f.npy").write_text("not an array")
    return str(path / "f.npy")


@pytest.mark.parametrize(
    "make",
    [
        nothing, not_finite, mixed_shapes, odd_shape, oblong, small, two_channels, constant,
        truncated_fits, truncated_npy, empty_fits, too_few, text,
    ],
)  # fmt: skip
def test_bad_targets_are_one_error_and_leave_nothing(
    tmp_path, config, farfield, make: Callable[[Path], str]
):
    data = tmp_path / "data"
    data.mkdir()
    path = make(data)
    out = tmp_path / "out"
    answer = farfield("run", config(targets={"path": path}), "--out", out)
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert str(data) in answer.err
    assert "Traceback" not in answer.err
    assert not out.exists()


@pytest.mark.parametrize("where", [0, 11])
def test_negative_values_under_log_leave_nothing(tmp_path, config, farfield, where):
    fields = smooth_fields(12)
    fields[where, 0, 0] = -1.0
    np.save(tmp_path / "f.npy", fields)
    targets = {"path": str(tmp_path / "f.npy"), "transform": "log"}
    answer = farfield("run", config(targets=targets), "--out", tmp_path / "out")
    assert answer.code == 2
    assert "positive" in answer.err
    assert not (tmp_path / "out").exists()


def test_a_missing_hdu_is_named(tmp_path, config, farfield):
    fits.PrimaryHDU(smooth_fields(12)).writeto(tmp_path / "f.fits")
    targets = {"path": str(tmp_path / "f.fits"), "array": "SCI"}
    answer = farfield("run", config(targets=targets), "--out", tmp_path / "out")
    assert answer.code == 2
    assert "SCI" in answer.err
    assert "f.fits" in answer.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sections", "word"),
    [
        ({"base": "no/such/folder/at-all"}, "no/such/folder/at-all"),
        ({"base": "nobody/nothing"}, "nobody/nothing"),
        ({"method": {"t_max": 5000}}, "5000"),
        ({"method": {"t_max": 3, "steps": 9}}, "method.steps"),
        ({"targets": {"held_out": 13}}, "held_out"),
    ],
)
def test_bad_bases_and_methods_leave_nothing(tmp_path, config, farfield, sections, word):
    answer = farfield("run", config(**sections), "--out", tmp_path / "out")
    assert answer.code == 2
    assert word in answer.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", [2, 3])
def test_groups_in_groups_of_a_data_tree(tmp_path: Path, format: int) -> None:
    fields = np.random.default_rng(0).normal(size=(2, 8, 16, 16))
    leaf = xr.Dataset({"t": (("n", "y", "x"), fields[0])})
    other = xr.Dataset({"t": (("n", "y", "x"), fields[1]), "time": ("n", np.arange(8))})
    tree = xr.DataTree.from_dict({"/coarse": leaf, "/fine/run1": other})
    tree.to_zarr(tmp_path / "t.zarr", zarr_format=format)
    with pytest.raises(TargetError, match=r"arrays \[coarse/t, fine/run1/t\]"):
        read_maps(str(tmp_path / "t.zarr"), None, USUAL)
    found = read_maps(str(tmp_path / "t.zarr"), "fine/run1/t", USUAL).values[:, 0]
    np.testing.assert_array_equal(found, fields[1].astype("f4"))
