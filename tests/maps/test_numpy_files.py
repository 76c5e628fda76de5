"""NumPy files: what they hold comes back, what cannot be used is refused before it is loaded."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ood_core.errors import TargetError
from ood_core.limits import Limits
from ood_core.maps.numpy_files import read_npy, read_npz

LIMIT = Limits(max_bytes=2**20)
MAPS = np.random.default_rng(0).normal(size=(3, 2, 4, 5))


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">i2", "u1", "?", "f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_round_trip(tmp_path: Path, dtype: str, order: Any) -> None:
    values = np.asarray(MAPS * 50).astype(dtype, order=order)
    np.save(tmp_path / "maps.npy", values)
    maps = read_npy(str(tmp_path / "maps.npy"), None, LIMIT)
    np.testing.assert_array_equal(maps.values, values.astype(np.float32))
    assert maps.ids == ("maps:0", "maps:1", "maps:2")
    assert (maps.unit, maps.header, maps.source) == ("", "", str(tmp_path / "maps.npy"))


@pytest.mark.parametrize(("cut", "shape"), [((0, 0), (1, 1, 4, 5)), ((0,), (2, 1, 4, 5))])
def test_npy_axes(tmp_path: Path, cut: tuple[int, ...], shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "m.npy", MAPS[cut])
    maps = read_npy(str(tmp_path / "m.npy"), None, LIMIT)
    np.testing.assert_array_equal(maps.values, MAPS[cut].reshape(shape).astype(np.float32))


def test_a_npy_file_has_no_array_of_a_name(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", MAPS)
    with pytest.raises(TargetError, match=r"m\.npy: got the name 'mask'.*expected none.*savez"):
        read_npy(str(tmp_path / "m.npy"), "mask", LIMIT)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_members(tmp_path: Path, save: Callable[..., None]) -> None:
    path = str(tmp_path / "m.npz")
    save(path, maps=MAPS, masks=MAPS > 0)
    np.testing.assert_array_equal(read_npz(path, "maps", LIMIT).values, MAPS.astype(np.float32))
    np.testing.assert_array_equal(read_npz(path, "masks", LIMIT).values, MAPS > 0)
    np.testing.assert_array_equal(read_npz(path, None, LIMIT).values, MAPS.astype(np.float32))
    with pytest.raises(TargetError, match=r"m\.npz.*maps, masks.*= other"):
        read_npz(path, "other", LIMIT)
    np.savez(tmp_path / "m.npz", images=MAPS, masks=MAPS > 0)
    with pytest.raises(TargetError, match=r"m\.npz.*images, masks.*targets\.array"):
        read_npz(path, None, LIMIT)


def test_npz_single_member_needs_no_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", anything=MAPS)
    maps = read_npz(str(tmp_path / "m.npz"), None, LIMIT)
    np.testing.assert_array_equal(maps.values, MAPS.astype(np.float32))


def npy_bytes(values: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, **options)
    return stream.getvalue()


def declaring(shape: str) -> bytes:
    """A valid header of that shape and 64 bytes of data."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(64)


BAD_NPY = {
    "empty": (b"", "cannot be read.*save it again"),
    "not numpy": (b"SIMPLE  = T", "cannot be read.*save it again"),
    "truncated data": (npy_bytes(MAPS)[:-8], "truncated.*again"),
    "truncated header": (npy_bytes(MAPS)[:40], "cannot be read.*save it again"),
    "pickle": (npy_bytes(np.array([{}]), allow_pickle=True), "type object.*astype"),
    "text": (npy_bytes(np.array([["a"]])), "type <U1.*astype"),
    "complex": (npy_bytes(MAPS * 1j), "complex.*real part, its modulus"),
    "one axis": (npy_bytes(MAPS.ravel()), "shape .*targets.axes"),
    "five axes": (npy_bytes(np.stack([MAPS, MAPS])), "shape .*targets.axes"),
    "no pixels": (npy_bytes(MAPS[:0]), "shape .*targets.axes"),
    "huge": (declaring("(1000000000, 64, 64)"), "max_bytes"),
    "beyond 64 bits": (declaring("(4294967296, 4294967296, 4)"), "max_bytes"),
    "more than there is": (declaring("(5, 4, 4)"), "truncated.*again"),
}


@pytest.mark.parametrize("name", BAD_NPY)
def test_bad_npy(tmp_path: Path, name: str) -> None:
    content, words = BAD_NPY[name]
    (tmp_path / "bad.npy").write_bytes(content)
    with pytest.raises(TargetError, match=rf"bad\.npy.*: got .*{words}"):
        read_npy(str(tmp_path / "bad.npy"), None, LIMIT)
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        archive.writestr("maps.npy", content)
    with pytest.raises(TargetError, match=rf"bad\.npz.*: got .*{words}"):
        read_npz(str(tmp_path / "bad.npz"), None, LIMIT)


@pytest.mark.parametrize("read", [read_npy, read_npz])
def test_missing_file(tmp_path: Path, read: Callable[[str, None, Limits], object]) -> None:
    with pytest.raises(TargetError, match="absent.*check the path"):
        read(str(tmp_path / "absent"), None, LIMIT)


def test_zip_bomb_is_refused_by_its_declared_size(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, maps=np.zeros((64, 64, 64), np.float32))
    assert path.stat().st_size < 4096
    with pytest.raises(TargetError, match=r"bomb\.npz.*1048576 bytes.*at most 1048575"):
        read_npz(str(path), None, Limits(max_bytes=2**20 - 1))
    assert read_npz(str(path), None, Limits(max_bytes=2**20)).values.shape == (64, 1, 64, 64)


@pytest.mark.parametrize("keep", [0, 10, 200, -30])
def test_truncated_npz(tmp_path: Path, keep: int) -> None:
    np.savez(tmp_path / "m.npz", maps=MAPS)
    content = (tmp_path / "m.npz").read_bytes()
    (tmp_path / "bad.npz").write_bytes(content[:keep])
    with pytest.raises(TargetError, match=r"bad\.npz.*cannot be read.*save it again"):
        read_npz(str(tmp_path / "bad.npz"), None, LIMIT)


def test_damaged_npz_is_found_by_its_checksum(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", maps=MAPS)
    content = bytearray((tmp_path / "m.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(TargetError, match=r"bad\.npz.*CRC"):
        read_npz(str(tmp_path / "bad.npz"), None, LIMIT)


def test_npz_without_arrays(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(TargetError, match=r"m\.npz.*arrays \[none\]"):
        read_npz(str(tmp_path / "m.npz"), None, LIMIT)
