"""Verbs that hand the maps of a run on to others.

Heavy imports are in the verbs.
"""

from typing import Annotated, Literal

import typer

from flows.cli.console import show
from flows.cli.options import AsJson, Uri
from flows.progress import bars_shown


def export(
    uri: Uri,
    dest: Annotated[
        str,
        typer.Argument(
            help="File to write, whose ending says the format (.fits, .zarr, .npz, .h5, .nc, "
            ".parquet, .tar), or a folder of files; or such an address, as s3://bucket/maps.fits."
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option(
            help="fits, fits-mef (an extension per map), zarr, npz, hdf5, netcdf, parquet, hf or "
            "webdataset; with a folder it must be said."
        ),
    ] = None,
    per_file: Annotated[
        int | None, typer.Option(help="Maps of a file in a folder; else about a GiB.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            help="Also the maps of a run that was quarantined, or the first ones of a run that is "
            "not finished."
        ),
    ] = False,
    mask: Annotated[
        Literal["none", "resample"],
        typer.Option(
            help="resample: pixels are NaN where a target, drawn for each map, lacks them."
        ),
    ] = "none",
    as_json: AsJson = False,
) -> None:
    """Write the maps of a run as FITS or another format; the same command resumes."""
    from flows.tools.export import export_run
    from ood_core.store.run import RunStore

    store = RunStore.open(uri)
    with bars_shown():
        found = export_run(store, dest, format, per_file, force, mask == "resample")
    show(f"export of {uri}", found, as_json)
