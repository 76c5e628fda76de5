"""Figures of a benchmark: each with its noise, beside machine and commit, and what changed since.

Seconds of a machine that others use tell little; ratios measured side by side tell more. So each
figure says whether it is a `ratio`, and only ratios are compared unless both records are of one
machine.
"""

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from psutil import cpu_count, getloadavg, virtual_memory

from flows.settings import PROJECT

FOLDER = PROJECT / "runs" / "bench"
MIN_CHANGE = 0.05
"""Smaller changes are not reported, however quiet the machine was."""


@final
@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number; `noise` is the half range of its repetitions over their median."""

    value: float
    noise: float = 0.0
    ratio: bool = True
    higher_is_better: bool = True

    @classmethod
    def of(cls, values: Sequence[float], **options: bool) -> "Figure":
        """Median and half range of repetitions."""
        middle = statistics.median(values)
        return cls(middle, (max(values) - min(values)) / 2 / abs(middle or 1.0), **options)


def save(name: str, figures: dict[str, Figure], more: dict[str, Any], path: Path | None) -> Path:
    """Write a record; by default a new file in runs/bench."""
    content = {
        "benchmark": name,
        "commit": commit(),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "figures": {key: asdict(figure) for key, figure in figures.items()},
        **more,
    }
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    path = path or FOLDER / f"{name}-{stamp}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def previous(name: str, path: Path) -> Path | None:
    """The last record of a benchmark before this one."""
    found = [p for p in sorted(FOLDER.glob(f"{name}-*.json")) if p.resolve() != path.resolve()]
    return found[-1] if found else None


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[list[Any]]:
    """Figures that differ by more than twice the noise of both, and by 5 %, the worst first."""
    same = old["machine"]["processor"] == new["machine"]["processor"]
    rows = []
    for name, now in new["figures"].items():
        before = old["figures"].get(name)
        if before is None or not before["value"] or not (now["ratio"] or same):
            continue
        factor = now["value"] / before["value"]
        noise = 2 * (before["noise"] ** 2 + now["noise"] ** 2) ** 0.5
        if abs(factor - 1) > max(noise, MIN_CHANGE):
            better = (factor > 1) == now["higher_is_better"]
            word = "better" if better else "WORSE"
            rows.append([name, before["value"], now["value"], f"{factor - 1:+.1%}", noise, word])
    return sorted(rows, key=lambda row: row[-1] == "better")


def commit() -> str:
    """The commit of this checkout, marked where files differ from it."""

    def git(*arguments: str) -> str:
        call = ["git", "-C", str(PROJECT), *arguments]
        return subprocess.run(call, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")


def machine() -> dict[str, Any]:
    """What the figures were measured on, and how busy it was."""
    return {
        "processor": _processor(),
        "cpus": cpu_count(),
        "memory_bytes": virtual_memory().total,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": getloadavg()[0],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
