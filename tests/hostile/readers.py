"""Writers of changed files, each with the reader that they are for, and a check of what it does."""

import gzip
import io
import json
import random
import shutil
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ood_core.errors import FarfieldError
from tests.hostile.changes import change, change_json, change_often, change_text

LIMITS = {"max_bytes": 2**22, "max_maps": 1000, "max_header_bytes": 2**18}


def _maps() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(8, 8, 8)).astype("f4")


def _fits(kind: str) -> bytes:
    from astropy.io import fits

    stream, maps = io.BytesIO(), _maps()
    if kind == "table":
        columns = [
            fits.Column("MAP", "64E", dim="(8,8)", array=maps),
            fits.Column("ID", "4A", array=list("abcdefgh")),
        ]
        hdus = [fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]
    elif kind == "image":
        hdus = [fits.PrimaryHDU(maps), fits.ImageHDU(maps, name="SCI")]
    else:
        whole = (100 * maps).astype("i4") if kind == "RICE_1" else maps
        level = {} if kind == "RICE_1" else {"quantize_level": 0}
        packed = fits.CompImageHDU(whole, compression_type=kind, tile_shape=(1, 8, 8), **level)
        hdus = [fits.PrimaryHDU(), packed]
    fits.HDUList(hdus).writeto(stream)
    return stream.getvalue()


def _numpy(packed: bool) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, maps=_maps()) if packed else np.save(stream, _maps())
    return stream.getvalue()


def one_file(name: str, valid: bytes) -> Callable[[Path, random.Random], str]:
    """Make a writer of changed copies of one target file."""

    def write(place: Path, rng: random.Random) -> str:
        data = valid
        if name.endswith(".gz"):
            data = (
                gzip.compress(change_often(valid, rng), 1)
                if rng.random() < 0.7
                else change(data, rng)
            )
        elif name.endswith(".npz") and rng.random() < 0.6:
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w", rng.choice((0, 8, 12, 14))) as archive:
                archive.writestr(
                    rng.choice(("maps.npy", "../a.npy")), change_often(_numpy(False), rng)
                )
            data = stream.getvalue()
        else:
            data = change_often(data, rng)
        (place / name).write_bytes(data)
        return str(place / name)

    return write


def zarr_folder(version: int) -> Callable[[Path, random.Random], str]:
    """Make a writer of changed Zarr groups: sharded or plain, packed in several ways."""
    import zarr

    def write(place: Path, rng: random.Random) -> str:
        path = place / "t.zarr"
        group = zarr.create_group(str(path), zarr_format=version)
        shards = {"shards": (4, 8, 8)} if version == 3 and rng.random() < 0.5 else {}
        kinds = ("auto", None) if version == 2 else ("auto", None, *_packings())
        packing = rng.choice(kinds)
        group.create_array("maps", data=_maps(), chunks=(2, 8, 8), compressors=packing, **shards)
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        for _ in range(rng.randrange(1, 3)):
            file = rng.choice(files)
            data = file.read_bytes()
            is_json = file.name.startswith((".z", "zarr.json"))
            if is_json and _parses(data):
                file.write_bytes(change_json(data, rng))
            elif rng.random() < 0.2:
                file.write_bytes(rng.choice((gzip.compress, zlib.compress))(bytes(2**16)))
            else:
                file.write_bytes(change_often(data, rng))
        if rng.random() < 0.1:
            (path / "maps" / "link").symlink_to("/dev/zero")
        return str(path)

    return write


def _parses(data: bytes) -> bool:
    try:
        return bool(json.loads(data))
    except ValueError:
        return False


def _packings() -> tuple[Any, ...]:
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    return BloscCodec(), GzipCodec(), ZstdCodec()


def read_maps(path: str) -> None:
    """Read targets as a run does, up to what planning checks of every map."""
    from ood_core.config.targets import TargetsSpec
    from ood_core.errors import TargetWarning
    from ood_core.maps.target_set import TargetSet

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TargetWarning)
        maps = TargetSet.of(TargetsSpec(path=path, held_out=4, **LIMITS))
    if not np.isfinite(maps.values).all() or maps.values.nbytes > LIMITS["max_bytes"]:
        raise AssertionError("maps that are not finite, or beyond the limit")


def write_yaml(place: Path, rng: random.Random) -> str:
    """Write a changed configuration."""
    from flows.settings import PROJECT

    text = (PROJECT / "examples" / "hubble.yaml").read_text()
    for _ in range(rng.randrange(1, 4)):
        text = change_text(text, rng)
    (place / "c.yaml").write_text(text)
    return str(place / "c.yaml")


def read_yaml(path: str) -> None:
    """Load a configuration."""
    from flows.settings import load_settings

    load_settings(Path(path))


def base_folder(changed: str) -> Callable[[Path, random.Random], str]:
    """Make a writer of bases of which one file is changed."""
    import torch
    from safetensors.torch import load_file

    from ood_core.models.networks import make_unet, save_base

    valid = Path(tempfile.mkdtemp(prefix="farfield-fuzz-"))
    torch.manual_seed(0)
    save_base(make_unet(8, 1, (4, 8), 1, (False, False), 4), "epsilon", valid / "base")
    weights = valid / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    if changed == "torch":
        torch.save(load_file(weights), weights.with_suffix(".bin"))
        weights.unlink()
    elif changed == "legacy":
        state = load_file(weights)
        torch.save(state, weights.with_suffix(".bin"), _use_new_zipfile_serialization=False)
        weights.unlink()
    names = {
        "safetensors": weights, "torch": weights.with_suffix(".bin"),
        "legacy": weights.with_suffix(".bin"), "config": weights.with_name("config.json"),
        "scheduler": valid / "base" / "scheduler" / "scheduler_config.json",
    }  # fmt: skip
    inside = names[changed].relative_to(valid)

    def write(place: Path, rng: random.Random) -> str:
        shutil.copytree(valid / "base", place / "base")
        data = (place / inside).read_bytes()
        if changed in ("config", "scheduler"):
            data = change_json(data, rng)
        elif changed == "safetensors" and rng.random() < 0.5:
            size = int.from_bytes(data[:8], "little")
            header = change_json(data[8 : 8 + size], rng)
            data = len(header).to_bytes(8, "little") + header + data[8 + size :]
        else:
            head = rng.random() < 0.7  # where names and structure are
            data = change_often(data[:4000], rng) + data[4000:] if head else change_often(data, rng)
        (place / inside).write_bytes(data)
        return str(place / "base")

    return write


def read_base(path: str) -> None:
    """Load a base."""
    from ood_core.models.loading import load_model

    load_model(path, max_bytes=2**22)


MAPS: dict[str, Callable[[], Callable[[Path, random.Random], str]]] = {
    "fits image": lambda: one_file("m.fits", _fits("image")),
    "fits table": lambda: one_file("m.fits", _fits("table")),
    "fits rice": lambda: one_file("m.fits", _fits("RICE_1")),
    "fits gzip tiles": lambda: one_file("m.fits", _fits("GZIP_1")),
    "fits.gz": lambda: one_file("m.fits.gz", _fits("image")),
    "npy": lambda: one_file("m.npy", _numpy(False)),
    "npz": lambda: one_file("m.npz", _numpy(True)),
    "zarr 2": lambda: zarr_folder(2),
    "zarr 3": lambda: zarr_folder(3),
}
BASES = ("safetensors", "torch", "legacy", "config", "scheduler")
READERS = {
    **{name: (make, read_maps) for name, make in MAPS.items()},
    "yaml": (lambda: write_yaml, read_yaml),
    **{f"base {name}": (lambda name=name: base_folder(name), read_base) for name in BASES},
}


class Silence(BaseException):
    """A reader was at one input for too long."""


def judge(read: Callable[[str], None], path: str) -> str:
    """Return what became of one input."""
    try:
        read(path)
    except FarfieldError as error:
        return "refused" if str(error) else "other: an empty message"
    except Exception as error:
        return f"other: {type(error).__name__}: {error}"[:200]
    except Silence:
        return "other: silence"
    return "read"
