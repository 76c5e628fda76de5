"""Files made to do harm: small on disk, large, endless or armed when read without care."""

import gzip
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import torch
import zarr
from astropy.io import fits
from zarr.codecs import GzipCodec, ZstdCodec

MAPS = np.random.default_rng(0).normal(size=(4, 8, 8)).astype("f4")
BOMB = bytes(2**26)  # four times what the readers may load, eight times their headers


class Trap:
    """Makes a folder when a pickle of it is read without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


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


def zarr_group(place: Path, version: int = 3, **options: Any) -> Path:
    group = zarr.create_group(str(place / "t.zarr"), zarr_format=version)
    group.create_array("maps", data=MAPS, chunks=(4, 8, 8), **options)
    return place / "t.zarr"


def edited(path: Path, file: str, change: Callable[[dict[str, Any]], object]) -> Path:
    record = json.loads((path / file).read_text())
    change(record)
    (path / file).write_text(json.dumps(record))
    return path


def zarr_shape(place: Path) -> Path:
    shape = [10**4, 10**4, 10**4]
    return edited(zarr_group(place), "maps/zarr.json", lambda r: r.update(shape=shape))


def zarr_chunks(place: Path) -> Path:
    grid = {"name": "regular", "configuration": {"chunk_shape": [10**4] * 3}}
    return edited(zarr_group(place), "maps/zarr.json", lambda r: r.update(chunk_grid=grid))


def zarr_many_chunks(place: Path) -> Path:
    path = zarr_group(place, version=2)
    return edited(path, "maps/.zarray", lambda r: r.update(shape=[99, 64, 64], chunks=[1, 1, 1]))


def zarr_metadata(place: Path) -> Path:
    attributes = {"words": "x" * 2**24}
    return edited(zarr_group(place), "zarr.json", lambda r: r.update(attributes=attributes))


def chunk(path: Path) -> Path:
    (file,) = (f for f in (path / "maps").rglob("*") if f.is_file() and f.name[0] not in ".z")
    return file


def zarr_gzip(place: Path) -> Path:
    path = zarr_group(place, compressors=GzipCodec())
    chunk(path).write_bytes(gzip.compress(BOMB, 1))
    return path


def zarr_zstd(place: Path) -> Path:
    path = zarr_group(place, compressors=ZstdCodec())
    small = bytes(numcodecs.Zstd().encode(MAPS))
    chunk(path).write_bytes(small + bytes(numcodecs.Zstd().encode(BOMB)))  # a second frame
    return path


def zarr_blosc(place: Path) -> Path:
    path = zarr_group(place, version=2, compressors=numcodecs.Blosc())
    chunk(path).write_bytes(bytes(numcodecs.Blosc().encode(BOMB)))
    return path


def zarr_pickle(place: Path) -> Path:
    """A filter of numcodecs decodes pickles; zarr itself lets it near objects alone."""
    path = zarr_group(place, version=2, compressors=None)
    chunk(path).write_bytes(pickle.dumps(Trap(place / "sprung")))
    return edited(path, "maps/.zarray", lambda r: r.update(filters=[{"id": "pickle"}]))


def zarr_link(place: Path) -> Path:
    path = zarr_group(place, compressors=None)
    secret = written(place / "secret", MAPS.tobytes())
    chunk(path).unlink()
    (path / "maps" / "c" / "0" / "0" / "0").symlink_to(secret)
    return path


def zarr_linked_folder(place: Path) -> Path:
    path = zarr_group(place)
    os.rename(path / "maps", place / "elsewhere")
    (path / "maps").symlink_to(place / "elsewhere")
    return path


def zarr_climbing(place: Path) -> Path:
    """Consolidated metadata may name arrays in any folder."""
    path = zarr_group(place)
    os.rename(path / "maps", place / "elsewhere")
    member = json.loads((place / "elsewhere" / "zarr.json").read_text())
    inside = {"kind": "inline", "must_understand": False, "metadata": {"../elsewhere": member}}
    return edited(path, "zarr.json", lambda r: r.update(consolidated_metadata=inside))


def zarr_pipe(place: Path) -> Path:
    path = zarr_group(place)
    chunk(path).unlink()
    os.mkfifo(path / "maps" / "c" / "0" / "0" / "0")
    return path


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


def long_unit(place: Path) -> Path:
    attributes = {"units": "K\n---\nlicense: mit"}
    return edited(zarr_group(place), "maps/zarr.json", lambda r: r.update(attributes=attributes))


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


def base(place: Path, config: dict[str, Any], scheduler: dict[str, Any]) -> Path:
    from ood_core.bases.networks import make_unet, save_base

    save_base(make_unet(8, 1, (4, 8), 1, (False, False), 4), "epsilon", place / "base")
    edited(place / "base", "unet/config.json", lambda r: r.update(config))
    return edited(place / "base", "scheduler/scheduler_config.json", lambda r: r.update(scheduler))


def base_channels(place: Path) -> Path:
    return base(place, {"block_out_channels": [10**5, 10**5]}, {})


def base_layers(place: Path) -> Path:
    return base(place, {"layers_per_block": 10**9}, {})


def base_steps(place: Path) -> Path:
    return base(place, {}, {"num_train_timesteps": 10**12})


def base_nested(place: Path) -> Path:
    folder = base(place, {}, {})
    (folder / "unet" / "config.json").write_text('{"a":' * 10**5)
    return folder


def weights(place: Path, content: bytes, name: str) -> Path:
    folder = base(place, {}, {})
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / f"diffusion_pytorch_model.{name}").write_bytes(content)
    return folder


def base_header(place: Path) -> Path:
    return weights(place, (2**60).to_bytes(8, "little") + b"{}", "safetensors")


def torch_bytes(data: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    """A torch file with this pickle in it."""
    stream = io.BytesIO()
    torch.save({}, stream)
    out = io.BytesIO()
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(out, "w", method) as new:
        for info in old.infolist():
            new.writestr(
                info.filename, data if info.filename.endswith("data.pkl") else old.read(info)
            )
    return out.getvalue()


def base_filler(place: Path) -> Path:
    """Torch's careful reader allows byte arrays, of any length."""
    length = b"J" + struct.pack("<i", 2**31 - 1)
    return weights(
        place, torch_bytes(b"\x80\x02cbuiltins\nbytearray\n" + length + b"\x85R."), "bin"
    )


def base_packed(place: Path) -> Path:
    return weights(place, torch_bytes(b"\x80\x02" + b"]" * 2**26, zipfile.ZIP_DEFLATED), "bin")


def base_lists(place: Path) -> Path:
    return weights(place, torch_bytes(b"\x80\x02" + b"]" * 2**26), "bin")


def base_wide(place: Path) -> Path:
    """One number on disk, a hundred million in memory."""
    stream = io.BytesIO()
    torch.save({"conv_in.weight": torch.zeros(1).expand(10**4, 10**4)}, stream)
    return weights(place, stream.getvalue(), "bin")


def base_trap(place: Path) -> Path:
    return weights(place, torch_bytes(pickle.dumps(Trap(place / "sprung"), protocol=2)), "bin")


BASES: dict[Callable[[Path], Path], str] = {
    base_channels: "weights do not fit the network",
    base_layers: "far more layers than there are weights",
    base_steps: "num_train_timesteps",
    base_nested: "cannot read config.json",
    base_header: "cannot read",
    base_filler: "damaged or would run code",
    base_packed: "cannot read",
    base_lists: "cannot read",
    base_wide: "got 400000000 bytes; expected at most",
    base_trap: "damaged or would run code",
}
"""Attacks by files of a base."""
