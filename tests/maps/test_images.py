"""PNG and TIFF: the stored values, by the real writers."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from ood_core.errors import TargetError
from ood_core.limits import USUAL, Limits
from ood_core.maps.readers import read_maps

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (6, 24, 20), dtype=np.uint8)
WORDS = RNG.integers(0, 65536, (6, 24, 20), dtype=np.uint16)
COLOURS = RNG.integers(0, 256, (24, 20, 3), dtype=np.uint8)


@pytest.mark.parametrize("values", [BYTES, WORDS, BYTES > 99])
def test_grey_png_is_read_as_stored(tmp_path: Path, values: np.ndarray) -> None:
    for number, field in enumerate(values):
        Image.fromarray(field).save(tmp_path / f"p{number}.png")
    maps = read_maps(str(tmp_path / "*.png"), None, USUAL)
    np.testing.assert_array_equal(maps.values[:, 0], values)
    assert maps.ids == tuple(f"p{n}" for n in range(6)) and maps.unit == ""


def test_colours_are_channels(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "c.png")
    found = read_maps(str(tmp_path / "c.png"), None, USUAL).values
    np.testing.assert_array_equal(found[0], COLOURS.transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "c.tif", COLOURS, photometric="rgb")
    np.testing.assert_array_equal(read_maps(str(tmp_path / "c.tif"), None, USUAL).values, found)


@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "u4", "f4", "f8"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_pages_are_maps(tmp_path: Path, kind: str, compression: str | None) -> None:
    values = (WORDS.astype("f8") - (0 if kind[0] == "u" else 32768)).astype(kind)
    tifffile.imwrite(
        tmp_path / "t.tif", values, photometric="minisblack", compression=compression, bigtiff=True
    )
    maps = read_maps(str(tmp_path / "t.tif"), None, USUAL)
    np.testing.assert_array_equal(maps.values[:, 0], values.astype("f4"))
    assert maps.ids[5] == "t:5"


def test_channels_and_pages_of_imagej(tmp_path: Path) -> None:
    stack = RNG.integers(0, 65536, (5, 2, 24, 20), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "t.tif", stack, imagej=True, metadata={"axes": "TCYX"})
    np.testing.assert_array_equal(read_maps(str(tmp_path / "t.tif"), None, USUAL).values, stack)
    tifffile.imwrite(tmp_path / "v.tif", stack[:, :, None], imagej=True, metadata={"axes": "TZCYX"})
    with pytest.raises(TargetError, match="TZYX.*expected one of maps"):
        read_maps(str(tmp_path / "v.tif"), None, USUAL)


def test_series_need_a_choice(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "s.tif") as file:
        file.write(WORDS, photometric="minisblack")
        file.write(BYTES[:, :16], photometric="minisblack")
    with pytest.raises(TargetError, match=r"series 0 \(.*, 1 \(.*targets\.array"):
        read_maps(str(tmp_path / "s.tif"), None, USUAL)
    found = read_maps(str(tmp_path / "s.tif"), "1", USUAL).values[:, 0]
    np.testing.assert_array_equal(found, BYTES[:, :16])


def test_what_is_no_value_is_refused(tmp_path: Path) -> None:
    grey = Image.fromarray(BYTES[0])
    for name, image in {
        "p": grey.convert("P"),
        "a": Image.fromarray(np.dstack([COLOURS, COLOURS[..., :1]])),
        "la": grey.convert("LA"),
    }.items():
        image.save(tmp_path / f"{name}.png")
        with pytest.raises(TargetError, match="without palette and transparency"):
            read_maps(str(tmp_path / f"{name}.png"), None, USUAL)


def test_colours_of_16_bits_in_png_are_refused(tmp_path: Path) -> None:
    """Pillow would show them in 8 bits."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + RNG.bytes(6 * 20) for _ in range(24))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 20, 24, 16, 2, 0, 0, 0))
    content = (
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    (tmp_path / "w.png").write_bytes(content)
    with pytest.raises(TargetError, match="16 bits a channel"):
        read_maps(str(tmp_path / "w.png"), None, USUAL)


@pytest.mark.parametrize("name", ["m.png", "m.tif"])
def test_damage_and_size_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("png"):
        Image.fromarray(WORDS[0]).save(path)
    else:
        tifffile.imwrite(path, WORDS, photometric="minisblack")
    with pytest.raises(TargetError, match="max_bytes"):
        read_maps(str(path), None, Limits(max_bytes=1000))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(TargetError, match=rf"{name}: got .*expected"):
        read_maps(str(path), None, USUAL)


@pytest.mark.parametrize("shaped", [True, False])
@pytest.mark.parametrize("big", [True, False])
def test_a_tiff_that_lost_its_last_pages_is_refused(
    tmp_path: Path, shaped: bool, big: bool
) -> None:
    """tifffile gives the pages that are left."""
    whole, cut = tmp_path / "w.tif", tmp_path / "c.tif"
    words = {} if shaped else {"metadata": None}
    tifffile.imwrite(whole, WORDS, bigtiff=big, photometric="minisblack", **words)
    assert len(read_maps(str(whole), None, USUAL).values) == len(WORDS)
    for lost in (300, 700):
        cut.write_bytes(whole.read_bytes()[:-lost])
        with pytest.raises(TargetError, match=r"c\.tif: got a TIFF file that ends before its page"):
            read_maps(str(cut), None, USUAL)
