"""Readers of targets by ending, and bad input through the command line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from astropy.io import fits

from ood_core.config.targets import TargetsSpec
from ood_core.errors import TargetError
from ood_core.store.targets import read_targets
from tests.fields import SIZE, smooth_fields


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
        found = read_targets(TargetsSpec(path=str(tmp_path / name)))
        np.testing.assert_array_equal(found.values[:, 0], fields)
    assert read_targets(TargetsSpec(path=str(tmp_path / "c.zarr"))).unit == "mK"


def test_a_glob_reads_its_files_in_sorted_order(tmp_path):
    fields = smooth_fields(3)
    for number in (2, 0, 1):
        np.save(tmp_path / f"map-{number}.npy", fields[number])
    found = read_targets(TargetsSpec(path=str(tmp_path / "map-*.npy")))
    np.testing.assert_array_equal(found.values[:, 0], fields)
    assert found.ids == ("map-0", "map-1", "map-2")


def test_a_glob_may_mix_formats(tmp_path):
    fields = smooth_fields(4)
    np.save(tmp_path / "a.npy", fields[:2])
    fits.PrimaryHDU(fields[2:]).writeto(tmp_path / "b.fits")
    found = read_targets(TargetsSpec(path=str(tmp_path / "*")))
    np.testing.assert_array_equal(found.values[:, 0], fields)


def test_a_run_can_be_the_target_of_another(unbroken):
    found = read_targets(TargetsSpec(path=str(unbroken / "dataset.zarr")))
    assert found.values.shape == (10, 1, SIZE, SIZE)


@pytest.mark.parametrize("name", ["missing.fits", "nothing-*.npy", "no/such/folder/a.zarr"])
def test_a_missing_path_is_named(tmp_path, name):
    with pytest.raises(TargetError, match=r"no such file.*check targets\.path") as error:
        read_targets(TargetsSpec(path=str(tmp_path / name)))
    assert name in str(error.value)


def test_an_unknown_ending_is_named_with_what_is_understood(tmp_path):
    (tmp_path / "maps.tiff").write_bytes(b"II*\0")
    with pytest.raises(TargetError, match=r"maps\.tiff.*\.npy.*convert"):
        read_targets(TargetsSpec(path=str(tmp_path / "maps.tiff")))


def test_zarr_groups_without_a_choice_ask_for_one(tmp_path):
    write_zarr(tmp_path / "t.zarr", one=smooth_fields(2), two=smooth_fields(2))
    with pytest.raises(TargetError, match=r"got the arrays \[.*targets\.array"):
        read_targets(TargetsSpec(path=str(tmp_path / "t.zarr")))
    assert len(read_targets(TargetsSpec(path=str(tmp_path / "t.zarr"), array="two"))) == 2


def test_a_folder_that_is_no_zarr_is_refused(tmp_path):
    (tmp_path / "t.zarr").mkdir()
    with pytest.raises(TargetError, match=r"t\.zarr"):
        read_targets(TargetsSpec(path=str(tmp_path / "t.zarr")))


def test_zarr_beyond_the_limit_is_refused_before_it_is_read(tmp_path):
    write_zarr(tmp_path / "t.zarr", maps=smooth_fields(4))
    with pytest.raises(TargetError, match="max_bytes"):
        read_targets(TargetsSpec(path=str(tmp_path / "t.zarr"), max_bytes=100))


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
