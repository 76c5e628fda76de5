"""The data-set card: `README.md` with front matter as the Hugging Face hub reads it.

All text that came from files or settings is escaped by default: the template's output passes
through `markdown`, and only what this module marks as safe does not.

Text that came from files or settings, made safe for Markdown, BibTeX and plain lines.

What the header of the targets says of their credit and licence; nothing is guessed.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ood_core.report.page import flatten, subsample_note
from ood_core.report.pictures import short
from ood_core.report.record import ReportInput

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
    """Licence as the hub names it (`other` without a name), and the targets' own statements."""

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
        comment = line[8:].strip() if line.startswith("COMMENT ") else ""
        statement = _STATEMENT.match(comment)
        if statement:
            open_key = "credit" if statement[1].lower() == "credit" else "licence"
            open_key = "" if open_key in found else open_key
            comment = statement[2]
        elif not comment or _HEADING.match(comment):
            open_key = ""
        if open_key:
            found[open_key] = f"{found.get(open_key, '')} {comment}"
    text = {key: one_line(value)[:LONGEST].rstrip(".") for key, value in found.items()}
    statement_text = text.get("licence", "")
    return Credit(_hub_name(statement_text), statement_text, text.get("credit", ""))


def _hub_name(statement: str) -> str:
    for pattern, name in _KNOWN:
        if re.match(pattern, statement, re.IGNORECASE):
            return name
    return OTHER


TEMPLATE = "card.md.jinja"
SYNTHETIC = "Synthetic, not observations: "
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "n>10M")


@final
@dataclass(frozen=True, slots=True)
class ArrayRow:
    """One array of the data set; the first axis counts the samples."""

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    unit: str
    meaning: str


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class CardInput:
    """What the card and its machine-readable twins say: the report's record, and the data set.

    `digest` is the SHA-256 of the data set's `zarr.json`; `day` (ISO 8601) is when its last shard
    was stored; `header` has the cards of the targets, one per line.
    """

    report: ReportInput
    arrays: tuple[ArrayRow, ...]
    digest: str
    day: str
    source: str
    header: str
    seed: int
    reasons: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of synthetic maps."""
        return self.arrays[0].shape[0]

    @property
    def credit(self) -> Credit:
        """Licence and credit of the targets."""
        return read_credit(self.header)

    @property
    def base(self) -> str:
        """Name of the base: a hub id, or a folder without the machine's path to it."""
        source = str(self.report.base.get("source", "unknown"))
        return Path(source).name if Path(source).is_absolute() else source

    @property
    def version(self) -> str:
        """Version of Farfield that planned the run."""
        return self.report.versions.get("farfield", "unknown")

    @property
    def description(self) -> str:
        """Two sentences for machines; the first word is that the maps are synthetic."""
        report = self.report
        return one_line(
            f"{SYNTHETIC}{self.count} maps made by Farfield {self.version} from {len(report.fit)} "
            f"real targets ({self.source}) through a frozen diffusion model. "
            f"{report.result.summary}"
        )


def render_card(card: CardInput) -> str:
    """Return the whole `README.md`."""
    environment = Environment(
        loader=PackageLoader("ood_core", "report"),
        autoescape=False,  # of HTML; `finalize` escapes for Markdown, HTML included
        finalize=markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(TEMPLATE).render(
        card=card,
        report=card.report,
        credit=card.credit,
        subsample_note=subsample_note(card.report.result),
        front_matter=Markup(front_matter(card)),
        made=list(_made(card)),
        steered=bool(card.report.settings.get("steering")),
        citation=Markup(citation(card)),
    )


def front_matter(card: CardInput) -> str:
    """Return the YAML block of the hub, between its two rules."""
    credit = card.credit
    fields: dict[str, Any] = {"license": credit.licence}
    if credit.licence == OTHER and credit.statement:
        fields["license_name"] = credit.statement
    fields["pretty_name"] = f"{one_line(card.report.name)} (synthetic)"
    fields["tags"] = ["synthetic", "scientific-maps", "farfield", "zarr"]
    fields["size_categories"] = [size_category(card.count)]
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{text}---\n"


def size_category(count: int) -> str:
    """Return the hub's name for a number of maps."""
    return _SIZES[bisect_right([10**power for power in range(3, 8)], count)]


def citation(card: CardInput) -> str:
    """Return a BibTeX entry that names the run by its identity."""
    identity = bibtex(card.report.identity)
    lines = (
        f"@misc{{farfield-{''.join(c for c in card.report.identity if c.isalnum())[:12]},",
        f"  title = {{{bibtex(card.report.name)}: synthetic maps}},",
        f"  howpublished = {{Synthetic data set made by Farfield {bibtex(card.version)}}},",
        f"  year = {{{card.day[:4]}}},",
        f"  note = {{Run identity sha256:{identity}}}",
        "}",
    )
    return "\n".join(lines)


def _made(card: CardInput) -> Iterator[tuple[str, str]]:
    settings = card.report.settings
    yield "base", card.base
    yield "digest of the base", str(card.report.base.get("digest", "unknown"))
    yield "seed", str(card.seed)
    yield "symmetries", ", ".join(card.report.symmetries) or "none"
    elsewhere = ("base", "targets", "generation", "gate")
    yield from flatten({key: value for key, value in settings.items() if key not in elsewhere})
    yield "farfield", card.version
