"""FITS: one cube with a table of its samples, or one image extension per map.

Written block by block: headers have a fixed length, so the sums of the data are filled in after
the data were written. Both forms carry DATASUM and CHECKSUM.
"""

import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ood_core.exporting.cards import (
    Card,
    history,
    own_cards,
    parent_cards,
    plain,
    target_cards,
)
from ood_core.exporting.source import MAPS, SAMPLE, About, Part
from ood_core.store.arrays import Column

BLOCK = 2880
ALL_ONES = 0xFFFFFFFF
NO_SUM = "0" * 16
MAP = "MAP"
"""EXTNAME of the maps of a file with many extensions."""
TYPES = {"int8": "i2", "uint16": "i4", "uint32": "i8", "bool": "u1"}
"""Types that a table of FITS does not have, and those that hold their values."""


def write_cube(path: Path, part: Part) -> None:
    """Write maps as one image (n, y, x), or (n, c, y, x); a single one of a channel as (y, x)."""
    about = part.about
    alone = len(part) == 1
    cards = own_cards(about)
    if alone:
        cards += _sample_cards(part)
    else:
        first, last = (int(part.source.note(SAMPLE, r, r + 1)[0]) for r in _ends(part))
        cards.append(("SAMPLE0", first, "number of the first map; others in SAMPLES"))
        cards.append(("SAMPLE1", last, "number of the last map"))
    shape = about.shape[1:] if about.shape[0] == 1 else about.shape
    sizes = _single(about) if alone else (len(part), *shape)
    header = _header([("SIMPLE", True, "")], -32, sizes, [("EXTEND", True, "")])
    with path.open("wb") as file:
        image = _Hdu(file, _filled(header, about, cards + target_cards(about.header)))
        for rows in part.blocks():
            image.add(rows[MAPS].astype(">f4"))
        image.close()
        _write_notes(file, part)
        _write_names(file, about)


def write_extensions(path: Path, part: Part) -> None:
    """Write each map as an image of its own, EXTNAME `MAP`, EXTVER its number in the file."""
    about = part.about
    common = [*own_cards(about), *target_cards(about.header)]
    begin: list[Card] = [("XTENSION", "IMAGE", "")]
    counts: list[Card] = [("PCOUNT", 0, ""), ("GCOUNT", 1, "")]
    layout = [*_header(begin, -32, _single(about), counts), ("EXTNAME", MAP, "")]
    stem = _filled(layout, about, common)
    with path.open("wb") as file:
        first = _header([("SIMPLE", True, "")], 8, (), [("EXTEND", True, "")])
        _Hdu(file, _filled(first, about, common)).close()
        number = 0
        for rows in part.blocks():
            for row, values in enumerate(rows[MAPS]):
                number += 1
                notes = {name: rows[name][row] for name in rows if name != MAPS}
                cards: list[Card] = [("EXTVER", number, "place in this file, from 1")]
                image = _Hdu(file, stem + _quick([*cards, *_row_cards(about, notes)]))
                image.add(values.astype(">f4"))
                image.close()
        _write_notes(file, part)
        _write_names(file, about)


def _single(about: About) -> tuple[int, ...]:
    """Shape of one map: (y, x), or (1, c, y, x), as (c, y, x) would be read as c maps."""
    return about.shape[1:] if about.shape[0] == 1 else (1, *about.shape)


def _ends(part: Part) -> tuple[int, int]:
    return part.start, part.stop - 1


def _sample_cards(part: Part) -> list[Card]:
    about = part.about
    row = {c.name: part.source.note(c.name, part.start, part.stop)[0] for c in about.notes}
    return _row_cards(about, row)


def _row_cards(about: About, row: dict[str, Any]) -> list[Card]:
    cards: list[Card] = [("SAMPLE", int(row[SAMPLE]), "number of the map in its run, from 0")]
    return cards + parent_cards(about, row["parents"]) if "parents" in row else cards


def _header(
    begin: Sequence[Card], bitpix: int, shape: Sequence[int], after: Sequence[Card]
) -> list[Card]:
    """Cards that say how data lie; axes of FITS begin with the fastest."""
    sizes: list[Card] = [(f"NAXIS{i}", n, "") for i, n in enumerate(reversed(shape), 1)]
    return [*begin, ("BITPIX", bitpix, ""), ("NAXIS", len(shape), ""), *sizes, *after]


def _filled(layout: Sequence[Card], about: About, cards: Sequence[Card]) -> str:
    """Text of a header without its end."""
    lines: list[Card] = [("HISTORY", line, "") for line in history(about)]
    return _images([*layout, *cards, *lines])


def _images(cards: Sequence[Card]) -> str:
    from astropy.io import fits

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a comment without room is cut
        return "".join(fits.Card(*card).image for card in cards)


def _quick(cards: Sequence[Card]) -> str:
    """The same text; whole numbers are set here, and words once, since astropy takes its time."""
    return "".join(
        f"{keyword:8}= {value:>20d} / {comment}".ljust(80)
        if type(value) is int
        else _image(keyword, value, comment)
        for keyword, value, comment in cards
    )


@lru_cache(maxsize=4096)
def _image(keyword: str, value: str, comment: str) -> str:
    return _images([(keyword, value, comment)])


class _Hdu:
    """One HDU in the making: header, data in any number of pieces, then its sums."""

    def __init__(self, file: BinaryIO, header: str) -> None:
        self._file, self._header = file, header
        self._start = file.tell()
        self._sum, self._bytes, self._rest = 0, 0, b""
        file.write(self._finished(NO_SUM))

    def add(self, values: NDArray[Any]) -> None:
        """Append numbers, big end first."""
        data = values.tobytes()
        self._file.write(data)
        self._bytes += len(data)
        self._count(data)

    def close(self) -> None:
        """Fill up the last block and write the sums into the header."""
        padding = b"\0" * (-self._bytes % BLOCK)
        self._file.write(padding)
        self._count(padding)
        total = _added(self._sum, _words(self._finished(NO_SUM)))
        self._file.seek(self._start)
        self._file.write(self._finished(_encoded(ALL_ONES - total)))
        self._file.seek(0, 2)

    def _count(self, data: bytes) -> None:
        data = self._rest + data
        whole = len(data) - len(data) % 4
        self._sum, self._rest = _added(self._sum, _words(data[:whole])), data[whole:]

    def _finished(self, checksum: str) -> bytes:
        sums = f"CHECKSUM= '{checksum}'".ljust(80) + f"DATASUM = '{self._sum:<8}'".ljust(80)
        text = f"{self._header}{sums}{'END':80}"
        return text.encode("ascii").ljust(-(-len(text) // BLOCK) * BLOCK)


def _words(data: bytes) -> int:
    return int(np.frombuffer(data, ">u4").sum(dtype=np.uint64))


def _added(total: int, more: int) -> int:
    """A sum of 32 bits in ones' complement."""
    total += more
    while total >> 32:
        total = (total & ALL_ONES) + (total >> 32)
    return total


def _encoded(value: int) -> str:
    """A sum in sixteen letters and digits, as the FITS standard has it (appendix J)."""
    letters = [0] * 16
    for place in range(4):
        byte = value >> (24 - 8 * place) & 0xFF
        four = [byte // 4 + ord("0")] * 4
        four[0] += byte % 4
        while any(not chr(c).isalnum() for c in four):
            for pair in (0, 2):
                if not (chr(four[pair]).isalnum() and chr(four[pair + 1]).isalnum()):
                    four[pair] += 1
                    four[pair + 1] -= 1
        for j, letter in enumerate(four):
            letters[4 * j + place] = letter
    return "".join(map(chr, letters[-1:] + letters[:-1]))


def _write_notes(file: BinaryIO, part: Part) -> None:
    """Append the table SAMPLES: one row per map, all columns but the maps."""
    about = part.about
    kinds = [(c.name, _type(c), c.shape) for c in about.notes]
    table = _Hdu(file, _table_header("SAMPLES", np.dtype(kinds), len(part), about.notes))
    for rows in part.notes():
        records = np.empty(len(rows[SAMPLE]), np.dtype(kinds))
        for name, values in rows.items():
            records[name] = values
        table.add(records)
    table.close()


def _write_names(file: BinaryIO, about: About) -> None:
    """Append the table TARGETS: names of the targets that `parents` counts from 0."""
    names = [plain(name).encode() for name in about.target_names]
    if not names:
        return
    kind = np.dtype([("target", ">i8"), ("name", f"S{max(1, *map(len, names))}")])
    columns = (
        Column("target", (), (), "int64", "number of the target"),
        Column("name", (), (), "str", "its name"),
    )
    table = _Hdu(file, _table_header("TARGETS", kind, len(names), columns))
    table.add(np.array(list(enumerate(names)), kind))
    table.close()


def _type(column: Column) -> str:
    return ">" + TYPES.get(column.dtype, np.dtype(column.dtype).str[1:])


def _table_header(name: str, kind: np.dtype[Any], rows: int, columns: Sequence[Column]) -> str:
    """Header of a binary table; astropy knows the codes of its columns."""
    from astropy.io import fits

    header = fits.BinTableHDU(np.zeros(1, kind), name=name).header
    header["NAXIS2"] = rows
    for number, column in enumerate(columns, 1):
        header.comments[f"TTYPE{number}"] = plain(column.long_name)[:47]
        if column.units not in ("", "1"):
            header[f"TUNIT{number}"] = plain(column.units)
    header["SYNTH"] = (True, "of synthetic maps, not observations")
    return str(header.tostring(endcard=False, padding=False))
