"""Training of a base: checkpoints, exact resume, and a diffusers folder with its card."""

import json
import os
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from flows.model_card import draw_samples, write_card
from flows.progress import listener
from flows.settings import PROJECT
from ood_core.bases.networks import save_base
from ood_core.errors import IdentityRefused
from ood_core.pretraining.trainer import TrainingState, start, train
from ood_core.specs import PretrainSpec

CHECKPOINT_SECONDS = 60.0
CURVE_EVERY = 50
CLOCK = time.CLOCK_PROCESS_CPUTIME_ID


def train_base(spec: PretrainSpec, work: Path, models: Path) -> Path:
    """Train, resuming from `work` if it holds a checkpoint of the same recipe.

    Raises:
        IdentityRefused: `work` holds the checkpoint of another recipe.
    """
    work.mkdir(parents=True, exist_ok=True)
    record = _open_record(spec, work / "record.json")
    state = start(spec)
    if (work / "checkpoint.pt").is_file():
        state.load_dict(torch.load(work / "checkpoint.pt", weights_only=True))
    record["curve"] = record["curve"][: state.step // CURVE_EVERY]
    listener.get().begin("pretrain", spec.steps, state.step)
    _train(spec, state, record, work)
    folder = models / spec.name
    samples = draw_samples(state, spec)
    save_base(state.average, spec.prediction, folder)
    write_card(folder, spec, record, samples)
    listener.get().end("pretrain", record["cpu_seconds"], f"{spec.steps} steps, CPU seconds")
    return folder


def _train(spec: PretrainSpec, state: TrainingState, record: dict[str, Any], work: Path) -> None:
    losses: list[float] = []
    cpu, saved = time.clock_gettime(CLOCK), time.monotonic()
    for loss in train(spec, state):
        losses.append(loss)
        if state.step % CURVE_EVERY == 0:
            record["curve"].append(sum(losses) / len(losses))
            listener.get().advance("pretrain", CURVE_EVERY)
            losses.clear()
        on_mark = state.step % CURVE_EVERY == 0
        if state.step == spec.steps or (on_mark and time.monotonic() - saved > CHECKPOINT_SECONDS):
            record["cpu_seconds"] += time.clock_gettime(CLOCK) - cpu
            cpu, saved = time.clock_gettime(CLOCK), time.monotonic()
            _save(state, record, work)


def _open_record(spec: PretrainSpec, path: Path) -> dict[str, Any]:
    recipe = json.loads(json.dumps(asdict(spec)))
    if not path.is_file():
        return {"recipe": recipe, "cpu_seconds": 0.0, "curve": [], "commit": _commit()}
    record: dict[str, Any] = json.loads(path.read_text())
    if record["recipe"] != recipe:
        differing = sorted(k for k in recipe if record["recipe"].get(k) != recipe[k])
        raise IdentityRefused(
            f"{path.parent} holds a training with another recipe (differs in {differing}); "
            "give another work folder, or remove this one to start anew"
        )
    return record


def _save(state: TrainingState, record: dict[str, Any], work: Path) -> None:
    """Record first, checkpoint last, both by rename: a resume cuts the record to the checkpoint."""
    partial = work / "record.partial"
    partial.write_text(json.dumps(record, indent=1))
    os.replace(partial, work / "record.json")
    partial = work / "checkpoint.partial"
    torch.save(state.as_dict(), partial)
    os.replace(partial, work / "checkpoint.pt")


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=PROJECT
    )
    return found.stdout.strip() or "not a git checkout"
