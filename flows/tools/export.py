"""Maps of a run in other formats: which runs may be exported, and how far an export is."""

import time
from dataclasses import replace
from functools import partial
from typing import Any

from flows.progress import listener
from ood_core.errors import Quarantined, RunIncomplete
from ood_core.exporting.exports import plan_export
from ood_core.exporting.source import RunSource
from ood_core.store.run import RunStore

UNFINISHED = ("planned", "running", "incomplete")


def export_run(
    run: RunStore,
    dest: str,
    format: str | None,
    per_file: int | None,
    force: bool,
    mask: bool = False,
) -> dict[str, Any]:
    """Write the maps of a run to a file or a folder of files; a second call resumes.

    Args:
        run: the run.
        dest: the file or folder, or the address of one in a bucket.
        format: name of the format; None goes by the ending of `dest`.
        per_file: maps of a file in a folder; None takes about a GiB.
        force: export what the gate refused, or the first samples of a run that is not finished.
        mask: give each map the missing pixels of a target.

    Raises:
        Quarantined: the gate refused the samples.
        RunIncomplete: some samples are missing, or are not judged yet.
        InputError: an impossible format or place, or targets without masks.
        StoreUnreachable: the bucket of `dest` does not answer, or refuses.
        ShardCorrupt: a stored shard is damaged.
    """
    source = replace(run_source(run, force), mask=mask)
    if mask:
        _ = source.masks  # refused before anything is written
    plan = plan_export(source, dest, format, per_file)
    events, began = listener.get(), time.monotonic()
    events.begin("export", len(source), 0)
    found = plan.write(partial(events.advance, "export"))
    written = found["files"] - found["files_kept"]
    events.end("export", time.monotonic() - began, f"{written} of {found['files']} files written")
    return found


def run_source(run: RunStore, force: bool) -> RunSource:
    """Return the samples of a run that may be exported.

    Raises:
        Quarantined: the gate refused them, and `force` is not given.
        RunIncomplete: some are missing or not judged, without `force`, or there are none.
    """
    state, plan = run.state, run.plan("generate")
    if state == "quarantined" and not force:
        raise Quarantined(
            f"{run.root} is quarantined: its gate refused the samples, and report/index.html says "
            "why; export them all the same with --force, and every file will say so"
        )
    if state in UNFINISHED and not force:
        raise RunIncomplete(
            f"{run.root} is {state}; finish it with `farfield run` first, or export the samples "
            "that are there with --force"
        )
    missing = run.ledger("generate").missing(plan)
    rows = missing[0].start if missing else plan.rows
    if not rows:
        raise RunIncomplete(f"{run.root} has no samples yet; `farfield run` it first")
    return RunSource(run, "unfinished" if state in UNFINISHED else state, rows)
