"""One worker's part in the training of a base, with checkpoints; knows no Ray."""

import time
from collections.abc import Callable
from pathlib import Path

from ood_core.config.pretraining import PretrainSpec
from ood_core.errors import BaseModelError
from ood_core.models.loading import load_model
from ood_core.pretraining.domains import training_stream
from ood_core.pretraining.trainer import Share, TrainingState, go_on_from, start, train
from ood_core.store.training import CURVE_EVERY, TrainingFolder, TrainingRecord
from ood_core.synthesis.pipeline import choose_device

CHECKPOINT_SECONDS = 60.0
CLOCK = time.CLOCK_PROCESS_CPUTIME_ID
Mean = Callable[[float], float]


def run_training(
    spec: PretrainSpec, work: Path, commit: str, device: str = "auto",
    share: Share | None = None, mean: Mean = float,
) -> TrainingState:  # fmt: skip
    """Train to the last step, resuming from `work`; the first worker alone writes there.

    `mean` averages a loss over the workers.

    Raises:
        IdentityRefused: `work` holds the training of another recipe.
        BaseModelError: the base to go on from is of another shape.
    """
    share = share or Share()
    folder = TrainingFolder(work)
    record = folder.open_record(spec, commit)
    draw = training_stream(spec)
    state = _begin(spec, device)
    folder.restore(state, record)
    losses: list[float] = []
    cpu, saved = time.clock_gettime(CLOCK), time.monotonic()
    for loss in train(spec, state, draw, share):
        losses.append(loss)
        on_mark = state.step % CURVE_EVERY == 0
        if on_mark:
            record.curve.append(mean(sum(losses) / len(losses)))
            losses.clear()
        if share.rank == 0 and (on_mark or state.step == spec.steps):
            record.cpu_seconds += share.of * (time.clock_gettime(CLOCK) - cpu)
            cpu = time.clock_gettime(CLOCK)
            saved = _write(folder, spec, state, record, saved)
    return state


def _begin(spec: PretrainSpec, device: str) -> TrainingState:
    where = choose_device(device)
    if not spec.start_from:
        return start(spec, where)
    base = load_model(spec.start_from, where).denoiser.network
    try:
        return go_on_from(spec, base.state_dict())
    except RuntimeError as error:
        raise BaseModelError(f"start_from: {spec.start_from} has another shape: {error}") from error


def _write(
    folder: TrainingFolder, spec: PretrainSpec, state: TrainingState, record: TrainingRecord,
    saved: float,
) -> float:  # fmt: skip
    """Checkpoint at the end and every minute, the record alone otherwise; return when saved."""
    if state.step < spec.steps and time.monotonic() - saved < CHECKPOINT_SECONDS:
        folder.save_record(record)
        return saved
    folder.save(state, record)
    return time.monotonic()
