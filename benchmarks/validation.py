"""CPU seconds and peak memory of validating a finished run; prints one row.

    python benchmarks/validation.py RUN [--maps]

With `--maps` the stored statistics are left aside and all samples are measured from their maps;
milliseconds per map are what a worker pays. One thread. Run it on a copy: outcome and report are
written.
"""

import argparse
import resource
import time

import torch

from flows.cli.console import show_rows
from flows.runs.lifecycle import stored_settings
from flows.runs.stages import validate_set
from ood_core.store import statistics
from ood_core.store.run import RunStore


def main() -> None:
    """Validate once and print what it cost."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--maps", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = RunStore.open(arguments.run)
    spent, measure = [], statistics.features_of

    def timed(*given, **more):  # type: ignore[no-untyped-def]
        began = time.process_time()
        found = measure(*given, **more)
        spent.append((time.process_time() - began, len(found["pixels"])))
        return found

    if arguments.maps:
        statistics.DEFINITION = -1  # of no run
        statistics.features_of = timed
    began = time.process_time()
    validate_set(run, stored_settings(run))
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    maps = sum(count for _, count in spent)
    each = f"{1e3 * sum(s for s, _ in spent) / maps:.2f}" if maps else "not measured"
    header = ["samples", "CPU seconds", "peak MiB", "ms per map measured"]
    show_rows(
        str(run.root), header, [[run.plan("generate").rows, f"{seconds:.1f}", round(peak), each]]
    )


if __name__ == "__main__":
    main()
