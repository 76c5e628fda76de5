"""The `bench` verbs of the command line: measurements of the project itself.

Heavy libraries are imported inside the commands.
"""

from pathlib import Path
from typing import Annotated

import typer

bench_app = typer.Typer(help="Measurements of the project itself.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@bench_app.command("science")
def science(
    targets: Annotated[
        list[Path] | None, typer.Option(help="Configuration of a target set; may be repeated.")
    ] = None,
    methods: Annotated[str, typer.Option(help="Names, comma-separated; by default all.")] = "",
    n: Annotated[str, typer.Option("--n", help="Numbers of targets, in order.")] = "64,16,256",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per cell.")] = 3,
    samples: Annotated[int, typer.Option(min=8, help="Samples per cell.")] = 128,
    out: Annotated[Path, typer.Option(help="Folder; finished cells are kept.")] = Path(
        "runs/science"
    ),
    as_json: AsJson = False,
) -> None:
    """Compare the method with its rivals: methods x target sets x numbers of targets."""
    from flows.console import Bars, show_fields, show_json
    from flows.progress import listener
    from flows.science.asked import read_spec
    from flows.science.bench import run_science

    spec = read_spec(targets or (), methods, n, seeds, samples)
    with Bars() as bars:
        token = listener.set(bars)
        try:
            found = run_science(spec, out)
        finally:
            listener.reset(token)
    show_json(found) if as_json else show_fields("science", found)
