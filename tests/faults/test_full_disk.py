"""Places that cannot be written to: one clear error, nothing marked done that is not, and the same
bytes once there is room again."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors.pool import InlinePool
from flows.runs.lifecycle import make_run
from ood_core.errors import StoreUnwritable
from ood_core.store.arrays import ShardWriter
from ood_core.store.run import RunStore
from tests.contracts.pool import missing, spec_of
from tests.contracts.store import assert_equal, assert_honest, assert_kept, marks
from tests.faults.drivers import UNWRITABLE, ended, start, without_validation

PAGE = 4096


def mount(*arguments: object) -> None:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr.decode().strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A disk of so many bytes; called again, it is resized."""
    place = tmp_path / "disk"
    place.mkdir()

    def sized(size: int) -> Path:
        kind = ("-o", f"remount,size={size}") if os.path.ismount(place) else (
            "-t", "tmpfs", "-o", f"size={size}", "tmpfs"
        )  # fmt: skip
        mount(*kind, place)
        return place

    yield sized
    if os.path.ismount(place):
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def seal() -> Iterator[Callable[[Path, bool], None]]:
    """Make a folder read-only, or writable again: by a mount for root, else by permissions."""
    mounted: list[Path] = []

    def sealed(folder: Path, shut: bool) -> None:
        if os.geteuid():
            subprocess.run(["chmod", "-R", "a-w" if shut else "u+w", str(folder)], check=True)
            return
        if not mounted:
            mount("--bind", folder, folder)
            mounted.append(folder)
        mount("-o", f"remount,bind,{'ro' if shut else 'rw'}", folder)

    yield sealed
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def pages(root: Path) -> int:
    """Bytes that a run takes on a disk of its own, without its report."""
    files = [p for p in root.rglob("*") if p.is_file() and "report" not in p.parts[-2:]]
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in files)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(disk, tiny, unbroken, share):
    """The disk fills up while planning, calibrating or generating, by what share it holds."""
    out = disk(int(share * pages(unbroken))) / "run"
    with pytest.raises(StoreUnwritable) as error:
        make_run(tiny(), str(out), call=without_validation)
    assert str(error.value).startswith(f"{out} cannot be written to ([Errno 28] No space left")
    assert "run the same command again" in str(error.value)
    assert_honest(out)
    run = RunStore(out)
    assert not run.exists or run.state in ("planned", "incomplete")
    before = marks(out) if run.exists else {}
    disk(2**26)
    make_run(tiny(), str(out), call=without_validation)
    assert_kept(before, out)
    assert_equal(out, unbroken)


def test_files_that_may_not_grow_stop_the_run(ready, tiny, unbroken):
    """Needs no privilege: the limit is below the size of a shard and above that of any record."""
    shards = [p for p in unbroken.glob("dataset.zarr/maps/c/**/0") if p.is_file()]
    assert min(path.stat().st_size for path in shards) > 1500
    assert ended(start(tiny(), ready, file_bytes=1500)) == UNWRITABLE
    assert_honest(ready)
    assert len(missing(ready)) == 3
    assert list(ready.rglob("*partial*")) == []
    assert RunStore(ready).state == "incomplete"
    make_run(tiny(), str(ready), call=without_validation)
    assert_equal(ready, unbroken)


@pytest.mark.parametrize("number", ["ENOSPC", "EDQUOT", "EROFS", "EACCES"])
def test_a_place_that_refuses_is_not_tried_again_and_again(ready, monkeypatch, number):
    """A shard is not at fault; the next ones would fail as well, after they were computed."""
    calls = []

    def refuse(self, shard, rows):
        calls.append(shard.index)
        raise OSError(getattr(errno, number), "no")

    monkeypatch.setattr(ShardWriter, "write", refuse)
    with pytest.raises(StoreUnwritable):
        list(InlinePool().run(spec_of(ready), missing(ready)))
    assert calls == [0]


def test_a_read_only_run_can_be_read_and_nothing_else(
    ready, tiny, unbroken, config, farfield, seal
):
    for name in ("dataset.zarr", "statistics.zarr", "receipts"):
        shutil.copytree(unbroken / name, ready / name, dirs_exist_ok=True)
    (ready / "receipts" / "generate" / "00002.json").unlink()
    damaged = ready / "dataset.zarr" / "maps" / "c" / "1" / "0" / "0" / "0"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-7])
    before = sorted((str(p), p.stat().st_mtime_ns) for p in ready.rglob("*"))
    seal(ready, True)
    for verb in ("run", "verify"):
        arguments = (config(), "--out", ready) if verb == "run" else (ready,)
        answer = farfield(verb, *arguments)
        assert answer.code == 1
        assert f"{ready} cannot be written to" in answer.err
        assert "Traceback" not in answer.err
    assert farfield("status", ready).code == 0
    answer = farfield("inspect", ready)
    assert answer.code == 1
    assert "cannot be decoded" in answer.err
    assert sorted((str(p), p.stat().st_mtime_ns) for p in ready.rglob("*")) == before
    seal(ready, False)
    damaged.write_bytes(content)
    make_run(tiny(), str(ready), call=without_validation)
    assert_equal(ready, unbroken)
