"""Verbs about single maps: recompute, walk, fill, make fields and cubes, put samples into one.

Heavy imports are in the verbs.
"""

from typing import Annotated

import typer

from flows.cli.console import OUT, show, show_json, show_rows, shown
from flows.cli.options import AsJson, OpenSets, Uri
from flows.progress import bars_shown


def replay(
    uri: Uri,
    sample: Annotated[int, typer.Option(help="Number of the sample, from 0.")],
    alone: Annotated[bool, typer.Option(help="A batch of one: faster, other rounding.")] = False,
    out: Annotated[
        str | None, typer.Option(help="Write a .fits, .npy, .png, .svg or .pdf file.")
    ] = None,
    sets: OpenSets = None,
    as_json: AsJson = False,
) -> None:
    """Recompute one sample from the run's folder and compare it with the stored one."""
    from flows.runs.lifecycle import stored_settings
    from flows.tools.replay import replay_sample
    from ood_core.store.run import RunStore

    store = RunStore.open(uri)
    found = replay_sample(store, stored_settings(store, sets or []), sample, alone, out)
    show(f"sample {sample} of {uri}", found, as_json)
    raise typer.Exit(1 if found["outcome"] == "differs" else 0)


def inpaint(
    uri: Uri,
    maps: Annotated[str, typer.Argument(help="Maps of the targets' size; NaN is drawn.")],
    out: Annotated[str, typer.Option(help="File to write; its ending says the format.")],
    draws: Annotated[int, typer.Option(help="Draws per map.")] = 16,
    seed: Annotated[int, typer.Option(help="Another one gives other draws.")] = 0,
    array: Annotated[
        str | None, typer.Option(help="Which part of the file, where it has several.")
    ] = None,
    sets: OpenSets = None,
    as_json: AsJson = False,
) -> None:
    """Draw the pixels that maps lack, given those that they have, as often as is asked."""
    from flows.runs.lifecycle import stored_settings
    from flows.tools.given import inpaint_file
    from ood_core.store.run import RunStore

    store = RunStore.open(uri)
    settings = stored_settings(store, sets or [])
    with bars_shown():
        found = inpaint_file(store, settings, maps, array, draws, seed, out)
    show(f"{maps}, filled by {uri}", found, as_json)


def field(
    uri: Uri,
    size: Annotated[str, typer.Option(help="Rows and columns, such as 1024x1024.")],
    out: Annotated[str, typer.Option(help="File to write; its ending says the format.")],
    number: Annotated[int, typer.Option(help="Which field of this size, from 0.")] = 0,
    periodic: Annotated[bool, typer.Option(help="Opposite borders continue one another.")] = False,
    sets: OpenSets = None,
    as_json: AsJson = False,
) -> None:
    """Make a field larger than the targets, of targets that are the same everywhere."""
    from flows.runs.lifecycle import stored_settings
    from flows.tools.given import field_file
    from ood_core.errors import ConfigError
    from ood_core.store.run import RunStore

    rows, _, columns = size.partition("x")
    if not (rows.isdecimal() and columns.isdecimal()):
        raise ConfigError(f"--size: got {size!r}; expected rows and columns, such as 1024x1024")
    store, sides = RunStore.open(uri), (int(rows), int(columns))
    settings = stored_settings(store, sets or [])
    with bars_shown():
        found = field_file(store, settings, sides, number, periodic, out)
    show(f"a field of {uri}", found, as_json)


def cube(
    uri: Uri,
    slices: Annotated[int, typer.Option(help="Consecutive fit targets that are one cube.")],
    depth: Annotated[int, typer.Option(help="Slices to make.")],
    out: Annotated[str, typer.Option(help="File to write; its ending says the format.")],
    number: Annotated[int, typer.Option(help="Which cube of this depth, from 0.")] = 0,
    sets: OpenSets = None,
    as_json: AsJson = False,
) -> None:
    """Make slices that go together along a third axis, as the targets do. Experimental."""
    from flows.runs.lifecycle import stored_settings
    from flows.tools.given import cube_file
    from ood_core.store.run import RunStore

    store = RunStore.open(uri)
    found = cube_file(store, stored_settings(store, sets or []), slices, depth, number, out)
    show(f"a cube of {uri}", found, as_json)


def inject(
    uri: Uri,
    field: Annotated[str, typer.Argument(help="A field or mosaic in the targets' unit.")],
    out: Annotated[str, typer.Option(help="NAME.fits; the catalogue is NAME.ecsv, too.")],
    number: Annotated[int, typer.Option(help="How many samples.")] = 64,
    start: Annotated[int, typer.Option(help="The first of them, in the order of an export.")] = 0,
    seed: Annotated[int, typer.Option(help="Another one gives other positions.")] = 0,
    array: Annotated[
        str | None, typer.Option(help="Which part of the file, where it has several.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Also what the gate refused, or unfinished.")] = False,
    as_json: AsJson = False,
) -> None:
    """Lay the objects of samples into a field; write it with the catalogue of what is where."""
    from flows.tools.given import inject_file
    from ood_core.store.run import RunStore

    store = RunStore.open(uri)
    found = inject_file(store, field, array, start, number, seed, force, out)
    show(f"{field}, with objects of {uri}", found, as_json)


def walk(
    uri: Uri,
    start: Annotated[str, typer.Option("--from", help="Fit target, by number or name.")],
    end: Annotated[str, typer.Option("--to", help="Another fit target.")],
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
    sets: OpenSets = None,
    as_json: AsJson = False,
) -> None:
    """Walk between the latents of two targets; write maps, a strip, an animation and numbers."""
    from flows.runs.lifecycle import stored_settings
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
        title = f"targets against the base's own maps at t_max {apart['t_max']}"
        show_rows(title, ("told apart by", *keys), rows)
    OUT.print(f"{found['angle_degrees']:.1f} degrees apart\n{shown(found['place'])}")
