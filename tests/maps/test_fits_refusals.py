"""FITS files that cannot be used: each refusal names the file, what is wrong and the remedy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from ood_core.errors import TargetError
from ood_core.limits import Limits
from ood_core.maps.fits import read_fits

LIMIT = Limits(max_bytes=2**24)
CUBE = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)


def save(path: Path, *hdus: Any) -> str:
    fits.HDUList(list(hdus)).writeto(path, overwrite=True)
    return str(path)


def refused(hdus: Sequence[Any], tmp_path: Path, array: str | None, words: str) -> None:
    path = save(tmp_path / "bad.fits", *hdus)
    with pytest.raises(TargetError, match=rf"bad\.fits.*: got .*{words}"):
        read_fits(path, array, LIMIT)


def test_no_maps(tmp_path: Path) -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("X", "E", array=[1.0])], name="CAT")
    hdus = [fits.PrimaryHDU(), table]
    refused(
        hdus, tmp_path, None, r"0 PRIMARY, 1 CAT \(table\); expected an image.*choose another file"
    )
    refused(hdus, tmp_path, "CAT", "'CAT'.*0 PRIMARY, 1 CAT.*correct `array`")


@pytest.mark.parametrize("array", ["SCI", "7", "-1"])
def test_missing_extension(tmp_path: Path, array: str) -> None:
    refused([fits.PrimaryHDU(CUBE)], tmp_path, array, f"'{array}'.*0 PRIMARY.*correct `array`")


@pytest.mark.parametrize("shape", [(5,), (2, 1, 1, 4, 5)])
def test_other_numbers_of_axes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    refused([fits.PrimaryHDU(np.ones(shape))], tmp_path, None, "shape .*expected one map.*axes")


@pytest.mark.parametrize("names", [("SCI", "ERR"), ("", "UNCERT"), ("A", "A", "B"), ("X", "")])
def test_images_of_different_names_need_a_choice(tmp_path: Path, names: tuple[str, ...]) -> None:
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(CUBE, name=name) for name in names)]
    if names[0] == "":  # as `CCDData.write` lays them
        hdus[:2] = [fits.PrimaryHDU(CUBE)]
    listed = ", ".join(f"{n} {hdu.name}" for n, hdu in enumerate(hdus)).replace(", 2 A", ".*")
    refused(hdus, tmp_path, None, ".*".join(listed.split(", ")) + ".*choose with `array`")


def test_errors_of_ccddata_need_a_choice(tmp_path: Path) -> None:
    from astropy.nddata import CCDData, StdDevUncertainty

    path = tmp_path / "frame.fits"
    data = CCDData(CUBE[0], unit="adu", uncertainty=StdDevUncertainty(0.1 * CUBE[0]))
    data.write(path)
    with pytest.raises(TargetError, match=r"0 PRIMARY \(4 x 5\), 1 UNCERT \(4 x 5\).*`array`"):
        read_fits(str(path), None, LIMIT)
    maps = read_fits(str(path), "PRIMARY", LIMIT)
    np.testing.assert_array_equal(maps.values[0, 0], CUBE[0])
    assert maps.unit == "adu"


def test_extensions_that_differ(tmp_path: Path) -> None:
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(CUBE), fits.ImageHDU(CUBE[:, :2])]
    refused(hdus, tmp_path, None, r"shape \(1, 2, 5\).*expected \(1, 4, 5\).*`array`")
    hdus[2] = fits.ImageHDU(CUBE)
    hdus[2].header["BUNIT"] = "K"
    refused(hdus, tmp_path, None, "1 .*, 2 .* differ in name, unit or type")
    refused(hdus, tmp_path, "*", "unit 'K'; expected ''.*one unit")
    hdus[2] = fits.ImageHDU((CUBE > 3).astype(np.int16))  # as a mask is stored
    refused(hdus, tmp_path, None, "1 .*, 2 .* differ in name, unit or type")
    hdus = [fits.PrimaryHDU(CUBE), fits.ImageHDU(0.1 * CUBE)]
    refused(hdus, tmp_path, None, "0 PRIMARY .*, 1 .* differ in name, unit or type")


def test_two_columns_of_cutouts(tmp_path: Path) -> None:
    columns = [
        fits.Column(name, "12I", dim="(4,3)", array=np.full((2, 3, 4), number))
        for number, name in enumerate("GR")
    ]
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]
    refused(hdus, tmp_path, None, "columns G, R; expected one column.*`array`")
    refused(hdus, tmp_path, "B", "no maps in an HDU 'B'")
    for number, name in enumerate("gr"):
        chosen = read_fits(save(tmp_path / f"{name}.fits", *hdus), name, Limits())
        assert (chosen.values == number).all() and chosen.values.shape == (2, 1, 3, 4)


def test_limit_on_loaded_bytes(tmp_path: Path) -> None:
    path = save(tmp_path / "m.fits", fits.PrimaryHDU(np.zeros((2, 8, 8), np.uint8)))
    assert len(read_fits(path, None, Limits(max_bytes=512))) == 2  # 128 pixels as float32
    with pytest.raises(TargetError, match=r"m\.fits: got 512 bytes.*at most 511.*max_bytes"):
        read_fits(path, None, Limits(max_bytes=511))


@pytest.mark.parametrize(
    "cards",
    [
        {"NAXIS1": 2**31, "NAXIS2": 2**31},
        {"NAXIS1": 10**6},
        {"NAXIS1": -5},
        {"NAXIS1": "five"},
        {"BITPIX": 17},
    ],
)
@pytest.mark.parametrize("extension", [False, True])
def test_absurd_headers(tmp_path: Path, cards: dict[str, Any], extension: bool) -> None:
    image = fits.ImageHDU(CUBE) if extension else fits.PrimaryHDU(CUBE)
    path = Path(save(tmp_path / "m.fits", *([fits.PrimaryHDU()] * extension), image))
    content = path.read_bytes()
    start = content.rindex(b"BITPIX")
    for keyword, value in cards.items():
        at = content.index(keyword.encode().ljust(8) + b"=", start)
        content = content[:at] + str(fits.Card(keyword, value)).encode() + content[at + 80 :]
    path.write_bytes(content)
    with pytest.raises(TargetError, match=r"m\.fits.*: got .*expected .*copy or download"):
        read_fits(str(path), None, LIMIT)


@pytest.mark.parametrize("keep", [0, 100, 2880, 3000, 2880 + 4 * CUBE.size - 1, 5760 + 100, -2880])
def test_truncated_file(tmp_path: Path, keep: int) -> None:
    path = Path(save(tmp_path / "m.fits", fits.PrimaryHDU(CUBE), fits.ImageHDU(CUBE)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TargetError, match=r"m\.fits.*: got .*expected .*copy or download"):
        read_fits(str(path), None, LIMIT)


@pytest.mark.parametrize("content", [b"", b"not a FITS file" * 1000, b"\x93NUMPY" + bytes(9000)])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.fits").write_bytes(content)
    with pytest.raises(TargetError, match=r"m\.fits: got a file that cannot be read as FITS"):
        read_fits(str(tmp_path / "m.fits"), None, LIMIT)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.fits", tmp_path):
        with pytest.raises(TargetError, match=rf"{path}: got .*check the path"):
            read_fits(str(path), None, LIMIT)
