"""Writes the report of a run, the data of its figures, its contact sheet and its card."""

from pathlib import Path

from flows.report.inputs import shown_samples
from ood_core.errors import InputError, RunIncomplete
from ood_core.report.card import CardInput, render_card
from ood_core.report.figures import series
from ood_core.report.linked_data import crate, croissant
from ood_core.report.page import numbers, render
from ood_core.report.pictures import contact_sheet, picture_kind
from ood_core.store.files import write_atomic, write_json
from ood_core.store.place import Place
from ood_core.store.run import RunStore
from ood_core.store.targets import load_targets

GALLERY = "report/gallery.png"


def write_report(run: RunStore, card: CardInput) -> None:
    """Write the report's folder, then the card and its machine-readable twins, from one record."""
    folder, record = run.root / "report", card.report
    data = series(record)
    for name, content in data.items():
        write_atomic(folder / name, content)
    sheet = contact_sheet(record.fit, record.samples, record.unit, record.name)
    write_atomic(run.root / GALLERY, sheet)
    write_atomic(folder / "index.html", render(record).encode())
    write_json(folder / "report.json", numbers(record))
    write_atomic(run.root / "README.md", render_card(card).encode())
    write_json(run.root / "croissant.json", croissant(card))
    write_json(run.root / "ro-crate-metadata.json", crate(card, data))


def write_gallery(run: RunStore, out: Path | None, rows: int) -> Place:
    """Write the contact sheet of a run whose samples are all there; return where.

    Raises:
        RunIncomplete: some samples are missing.
        InputError: `rows` out of range, or `out` of another kind or cannot be written.
    """
    missing = len(run.ledger("generate").missing(run.plan("generate")))
    if missing:
        raise RunIncomplete(
            f"{run.root}: {missing} shards of samples are missing; finish it with `farfield run`"
        )
    kind = picture_kind(str(out or GALLERY))
    targets = load_targets(run)
    samples, _ = shown_samples(run)
    picture = contact_sheet(targets.fit, samples, targets.unit, run.record["name"], rows, kind)
    place: Place = out or run.root / GALLERY
    try:
        write_atomic(place, picture)
    except OSError as error:
        raise InputError(f"{place}: cannot be written ({error}); choose another --out") from error
    return place
