"""Training of the denoiser that is shown examples, over worlds that are drawn meanwhile.

    python -m ood_core.pretraining.in_context_trainer OUT --minutes 60 --export DEST

A step is a function of the state and the step number, so that a training that was stopped goes on
as if it had not been. The rate is constant after a warm-up, for as long as no end is near, and
falls along a cosine over the last part of a training (Hägele et al. 2024): a training of unknown
length can be ended at any time, and one that was ended goes on from before its rate fell.

`OUT` holds `checkpoint.pt`, the state; `constant.pt`, the state before the rate fell; `log.jsonl`,
one line for each validation. What to drive down is the loss on families that were held out.
"""

import argparse
import copy
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from ood_core.errors import InputError
from ood_core.models.in_context import InContextDenoiser, InContextNetwork, save_in_context
from ood_core.models.loading import load_model
from ood_core.pretraining.in_context_batches import (
    Batch,
    Blocks,
    InContextSpec,
    block_of,
    make_batch,
)
from ood_core.pretraining.in_context_validation import (
    Group,
    Losses,
    errors,
    moved,
    validate,
    validation_groups,
)

CHECKPOINT, CONSTANT, LOG = "checkpoint.pt", "constant.pt", "log.jsonl"
CHECKPOINT_SECONDS, VALIDATION_SECONDS = 100.0, 240.0
SMALLEST_RATE = 0.01  # of the peak, at the end


@final
@dataclass(slots=True)
class State:
    """Everything that a resumed training needs; `step` batches have been learnt.

    `falling` says that the rate is on its way down, `finished` that it has arrived.
    """

    spec: InContextSpec
    network: InContextDenoiser
    average: InContextDenoiser
    optimiser: torch.optim.Optimizer
    step: int = 0
    falling: bool = False
    finished: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return what `torch.load(weights_only=True)` reads: tensors, numbers and text."""
        return {
            "spec": self.spec.as_dict(),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "falling": self.falling,
            "finished": self.finished,
        }


@final
@dataclass(slots=True)
class End:
    """When a training ends: after so many steps in all, or minutes from now, or never."""

    steps: int | None = None
    minutes: float | None = None
    clock: Callable[[], float] = time.monotonic
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def progress(self, step: int) -> float:
        """Return the part of the training that is over; 1 or more at its end."""
        parts = [0.0]
        if self.steps is not None:
            parts.append(step / max(1, self.steps))
        if self.minutes is not None:
            parts.append((self.clock() - self.started) / max(1e-9, 60 * self.minutes))
        return max(parts)


def start(spec: InContextSpec, device: str = "cpu", weights: Path | None = None) -> State:
    """Begin a training from the spec's seed, or from the weights of an export.

    Raises:
        BaseModelError: the weights cannot be read.
        InputError: they are of another network, or of other sizes.
    """
    with torch.random.fork_rng():
        torch.manual_seed(spec.seed % 2**63)
        network = InContextDenoiser(spec.sizes)
    if weights is not None:
        base = load_model(str(weights)).denoiser.network
        if not isinstance(base, InContextNetwork) or base.inner.sizes != spec.sizes:
            raise InputError(f"{weights}: got another network; expected one of {spec.sizes}")
        network.load_state_dict(base.inner.state_dict())
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network).requires_grad_(False).eval()
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=spec.rate, betas=(0.9, 0.99), weight_decay=1e-3
    )
    return State(spec, network.train(), average, optimiser)


def resume(file: Path, device: str = "cpu") -> State:
    """Restore a state.

    Raises:
        InputError: the file cannot be read as one.
    """
    try:
        saved = torch.load(file, map_location=device, weights_only=True)
        state = start(InContextSpec.from_dict(saved["spec"]), device)
        state.network.load_state_dict(saved["network"])
        state.average.load_state_dict(saved["average"])
        state.optimiser.load_state_dict(saved["optimiser"])
        state.step = int(saved["step"])
        state.falling, state.finished = bool(saved["falling"]), bool(saved["finished"])
    except (OSError, EOFError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{file}: cannot be read as a training's state ({error})") from error
    return state


def save(state: State, file: Path) -> None:
    """Write a state; a reader finds the old or the new one, never a part."""
    partial = file.with_suffix(".partial")
    with partial.open("wb") as out:
        torch.save(state.as_dict(), out)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)


def learn(state: State, batch: Batch, progress: float) -> float:
    """Advance the state by one batch and return its loss."""
    spec, network = state.spec, state.network
    device = next(network.parameters()).device
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(spec, state.step, progress)
    batch = moved(batch, device)
    loss = errors(network, batch).mean()
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    state.optimiser.step()
    state.step += 1
    with torch.no_grad():
        decay = min(spec.ema, (1 + state.step) / (10 + state.step))
        means: list[Tensor] = list(state.average.parameters())
        values: list[Tensor] = list(network.parameters())
        torch._foreach_lerp_(means, values, 1 - decay)
    return float(loss.detach())


def learning_rate(spec: InContextSpec, step: int, progress: float) -> float:
    """Linear warm-up, then constant, then a cosine over the last part `decay` of the training."""
    warm = min(1.0, (step + 1) / spec.warm_up)
    left = (1 - min(progress, 1.0)) / spec.decay
    falling = 1.0 if left >= 1 else 0.5 * (1 - math.cos(math.pi * left))
    return spec.rate * warm * (SMALLEST_RATE + (1 - SMALLEST_RATE) * falling)


@final
class Journal:
    """Mean losses since the last line, and the lines."""

    def __init__(self, out: Path) -> None:
        self._file = out / LOG
        self._losses: dict[bool, list[float]] = {True: [], False: []}
        self._since = time.monotonic()

    def add(self, shown: bool, loss: float) -> None:
        """Take note of a step's loss."""
        self._losses[shown].append(loss)

    def write(self, state: State, losses: Losses) -> None:
        """Append a line and begin the means anew."""
        steps = sum(len(some) for some in self._losses.values())
        seconds = time.monotonic() - self._since
        line = {
            "step": state.step,
            "samples": state.step * state.spec.samples,
            "samples_per_hour": round(3600 * steps * state.spec.samples / max(seconds, 1e-9)),
            "rate": state.optimiser.param_groups[0]["lr"],
            "training": {
                "with" if shown else "without": float(np.mean(some)) if some else None
                for shown, some in self._losses.items()
            },
            "validation": losses,
        }
        with self._file.open("a") as out:
            out.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
        self._losses = {True: [], False: []}
        self._since = time.monotonic()


def train(
    state: State,
    out: Path,
    end: End,
    workers: int = 1,
    stop: Callable[[], bool] = lambda: False,
    groups: Sequence[Group] | None = None,
) -> State:
    """Train until the end, or until `stop` says so, and leave the state in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    groups = validation_groups(state.spec) if groups is None else groups
    journal = Journal(out)
    saved = validated = time.monotonic()
    state.finished = False
    with Blocks(state.spec, workers) as blocks:
        while (progress := end.progress(state.step)) < 1 and not stop():
            batch = make_batch(state.spec, state.step, blocks.get(block_of(state.spec, state.step)))
            if not state.falling and progress >= 1 - state.spec.decay:
                save(state, out / CONSTANT)
                state.falling = True
            journal.add(batch.shown, learn(state, batch, progress))
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                save(state, out / CHECKPOINT)
                saved = time.monotonic()
            if time.monotonic() - validated > VALIDATION_SECONDS:
                journal.write(state, validate(state.spec, state.average, groups))
                validated = time.monotonic()
    state.finished = end.progress(state.step) >= 1
    save(state, out / CHECKPOINT)
    journal.write(state, validate(state.spec, state.average, groups))
    return state


def latest(out: Path, end: End, device: str = "cpu") -> State | None:
    """Return the state that a training in `out` goes on from, or none if there is none.

    Where the rate has fallen already, that is the state before its fall; but a training of a given
    number of steps that was stopped in the fall goes on falling.

    Raises:
        InputError: a file cannot be read as a state.
    """
    if not (out / CHECKPOINT).exists():
        return None
    state = resume(out / CHECKPOINT, device)
    goes_on_falling = end.steps is not None and state.step < end.steps and not state.finished
    if state.falling and not goes_on_falling and (out / CONSTANT).exists():
        return resume(out / CONSTANT, device)
    return state


def export(out: Path, destination: Path) -> None:
    """Write the averaged weights of the latest state, and what is known of them.

    Raises:
        InputError: `out` holds no readable state.
    """
    state = resume(out / CHECKPOINT)
    lines = (out / LOG).read_text().splitlines() if (out / LOG).exists() else []
    about = {
        "recipe": state.spec.as_dict(),
        "step": state.step,
        "samples": state.step * state.spec.samples,
        "finished": state.finished,
        "validation": json.loads(lines[-1])["validation"] if lines else None,
    }
    save_in_context(state.average, state.spec.size, destination, about)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, export or both, as the command line says."""
    parser = argparse.ArgumentParser(description="Train a denoiser that is shown examples.")
    parser.add_argument("out", type=Path, help="folder of the state and the log")
    parser.add_argument("--minutes", type=float, help="end, decay included, after so many minutes")
    parser.add_argument("--steps", type=int, help="end, decay included, at this step")
    parser.add_argument("--open-ended", action="store_true", help="train until stopped, no decay")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw worlds")
    parser.add_argument("--start-from", type=Path, help="folder of an export to begin from")
    parser.add_argument("--export", type=Path, help="folder for half-precision weights")
    known = parser.parse_args(arguments)
    if known.minutes is not None or known.steps is not None or known.open_ended:
        end = End(known.steps, known.minutes)
        state = latest(known.out, end, known.device)
        state = state or start(InContextSpec(), known.device, known.start_from)
        with _signals() as stopped:
            train(state, known.out, end, known.workers, stopped)
    elif known.export is None:
        parser.error("nothing to do; expected --minutes, --steps, --open-ended or --export")
    if known.export is not None:
        export(known.out, known.export)


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Tell whether a signal to end has come, so that the process can save what it has first."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda got, _: received.append(got))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    main()
