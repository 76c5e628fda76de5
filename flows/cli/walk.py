"""`farfield walk`: from one inverted target to another."""

from typing import Annotated

import typer


def walk(
    uri: Annotated[str, typer.Argument(help="Folder of a run, or s3://bucket/prefix.")],
    start: Annotated[str, typer.Option("--from", help="Fit target, by number or name.")],
    end: Annotated[str, typer.Option("--to", help="Another one.")],
    steps: Annotated[int, typer.Option(help="Maps along the way, both ends included.")] = 13,
    transfer: Annotated[
        list[str] | None,
        typer.Option(help="Fit target to go the same way from; may be given again."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder for the files; else walks/FROM-to-TO of the run.")
    ] = None,
    separability: Annotated[
        bool, typer.Option(help="Also compare with maps of the base's own domain, once a run.")
    ] = True,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Override base or execution.KEY.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Walk between the latents of two targets; write maps, a strip, an animation and numbers."""
    from flows.cli.console import OUT, bars_shown, show_json, show_rows, shown
    from flows.runs.extension import stored_settings
    from flows.tools.walk import WalkSpec
    from flows.tools.walk import walk as walk_between
    from ood_core.store.run import RunStore

    store = RunStore.open(uri)
    spec = WalkSpec(start, end, steps, tuple(transfer or ()), separability)
    with bars_shown():
        found = walk_between(store, stored_settings(store, sets or []), spec, out)
    if as_json:
        show_json(found)
        return
    header = ("attribute", "pairs", "cosine", "null_low", "null_high", "p_value", "adjusted")
    rows = [[test[key] for key in header] for test in found["shared_attributes"]]
    show_rows("do pairs that differ alike share a direction?", header, rows)
    if (apart := found["separability"]) is not None:
        keys = ("auc", "null_low", "null_high", "p_value")
        rows = [[by, *(apart[by][key] for key in keys)] for by in ("latents", "spectra")]
        title = f"targets against the base's own maps at level {apart['level']}"
        show_rows(title, ("told apart by", *keys), rows)
    OUT.print(f"{found['angle_degrees']:.1f} degrees apart\n{shown(found['place'])}")
