"""PNG and TIFF: the stored values, by the real writers."""

import struct
import zlib
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


def png(path: Path, depth: int, colours: int, rows: list[bytes], width: int) -> str:
    """Write a PNG of rows as they are stored, as Pillow writes none of 2, 4 or 3 x 16 bits."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, len(rows), depth, colours, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return str(path)


def test_colours_of_16_bits_in_png_are_refused(tmp_path: Path) -> None:
    """Pillow would show them in 8 bits."""
    path = png(tmp_path / "w.png", 16, 2, [RNG.bytes(6 * 20) for _ in range(24)], 20)
    with pytest.raises(TargetError, match="16 bits a channel"):
        read_maps(path, None, USUAL)


@pytest.mark.parametrize("depth", [2, 4])
def test_grey_of_few_bits_is_read_as_stored(tmp_path: Path, depth: int) -> None:
    """Pillow spreads it over 0 to 255."""
    values = RNG.integers(0, 2**depth, (24, 20), dtype=np.uint8)
    bits = np.unpackbits(values[..., None], axis=2)[..., 8 - depth :].reshape(24, -1)
    path = png(tmp_path / "g.png", depth, 0, [np.packbits(row).tobytes() for row in bits], 20)
    np.testing.assert_array_equal(read_maps(path, None, USUAL).values[0, 0], values)


def test_transparency_and_frames_are_not_dropped_in_silence(tmp_path: Path) -> None:
    """One grey as transparent, an animation, a palette or a channel of transparency of TIFF."""
    first, *others = (Image.fromarray(field) for field in BYTES[:3])
    first.save(tmp_path / "t.png", transparency=7)
    first.save(tmp_path / "a.png", save_all=True, append_images=others)
    four = np.dstack([COLOURS, COLOURS[..., :1]])
    tifffile.imwrite(tmp_path / "a.tif", four, photometric="rgb", extrasamples=["unassalpha"])
    colours = RNG.integers(0, 65536, (3, 256), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "p.tif", BYTES[0], photometric="palette", colormap=colours)
    for name, words in {
        "t.png": "and transparency",
        "a.png": "3 frames",
        "a.tif": "transparency",
        "p.tif": "palette",
    }.items():
        with pytest.raises(TargetError, match=rf"{name}: got .*{words}.*expected"):
            read_maps(str(tmp_path / name), None, USUAL)


def geotiff(path: Path, values: np.ndarray, null: str | None, items: str = "") -> str:
    tags = [] if null is None else [(42113, "s", 0, null, True)]
    if items:
        tags.append((42112, "s", 0, f"<GDALMetadata>{items}</GDALMetadata>", True))
    layout = {"planarconfig": "separate"} if values.ndim == 3 else {}
    tifffile.imwrite(path, values, photometric="minisblack", extratags=tags, **layout)
    return str(path)


@pytest.mark.parametrize(
    ("kind", "null"),
    [("i2", "-9999"), ("f4", "-3.4028234663852886e+38"), ("u1", "255"), ("f4", "nan")],
)
def test_pixels_without_data_of_a_geotiff_are_missing(tmp_path: Path, kind: str, null: str) -> None:
    values = (BYTES[0] // 2).astype(kind)
    values[3, 4] = float(null)
    found = read_maps(geotiff(tmp_path / "g.tif", values, null), None, USUAL).values[0, 0]
    assert np.argwhere(np.isnan(found)).tolist() == [[3, 4]]
    there = ~np.isnan(found)
    np.testing.assert_array_equal(found[there], values[there])


def test_scales_and_units_of_a_geotiff(tmp_path: Path) -> None:
    """Of two bands, only the second has a scale; a missing pixel is told by what is stored."""
    items = "".join(
        f'<Item name="N" sample="{sample}" role="{role}">{value}</Item>'
        for sample, role, value in ((1, "scale", 0.5), (1, "offset", -3), (1, "unittype", "m"))
    )
    path = geotiff(tmp_path / "g.tif", BYTES[:2], "7", items)
    maps = read_maps(path, None, USUAL)
    expected = np.stack([BYTES[0], 0.5 * BYTES[1] - 3.0])
    expected[BYTES[:2] == 7] = np.nan
    np.testing.assert_array_equal(maps.values[0], expected.astype("f4"))
    assert maps.unit == "m"
    with pytest.raises(TargetError, match=r"tags of GDAL that are no numbers .*gdal_edit"):
        read_maps(geotiff(tmp_path / "b.tif", BYTES[0], "none at all"), None, USUAL)


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
