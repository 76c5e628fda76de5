"""What the header of the targets says of their credit and licence; nothing is guessed."""

import re
from dataclasses import dataclass
from typing import final

from ood_core.report.markdown import one_line

OTHER = "other"
LONGEST = 400  # characters of a statement
_CARD = re.compile(r"^(?:LICENSE|LICENCE)\s*=\s*'((?:[^']|'')*)'")
_STATEMENT = re.compile(r"^(Licence|License|Credit)\s*:\s*(.*)$", re.IGNORECASE)
_HEADING = re.compile(r"^[A-Z][\w -]{0,20}:\s")
_KNOWN = (
    (r"cc0\b", "cc0-1.0"),
    (r"cc[ -]by[ -]nc[ -]sa[ -]4\.0", "cc-by-nc-sa-4.0"),
    (r"cc[ -]by[ -]nc[ -]4\.0", "cc-by-nc-4.0"),
    (r"cc[ -]by[ -]sa[ -]4\.0", "cc-by-sa-4.0"),
    (r"cc[ -]by[ -]4\.0", "cc-by-4.0"),
    (r"apache(?: licen[cs]e)?[ ,-]*(?:version )?2\.0", "apache-2.0"),
    (r"bsd-3-clause", "bsd-3-clause"),
    (r"mit\b", "mit"),
)


@final
@dataclass(frozen=True, slots=True)
class Credit:
    """Licence as the hub names it (`other` where it has no name), and the targets' own words."""

    licence: str
    statement: str
    credit: str


def read_credit(header: str) -> Credit:
    """Read licence and credit from FITS cards, one per line, as `MapSet.header` holds them.

    A card LICENSE or a comment that begins with `Licence:`, and one that begins with `Credit:`,
    are understood. A licence is named only if the statement begins with its name.
    """
    found: dict[str, str] = {}
    open_key = ""
    for line in header.splitlines():
        card = _CARD.match(line)
        if card:
            found.setdefault("licence", card[1].replace("''", "'"))
        words = line[8:].strip() if line.startswith("COMMENT ") else ""
        statement = _STATEMENT.match(words)
        if statement:
            open_key = "credit" if statement[1].lower() == "credit" else "licence"
            open_key = "" if open_key in found else open_key
            words = statement[2]
        elif not words or _HEADING.match(words):
            open_key = ""
        if open_key:
            found[open_key] = f"{found.get(open_key, '')} {words}"
    text = {key: one_line(value)[:LONGEST].rstrip(".") for key, value in found.items()}
    statement_text = text.get("licence", "")
    return Credit(_hub_name(statement_text), statement_text, text.get("credit", ""))


def _hub_name(statement: str) -> str:
    for pattern, name in _KNOWN:
        if re.match(pattern, statement, re.IGNORECASE):
            return name
    return OTHER
