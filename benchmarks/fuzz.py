"""Damaged and hostile files against every reader; prints one table, writes JSON.

    python benchmarks/fuzz.py [--inputs 20000] [--seed 0] [--minutes 60] [--json FILE]

Each input is a small valid file with a few changes: bits and bytes, pieces cut, doubled or moved,
numbers replaced by absurd ones, values of JSON and YAML replaced, packed contents changed and
packed again. It must be read, with finite maps within the limits, or be refused with an error of
the project. Any other exception, a crash or a minute of silence counts against the reader. Every
reader works in a process of its own; `MiB` is what its peak grew by over the inputs.
"""

import argparse
import gzip
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ood_core.errors import FarfieldError

SECONDS = 60
LIMITS = {"max_bytes": 2**22, "max_maps": 1000, "max_header_bytes": 2**18}
NUMBERS = (
    0, 1, 2, 3, 7, 8, 16, 17, 64, 100, 255, 256, 999, 1000, 65535, 2**20, 2**31 - 1, 2**31, 2**32,
    10**10, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, -1, -2, -8, -32, -64, -(2**31), -(2**63),
)  # fmt: skip
WORDS = (
    None, True, False, "", "x", "../..", "\0", "nan", [], {}, [[]], 0.5, 1e308, -1.5, float("nan"),
    float("inf"), "float64", "complex64", "|O", "<f8", "S1000000000", "bytes", "gzip", "pickle",
    "blosc", "sharding_indexed", "<script>", "é" * 40,
)  # fmt: skip
LINES = (
    "a: &a [1]", "b: *a", "<<: *a", "x: !!python/object/apply:os.system ['true']", "name: [", "{",
    "? [a]", "held_out: .nan", "path: ~nobody/x", "samples: 1e400", "seed: -1", "- a", "%TAG ! !",
    "---", "...", "name: !!int x", "name: 2001-13-45", "\t", "base: 'a", "name: |", "targets: *x",
)  # fmt: skip


def change(data: bytes, rng: random.Random) -> bytes:
    """Change bytes in one of many ways that know nothing of the format but its numbers."""
    if not data:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(8)))
    at, length = rng.randrange(len(data)), rng.choice((1, 2, 8, 80, 512, 2880))
    piece = data[at : at + length]
    match rng.randrange(8):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        case 2:
            return data[:at] + data[at + length :]
        case 3:
            return data[:at] + piece * rng.choice((2, 3, 50)) + data[at + length :]
        case 4:
            return data[:at]
        case 5:
            to = rng.randrange(len(data))
            return data[:to] + piece + data[to + len(piece) :]
        case 6:
            size = rng.choice((1, 2, 4, 8))
            value = rng.choice(NUMBERS) % 256**size
            order = rng.choice(("little", "big"))
            return data[:at] + value.to_bytes(size, order) + data[at + size :]
    found = [m for m in re.finditer(rb" *-?\d+", data[:20000])]
    if not found:
        return data
    old = rng.choice(found)
    new = str(rng.choice(NUMBERS)).encode().rjust(len(old[0]))  # a card keeps its columns
    return data[: old.start()] + new + data[old.start() + max(len(new), len(old[0])) :]


def change_text(text: str, rng: random.Random) -> str:
    """Add, drop, double or indent lines, or change bytes."""
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            lines.insert(at, " " * rng.choice((0, 2, 4)) + rng.choice(LINES))
        case 1:
            lines[at] = lines[at].partition(":")[0] + ": " + str(rng.choice(NUMBERS + WORDS))
        case 2:
            lines.insert(at, lines[rng.randrange(len(lines))])
        case 3:
            lines[at] = rng.choice(("[", "{a: ", "- ", "? ", '"', "  ")) * rng.choice((1, 9, 900))
        case _:
            return change(text.encode(), rng).decode(errors="replace")
    return "\n".join(lines)


def change_json(text: bytes, rng: random.Random) -> bytes:
    """Replace, drop or double one value somewhere in a JSON document, or change bytes."""
    if rng.random() < 0.15:
        return change(text, rng)
    tree = json.loads(text)
    spots: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        for key in keys:
            spots.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(tree)
    node, key = rng.choice(spots)
    match rng.randrange(4):
        case 0 if isinstance(node, dict):
            del node[key]
        case 1:
            other, where = rng.choice(spots)
            node[key] = json.loads(json.dumps(other[where])) if where in _keys(other) else None
        case 2:
            node[key] = rng.choice(NUMBERS)
        case _:
            node[key] = rng.choice(WORDS)
    return json.dumps(tree).encode()


def _keys(node: Any) -> Any:
    return node if isinstance(node, dict) else range(len(node))


def _maps() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, 8, 8)).astype("f4")


def _fits(kind: str) -> bytes:
    from astropy.io import fits

    stream, maps = io.BytesIO(), _maps()
    if kind == "table":
        columns = [
            fits.Column("MAP", "64E", dim="(8,8)", array=maps),
            fits.Column("ID", "4A", array=list("abcd")),
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
            data = gzip.compress(_often(valid, rng), 1) if rng.random() < 0.7 else change(data, rng)
        elif name.endswith(".npz") and rng.random() < 0.6:
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w", rng.choice((0, 8, 12, 14))) as archive:
                archive.writestr(rng.choice(("maps.npy", "../a.npy")), _often(_numpy(False), rng))
            data = stream.getvalue()
        else:
            data = _often(data, rng)
        (place / name).write_bytes(data)
        return str(place / name)

    return write


def _often(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.randrange(1, 4)):
        data = change(data, rng)
    return data


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
                file.write_bytes(_often(data, rng))
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
    from ood_core.maps.mapset import check
    from ood_core.specs import TargetsSpec
    from ood_core.store.targets import read_targets

    maps = read_targets(TargetsSpec(path=path, **LIMITS))
    check(maps, 1, maps.values.shape[1])
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

    from ood_core.bases.networks import make_unet, save_base

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
            data = _often(data[:4000], rng) + data[4000:] if head else _often(data, rng)
        (place / inside).write_bytes(data)
        return str(place / "base")

    return write


def read_base(path: str) -> None:
    """Load a base."""
    from ood_core.bases.loading import load_base

    load_base(path, max_bytes=2**22)


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
SHARES = {name: 1 if name.startswith("base") else 3 for name in READERS}
"""Loading a base takes longer than reading maps."""


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


def fuzz(name: str, inputs: int, seed: int, seconds: float) -> dict[str, Any]:
    """Give one reader so many inputs, or what it manages in so many seconds, in this process."""
    import warnings

    warnings.simplefilter("ignore")

    def stop(*_: Any) -> None:
        raise Silence

    signal.signal(signal.SIGALRM, stop)
    make, read = READERS[name]
    write, began = make(), time.monotonic()
    found: Counter[str] = Counter()
    first: dict[str, int] = {}
    before = 0
    for number in range(inputs):
        if time.monotonic() - began > seconds:
            break
        rng = random.Random(f"{seed}/{name}/{number}")
        with tempfile.TemporaryDirectory() as place:
            path = write(Path(place), rng)
            signal.alarm(SECONDS)
            outcome = judge(read, path)
            signal.alarm(0)
        found[outcome] += 1
        first.setdefault(outcome, number)
        if number == min(20, inputs - 1):  # libraries are loaded by now
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before if before else 0
    others = {k: [n, first[k]] for k, n in found.items() if k.startswith("other")}
    return {
        "reader": name,
        "inputs": sum(found.values()),
        "read": found["read"],
        "refused": found["refused"],
        "other": sum(n for n, _ in others.values()),
        "MiB": round(grown / 1024),
        "seconds": round(time.monotonic() - began),
        "others": others,
    }


def apart(name: str, *numbers: float) -> dict[str, Any]:
    """The same in a process of its own, so that a crash is seen."""
    command = [sys.executable, __file__, "--child", name, *map(str, numbers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        row = {"reader": name, "inputs": 0, "read": 0, "refused": 0, "other": 1}
        return {**row, "MiB": 0, "seconds": 0, "others": {f"exit {done.returncode}": [1, -1]}}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Fuzz all readers; exit with 1 if any input was neither read nor refused."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=4)
    asked = parser.parse_args()
    if asked.child:
        name, inputs, seed, seconds = asked.child
        print(json.dumps(fuzz(name, int(inputs), int(seed), float(seconds))))
        return
    from flows.console import show_rows

    parts = sum(SHARES[name] for name in asked.readers)
    counts = {name: -(-asked.inputs * SHARES[name] // parts) for name in asked.readers}
    rows = []
    for name, count in counts.items():
        rows.append(apart(name, count, asked.seed, 60 * asked.minutes * SHARES[name] / parts))
        sys.stderr.write(f"{rows[-1]}\n")
    header = ("reader", "inputs", "read", "refused", "other", "MiB", "seconds")
    show_rows(f"fuzz, seed {asked.seed}", header, [[row[h] for h in header] for row in rows])
    if asked.json:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
        record = {"commit": commit, "seed": asked.seed, "limits": LIMITS, "readers": rows}
        asked.json.write_text(json.dumps(record, indent=1) + "\n")
    sys.exit(1 if any(row["other"] for row in rows) else 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
