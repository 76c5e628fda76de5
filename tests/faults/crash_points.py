"""Every moment at which a process can die: the disk as it is before each operation that changes it.

The interpreter tells an audit hook of every opening, renaming, linking and removing, whoever asks
for it: this project, Zarr or the standard library. A process that is killed leaves the disk as it
is at that moment, so the folder is copied before each of them. What a file holds between its
opening and the next operation is a beginning of what it will hold: such a file is also left empty
and cut to half. A hook cannot be taken back, hence the process of its own.
"""

import json
import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from threading import Lock, local
from typing import Any

from flows.runs.lifecycle import make_run
from flows.runs.stages import perform
from flows.settings import RunSettings
from ood_core.store.files import PARTIAL
from ood_core.store.run import RunStore
from tests.contracts.store import assert_equal, assert_honest, assert_kept, marks
from tests.faults.drivers import CONTEXT, ended, without_validation

CHANGES = ("os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
RANDOM = re.compile(r"\.[0-9a-f]{32}")

Tree = dict[str, bytes | None]
"""Content of each file by its path, None for a folder."""


@dataclass(frozen=True)
class Moment:
    """The disk before an operation on some paths, and the stage of the run.

    `held` are files whose bytes the system may still hold back.
    """

    stage: str
    operation: str
    paths: tuple[str, ...]
    tree: Tree = field(repr=False)
    held: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def powerless(self) -> "Moment":
        """The disk after a power cut: names are there, bytes that were not flushed are not."""
        tree = {name: b"" if name in self.held else content for name, content in self.tree.items()}
        return replace(self, tree=tree)

    @property
    def lasting(self) -> frozenset[tuple[str, bytes | None]]:
        """What stays when litter is swept: moments that share it must end alike."""
        kept = {name: content for name, content in self.tree.items() if PARTIAL not in name}
        return frozenset(kept.items())

    @property
    def all(self) -> frozenset[tuple[str, bytes | None]]:
        """Everything, with the random parts of names left out."""
        return frozenset((RANDOM.sub("", name), content) for name, content in self.tree.items())


def record(root: Path, act: Callable[..., None], *arguments: Any) -> list[Moment]:
    """Do `act(root, say, *arguments)` in a process of its own; return all moments and the end.

    `act` calls `say` with the name of every stage that it begins.
    """
    answer = root.parent / f"{root.name}.moments"
    process = CONTEXT.Process(target=_recorded, args=(root, answer, act, arguments))
    process.start()
    assert ended(process) == 0
    seen = pickle.loads(answer.read_bytes())
    answer.unlink()
    return seen


def with_torn(moments: list[Moment]) -> list[Moment]:
    """Add the moments at which a file that was just opened holds nothing or half of its bytes."""
    opened, found = set(), moments[:1]
    for before, after in pairwise(moments):
        opened |= set(before.paths) if before.operation == "open" else set()
        for name in opened & after.tree.keys():
            content = after.tree[name]
            if not content or content == before.tree.get(name):
                continue
            for part in (b"", content[: len(content) // 2]):
                tree = {**after.tree, name: part}
                found.append(
                    replace(after, operation=f"torn at {len(part)} bytes", paths=(name,), tree=tree)
                )
        found.append(after)
    return found


def distinct(moments: Iterable[Moment], key: str) -> list[Moment]:
    """One moment of those that share a key: the one with the most litter."""
    chosen: dict[Any, Moment] = {}
    for moment in moments:
        same = getattr(moment, key)
        if same not in chosen or len(chosen[same].tree) < len(moment.tree):
            chosen[same] = moment
    return list(chosen.values())


def lay_out(tree: Tree, root: Path) -> Path:
    """Write a tree to disk."""
    root.mkdir()
    for name, content in sorted(tree.items()):
        path = root / name
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return root


def drive(root: Path, say: Callable[[str], None], settings: RunSettings) -> None:
    """The whole run, as an act to record."""

    def call(name: str, stage: Any, run: Any, asked: RunSettings) -> str:
        say(name)
        return perform(name, stage, run, asked)

    make_run(settings, str(root), call)


def resume(root: Path, settings: RunSettings, validate: bool) -> None:
    """The same command again; a torn lease is waited for in beats, which are short here."""
    make_run(settings, str(root), perform if validate else without_validation, beat=0.05)


def once(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """Score every set of samples once: scores are a function of what is stored."""
    known: dict[bytes, Any] = {}

    def evaluated(
        extractor: Any, blocks: Iterable[Mapping[str, Any]], *rest: Any, **named: Any
    ) -> Any:
        held = list(blocks)
        key = b"".join(values.numpy().tobytes() for rows in held for values in rows.values())
        if key not in known:
            known[key] = evaluate(extractor, iter(held), *rest, **named)
        return known[key]

    return evaluated


def survive(moment: Moment, root: Path, go_on: Callable[[Path], None], clean: Path) -> None:
    """Die at a moment, go on, and end with the unbroken run."""
    lay_out(moment.tree, root)
    assert_honest(root)
    before, existed = marks(root), RunStore(root).exists
    go_on(root)
    if existed:
        assert_kept(before, root)
    assert_equal(root, clean)
    if moment.stage == "validate":
        assert shown(root) == shown(clean)
    (lease,) = (root / "lease").iterdir()
    assert lease.suffix == ".free"
    shutil.rmtree(root)


def shown(root: Path) -> dict[str, Any]:
    """What a report says, but for seconds and dates."""
    report = json.loads((root / "report" / "report.json").read_text())
    del report["timings"]
    gate = (root / "gate.json").read_bytes()
    same = {path.name: path.read_bytes() for path in root.glob("report/*.[cp][sn][vg]")}
    rest = sorted(str(p.relative_to(root)) for p in (*root.glob("report/*"), *root.glob("*.[jm]*")))
    return {**same, "report": report, "gate": gate, "files": rest}


def torn_lease(moment: Moment) -> bool:
    """Whether somebody died while taking the lease; the next one waits for a sign of life."""
    return moment.operation.startswith("torn") and moment.paths[0].startswith("lease/")


def unexplained(moments: list[Moment]) -> set[str]:
    """Paths that were there at some moment and that no operation names: the hook missed one.

    What lies in a folder that was renamed came with it.
    """
    named = {name for moment in moments for name in moment.paths} | {"."}
    moved = {moment.paths[-1] for moment in moments if moment.operation == "os.rename"}
    paths = {Path(name) for moment in moments for name in moment.tree}
    return {
        str(path)
        for path in paths
        if str(path) not in named and moved.isdisjoint(map(str, path.parents))
    }


class _Recorder:
    """The hook, with what it has seen."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.stage = "planning"
        self.moments: list[Moment] = []
        self.known: dict[tuple[int, int, int], bytes] = {}
        old = [path.stat() for path in root.rglob("*")]
        self.flushed = {found.st_ino: (found.st_mtime_ns, found.st_size) for found in old}
        self.one_by_one, self.here = Lock(), local()
        self.flush, os.fsync = os.fsync, self.fsync  # the one operation that no hook is told of

    def fsync(self, number: int) -> None:
        """Flush, and remember what was there to flush."""
        self.flush(number)
        now = os.fstat(number)
        self.flushed[now.st_ino] = (now.st_mtime_ns, now.st_size)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if getattr(self.here, "busy", False) or not _changes(event, arguments):
            return
        paths = tuple(name for path in _paths(event, arguments) if (name := self._inside(path)))
        if not paths:
            return
        self.here.busy = True
        try:
            with self.one_by_one:
                self.see(event, paths)
        finally:
            self.here.busy = False

    def see(self, event: str, paths: tuple[str, ...] = ()) -> None:
        self.moments.append(Moment(self.stage, event, paths, *self._tree()))

    def _inside(self, path: str) -> str:
        return os.path.relpath(path, self.root) if path.startswith(self.root) else ""

    def _tree(self) -> tuple[Tree, frozenset[str]]:
        found: Tree = {}
        held = []
        for folder, _, files in os.walk(self.root):
            found[os.path.relpath(folder, self.root)] = None
            for name in files:
                path = os.path.join(folder, name)
                with suppress(FileNotFoundError):  # another thread has just taken it away
                    content, safe = self._content(path)
                    found[short := os.path.relpath(path, self.root)] = content
                    held += [] if safe else [short]
        return found, frozenset(held)

    def _content(self, path: str) -> tuple[bytes, bool]:
        """Bytes of a file, and whether they are flushed."""
        now = os.stat(path)
        state = (now.st_mtime_ns, now.st_size)
        key = (now.st_ino, *state)
        if key not in self.known or not now.st_size:
            self.known[key] = Path(path).read_bytes()
        return self.known[key], self.flushed.get(now.st_ino) == state


def _changes(event: str, arguments: tuple[Any, ...]) -> bool:
    return event in CHANGES or (event == "open" and bool((arguments[2] or 0) & WRITING))


def _paths(event: str, arguments: tuple[Any, ...]) -> list[str]:
    """The absolute paths that an operation is about; some are relative to an open folder."""
    match event, arguments:
        case ("os.rename" | "os.link", (one, other, at, to)):
            return [_absolute(one, at), _absolute(other, to)]
        case ("os.mkdir", (path, _, at)) | ("os.remove" | "os.rmdir", (path, at)):
            return [_absolute(path, at)]
        case ("os.symlink", (_, path, at)):
            return [_absolute(path, at)]
        case _:
            return [_absolute(arguments[0], -1)]


def _absolute(path: Any, folder: int) -> str:
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    beside = os.getcwd() if folder == -1 else os.readlink(f"/proc/self/fd/{folder}")
    return os.path.join(beside, os.fsdecode(path))


def _recorded(root: Path, answer: Path, act: Callable[..., None], arguments: Any) -> None:
    recorder = _Recorder(root)
    sys.addaudithook(recorder)

    def say(stage: str) -> None:
        recorder.stage = stage

    act(root, say, *arguments)
    recorder.see("end")
    answer.write_bytes(pickle.dumps(recorder.moments))
