"""The folder of a training: its record and its checkpoint, both replaced by rename.

record.json    recipe, commit, CPU seconds and loss curve (means over CURVE_EVERY steps)
checkpoint.pt  weights, average, optimiser and step
"""

import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import torch

from ood_core.config.pretraining import PretrainSpec
from ood_core.errors import IdentityRefused
from ood_core.pretraining.trainer import TrainingState
from ood_core.store.files import read_json, write_atomic, write_json

CURVE_EVERY = 50


@final
@dataclass(slots=True)
class TrainingRecord:
    """What a model card says of a training; JSON values only."""

    recipe: dict[str, Any]
    commit: str
    cpu_seconds: float = 0.0
    curve: list[float] = field(default_factory=list)


@final
@dataclass(frozen=True, slots=True)
class TrainingFolder:
    """Handle of a training on disk."""

    root: Path

    def open_record(self, spec: PretrainSpec, commit: str) -> TrainingRecord:
        """Return the record of this recipe, a new one where there is none.

        Raises:
            IdentityRefused: the folder holds the training of another recipe.
        """
        recipe = json.loads(json.dumps(asdict(spec)))
        if not (self.root / "record.json").is_file():
            return TrainingRecord(recipe, commit)
        found = TrainingRecord(**read_json(self.root / "record.json"))
        if found.recipe != recipe:
            differing = sorted(k for k in recipe if found.recipe.get(k) != recipe[k])
            raise IdentityRefused(
                f"{self.root} holds a training with another recipe (differs in {differing}); "
                "give another work folder, or remove this one to start anew"
            )
        return found

    def restore(self, state: TrainingState, record: TrainingRecord) -> None:
        """Load the checkpoint, if there is one, and cut the record's curve to it."""
        path = self.root / "checkpoint.pt"
        if path.is_file():
            state.load_dict(torch.load(path, weights_only=True, map_location="cpu"))
        record.curve = record.curve[: state.step // CURVE_EVERY]

    def save(self, state: TrainingState, record: TrainingRecord) -> None:
        """Record first, checkpoint last: a resume cuts the record to the checkpoint."""
        self.save_record(record)
        content = io.BytesIO()
        torch.save(state.as_dict(), content)
        write_atomic(self.root / "checkpoint.pt", content.getvalue())

    def save_record(self, record: TrainingRecord) -> None:
        """Replace the record alone, for those who watch."""
        write_json(self.root / "record.json", asdict(record))

    @property
    def steps_done(self) -> int:
        """Steps of which the loss is on record."""
        path = self.root / "record.json"
        return CURVE_EVERY * len(read_json(path)["curve"]) if path.is_file() else 0
