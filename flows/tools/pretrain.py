"""Training of a base: one worker here or several through Ray, then a folder with its card."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actors.training import run_training
from flows.progress import listener
from flows.settings import PROJECT
from flows.tools.model_card import draw_samples, write_card
from ood_core.config.pretraining import PretrainSpec
from ood_core.models.networks import save_base
from ood_core.pretraining.trainer import start
from ood_core.store.training import TrainingFolder

LOOK_SECONDS = 1.0


def train_base(
    spec: PretrainSpec, work: Path, models: Path, workers: int = 1, device: str = "auto"
) -> Path:
    """Train, resuming from `work` if it holds a checkpoint of the same recipe.

    Raises:
        IdentityRefused: `work` holds the checkpoint of another recipe.
        InputError: a mosaic or a base to start from cannot be used.
    """
    work.mkdir(parents=True, exist_ok=True)
    folder, commit = TrainingFolder(work), _commit()
    folder.open_record(spec, commit)
    with _watched(folder, spec.steps):
        if workers == 1:
            run_training(spec, work, commit, device)
        else:
            from actors.ray_training import train_on_workers

            train_on_workers(spec, work, commit, workers, gpu=device == "cuda")
    record, state = folder.open_record(spec, commit), start(spec)
    folder.restore(state, record)
    place = models / spec.name
    samples = draw_samples(state, spec)
    save_base(state.average, spec.prediction, place)
    write_card(place, spec, record, samples)
    listener.get().end("pretrain", record.cpu_seconds, f"{spec.steps} steps, CPU seconds")
    return place


@contextmanager
def _watched(folder: TrainingFolder, steps: int) -> Iterator[None]:
    """Report progress from the growing record, wherever the workers are."""
    events, done, stop = listener.get(), folder.steps_done, threading.Event()
    events.begin("pretrain", steps, done)

    def watch() -> None:
        shown = done
        while not stop.wait(LOOK_SECONDS):
            now = min(folder.steps_done, steps)
            events.advance("pretrain", now - shown)
            shown = now

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=PROJECT
    )
    return found.stdout.strip() or "not a git checkout"
