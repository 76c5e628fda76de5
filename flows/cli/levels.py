"""`farfield levels`: where the steps of a run's denoiser are best spent."""

from typing import Annotated

import typer


def levels(
    uri: Annotated[str, typer.Argument(help="Folder of a run, or s3://bucket/prefix.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of the grid to print.")] = 12,
    maps: Annotated[int, typer.Option(min=1, help="Held-out maps to measure errors at.")] = 16,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Override base or execution.KEY.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Search the noise levels at which few steps hide least; print the grid as configuration."""
    from flows.cli.console import OUT, bars_shown, show_json, show_rows
    from flows.runs.extension import stored_settings
    from flows.tools.level_search import search_levels
    from ood_core.store.run import RunStore

    store = RunStore.open(uri)
    with bars_shown():
        found = search_levels(store, stored_settings(store, sets or []), steps, maps)
    if as_json:
        show_json(found)
        return
    rows = [[row["steps"], row["searched"], row["even"]] for row in found["costs"]]
    show_rows("what a grid hides", ("steps", "searched", "even in ln(sigma/alpha)"), rows)
    ratios = ", ".join(f"{ratio:.3g}" for ratio in found["noise_to_signal"])
    OUT.print(f"sigma/alpha {ratios}\nmethod: {{grid: {found['grid']}}}", markup=False)
