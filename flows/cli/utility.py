"""`farfield utility`: what training with a run's samples is worth."""

from typing import Annotated

import typer

from ood_core.errors import ConfigError


def utility(
    uris: Annotated[
        list[str],
        typer.Argument(help="A run with --labels, or several runs: each is a class of its own."),
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            help="Text file with a label per target in file order, or flux, concentration or "
            "ellipticity, measured on the maps."
        ),
    ] = None,
    parts: Annotated[
        int | None,
        typer.Option("--classes", min=2, max=10, help="Cut values into so many classes."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Train on synthetic, test on real: is the set worth adding, and more than flips are?

    Small models are trained on the fit targets, with and without synthetic maps, flips or Gaussian
    fields, and tested on held-out targets. Of one run the result goes into its report.
    """
    from flows.cli.console import OUT, bars_shown, show_json, show_rows
    from flows.runs.lease_guard import holding
    from flows.tools.downstream import keep_utility, measure_utility, measure_utility_of_classes
    from ood_core.store.run import RunStore

    if (labels is None) == (len(uris) == 1):
        raise ConfigError(
            f"got {len(uris)} runs and {'no' if labels is None else 'some'} labels; expected one "
            "run with --labels, or several runs without"
        )
    runs = [RunStore.open(uri) for uri in uris]
    with bars_shown():
        if labels is None:
            found = measure_utility_of_classes(runs)
        else:
            found = measure_utility(runs[0], labels, parts)
            with holding(runs[0]):
                keep_utility(runs[0], found)
    if as_json:
        show_json(found.to_json())
        return
    header = ("probe", "trained on", "maps", found.metric, "95 %", "gain", "95 %")
    rows = [
        (
            row.probe,
            row.title,
            row.maps,
            f"{row.score:.3f}",
            f"{row.low:.3f} to {row.high:.3f}",
            f"{row.gain:+.3f}",
            f"{row.gain_low:+.3f} to {row.gain_high:+.3f}",
        )
        for row in found.training_sets
    ]
    show_rows(f"{found.task}: {found.held_out} held-out targets, {found.seeds} seeds", header, rows)
    OUT.print(found.summary, markup=False)
