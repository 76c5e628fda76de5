"""Zarr folders made to do harm to the readers of maps."""

import gzip
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numcodecs
import zarr
from zarr.codecs import GzipCodec, ZstdCodec

from tests.hostile.attack_parts import BOMB, MAPS, Trap, edited, written


def zarr_group(place: Path, version: int = 3, **options: Any) -> Path:
    group = zarr.create_group(str(place / "t.zarr"), zarr_format=version)
    group.create_array("maps", data=MAPS, chunks=(4, 8, 8), **options)
    return place / "t.zarr"


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


def long_unit(place: Path) -> Path:
    attributes = {"units": "K\n---\nlicense: mit"}
    return edited(zarr_group(place), "maps/zarr.json", lambda r: r.update(attributes=attributes))
