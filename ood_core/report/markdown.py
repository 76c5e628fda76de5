"""Text that came from files or settings, made safe for Markdown, BibTeX and plain lines."""

import re
import unicodedata
from typing import Any

from markupsafe import Markup

from ood_core.report.page import short

_SPECIAL = re.compile(r"([\\`*_\[\]|~$#!{}])")
_BLOCK = re.compile(r"^(?:[-+=](?=[-+=\s]|$)|\d{1,9}(?=[.)](?:\s|$)))")  # lists, rules
_LINK = re.compile(r":(?=//)|(?<=www)\.|@", re.IGNORECASE)
"""Where GitHub's Markdown, and the hub's, would make a link of bare text."""
_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "&": r"\&", "#": r"\#",
    "_": r"\_", "$": r"\$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    '"': "''", "`": "'",
}  # fmt: skip


def one_line(text: str) -> str:
    """Return text without control characters and line breaks, with single spaces."""
    kept = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    return " ".join(kept.split())


def markdown(value: Any) -> str:
    """Return a value as Markdown that shows its text as it is.

    It makes no markup, HTML, link, rule or table cell.
    `Markup` is passed through; numbers get three significant digits.
    """
    if isinstance(value, Markup):
        return str(value)
    text = one_line(short(value))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _SPECIAL.sub(r"\\\1", text)
    text = _LINK.sub(r"\\\g<0>", text)
    return _BLOCK.sub(lambda found: "".join(f"&#{ord(c)};" for c in found[0]), text)


def bibtex(text: str) -> str:
    """Return text for a braced BibTeX field."""
    return "".join(_TEX.get(character, character) for character in one_line(text))
