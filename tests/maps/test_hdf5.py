"""HDF5 and NetCDF files: choice of the data set, values, limits and damage."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ood_core.errors import TargetError
from ood_core.limits import USUAL, Limits
from ood_core.maps.readers import read_maps
from tests.fields import smooth_fields

FIELDS = smooth_fields(3)


@pytest.fixture
def h5py() -> Any:
    return pytest.importorskip("h5py")


def saved(h5py: Any, path: Path, **arrays: Any) -> str:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name.replace("__", "/"), data=values)
    return str(path)


def test_the_only_data_set_of_maps(h5py: Any, tmp_path: Path) -> None:
    path = saved(h5py, tmp_path / "sim.v1.h5", sim__density=FIELDS, time=np.arange(3))
    maps = read_maps(path, None, USUAL)
    np.testing.assert_array_equal(maps.values[:, 0], FIELDS)
    assert maps.ids == ("sim.v1:0", "sim.v1:1", "sim.v1:2")
    assert maps.unit == ""


@pytest.mark.parametrize("array", ["sim/b", "/sim/b"])
def test_one_of_several_by_its_path(h5py: Any, tmp_path: Path, array: str) -> None:
    path = saved(h5py, tmp_path / "m.h5", sim__a=FIELDS, sim__b=FIELDS + 1)
    np.testing.assert_array_equal(read_maps(path, array, USUAL).values[:, 0], FIELDS + 1)
    for wanted in (None, "c", "sim"):
        with pytest.raises(TargetError, match=r"got the arrays \[sim/a, sim/b\].*targets\.array"):
            read_maps(path, wanted, USUAL)


def test_what_is_no_real_number_is_named(h5py: Any, tmp_path: Path) -> None:
    records = np.zeros(FIELDS.shape, [("re", "f4"), ("flag", "u1")])
    path = saved(h5py, tmp_path / "m.h5", wave=FIELDS + 1j, records=records)
    for array in (None, "wave"):
        with pytest.raises(TargetError, match="wave of type complex.*expected real numbers"):
            read_maps(path, array, USUAL)
    path = saved(h5py, tmp_path / "n.h5", wave=FIELDS + 1j, maps=FIELDS)
    assert len(read_maps(path, None, USUAL)) == 3


def test_chunks_that_were_never_written_are_told_of(h5py: Any, tmp_path: Path) -> None:
    """As of a simulation that was stopped after two of its three maps."""
    with h5py.File(tmp_path / "m.h5", "w") as file:
        shape = {"shape": FIELDS.shape, "chunks": (1, *FIELDS.shape[1:]), "dtype": "f4"}
        found = file.create_dataset("t", fillvalue=-1, **shape)
        found[:2] = FIELDS[:2]
        file.create_dataset("whole/t", data=FIELDS, chunks=(2, 8, 8))
    (note,) = read_maps(str(tmp_path / "m.h5"), "t", USUAL).notes
    assert "1 of 3 chunks were never written and are read as -1" in note
    assert read_maps(str(tmp_path / "m.h5"), "whole/t", USUAL).notes == ()


def test_packed_values_are_decoded(h5py: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "t.nc", "w") as file:
        found = file.create_dataset("tas", data=np.arange(48, dtype="i2").reshape(3, 4, 4))
        found.attrs.update(scale_factor=np.array([0.5]), add_offset=np.array([270.0]), units=b"K")
        found.attrs["_FillValue"] = np.array([7], "i2")
    maps = read_maps(str(tmp_path / "t.nc"), None, USUAL)
    expected = 270 + 0.5 * np.arange(48)
    expected[7] = np.nan
    np.testing.assert_array_equal(maps.values.ravel(), expected)
    assert maps.unit == "K"


def test_limits_hold_before_values_are_read(h5py: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("maps", (1000, 4096, 4096), "f4", chunks=(1, 64, 64))
    with pytest.raises(
        TargetError, match=r"m\.h5, data set /maps: got 67108864000 bytes.*max_bytes"
    ):
        read_maps(str(tmp_path / "m.h5"), None, USUAL)
    with pytest.raises(TargetError, match="max_maps"):
        read_maps(str(tmp_path / "m.h5"), None, Limits(max_maps=10, max_bytes=2**40))


@pytest.mark.parametrize("keep", [600, 1500, -1])
def test_a_file_that_is_cut_is_refused(h5py: Any, tmp_path: Path, keep: int) -> None:
    path = Path(saved(h5py, tmp_path / "m.h5", maps=FIELDS))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TargetError, match=r"m\.h5: got a file that cannot be read as HDF5"):
        read_maps(str(path), None, USUAL)


def test_a_changed_byte_fails_its_checksum(h5py: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("maps", data=FIELDS, chunks=FIELDS.shape, fletcher32=True)
        place = file["maps"].id.get_chunk_info(0).byte_offset
    data = bytearray((tmp_path / "m.h5").read_bytes())
    data[place] ^= 1
    (tmp_path / "m.h5").write_bytes(data)
    with pytest.raises(TargetError, match=r"m\.h5: got a file that cannot be read"):
        read_maps(str(tmp_path / "m.h5"), None, USUAL)


def test_values_in_other_files_are_refused(h5py: Any, tmp_path: Path) -> None:
    path = saved(h5py, tmp_path / "a.h5", maps=FIELDS)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        layout = h5py.VirtualLayout(FIELDS.shape, "f4")
        layout[...] = h5py.VirtualSource(path, "maps", FIELDS.shape)
        file.create_virtual_dataset("maps", layout)
    with pytest.raises(TargetError, match="values that lie in other files"):
        read_maps(str(tmp_path / "b.h5"), None, USUAL)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["maps"] = h5py.ExternalLink(path, "maps")
    with pytest.raises(TargetError, match=r"got the arrays \[none\]"):
        read_maps(str(tmp_path / "c.h5"), None, USUAL)


def test_without_the_package_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(TargetError, match=r"m\.h5: got an HDF5.*pip install 'farfield\[hdf5\]'"):
        read_maps(str(tmp_path / "m.h5"), None, USUAL)
