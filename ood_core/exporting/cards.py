"""FITS cards of synthetic maps: their own, and those of the targets that hold for them too.

A synthetic map was never at a place or a time, so positions, dates and names of objects are not
carried over. What is, stands in one list: instrument, band, beam, zero points; and the size of a
pixel, where all targets have the same.
"""

import math
import unicodedata
from typing import Any

from ood_core.exporting.source import About, software
from ood_core.maps.mapset import HEADER_END

HOLDS = (
    "TELESCOP", "INSTRUME", "DETECTOR", "FILTER", "FILTER1", "FILTER2", "BAND", "WAVELNTH",
    "WAVEUNIT", "FREQ", "RESTFRQ", "RESTFREQ", "RESTWAV", "BTYPE", "BMAJ", "BMIN", "PHOTFLAM",
    "PHOTFNU", "PHOTPLAM", "PHOTZPT", "PHOTBW", "ZEROPT", "MAGZERO", "LICENSE", "LICENCE",
)  # fmt: skip
"""Cards that say of synthetic maps what they say of the targets."""
SAME = 1e-6
"""Relative difference up to which sizes of pixels are one."""
MAX_PARENTS = 9

Card = tuple[str, Any, str]


def own_cards(about: About) -> list[Card]:
    """Cards of every HDU: that the maps are synthetic, and who made them of what."""
    cards: list[Card] = [
        ("SYNTH", True, "synthetic maps, not observations"),
        ("ORIGIN", "Farfield", "program that made the maps"),
        ("CREATOR", software(), "its version"),
        ("RUNNAME", plain(about.name), "name of the run"),
        ("RUNSTATE", plain(about.state), "outcome of its gate, or its state"),
    ]
    if about.identity:
        cards.append(("RUN", about.identity, ""))
    if about.seed is not None:
        cards.append(("SEED", about.seed, "of the run; a map is a function of RUN, SAMPLE"))
    if about.unit:
        cards.append(("BUNIT", plain(about.unit), "unit of the pixels, as of the targets"))
    return cards


def parent_cards(about: About, parents: Any) -> list[Card]:
    """Names of the targets whose statistics set the aim of one map."""
    names = [about.target_names[int(p)] for p in parents[:MAX_PARENTS]]
    return [
        (f"PARENT{i}", plain(name), "target that set its aim") for i, name in enumerate(names, 1)
    ]


def target_cards(header_text: str) -> list[Card]:
    """Cards of the targets that hold for synthetic maps, and the pixel scale if they share one."""
    blocks = _blocks(header_text)
    cards: list[Card] = []
    for keyword in HOLDS:
        found = [card for block in blocks if (card := _card(block, keyword)) is not None]
        if found and all(card[1] == found[0][1] for card in found):
            cards.append(found[0])
    return cards + _scale(blocks)


def history(about: About) -> list[str]:
    """Lines of HISTORY."""
    made = f"Synthetic maps by {software()}, from {len(about.target_names)} real targets."
    return [made, "Instrument, band, beam and pixel size are those of the targets."]


def plain(text: str) -> str:
    """Return text in the characters that FITS allows: micro signs as `u`, others spelled out."""
    text = text.replace("\u00b5", "u").replace("\u03bc", "u")
    kept = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    return kept.encode("ascii", "backslashreplace").decode().strip()


def _blocks(header_text: str) -> list[Any]:
    from astropy.io import fits

    blocks = []
    for text in header_text.split(f"\n{HEADER_END}\n"):
        lines = [line.ljust(80) for line in text.split("\n")]  # long strings need full cards
        blocks.append(fits.Header.fromstring("\n".join(lines), sep="\n"))
    return blocks


def _card(header: Any, keyword: str) -> Card | None:
    """A card that FITS can say again; None where it is not there or is damaged."""
    try:
        value, comment = header[keyword], str(header.comments[keyword])
    except Exception:  # not there, or a value that the parser cannot read
        return None
    if isinstance(value, str):
        return keyword, plain(value), plain(comment)
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return keyword, value, plain(comment)
    return None


def _scale(blocks: list[Any]) -> list[Card]:
    """CDELT1 and 2 with their units, if every header of an image has the same."""
    scales = []
    for header in blocks:
        naxis = _card(header, "NAXIS")
        if naxis is not None and naxis[1] < 2:  # a first HDU without data says nothing
            continue
        scale = _scale_of(header)
        if scale is None:
            return []
        scales.append(scale)
    if not scales:
        return []
    first = scales[0]
    same = all(
        s[2:] == first[2:]
        and all(math.isclose(a, b, rel_tol=SAME) for a, b in zip(s[:2], first[:2], strict=True))
        for s in scales
    )
    if not same:
        return []
    words = "size of a pixel, that of all targets"
    cards: list[Card] = [(f"CDELT{i}", first[i - 1], words) for i in (1, 2)]
    return cards + [(f"CUNIT{i}", first[i + 1], "") for i in (1, 2) if first[i + 1]]


def _scale_of(header: Any) -> tuple[float, float, str, str] | None:
    """Sizes and units of pixels: CDELT, or the lengths of the columns of CD."""
    sizes = []
    for axis in (1, 2):
        column = [_number(header, f"CD{row}_{axis}") for row in (1, 2)]
        known = [value for value in column if value is not None]
        size = _number(header, f"CDELT{axis}")
        if known:
            own = column[axis - 1]
            size = math.copysign(math.hypot(*known), own if own else 1.0)
        if not size:
            return None
        sizes.append(size)
    # Angles without a unit are in degrees; axes of another kind have none.
    units = []
    for axis in (1, 2):
        unit, kind = _card(header, f"CUNIT{axis}"), _card(header, f"CTYPE{axis}")
        sky = kind is not None and "-" in str(kind[1])
        units.append(str(unit[1]) if unit is not None else "deg" if sky else "")
    return sizes[0], sizes[1], units[0], units[1]


def _number(header: Any, keyword: str) -> float | None:
    card = _card(header, keyword)
    if card is None or isinstance(card[1], str | bool):
        return None
    return float(card[1])
