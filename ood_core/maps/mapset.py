"""Sets of maps in physical units, with the metadata that came with them.

A `MapSet` is what every reader returns: maps on a common pixel grid, one name per map, one unit,
and the header of the file, kept as text so that no card is lost. A `TargetSet` is made of one.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from ood_core.errors import TargetError

HEADER_END = "END"
"""Line between two header blocks of one text (a primary header and its extensions)."""

MAX_UNIT_LENGTH = 200
MAX_ID_LENGTH = 1000
CF_NAMES = ("coordinates", "bounds", "ancillary_variables")
"""Attributes by which an array names others that go with it, in the CF conventions."""
_MAX_CHANNELS = 8  # a last axis that short, after longer ones, looks like channels
_NAMED = 5  # ids spelled out in a message; the rest are counted


@contextmanager
def reading(path: str, kind: str, extra: str = "") -> Iterator[None]:
    """Turn a missing package, and whatever a damaged file makes its reader raise, into an error.

    Args:
        path: the file, for messages.
        kind: what it is read as, such as HDF5.
        extra: extra of this package that installs the reader.

    Raises:
        TargetError: the package is missing, or the file cannot be read.
    """
    try:
        yield
    except TargetError:
        raise
    except ImportError as error:
        article = "an" if kind[0] in "AH" else "a"
        raise TargetError(
            f"{path}: got {article} {kind} file; expected the package {error.name} to read it; "
            f"install it with pip install 'farfield[{extra}]', or save the maps with numpy.save"
        ) from error
    except Exception as error:  # parsers, decoders and decompressors raise anything
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        raise TargetError(
            f"{path}: got a file that cannot be read as {kind} ({reason}); expected a complete "
            "file; check the path, or copy or download the file again"
        ) from error


@final
@dataclass(frozen=True, slots=True, eq=False)
class MapSet:
    """Maps of one kind, in physical units.

    Attributes:
        values: float32, contiguous, shape (n, c, y, x), in `unit`. Any real numeric array of that
            shape is accepted and converted; values beyond float32 become infinite, and `check`
            refuses them.
        ids: one name per map, all different.
        unit: FITS BUNIT, '' when the file states none.
        header: FITS header cards as text, one card per line, comments and history included; blocks
            of several headers are separated by a line `END`. '' when there is no header.
        source: the file (or files) that the maps came from, for messages; not part of the digest.
        notes: what the reader noticed and the user should know.
        files: number of files that the maps came from, in order.
        places: where each map lies: number of the file, first row and first column, shape (n, 3);
            None where that is not known. Not part of the digest.
    """

    values: npt.NDArray[Any]
    ids: tuple[str, ...]
    unit: str
    header: str
    source: str
    notes: tuple[str, ...] = ()
    files: int = 1
    places: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 4 or self.values.dtype.kind not in "biuf":
            raise TargetError(
                f"{self.source}: got an array of shape {self.values.shape} and type "
                f"{self.values.dtype}; expected real numbers of shape (n, c, y, x)"
            )
        if len(self.ids) != len(self.values):
            raise TargetError(
                f"{self.source}: got {len(self.ids)} ids for {len(self.values)} maps; "
                "expected one id per map"
            )
        twice = [name for name, count in Counter(self.ids).items() if count > 1]
        if twice:
            raise TargetError(
                f"{self.source}: got the map id {listing(twice)} more than once; expected "
                "different ids; rename the maps or give each file once"
            )
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(self.values, dtype=np.float32)
        object.__setattr__(self, "values", values)

    def __len__(self) -> int:
        """Number of maps."""
        return len(self.ids)

    def digest(self) -> str:
        """SHA-256 of shape, values, unit, ids and header, as 64 hexadecimal digits.

        The path of the file does not enter: a moved file keeps its digest.
        """
        metadata = {
            "shape": self.values.shape,
            "unit": self.unit,
            "ids": self.ids,
            "header": self.header,
        }
        record = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
        record.update(self.values.astype("<f4", copy=False).tobytes())
        return record.hexdigest()


def as_stack(values: npt.NDArray[Any], source: str, axes: str | None = None) -> npt.NDArray[Any]:
    """Return an array of maps with the four axes (n, c, y, x).

    Args:
        values: array as it lies in the file.
        source: file, and part of it, to name in the message.
        axes: what each axis is: `n` maps, `c` channels, `y`, `x`, or `1` for one of length 1 that
            is dropped, such as `nyxc`. None means (y, x), (n, y, x) or (n, c, y, x), after leading
            axes of length 1 where there are more than four.

    Raises:
        TargetError: other axes than these, none of a pixel, or some that look like others.
    """
    if axes is not None:
        return _arranged(values, source, axes)
    shape = values.shape
    while values.ndim > 4 and values.shape[0] == 1:
        values = values[0]
    if values.ndim not in (2, 3, 4) or values.size == 0:
        raise TargetError(
            f"{source}: got an array of shape {shape}; expected one map (y, x), maps "
            "(n, y, x) or maps with channels (n, c, y, x), none of them empty; say what the axes "
            "are with targets.axes (1 drops one of length 1), or name another array with `array`"
        )
    _require_usual_axes(values.shape, shape, source)
    if values.ndim == 4:
        return values
    return values[None, None] if values.ndim == 2 else values[:, None]


def _arranged(values: npt.NDArray[Any], source: str, axes: str) -> npt.NDArray[Any]:
    dropped = tuple(place for place, axis in enumerate(axes) if axis == "1")
    odd = [place for place in dropped if place < values.ndim and values.shape[place] != 1]
    if values.ndim != len(axes) or odd or values.size == 0:
        raise TargetError(
            f"{source}: got an array of shape {values.shape} and axes: {axes}; expected one letter "
            "for each axis, 1 for those of length 1 alone; correct targets.axes"
        )
    kept = axes.replace("1", "")
    missing = tuple(place for place, axis in enumerate("ncyx") if axis not in kept)
    order = [kept.index(axis) for axis in "ncyx" if axis in kept]
    return np.expand_dims(np.squeeze(values, dropped).transpose(order), missing)


def _require_usual_axes(kept: tuple[int, ...], shape: tuple[int, ...], source: str) -> None:
    """Ask where the shape looks as if its axes were others: nobody should guess them."""
    extra = "1" * (len(shape) - len(kept))
    choices = ""
    if len(kept) > 2 and kept[-1] <= _MAX_CHANNELS < min(kept[-3:-1]):
        choices = "nyxc" if len(kept) == 4 else "yxc or yxn"
    elif len(kept) == 3 and kept[0] == kept[1] > _MAX_CHANNELS and kept[2] != kept[1]:
        choices = "yxn, or nyx if that is what they are"
    elif len(kept) == 4 and kept[0] == 1 and kept[1] > 4:
        choices = "1nyx for that many maps, or ncyx for one map of so many channels"
    if choices:
        raise TargetError(
            f"{source}: got an array of shape {shape}, whose axes are not plain to see; expected "
            f"(n, y, x) or (n, c, y, x); say what they are, such as axes: {extra}{choices}"
        )


def choose_array(found: Mapping[str, Mapping[str, Any]], array: str | None, path: str) -> str:
    """Return the name of the array that holds the maps.

    Arrays that others name as their `coordinates`, `bounds` or `ancillary_variables` (CF) are no
    maps, unless they are named.

    Args:
        found: attributes of every array of numbers with two axes or more, by name.
        array: the name that was given; None takes `maps`, or the only one.
        path: the file, for messages.

    Raises:
        TargetError: no such array, or several and none named.
    """
    beside = {
        name
        for attributes in found.values()
        for kind in CF_NAMES
        for name in str(attributes.get(kind, "")).split()
    }
    bounds = {name for name in found if name.endswith(("_bnds", "_bounds"))}
    maps = [name for name in found if name.rpartition("/")[2] not in beside | bounds]
    only = maps[0] if len(maps) == 1 else None
    wanted = array.strip("/") if array else "maps" if "maps" in maps else only
    if wanted is None or wanted not in found:
        raise TargetError(
            f"{path}: got the arrays [{listing(sorted(found)) or 'none'}] and targets.array = "
            f"{array}; expected one array of maps: name it with targets.array"
        )
    return wanted


def require_count(maps: int, source: str, most: int) -> None:
    """Refuse more maps than are allowed.

    Raises:
        TargetError: that is so.
    """
    if maps > most:
        raise TargetError(
            f"{source}: got {maps} maps; expected at most {most} (targets.max_maps); choose fewer "
            "maps or raise targets.max_maps"
        )


def numbered_ids(stem: str, count: int) -> tuple[str, ...]:
    """Return ids of maps that have no names: the stem alone for one map, else `stem:0`, ..."""
    return (stem,) if count == 1 else tuple(f"{stem}:{number}" for number in range(count))


def combine(parts: Sequence[MapSet]) -> MapSet:
    """Return all maps of several sets as one, in order.

    Ids that occur in several parts are prefixed with the number of their part (`1/name`); headers
    that differ are kept as blocks.

    Raises:
        TargetError: no parts, or parts with different pixel grids, channels or units.
    """
    if not parts:
        raise TargetError("got no files; expected at least one; check the path of the targets")
    first = parts[0]
    for part in parts[1:]:
        _require_alike(first, part)
    ids = [name for part in parts for name in part.ids]
    if len(set(ids)) < len(ids) and all(len(set(part.ids)) == len(part.ids) for part in parts):
        ids = [f"{number}/{name}" for number, part in enumerate(parts) for name in part.ids]
    sources = list(dict.fromkeys(part.source for part in parts))
    headers = list(dict.fromkeys(part.header for part in parts if part.header))
    return MapSet(
        values=np.concatenate([part.values for part in parts]),
        ids=tuple(ids),
        unit=first.unit,
        header=f"\n{HEADER_END}\n".join(headers),
        source=listing(sources),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        files=sum(part.files for part in parts),
    )


def require_metadata(maps: MapSet) -> None:
    """Refuse a unit or ids that no report or file could hold.

    Raises:
        TargetError: a unit of several lines or very many characters, or an id that is no text.
    """
    if not maps.unit.isprintable() or len(maps.unit) > MAX_UNIT_LENGTH:
        raise TargetError(
            f"{maps.source}: got a unit of {len(maps.unit)} characters ({maps.unit[:20]!r}...); "
            f"expected at most {MAX_UNIT_LENGTH} printable ones; correct it in the file"
        )
    for name in maps.ids:
        if len(name) > MAX_ID_LENGTH or not _is_text(name):
            raise TargetError(
                f"{maps.source}: got the map id {name[:20]!r}... of {len(name)} characters; "
                f"expected at most {MAX_ID_LENGTH} that UTF-8 can hold; rename the file or the map"
            )


def _is_text(name: str) -> bool:
    """Whether UTF-8 has it: file names may hold bytes that are no characters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _require_alike(first: MapSet, other: MapSet) -> None:
    if first.values.shape[1:] != other.values.shape[1:]:
        raise TargetError(
            f"{other.source} ({other.ids[0]}): got maps of shape {other.values.shape[1:]} "
            f"(channels, y, x); expected {first.values.shape[1:]} as in {first.source} "
            f"({first.ids[0]}); crop to one size, or name one HDU or array with `array`"
        )
    if first.unit != other.unit:
        raise TargetError(
            f"{other.source} ({other.ids[0]}): got unit '{other.unit}'; expected '{first.unit}' as "
            f"in {first.source} ({first.ids[0]}); convert the maps to one unit, or name one HDU or "
            "array with `array`"
        )


def listing(names: Sequence[str]) -> str:
    """Return the first few names as text, with the number of the others."""
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
