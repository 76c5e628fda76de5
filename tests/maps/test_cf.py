"""Packed values and missing pixels: what a reader gives is what xarray shows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from ood_core.errors import TargetError
from ood_core.limits import USUAL
from ood_core.maps.readers import read_maps
from ood_core.maps.target_set import TargetSet
from tests.fields import smooth_fields

KELVIN = 273.15 + 5 * smooth_fields(8)


def written(path: Path, values: np.ndarray, format: int, **encoding: Any) -> np.ndarray:
    """Write by xarray; return what xarray then shows."""
    data = xr.Dataset({"tas": (("time", "y", "x"), values, {"units": "K"})})
    data.to_zarr(path, encoding={"tas": encoding}, zarr_format=format)
    shown: np.ndarray = xr.open_zarr(path).tas.values
    return shown


PACKED = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 273.15}


@pytest.mark.parametrize("format", [2, 3])
@pytest.mark.parametrize(
    "encoding",
    [
        PACKED,
        {**PACKED, "_FillValue": -32768},
        {"dtype": "u2", "scale_factor": 0.01, "_FillValue": 65535},
        {"dtype": "i1", "scale_factor": 0.2, "add_offset": 250.0, "_FillValue": -1,
         "_Unsigned": "true"},
        {"dtype": "i4", "scale_factor": 1e-5, "missing_value": -999},
        {"dtype": "f4", "_FillValue": 1e20},
        {"dtype": "f8", "_FillValue": -999.0},
        {"dtype": "f4"},
    ],
)  # fmt: skip
def test_values_are_those_of_xarray(tmp_path: Path, format: int, encoding: dict[str, Any]) -> None:
    values = KELVIN.copy()
    if {"_FillValue", "missing_value"} & set(encoding):
        values[3, 2, 1] = np.nan
    shown = written(tmp_path / "t.zarr", values, format, **encoding)
    assert abs(np.nanmean(shown) - KELVIN.mean()) < 1
    maps = read_maps(str(tmp_path / "t.zarr"), None, USUAL)
    assert maps.unit == "K"
    np.testing.assert_allclose(maps.values[:, 0], shown, rtol=1e-6)
    if np.isnan(shown).any():
        with pytest.raises(TargetError, match=r"got 1 NaN .*\(t:3 "):
            TargetSet.read(str(tmp_path / "t.zarr"))
    else:
        assert abs(TargetSet.read(str(tmp_path / "t.zarr")).values.mean() - KELVIN.mean()) < 1


@pytest.mark.parametrize("format", [2, 3])
@pytest.mark.parametrize(
    ("encoding", "attributes"),
    [
        ({"dtype": "f4"}, {"valid_range": [200.0, 400.0]}),
        ({"dtype": "f4"}, {"valid_min": 200.0, "valid_max": 400}),
        ({"dtype": "i2", "scale_factor": 0.1}, {"valid_range": [2000, 4000]}),
        ({"dtype": "i2", "scale_factor": 0.1}, {"valid_range": [200.0, 400.0]}),
        ({"dtype": "i2"}, {"valid_max": 40_000, "valid_min": 200}),
        (
            {"dtype": "i1", "add_offset": 250.0, "_Unsigned": "true", "_FillValue": -1},
            {"valid_range": [2, -56]},
        ),
    ],
)
def test_values_that_are_not_valid_are_missing(
    tmp_path: Path, format: int, encoding: dict[str, Any], attributes: dict[str, Any]
) -> None:
    """-3 or, of unsigned bytes from 250 on, 250 are below the range: xarray shows them."""
    values = np.round(KELVIN)
    values[3, 2, 1] = 250 if "_Unsigned" in encoding else -3
    shown = written(tmp_path / "t.zarr", values, format, **encoding)
    zarr.open_array(str(tmp_path / "t.zarr/tas")).attrs.update(attributes)
    found = read_maps(str(tmp_path / "t.zarr"), None, USUAL).values[:, 0]
    assert np.argwhere(np.isnan(found)).tolist() == [[3, 2, 1]]
    np.testing.assert_allclose(found[found > 0], shown[~np.isnan(found)], rtol=1e-6)


def test_zeros_of_a_plain_array_of_format_2_are_numbers(tmp_path: Path) -> None:
    values = np.where(KELVIN.mean() < KELVIN, KELVIN, 0).astype("f4")
    zarr.create_array(str(tmp_path / "t.zarr"), data=values, zarr_format=2, fill_value=0)
    np.testing.assert_array_equal(
        read_maps(str(tmp_path / "t.zarr"), None, USUAL).values[:, 0], values
    )


@pytest.mark.parametrize(
    "attributes",
    [
        {"scale_factor": "abc"},
        {"add_offset": None},
        {"scale_factor": []},
        {"_FillValue": "?"},
        {"missing_value": {"a": 1}},
        {"valid_min": "low"},
        {"valid_range": [1]},
    ],
)
def test_an_attribute_that_is_no_number_is_refused(
    tmp_path: Path, attributes: dict[str, Any]
) -> None:
    zarr.create_array(str(tmp_path / "t.zarr"), data=KELVIN, attributes=attributes)
    name = next(iter(attributes))
    with pytest.raises(
        TargetError, match=rf"t\.zarr, array /: got {name} = .*expected a finite num"
    ):
        read_maps(str(tmp_path / "t.zarr"), None, USUAL)


def test_several_missing_values(tmp_path: Path) -> None:
    values = (100 * KELVIN).astype("i4")
    values[0, 0, 0], values[1, 1, 1] = -1, -2
    found = {"missing_value": [-1, -2]}
    zarr.create_array(str(tmp_path / "t.zarr"), data=values, attributes=found)
    maps = read_maps(str(tmp_path / "t.zarr"), None, USUAL).values[:, 0]
    assert np.isnan(maps[0, 0, 0]) and np.isnan(maps[1, 1, 1]) and np.isnan(maps).sum() == 2


def test_chunks_that_are_not_there_are_told(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "t.zarr"), data=KELVIN, chunks=(1, 16, 16))
    (tmp_path / "t.zarr" / "c" / "2" / "0" / "0").unlink()
    maps = read_maps(str(tmp_path / "t.zarr"), None, USUAL)
    assert "1 of 8 chunks are not there and were read as 0" in maps.notes[0]
