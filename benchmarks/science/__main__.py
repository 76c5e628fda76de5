"""The table of methods, target sets and numbers of targets.

    farfield bench science [--targets CONFIG ...] [--methods NAMES] [--n 64,16,256] [--out FOLDER]

Finished cells are kept: the same command goes on where it was stopped.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.science.bench import ScienceSpec, run_science
from benchmarks.science.methods import METHODS, MethodName
from flows.cli.console import show_fields, show_json
from flows.cli.main import guarded
from flows.cli.options import AsJson
from flows.progress import bars_shown
from ood_core.errors import ConfigError
from ood_core.maps.paths import SHIPPED

SETS = ("hubble", "sun", "perseus", "reionisation", "lognormal")


def read_spec(
    targets: Sequence[Path], methods: str, numbers: str, seeds: int, samples: int
) -> ScienceSpec:
    """Read lists as they are typed; what is left out is all of them.

    Raises:
        ConfigError: an unknown method, or numbers that are none.
    """
    return ScienceSpec(
        configs=tuple(targets) or tuple(SHIPPED / "examples" / f"{name}.yaml" for name in SETS),
        methods=_methods(methods),
        numbers=_numbers(numbers),
        seeds=seeds,
        samples=samples,
    )


def _methods(text: str) -> tuple[MethodName, ...]:
    chosen = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in METHODS]
    if unknown:
        known = ", ".join(METHODS)
        raise ConfigError(f"--methods: got {', '.join(unknown)}; expected some of {known}")
    return tuple(name for name in METHODS if name in chosen or not chosen)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as error:
        raise ConfigError(f"--n: got {text!r}; expected numbers such as 16,64,256") from error


def main(
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
    spec = read_spec(targets or (), methods, n, seeds, samples)
    with bars_shown():
        found = run_science(spec, out)
    show_json(found) if as_json else show_fields("science", found)


if __name__ == "__main__":
    with guarded():
        typer.run(main)
