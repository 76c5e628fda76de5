"""Verbs that evaluate a set: scores against a gate, use for training.

Heavy imports are in the verbs.
"""

from typing import Annotated

import typer

from flows.cli.console import OUT, show, show_json, show_rows
from flows.cli.options import AsJson, Uri, exit_of_state
from flows.progress import bars_shown
from ood_core.errors import ConfigError, RunIncomplete


def validate(
    uri: Uri,
    gate: Annotated[
        list[str] | None,
        typer.Option("--gate", help="Another condition: c2st=0.6; null removes it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score the stored samples again, decide the gate, and write its outcome and the report."""
    from flows.runs.lease_guard import hold_lease
    from flows.runs.lifecycle import stored_settings
    from flows.runs.stages import perform, summary, validate_set
    from ood_core.store.files import read_json
    from ood_core.store.run import GATE, RunStore

    store = RunStore.open(uri)
    settings = stored_settings(store, [f"gate.{condition}" for condition in gate or []])
    missing = len(store.ledger("generate").missing(store.plan("generate")))
    if missing:
        raise RunIncomplete(
            f"{uri}: {missing} shards of samples are missing; finish it with `farfield run` first"
        )
    with hold_lease(store):
        sentence = perform("validate", validate_set, store, settings)
    reasons = read_json(store.root / GATE)["reasons"]
    found = {**summary(store), "summary": sentence, "reasons": reasons}
    show(f"validated {uri}", found, as_json)
    raise typer.Exit(exit_of_state(found["state"]))


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
    as_json: AsJson = False,
) -> None:
    """Train on synthetic, test on real: does adding the set help, and more than flips do?

    Small models are trained on the fit targets, with and without synthetic maps, flips or Gaussian
    fields, and tested on held-out targets. Of one run the result goes into its report.
    """
    from flows.runs.lease_guard import hold_lease
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
            with hold_lease(runs[0]):
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
