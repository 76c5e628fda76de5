"""Scores of finished runs side by side, as a Markdown table.

python benchmarks/scores.py runs/demo runs/other
"""

import sys
from typing import Any

from ood_core.store.files import read_json
from ood_core.store.run import RunStore

SCORES = ("spectrum_error", "pixel_wasserstein", "fsd", "c2st", "nearest_ratio")


def row(uri: str) -> list[str]:
    """One run: its scores, network evaluations per map, and seconds of generation."""
    run = RunStore.open(uri)
    report: dict[str, Any] = read_json(run.root / "report" / "report.json")
    scores = report["evaluation"]["scores"]
    plan = run.plan("generate")
    receipts = run.ledger("generate").all(plan)
    nfe = sum(receipt.nfe for receipt in receipts) / max(1, sum(r.stop - r.start for r in receipts))
    decibels = sorted(report["round_trip_psnr"])
    middle = f"{decibels[len(decibels) // 2]:.1f}"
    values = [f"{scores[name]['value']:.3g}" for name in SCORES]
    return [uri, str(plan.rows), *values, middle, f"{nfe:.0f}", f"{run.timings['generate']:.0f}"]


def real(uri: str) -> list[str]:
    """The real-against-real band of the same scores, for samples of the same number."""
    report = read_json(RunStore.open(uri).root / "report" / "report.json")
    scores = report["evaluation"]["scores"]
    bands = [f"{scores[n]['low']:.3g} to {scores[n]['high']:.3g}" for n in SCORES]
    return ["real against real", "", *bands, "", "", ""]


def main() -> None:
    """Print one row per run, and the band of the first run's real maps."""
    uris = sys.argv[1:]
    header = ["run", "samples", *SCORES, "round trip dB", "NFE per map", "seconds to generate"]
    table = [header, ["---"] * len(header), *[row(uri) for uri in uris], real(uris[0])]
    sys.stdout.write("\n".join("| " + " | ".join(cells) + " |" for cells in table) + "\n")


if __name__ == "__main__":
    main()
