"""`farfield gallery`: the contact sheet of a run."""

from pathlib import Path
from typing import Annotated

import typer


def gallery(
    uri: Annotated[str, typer.Argument(help="Folder of a run, or s3://bucket/prefix.")],
    out: Annotated[
        Path | None, typer.Option(help="PNG to write; else report/gallery.png of the run.")
    ] = None,
    rows: Annotated[int, typer.Option(help="Rows of maps, six a row on either side.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Draw real targets beside synthetic maps on one colour scale, as a PNG."""
    from flows.cli.console import OUT, show_json
    from flows.report.publishing import write_gallery
    from ood_core.store.run import RunStore

    place = str(write_gallery(RunStore.open(uri), out, rows))
    show_json({"picture": place}) if as_json else OUT.print(place)
