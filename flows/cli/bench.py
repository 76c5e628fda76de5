"""The `bench` verbs of the command line: measurements of the project itself.

Heavy libraries are imported inside the commands.
"""

from pathlib import Path
from typing import Annotated

import typer

bench_app = typer.Typer(help="Measurements of the project itself.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Record = Annotated[Path | None, typer.Option(help="JSON to write; else a new file in runs/bench.")]


@bench_app.command("speed")
def speed(
    samples: Annotated[int, typer.Option(min=16, help="Maps of the measured run.")] = 256,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of each loop in memory.")] = 3,
    config: Annotated[str, typer.Option(help="Configuration that is run.")] = (
        "examples/hubble.yaml"
    ),
    only: Annotated[
        list[str] | None, typer.Option(help="line, network, rivals or parts; may be repeated.")
    ] = None,
    out: Record = None,
    as_json: AsJson = False,
) -> None:
    """Measure the line beside the bare network, and beside what people use."""
    words = ["--samples", samples, "--repeats", repeats, "--config", config]
    _script("speed", [*words, *(["--only", *only] if only else [])], out, as_json)


@bench_app.command("scale")
def scale(
    samples: Annotated[int, typer.Option(min=64, help="Planned samples to keep books of.")] = 10**6,
    shards: Annotated[int, typer.Option(min=100, help="Shards through Ray.")] = 2000,
    out: Record = None,
    as_json: AsJson = False,
) -> None:
    """Measure the dispatcher, and predict where it would stop scaling."""
    _script("scale", ["--samples", samples, "--shards", shards], out, as_json)


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
    from flows.cli.console import bars_shown, show_fields, show_json
    from flows.science.asked import read_spec
    from flows.science.bench import run_science

    spec = read_spec(targets or (), methods, n, seeds, samples)
    with bars_shown():
        found = run_science(spec, out)
    show_json(found) if as_json else show_fields("science", found)


def _script(name: str, words: list[object], out: Path | None, as_json: bool) -> None:
    """Run a script of benchmarks/, in a process of its own that nothing has warmed up."""
    import subprocess
    import sys

    from flows.settings import PROJECT
    from ood_core.errors import ConfigError

    if not (PROJECT / "benchmarks" / f"{name}.py").is_file():
        raise ConfigError(f"no benchmarks/{name}.py in {PROJECT}: expected a checkout of farfield")
    place = ["--out", str(out.absolute())] if out else []
    call = [sys.executable, "-m", f"benchmarks.{name}", *map(str, words), *place]
    done = subprocess.run(call + ["--json"] * as_json, cwd=PROJECT, check=False)
    raise typer.Exit(done.returncode)
