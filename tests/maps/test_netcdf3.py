"""NetCDF 3 files, as SciPy and xarray write them."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from ood_core.errors import TargetError
from ood_core.limits import Limits
from ood_core.maps.readers import read_maps
from tests.maps.test_hdf5 import FIELDS, USUAL


def written(path: Path, **encoding: object) -> xr.Dataset:
    """Packed maps with what climate files have beside them; return them as xarray shows them."""
    kelvin = 273.15 + 5 * FIELDS.astype("f8")
    kelvin[0, 0, 0] = np.nan
    data = xr.Dataset(
        {"tas": (("time", "y", "x"), kelvin, {"units": "K"})},
        coords={"lat": (("y", "x"), FIELDS[0]), "lon": (("y", "x"), FIELDS[1])},
    )
    data["time_bnds"] = (("time", "bnds"), np.zeros((len(FIELDS), 2)))
    data.to_netcdf(path, engine="scipy", encoding={"tas": encoding})
    return xr.open_dataset(path, engine="scipy")


@pytest.mark.parametrize(
    "encoding",
    [
        {"dtype": "i2", "scale_factor": 0.01, "add_offset": 273.15, "_FillValue": -32768},
        {"dtype": "i1", "scale_factor": 0.5, "add_offset": 270.0, "_FillValue": -128},
        {"dtype": "f4", "_FillValue": np.float32(-9e33)},
        {"dtype": "f8"},
    ],
)
def test_values_are_those_of_xarray(tmp_path: Path, encoding: dict[str, object]) -> None:
    shown = written(tmp_path / "t.nc", **encoding).tas.values
    maps = read_maps(str(tmp_path / "t.nc"), None, USUAL)
    np.testing.assert_allclose(maps.values[:, 0], shown, rtol=1e-6)
    assert maps.unit == "K" and maps.ids[1] == "t:1"


def test_damage_and_size_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "t.nc", dtype="f4")
    content = (tmp_path / "t.nc").read_bytes()
    (tmp_path / "cut.nc").write_bytes(content[: len(content) // 2])
    with pytest.raises(TargetError, match=r"cut\.nc: got a file that cannot be read as NetCDF 3"):
        read_maps(str(tmp_path / "cut.nc"), None, USUAL)
    with pytest.raises(TargetError, match="max_bytes"):
        read_maps(str(tmp_path / "t.nc"), None, Limits(max_bytes=1000))
    with pytest.raises(TargetError, match=r"got the arrays \[.*tas.*\] and targets.array = snow"):
        read_maps(str(tmp_path / "t.nc"), "snow", USUAL)


@pytest.mark.parametrize("engine", ["h5netcdf", "zarr"])
def test_coordinates_and_bounds_are_no_maps(tmp_path: Path, engine: str) -> None:
    data = written(tmp_path / "t.nc", dtype="f4")
    if engine == "zarr":
        data.to_zarr(tmp_path / "o.zarr")
    else:
        data.to_netcdf(tmp_path / "o.zarr", engine="h5netcdf")
    maps = read_maps(str(tmp_path / "o.zarr"), None, USUAL)
    np.testing.assert_array_equal(maps.values[:, 0], data.tas.values)
    np.testing.assert_array_equal(
        read_maps(str(tmp_path / "o.zarr"), "lat", USUAL).values[0, 0], FIELDS[0]
    )
