"""The model card of a trained base: recipe, seed, commit, data, loss curve, samples and limits."""

import json
from pathlib import Path
from typing import Any

from ood_core.specs import PretrainSpec


def write_card(folder: Path, spec: PretrainSpec, record: dict[str, Any]) -> None:
    """Write `README.md` and the training record beside the weights."""
    (folder / "training.json").write_text(json.dumps(record, indent=1))
