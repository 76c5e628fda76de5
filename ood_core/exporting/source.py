"""Where exported maps come from: a stored run, or memory; both in blocks of rows.

Whoever writes a file asks a `Part` for its blocks, so that no more than a shard is in memory.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray

from ood_core.errors import InputError, RunIncomplete, ShardCorrupt
from ood_core.maps.target_set import TargetSet
from ood_core.numerics.random import Root
from ood_core.store.arrays import Column, rows_digest
from ood_core.store.plan import Shard
from ood_core.store.run import RunStore
from ood_core.store.schema import MAP_AXES
from ood_core.store.targets import load_targets

MAPS = "maps"
SAMPLE = "sample"
BLOCK_BYTES = 2**25
NOTE_ROWS = 2**16
"""Rows of small columns that are read at once."""

Rows = dict[str, NDArray[Any]]


@final
@dataclass(frozen=True, slots=True)
class About:
    """What holds for all maps of an export.

    Attributes:
        run: identity of the run; of maps in memory, `memory` with the digest of their content.
        name: name of the run.
        state: state of the run, the outcome of its gate if it has one.
        seed: seed of the run; None where nobody knows it.
        unit: physical unit of the maps, '' when the targets state none.
        header: FITS header cards of the targets as text, as in `MapSet`.
        target_names: names of the targets; the column `parents` has numbers of them.
        columns: all columns, `sample` first and `maps` last.
        left_out: numbers of the samples that are copies of targets and no part of the export.
        masked: whether pixels are NaN where a target, drawn at random for each map, lacks them.
    """

    run: str
    name: str
    state: str
    seed: int | None
    unit: str
    header: str
    target_names: tuple[str, ...]
    columns: tuple[Column, ...]
    left_out: tuple[int, ...] = ()
    masked: bool = False

    @property
    def identity(self) -> str:
        """Identity of the run; '' for maps in memory."""
        return "" if self.run.startswith("memory") else self.run

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, rows and columns of a map."""
        return self.columns[-1].shape

    @property
    def row_bytes(self) -> int:
        """Bytes of a map as float32."""
        return 4 * int(np.prod(self.shape, dtype=np.int64))

    @property
    def notes(self) -> tuple[Column, ...]:
        """All columns but the maps."""
        return self.columns[:-1]

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of every file: where its maps come from."""
        return {
            "synthetic": "true: these maps were made by a generative model, nobody observed them",
            "software": software(),
            "run": self.run,
            "name": self.name,
            "state": self.state,
            "seed": -1 if self.seed is None else self.seed,
            "unit": self.unit,
            **({"mask": "NaN where a target, drawn for each map, lacks it"} if self.masked else {}),
        }


class Source(Protocol):
    """Maps that can be read in blocks, any number of times."""

    @property
    def about(self) -> About:
        """What holds for all of them."""
        ...

    @property
    def block_rows(self) -> int:
        """Rows that are read at once; files are cut at multiples of it."""
        ...

    def __len__(self) -> int:
        """Number of maps."""
        ...

    def blocks(self, start: int, stop: int) -> Iterator[Rows]:
        """All columns of rows `start` to `stop`, in blocks, in order."""
        ...

    def note(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows of one small column."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one file.

    Attributes:
        source: where they come from.
        start: first row.
        stop: row after the last one.
        progress: called with a number of rows each time that so many more are written.
    """

    source: Source
    start: int
    stop: int
    progress: Callable[[int], None] = lambda rows: None

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def about(self) -> About:
        """What holds for all maps."""
        return self.source.about

    def blocks(self) -> Iterator[Rows]:
        """All columns of the rows, in blocks."""
        for rows in self.source.blocks(self.start, self.stop):
            yield rows
            self.progress(len(rows[SAMPLE]))

    def notes(self) -> Iterator[Rows]:
        """All columns but the maps, in blocks."""
        for start in range(self.start, self.stop, NOTE_ROWS):
            stop = min(start + NOTE_ROWS, self.stop)
            yield {c.name: self.source.note(c.name, start, stop) for c in self.about.notes}

    def note(self, name: str) -> Iterator[NDArray[Any]]:
        """One small column, in blocks."""
        for start in range(self.start, self.stop, NOTE_ROWS):
            yield self.source.note(name, start, min(start + NOTE_ROWS, self.stop))


@final
@dataclass(frozen=True)
class RunSource:
    """The first `rows` samples of a run, shard by shard, each compared with its receipt.

    Copies of targets that validation found are left out; the column `sample` keeps its numbers.
    With `mask`, each map gets the missing pixels of a fit target: which, depends on the run's
    identity and the number of the sample alone.
    """

    run: RunStore
    state: str
    rows: int
    mask: bool = False
    _last: list[tuple[int, Rows]] = field(default_factory=list)

    @cached_property
    def kept(self) -> NDArray[np.int64]:
        """Numbers of the samples."""
        return np.setdiff1d(np.arange(self.rows), self.run.left_out)

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def block_rows(self) -> int:
        """Rows of a shard."""
        return self.run.plan("generate").shard_rows

    @cached_property
    def about(self) -> About:
        """What `run.json` and the tables say."""
        record, words = self.run.record, self.run.targets.attributes
        columns = [_column(name, array) for name, array in self.run.table("generate").arrays()]
        return About(
            run=str(record["identity"]),
            name=str(record["name"]),
            state=self.state,
            seed=int(record["identity_record"]["generation"]["seed"]),
            unit=str(words["unit"]),
            header=str(words["header"]),
            target_names=tuple(words["ids"]),
            columns=tuple(sorted(columns, key=lambda c: (c.name == MAPS, c.name != SAMPLE))),
            left_out=tuple(number for number in self.run.left_out if number < self.rows),
            masked=self.mask,
        )

    def blocks(self, start: int, stop: int) -> Iterator[Rows]:
        """All columns, a shard at a time.

        Raises:
            ShardCorrupt: a shard that is not what its receipt vouches for.
            RunIncomplete: a shard without a receipt.
        """
        size, numbers = self.block_rows, self.kept[start:stop]
        for index in np.unique(numbers // size).tolist():
            rows, within = self._shard(index), numbers[numbers // size == index] - index * size
            yield {name: values[within] for name, values in rows.items()}

    def note(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows of one small column."""
        numbers = self.kept[start:stop]
        span = slice(int(numbers[0]), int(numbers[-1]) + 1)
        return self.run.table("generate").read(name, span)[numbers - span.start]

    def _shard(self, index: int) -> Rows:
        if self._last and self._last[0][0] == index:  # files may be cut within a shard
            return self._last[0][1]
        shard = self.run.plan("generate")[index]
        rows = self._checked(shard)
        if self.mask:
            root, masks = Root.of(self.about.run).child("mask"), self.masks
            drawn = [int(root.generator(int(i)).integers(len(masks))) for i in rows[SAMPLE]]
            rows = {**rows, MAPS: np.where(masks[drawn], np.float32(np.nan), rows[MAPS])}
        self._last[:] = [(index, rows)]
        return rows

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """Missing pixels of the fit targets."""
        targets = load_targets(self.run)
        if targets.missing is None:
            raise InputError(
                f"{self.run.root}: got targets without missing pixels; expected some to draw masks "
                "from; leave --mask out"
            )
        return targets.missing[: targets.fit_count]

    def _checked(self, shard: Shard) -> Rows:
        receipt = self.run.ledger("generate").read(shard)
        if receipt is None:
            raise RunIncomplete(
                f"{self.run.root}: shard {shard.index} lost its receipt; finish the run with "
                "`farfield run` first"
            )
        rows = self.run.table("generate").rows(receipt.start, receipt.stop)
        if rows_digest(rows) != receipt.digest:
            raise ShardCorrupt(
                f"{self.run.root}: samples {shard.start} to {shard.stop - 1} are not what their "
                "receipt vouches for; run `farfield verify`, then `farfield run` to renew them"
            )
        return {name: values[: len(shard)] for name, values in rows.items()}


def _column(name: str, array: Any) -> Column:
    words = dict(array.attrs)
    return Column(
        name=name,
        axes=tuple(str(axis) for axis in array.metadata.dimension_names[1:]),
        shape=tuple(array.shape[1:]),
        dtype=str(array.dtype),
        long_name=str(words.get("long_name", name)),
        units=str(words.get("units", "1")),
    )


@final
@dataclass(frozen=True)
class MemorySource:
    """Maps in memory, with any small columns: one row per map."""

    about: About
    columns: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, maps: Any, targets: TargetSet | None, name: str = "maps") -> "MemorySource":
        """Take maps in the unit of the targets that they were made from.

        Raises:
            InputError: no maps of shape (n, c, y, x) or (n, y, x), of other channels than the
                targets, or smaller.
        """
        values = np.asarray(maps)
        values = values[:, None] if values.ndim == 3 else values
        if values.ndim != 4 or not values.size or values.dtype.kind not in "iuf":
            raise InputError(
                f"got an array of shape {values.shape} and type {values.dtype}; expected maps, "
                "real numbers of shape (n, c, y, x) or (n, y, x)"
            )
        if targets is not None and not _may_be_of(values.shape[1:], targets.shape):
            raise InputError(
                f"got maps of shape {values.shape[1:]} (channels, y, x); expected "
                f"{targets.shape} as the targets have, or a field of the same channels and no "
                "fewer pixels; give the targets that they were made from"
            )
        unit = "" if targets is None else targets.unit
        rows = {SAMPLE: np.arange(len(values), dtype=np.int64), MAPS: values.astype("f4")}
        about = About(
            run=f"memory {rows_digest(rows)}",
            name=name,
            state="in memory",
            seed=None,
            unit=unit,
            header="" if targets is None else targets.header,
            target_names=() if targets is None else targets.ids,
            columns=(
                Column(SAMPLE, (), (), "int64", "number of the sample"),
                Column(MAPS, MAP_AXES, values.shape[1:], "float32", "synthetic map", unit or "1"),
            ),
        )
        return cls(about, rows)

    def __len__(self) -> int:
        return len(self.columns[SAMPLE])

    @property
    def block_rows(self) -> int:
        """Rows of some 32 MiB."""
        return max(1, BLOCK_BYTES // self.about.row_bytes)

    def blocks(self, start: int, stop: int) -> Iterator[Rows]:
        """All columns, in blocks."""
        for first in range(start, stop, self.block_rows):
            cut = slice(first, min(first + self.block_rows, stop))
            yield {name: values[cut] for name, values in self.columns.items()}

    def note(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows of one small column."""
        return self.columns[name][start:stop]


def software() -> str:
    """Name and version of this program."""
    try:
        return f"Farfield {version('farfield')}"
    except PackageNotFoundError:  # from a folder that was never installed
        return "Farfield"


def gathered(blocks: Sequence[Rows]) -> Rows:
    """Blocks that follow one another, as one."""
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _may_be_of(shape: tuple[int, ...], targets: tuple[int, ...]) -> bool:
    """Whether maps, or fields that are larger, can be made from targets (channels, y, x)."""
    return shape[0] == targets[0] and all(a >= b for a, b in zip(shape, targets, strict=True))
