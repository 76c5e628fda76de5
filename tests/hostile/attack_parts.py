"""What attacks on the readers are made of."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MAPS = np.random.default_rng(0).normal(size=(4, 8, 8)).astype("f4")
BOMB = bytes(2**26)  # four times what the readers may load, eight times their headers


class Trap:
    """Makes a folder when a pickle of it is read without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def edited(path: Path, file: str, change: Callable[[dict[str, Any]], object]) -> Path:
    record = json.loads((path / file).read_text())
    change(record)
    (path / file).write_text(json.dumps(record))
    return path
