"""Verbs for development: base models, benchmarks, the schema of the configuration.

Heavy imports are in the verbs.
"""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.console import OUT, show, show_fields, show_json, show_rows
from flows.cli.options import AsJson, OpenSets, Uri
from flows.progress import bars_shown
from ood_core.limits import BASE_BYTES


def models_list(as_json: AsJson = False) -> None:
    """List the bases that ship with the project."""
    from flows.report.inspection import shipped_models

    found = shipped_models()
    if as_json:
        show_json({"models": found})
        return
    show_rows("bases", list(found[0]) if found else ["none"], [list(m.values()) for m in found])


def models_show(
    model: Annotated[str, typer.Argument(help="Diffusers folder or hub id.")],
    as_json: AsJson = False,
) -> None:
    """Show a base: size, parametrisation, digest, and what became of its scheduler settings."""
    from flows.report.inspection import describe_model

    found = describe_model(model)
    if as_json:
        show_json(found)
        return
    show_fields(model, {k: v for k, v in found.items() if k != "rulings"})
    header = ("setting", "value", "ruling", "reason")
    show_rows("scheduler settings", header, [[r[h] for h in header] for r in found["rulings"]])


def models_import(
    checkpoint: Annotated[Path, typer.Argument(help="Torch or safetensors file of weights.")],
    out: Annotated[Path, typer.Option(help="New folder that receives the base.")],
    size: Annotated[
        int | None, typer.Option(help="Side of its maps in pixels, if the weights do not say it.")
    ] = None,
    head_channels: Annotated[
        int, typer.Option(help="Guided diffusion: channels per attention head.")
    ] = 64,
    heads: Annotated[
        int | None, typer.Option(help="Guided diffusion: attention heads, instead of their width.")
    ] = None,
    new_attention_order: Annotated[
        bool, typer.Option(help="Guided diffusion: heads split after queries, keys and values.")
    ] = False,
    noise_schedule: Annotated[str, typer.Option(help="Guided diffusion: linear or cosine.")] = (
        "linear"
    ),
    max_bytes: Annotated[
        int, typer.Option(help="Most bytes of its weights, as stored and in float32.")
    ] = BASE_BYTES,
    as_json: AsJson = False,
) -> None:
    """Turn a checkpoint of another project into a base: a diffusers folder in float32."""
    from flows.report.inspection import import_model
    from ood_core.models.importing import ImportOptions

    options = ImportOptions(size, head_channels, heads, new_attention_order, noise_schedule)  # type: ignore[arg-type]  # checked by the layout
    found = import_model(checkpoint, out, options, max_bytes)
    show(f"imported {checkpoint}", found, as_json)


def models_check(
    model: Annotated[str, typer.Argument(help="Diffusers folder, hub id or galaxygrad:NAME.")],
    as_json: AsJson = False,
    samples: Annotated[int, typer.Option(help="Samples to draw and measure on.")] = 16,
    steps: Annotated[int, typer.Option(help="Solver steps per sample.")] = 20,
    out: Annotated[Path | None, typer.Option(help="Folder for check.json and check.png.")] = None,
) -> None:
    """Check a base's settings against its network; exit code 2 if they disagree."""
    from flows.tools.model_check import check_model

    with bars_shown():
        found = check_model(model, samples, steps, out)
    if as_json:
        show_json(found)
    else:
        base = {k: v for k, v in found["base"].items() if k != "rulings"}
        show_fields(model, {"domain": found["domain"], **base, "device": found["device"]})
        for title, rows in (("cost", found["cost"]), ("round trips", found["round_trips"])):
            show_rows(title, list(rows[0]), [list(row.values()) for row in rows])
        show_rows("checks", list(found["checks"][0]), [list(c.values()) for c in found["checks"]])
    raise typer.Exit(0 if found["passed"] else 2)


def models_timesteps(
    uri: Uri,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the grid to print.")] = 12,
    maps: Annotated[int, typer.Option(min=1, help="Fit targets to measure errors at.")] = 16,
    sets: OpenSets = None,
    as_json: AsJson = False,
) -> None:
    """Search the timesteps at which few steps lose least; print the grid as configuration."""
    from flows.runs.lifecycle import stored_settings
    from flows.tools.timestep_search import search_timesteps
    from ood_core.store.run import RunStore

    store = RunStore.open(uri)
    with bars_shown():
        found = search_timesteps(store, stored_settings(store, sets or []), steps, maps)
    if as_json:
        show_json(found)
        return
    rows = [[row["steps"], row["searched"], row["even"]] for row in found["costs"]]
    show_rows("cost of a grid", ("steps", "searched", "even in ln(sigma/alpha)"), rows)
    ratios = ", ".join(f"{ratio:.3g}" for ratio in found["noise_to_signal"])
    OUT.print(f"sigma/alpha {ratios}\nmethod: {{timesteps: {found['timesteps']}}}", markup=False)


def schema() -> None:
    """Print the JSON Schema of the configuration."""
    from flows.settings import RunSettings

    show_json(RunSettings.model_json_schema())


def bench(
    name: Annotated[
        str | None, typer.Argument(help="Benchmark; without a name they are listed.")
    ] = None,
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Its own arguments, such as --help.")
    ] = None,
) -> None:
    """Measure the project itself: programs of `benchmarks/` in a checkout."""
    import subprocess
    import sys

    from flows.settings import PROJECT
    from ood_core.errors import ConfigError

    found = _benchmarks(PROJECT / "benchmarks")
    if name is None and found:
        lines = [(known, line) for known, (_, line) in found.items()]
        show_rows("benchmarks", ("name", "measures"), lines)
        return
    if name not in found:
        raise ConfigError(
            f"no benchmark {name} in {PROJECT}: expected a checkout of farfield and one of "
            f"{', '.join(found) or 'its benchmarks'}"
        )
    call = [sys.executable, "-m", found[name][0], *(arguments or ())]
    raise typer.Exit(subprocess.run(call, cwd=PROJECT, check=False).returncode)


def _benchmarks(folder: Path) -> dict[str, tuple[str, str]]:
    """Name of every program beneath a folder, with its module and its first line."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "__main__" not in text:
            continue
        package = path.stem == "__main__"
        module = (path.parent if package else path.with_suffix("")).relative_to(folder.parent)
        found[module.name] = (".".join(module.parts), text.split("\n", 1)[0].strip('"'))
    return found
