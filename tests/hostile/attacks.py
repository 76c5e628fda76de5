"""Files made to do harm: small on disk, large, endless or armed when read without care."""

import gzip
import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from tests.hostile.attack_parts import BOMB, MAPS, Trap, written
from tests.hostile.zarr_attacks import (
    long_unit,
    zarr_blosc,
    zarr_chunks,
    zarr_climbing,
    zarr_gzip,
    zarr_link,
    zarr_linked_folder,
    zarr_many_chunks,
    zarr_metadata,
    zarr_pickle,
    zarr_pipe,
    zarr_shape,
    zarr_zstd,
)


def fits_bytes(*hdus: Any) -> bytes:
    stream = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(stream)
    return stream.getvalue()


def with_card(content: bytes, keyword: str, value: Any) -> bytes:
    at = content.rindex(keyword.encode().ljust(8) + b"=")
    return content[:at] + str(fits.Card(keyword, value)).encode() + content[at + 80 :]


def fits_dimensions(place: Path) -> Path:
    content = with_card(fits_bytes(fits.PrimaryHDU(MAPS)), "NAXIS1", 10**9)
    return written(place / "m.fits", content)


def fits_axes(place: Path) -> Path:
    """The parser asks for every axis by its name."""
    content = with_card(fits_bytes(fits.PrimaryHDU(MAPS)), "NAXIS", 10**10)
    return written(place / "m.fits", content)


def fits_many_hdus(place: Path) -> Path:
    whole = fits_bytes(fits.PrimaryHDU(), fits.ImageHDU())
    return written(place / "m.fits.gz", gzip.compress(whole[:2880] + whole[2880:] * 10**4, 1))


def fits_many_cards(place: Path) -> Path:
    start = fits_bytes(fits.PrimaryHDU()).partition(b"END")[0]
    return written(place / "m.fits.gz", gzip.compress(start + b"COMMENT x".ljust(80) * 2**18, 1))


def fits_gzip(place: Path) -> Path:
    return written(place / "m.fits", gzip.compress(fits_bytes(fits.PrimaryHDU(MAPS)) + BOMB, 1))


def tiles(kind: str) -> bytes:
    maps = (100 * MAPS[0]).astype("i4")
    packed = fits.CompImageHDU(maps, compression_type=kind, tile_shape=(8, 8))
    return fits_bytes(fits.PrimaryHDU(), packed)


def fits_tile(place: Path) -> Path:
    content, bomb = tiles("GZIP_1"), gzip.compress(BOMB, 1)
    with fits.open(io.BytesIO(content), disable_image_compression=True) as hdus:
        start = hdus[1].fileinfo()["datLoc"]
    content = with_card(content, "PCOUNT", len(bomb))[:start] + struct.pack(">ii", len(bomb), 0)
    return written(place / "m.fits", content + bomb + bytes(-(8 + len(bomb)) % 2880))


def fits_tile_header(place: Path) -> Path:
    """The decoder of HCOMPRESS writes as many pixels as the stream says, not the tile."""
    content = bytearray(tiles("HCOMPRESS_1"))
    struct.pack_into(">ii", content, content.index(b"\xdd\x99") + 2, 64, 64)
    return written(place / "m.fits", bytes(content))


def fits_unpacked_size(place: Path) -> Path:
    content = with_card(with_card(tiles("RICE_1"), "ZNAXIS1", 10**6), "ZNAXIS2", 10**6)
    return written(place / "m.fits", content)


def npy(shape: str, length: int = 0, version: int = 1) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text = text.ljust(max(117, length)) + b"\n"
    size = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text


def npy_shape(place: Path) -> Path:
    return written(place / "m.npy", npy("(10, 1000000, 1000000)") + bytes(64))


def npy_no_pixels(place: Path) -> Path:
    return written(place / "m.npy", npy(f"(0, {10**30})"))


def npy_many_maps(place: Path) -> Path:
    return written(place / "m.npy", npy("(20000, 1, 1)") + bytes(80_000))


def npy_nested(place: Path) -> Path:
    return written(place / "m.npy", npy("(" * 9000))


def npy_pickle(place: Path) -> Path:
    array = np.array([Trap(place / "sprung")])
    np.save(place / "m.npy", array, allow_pickle=True)
    return place / "m.npy"


def zipped(path: Path, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("maps.npy", content)
    return path


def npz_zeros(place: Path) -> Path:
    return zipped(place / "m.npz", npy("(16, 1024, 1024)") + BOMB)


def npz_header(place: Path) -> Path:
    return zipped(place / "m.npz", npy("(4, 8, 8)", 2**26, version=2))


def npz_lzma(place: Path) -> Path:
    return zipped(place / "m.npz", npy("(4, 8, 8)") + MAPS.tobytes(), zipfile.ZIP_LZMA)


def npz_directory(place: Path) -> Path:
    entry = struct.pack("<4s4H4L5H2L", b"PK\1\2", *[0] * 8, 8, *[0] * 6) + b"maps.npy"
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, len(entry) * 2**18, 0, 0)
    return written(place / "m.npz", entry * 2**18 + end)


def pipe(place: Path) -> Path:
    os.mkfifo(place / "m.npy")
    return place / "m.npy"


def many_files(place: Path) -> Path:
    for number in range(1001):
        (place / f"{number}.npy").touch()
    return place / "*.npy"


def endless_folders(place: Path) -> Path:
    """Two links to the folder that they are in: 2^40 paths before the system gives up."""
    for name in "ab":
        (place / name).symlink_to(".")
    return place / "**" / "*.npy"


def no_text(place: Path) -> Path:
    np.save(place / "m.npy", MAPS)
    os.rename(place / "m.npy", os.fsencode(place) + b"/\xff.npy")
    return place / "*.npy"


TARGETS: dict[Callable[[Path], Path], str] = {
    fits_dimensions: "smaller than the expected size|from the dimensions",
    fits_axes: "10000000000 is more than 999",
    fits_many_hdus: "targets.max_header_bytes",
    fits_many_cards: "targets.max_header_bytes",
    fits_gzip: "unpacks to more than .*targets.max_bytes",
    fits_tile: "a tile that unpacks to more than 512 bytes",
    fits_tile_header: "compressed by HCOMPRESS_1; expected one of RICE_1",
    fits_unpacked_size: "targets.max_bytes",
    npy_shape: "targets.max_bytes",
    npy_no_pixels: "cannot be read",
    npy_many_maps: "targets.max_maps",
    npy_nested: "cannot be read",
    npy_pickle: "type object",
    npz_zeros: "targets.max_bytes",
    npz_header: "targets.max_header_bytes",
    npz_lzma: "compressed by method 14",
    npz_directory: "targets.max_header_bytes",
    zarr_shape: "targets.max_bytes",
    zarr_chunks: "in whole chunks.*targets.max_bytes",
    zarr_many_chunks: "405504 chunks.*targets.max_maps",
    zarr_metadata: "bytes of metadata.*targets.max_header_bytes",
    zarr_gzip: "a chunk holds 1025 bytes or more; expected 1024",
    zarr_zstd: "buffer too small|buffer is too small",
    zarr_blosc: "a chunk states",
    zarr_pickle: "pickle",
    zarr_link: "a link or no plain file",
    zarr_linked_folder: "got the arrays",
    zarr_climbing: "got the arrays",
    zarr_pipe: "a link or no plain file",
    pipe: "a special file",
    many_files: "targets.max_maps",
    endless_folders: "targets.max_maps",
    no_text: "UTF-8",
    long_unit: "a unit of",
}
"""Attacks on the readers of maps, and words of the one error that each gives."""
