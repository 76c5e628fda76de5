"""FITS files: layouts, scaling, missing pixels and headers as read; what is written."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.table import Table

from ood_core.config.targets import MissingSpec
from ood_core.errors import TargetError
from ood_core.limits import Limits
from ood_core.maps.fits import read_fits
from ood_core.maps.readers import read_maps
from ood_core.maps.target_set import TargetSet

LIMIT = Limits(max_bytes=2**24)
CUBE = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)


def save(path: Path, *hdus: Any) -> str:
    fits.HDUList(list(hdus)).writeto(path, overwrite=True)
    return str(path)


def scaled_image(**cards: Any) -> Any:
    """Int16 pixels 0 .. 23 in a cube (2, 3, 4), with cards that change what they mean."""
    hdu = fits.PrimaryHDU(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    hdu.header.update(cards)
    return hdu


def cutout_table(name: str = "", **cards: Any) -> Any:
    """Two cut-outs (3, 4) with pixels 0 .. 23, their names, and columns to be passed over."""
    pixels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    words = np.array([["aa", "b", "c"], ["d", "e", "f"]])
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("Id", "5A", array=["n1", "n2"]),
            fits.Column("FLUX", "E", array=[1.0, 2.0]),
            fits.Column("WORDS", "6A", dim="(2,3)", array=words),
            fits.Column("IMAGE", "12I", dim="(4,3)", unit="mJy", array=pixels),
        ],
        name=name,
    )
    table.header.update(cards)
    return table


@pytest.mark.parametrize(
    ("values", "shape", "ids"),
    [
        (CUBE[0], (1, 1, 4, 5), ("m",)),
        (CUBE, (3, 1, 4, 5), ("m:0", "m:1", "m:2")),
        (CUBE[:, None].repeat(2, 1), (3, 2, 4, 5), ("m:0", "m:1", "m:2")),
    ],
)
def test_image_axes(tmp_path: Path, values: Any, shape: Any, ids: Any) -> None:
    maps = read_fits(save(tmp_path / "m.fits", fits.PrimaryHDU(values)), None, LIMIT)
    np.testing.assert_array_equal(maps.values, values.reshape(shape))
    assert maps.ids == ids
    assert maps.source == str(tmp_path / "m.fits")
    assert maps.unit == ""


def test_scaling_and_unit(tmp_path: Path) -> None:
    path = save(tmp_path / "m.fits", scaled_image(BSCALE=0.25, BZERO=-3.0, BUNIT=" K km/s "))
    maps = read_fits(path, None, LIMIT)
    np.testing.assert_array_equal(maps.values.ravel(), 0.25 * np.arange(24) - 3)
    assert maps.unit == "K km/s"


def test_unsigned_integers(tmp_path: Path) -> None:
    values = np.array([[0, 40000], [65535, 1]], dtype=np.uint16)
    maps = read_fits(save(tmp_path / "m.fits", fits.PrimaryHDU(values)), None, LIMIT)
    np.testing.assert_array_equal(maps.values[0, 0], values)


def test_scaling_is_rounded_once(tmp_path: Path) -> None:
    path = save(tmp_path / "m.fits", scaled_image(BSCALE=1 / 3, BZERO=1e3))
    expected = (np.arange(24) / 3 + 1e3).astype(np.float32)
    np.testing.assert_array_equal(read_fits(path, None, LIMIT).values.ravel(), expected)


def test_blank_counts_in_floating_point_images(tmp_path: Path) -> None:
    """The standard has no such card for them; -99 would become the least value of a map."""
    values = np.random.default_rng(0).normal(size=(8, 8)).astype("f4")
    values[2, 3] = -99
    hdu = fits.PrimaryHDU(values)
    hdu.header["BLANK"] = -99
    with pytest.warns(VerifyWarning, match="BLANK"):
        hdu.writeto(tmp_path / "f.fits")
    found = read_fits(str(tmp_path / "f.fits"), None, LIMIT).values[0, 0]
    assert np.argwhere(np.isnan(found)).tolist() == [[2, 3]]


def test_blank_pixels_become_nan_and_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.fits", scaled_image(BSCALE=2.0, BZERO=1.0, BLANK=17))
    maps = read_fits(path, None, LIMIT)
    expected = 2.0 * np.arange(24) + 1
    expected[17] = np.nan
    np.testing.assert_array_equal(maps.values.ravel(), expected)
    many = [save(tmp_path / f"n{n}.fits", scaled_image(BZERO=n, BLANK=17)) for n in range(4)]
    assert len(many) == 4
    with pytest.raises(TargetError, match=r"got 4 NaN .*\(n0:1 .*, n1:1 "):
        TargetSet.read(str(tmp_path / "n?.fits"))


def test_header_is_kept_card_by_card(tmp_path: Path) -> None:
    hdu = fits.PrimaryHDU(CUBE)
    hdu.header["OBJECT"] = ("M 51", "a galaxy / with a companion")
    hdu.header["LONG"] = "word " * 40
    hdu.header.add_comment("first remark")
    hdu.header.add_history("one step")
    hdu.header.add_history("another step")
    path = save(tmp_path / "m.fits", hdu)
    maps = read_fits(path, None, LIMIT)
    again = fits.Header.fromstring(maps.header, sep="\n")
    assert [str(card) for card in again.cards] == [str(card) for card in fits.getheader(path).cards]
    assert "COMMENT first remark".ljust(80) in maps.header.split("\n")


def test_extensions_are_combined_in_order(tmp_path: Path) -> None:
    first, second = fits.ImageHDU(CUBE), fits.ImageHDU(CUBE[0] + 9)
    primary = fits.PrimaryHDU()
    primary.header["BUNIT"] = "Jy"
    path = save(tmp_path / "m.fits", primary, first, second)
    maps = read_fits(path, None, LIMIT)
    np.testing.assert_array_equal(maps.values[:, 0], np.concatenate([CUBE, CUBE[:1] + 9]))
    assert maps.ids == ("m:1:0", "m:1:1", "m:1:2", "m:2")
    assert maps.unit == "Jy"
    assert maps.header.split("\n").count("END") == 2
    assert maps.source == path


@pytest.mark.parametrize("array", ["B", "b", "2"])
def test_one_extension_by_name_or_number(tmp_path: Path, array: str) -> None:
    extensions = [fits.ImageHDU(CUBE, name="A"), fits.ImageHDU(CUBE[:, :2], name="B")]
    path = save(tmp_path / "m.fits", fits.PrimaryHDU(), *extensions)
    np.testing.assert_array_equal(read_fits(path, array, LIMIT).values[:, 0], CUBE[:, :2])


def test_all_extensions_of_one_name(tmp_path: Path) -> None:
    chips = [fits.ImageHDU(CUBE + chip, name="SCI", ver=chip) for chip in (1, 2)]
    errors = fits.ImageHDU(CUBE, name="ERR")
    path = save(tmp_path / "m.fits", fits.PrimaryHDU(), *chips, errors)
    maps = read_fits(path, "SCI", LIMIT)
    np.testing.assert_array_equal(maps.values[:, 0], np.concatenate([CUBE + 1, CUBE + 2]))
    assert len(set(maps.ids)) == 6


@pytest.mark.parametrize("array", ["SCI,2", "sci, 2", "2"])
def test_one_extension_by_name_and_version(tmp_path: Path, array: str) -> None:
    chips = [fits.ImageHDU(CUBE + chip, name="SCI", ver=chip) for chip in (1, 2)]
    path = save(tmp_path / "m.fits", fits.PrimaryHDU(), *chips)
    np.testing.assert_array_equal(read_fits(path, array, LIMIT).values[:, 0], CUBE + 2)


def test_extensions_by_a_pattern_of_names(tmp_path: Path) -> None:
    hdus = [fits.ImageHDU(CUBE + n, name=name) for n, name in enumerate(("S1", "S2", "ERR"))]
    path = save(tmp_path / "m.fits", fits.PrimaryHDU(), *hdus)
    maps = read_fits(path, "s*", LIMIT)
    np.testing.assert_array_equal(maps.values[:, 0], np.concatenate([CUBE, CUBE + 1]))
    assert maps.ids[::3] == ("m:S1:0", "m:S2:0")


def test_a_name_comes_before_a_place(tmp_path: Path) -> None:
    hdus = [fits.ImageHDU(CUBE, name="2"), fits.ImageHDU(CUBE + 1, name="A")]
    path = save(tmp_path / "m.fits", fits.PrimaryHDU(), *hdus)
    np.testing.assert_array_equal(read_fits(path, "2", LIMIT).values[:, 0], CUBE)


def test_table_of_cutouts(tmp_path: Path) -> None:
    path = save(tmp_path / "m.fits", fits.PrimaryHDU(), cutout_table())
    maps = read_fits(path, None, LIMIT)
    np.testing.assert_array_equal(maps.values, np.arange(24).reshape(2, 1, 3, 4))
    assert maps.ids == ("n1", "n2")
    assert maps.unit == "mJy"


def test_table_scaling_and_missing_pixels(tmp_path: Path) -> None:
    table = cutout_table(TSCAL4=0.5, TZERO4=10.0, TNULL4=3)
    maps = read_fits(save(tmp_path / "m.fits", fits.PrimaryHDU(), table), None, LIMIT)
    expected = 0.5 * np.arange(24) + 10
    expected[3] = np.nan
    np.testing.assert_array_equal(maps.values.ravel(), expected)


def test_table_of_cutouts_with_channels(tmp_path: Path) -> None:
    values = np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4)
    column = fits.Column("IMAGE", "24E", dim="(4,3,2)", array=values)
    table = fits.BinTableHDU.from_columns([column])
    maps = read_fits(save(tmp_path / "m.fits", fits.PrimaryHDU(), table), None, LIMIT)
    np.testing.assert_array_equal(maps.values, values)
    assert maps.ids == ("m:0", "m:1")


def test_a_table_of_cutouts_beside_a_column_of_masks(tmp_path: Path) -> None:
    """As astropy's Table writes them: logical values, which are no maps unless they are named."""
    bad = CUBE > 1
    Table({"IMAGE": CUBE, "BAD": bad}).write(tmp_path / "t.fits")
    np.testing.assert_array_equal(
        read_fits(str(tmp_path / "t.fits"), None, LIMIT).values[:, 0], CUBE
    )
    spec = MissingSpec(mask="bad")
    found = read_maps(str(tmp_path / "t.fits"), None, LIMIT, missing=spec)
    np.testing.assert_array_equal(found.values[:, 0], np.where(bad, np.nan, CUBE))


def test_tables_without_cutouts_are_passed_over(tmp_path: Path) -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("X", "4E", array=np.ones((2, 4)))])
    maps = read_fits(save(tmp_path / "m.fits", fits.PrimaryHDU(CUBE), table), None, LIMIT)
    np.testing.assert_array_equal(maps.values[:, 0], CUBE)


@pytest.mark.parametrize("dtype", ["i2", "u2", "f4"])
def test_tile_compressed_images(tmp_path: Path, dtype: str) -> None:
    values = (np.arange(2 * 16 * 16).reshape(2, 16, 16) * 100).astype(dtype)
    # No quantisation, so that floating-point pixels come back exactly.
    hdu = fits.CompImageHDU(values, compression_type="GZIP_1", quantize_level=0)
    path = save(tmp_path / "m.fits", fits.PrimaryHDU(), hdu)
    np.testing.assert_array_equal(read_fits(path, None, LIMIT).values[:, 0], values)
    with pytest.raises(TargetError, match="max_bytes"):
        read_fits(path, None, Limits(max_bytes=4 * values.size - 1))


def test_gzipped_file(tmp_path: Path) -> None:
    content = Path(save(tmp_path / "m.fits", fits.PrimaryHDU(CUBE))).read_bytes()
    (tmp_path / "z.fits.gz").write_bytes(gzip.compress(content))
    maps = read_fits(str(tmp_path / "z.fits.gz"), None, LIMIT)
    np.testing.assert_array_equal(maps.values[:, 0], CUBE)
    assert maps.ids[0] == "z:0"
    (tmp_path / "t.fits.gz").write_bytes(gzip.compress(content)[:-60])
    with pytest.raises(TargetError, match=r"t\.fits\.gz.*copy or download"):
        read_fits(str(tmp_path / "t.fits.gz"), None, LIMIT)
