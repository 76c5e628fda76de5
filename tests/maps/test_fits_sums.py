"""FITS files that are damaged: seen by length and checksum, the same whatever was read before."""

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from ood_core.errors import TargetError
from ood_core.limits import USUAL
from ood_core.maps.fits import read_fits

CUBE = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)


def content(*hdus: Any, checksum: bool = False) -> bytes:
    stream = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(stream, checksum=checksum)
    return stream.getvalue()


def two() -> bytes:
    return content(fits.PrimaryHDU(), fits.ImageHDU(CUBE, name="A"), fits.ImageHDU(CUBE, name="A"))


def refused(path: Path, data: bytes, words: str) -> None:
    path.write_bytes(data)
    for _ in range(2):  # the second time like the first
        with pytest.raises(TargetError, match=rf"m\.fits.*: got .*{words}"):
            read_fits(str(path), None, USUAL)


@pytest.mark.parametrize("more", [1, 79, 80, 800, 2879, 2880, 2881, 2880 + 700])
def test_a_file_cut_in_an_extension_is_refused(tmp_path: Path, more: int) -> None:
    data = two()
    refused(tmp_path / "m.fits", data[: data.rindex(b"XTENSION") + more], "copy or download")


def test_a_damaged_header_of_an_extension_is_refused(tmp_path: Path) -> None:
    data = bytearray(two())
    start = data.rindex(b"XTENSION")
    data[start : start + 8] = b"\xff" * 8
    refused(tmp_path / "m.fits", bytes(data), "copy or download")


@pytest.mark.parametrize("padding", [b"", bytes(2880), b" " * 100, bytes(7)])
def test_padding_at_the_end_is_no_damage(tmp_path: Path, padding: bytes) -> None:
    (tmp_path / "m.fits").write_bytes(two() + padding)
    assert len(read_fits(str(tmp_path / "m.fits"), None, USUAL)) == 6


def test_other_bytes_at_the_end_are(tmp_path: Path) -> None:
    words = r"got 3 bytes after HDU 2 .*expected another HDU"
    refused(tmp_path / "m.fits", two() + b"abc", words.removeprefix("got "))


def packed(kind: str) -> Any:
    whole = (100 * CUBE).astype("i2")
    return fits.CompImageHDU(whole, compression_type=kind) if kind else fits.ImageHDU(CUBE)


@pytest.mark.parametrize("kind", ["", "RICE_1", "GZIP_1"])
def test_sums_that_fit_are_accepted(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.fits"
    path.write_bytes(content(fits.PrimaryHDU(), packed(kind), checksum=True))
    expected = fits.getdata(path, 1)
    np.testing.assert_array_equal(read_fits(str(path), None, USUAL).values[:, 0], expected)
    (tmp_path / "z").write_bytes(gzip.compress(path.read_bytes()))
    assert len(read_fits(str(tmp_path / "z"), None, USUAL)) == 3


@pytest.mark.parametrize("kind", ["", "RICE_1"])
def test_a_changed_pixel_does_not_fit_its_sum(tmp_path: Path, kind: str) -> None:
    data = bytearray(content(fits.PrimaryHDU(), packed(kind), checksum=True))
    with fits.open(io.BytesIO(bytes(data)), disable_image_compression=True) as hdus:
        place = hdus[1].fileinfo()["datLoc"] + 5
    data[place] ^= 1
    refused(tmp_path / "m.fits", bytes(data), "data that do not fit DATASUM.*copy or download")


def test_a_changed_card_does_not_fit_its_sum(tmp_path: Path) -> None:
    image = fits.ImageHDU(CUBE)
    image.header["BUNIT"] = "Jy"
    data = content(fits.PrimaryHDU(), image, checksum=True).replace(b"'Jy ", b"'K  ")
    refused(tmp_path / "m.fits", data, "header or data that do not fit CHECKSUM.*fitscheck")


@pytest.mark.parametrize("value", ["", "0000000000000000"])
def test_a_sum_that_nobody_computed_is_passed_over(tmp_path: Path, value: str) -> None:
    image = fits.PrimaryHDU(CUBE)
    image.header["DATASUM"] = value
    (tmp_path / "m.fits").write_bytes(content(image))
    if value:
        refused(tmp_path / "m.fits", content(image), "DATASUM")
    else:
        assert len(read_fits(str(tmp_path / "m.fits"), None, USUAL)) == 3
