"""Each attack is one clear error: in bounded memory, with no code run and nothing written."""

import contextlib
import gzip
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import torch
import zarr
from astropy.io import fits

from flows.settings import PROJECT
from ood_core.errors import BaseModelError
from ood_core.limits import USUAL, Limits
from ood_core.maps.fits import read_fits
from ood_core.maps.readers import read_maps
from ood_core.models.checkpoints import read_checkpoint
from tests.hostile import attacks, base_attacks, zarr_attacks
from tests.hostile.attack_parts import MAPS
from tests.hostile.attacks import TARGETS
from tests.hostile.base_attacks import BASES

ALL: dict[Callable[[Path], Path], str] = TARGETS | BASES
ROOM = 2**28
"""Bytes that one refusal may take: several times the limits of the victim (16 MiB of maps, 8 MiB
of headers, whose parsed cards take ten times their size), and a quarter of what attacks ask for."""


def contents(place: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder, with size and time."""
    found = {}
    for folder, folders, files in os.walk(place):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(folder, name))
            found[os.path.join(folder, name)] = (status.st_size, status.st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str, int]]:
    """What became of all attacks; the process that reads them works in a folder of its own."""
    places, own = tmp_path_factory.mktemp("attacks"), tmp_path_factory.mktemp("own")
    lines = []
    for attack in ALL:
        (place := places / attack.__name__).mkdir()
        lines.append(json.dumps([attack.__name__, str(attack(place))]))
    before = contents(places)
    (own / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.victim", str(own)],
        input="\n".join(lines),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "TMPDIR": str(own / "tmp")},
    )
    assert done.returncode == 0, f"the reader died:\n{done.stdout}"
    assert contents(places) == before
    assert not list((own / "tmp").iterdir())
    rows = map(json.loads, done.stdout.splitlines())
    return {name: (kind, words, grown) for name, kind, words, grown in rows}


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.__name__)
def test_an_attack_is_one_clear_error(
    outcomes: dict[str, tuple[str, str, int]], attack: Callable[[Path], Path]
) -> None:
    kind, words, grown = outcomes[attack.__name__]
    assert kind == ("BaseModelError" if attack in BASES else "TargetError"), words
    assert re.search(ALL[attack], words), words
    assert "expected" in words or "fetch it again" in words
    assert len(words) < 3000
    assert grown < ROOM


def sprung(place: Path, read: Callable[[], Any]) -> bool:
    """Whether reading something runs the code in it."""
    assert not (place / "sprung").exists()
    with contextlib.suppress(Exception):
        read()
    return (place / "sprung").exists()


def test_the_traps_are_real(tmp_path: Path) -> None:
    """Readers that trust their input run what these files hold."""
    for attack in (attacks.npy_pickle, base_attacks.base_trap):
        (place := tmp_path / attack.__name__).mkdir()
        path = attack(place)
        if attack is attacks.npy_pickle:
            assert sprung(place, lambda path=path: np.load(path, allow_pickle=True))
        else:
            (file,) = path.rglob("*.bin")
            assert sprung(place, lambda file=file: torch.load(file, weights_only=False))


def test_links_do_lead_outside_where_they_are_followed(tmp_path: Path) -> None:
    group = zarr.open_group(str(zarr_attacks.zarr_link(tmp_path)), mode="r")
    np.testing.assert_array_equal(group["maps"][:], MAPS)


def test_bombs_do_unpack_where_they_are_let(tmp_path: Path) -> None:
    packed = zarr_attacks.chunk(zarr_attacks.zarr_zstd(tmp_path)).read_bytes()
    assert len(packed) < 2**16
    assert len(numcodecs.Zstd().decode(packed)) > 2**26


def test_a_pickle_of_lists_within_lists_ends(tmp_path: Path) -> None:
    """Five levels of a thousand references each are 10^15 paths and one megabyte."""
    lists: Any = [1]
    for _ in range(4):
        lists = [lists] * 1000
    torch.save(lists, tmp_path / "lists.pt")
    assert len(pickle.dumps(lists)) < 2**20
    with pytest.raises(BaseModelError, match="no tensors with names"):
        read_checkpoint(tmp_path / "lists.pt")


@pytest.mark.parametrize("name", ["m.fits", "m.fits.gz"])
def test_what_is_within_the_limits_is_read(tmp_path: Path, name: str) -> None:
    """The same files with honest sizes: the limits refuse what is beyond them and nothing else."""
    content = attacks.fits_bytes(fits.PrimaryHDU(MAPS))
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    exact = Limits(max_bytes=MAPS.nbytes, max_maps=4, max_header_bytes=2880 + 2880)
    np.testing.assert_array_equal(read_fits(str(path), None, exact).values[:, 0], MAPS)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("packing", ["zstd", "gzip", "blosc", "lz4", "zlib", None])
@pytest.mark.parametrize("shards", [None, (4, 8, 8)])
def test_every_packing_is_read(
    tmp_path: Path, version: int, packing: str | None, shards: tuple[int, ...] | None
) -> None:
    third: dict[str, Any] = {
        "zstd": zarr.codecs.ZstdCodec(), "gzip": zarr.codecs.GzipCodec(),
        "blosc": zarr.codecs.BloscCodec(),
    }  # fmt: skip
    second = {"lz4": numcodecs.LZ4(), "zlib": numcodecs.Zlib(), "gzip": numcodecs.GZip()}
    second |= {"zstd": numcodecs.Zstd(), "blosc": numcodecs.Blosc()}
    known = second if version == 2 else third
    if (packing is not None and packing not in known) or (version == 2 and shards):
        pytest.skip("not of this format")
    group = zarr.create_group(str(tmp_path / "t.zarr"), zarr_format=version)
    more = {"shards": shards} if shards else {}
    codec = known[packing] if packing else None
    group.create_array("maps", data=MAPS, chunks=(3 if not shards else 2, 8, 4),
                       compressors=codec, **more)  # fmt: skip
    found = read_maps(str(tmp_path / "t.zarr"), None, USUAL)
    np.testing.assert_array_equal(found.values[:, 0], MAPS)
