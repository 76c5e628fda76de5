"""Fitted objects in one `.npz` file: arrays as they are, everything else as JSON beside them.

Records are written by the name of their class and of their fields and read back by these names;
only the classes of `KINDS` can come out of a file, and nothing of it is run.
"""

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ood_core.denoising.calibrated import BandWeights
from ood_core.denoising.completed import LeftOpen
from ood_core.denoising.gate import Gate
from ood_core.diffusion.patches import PatchMixture
from ood_core.errors import InputError
from ood_core.estimators.gaussian import GaussianPrior
from ood_core.estimators.moments import Norms
from ood_core.maps.target_set import TargetSet
from ood_core.maps.transforms import RangeTransform
from ood_core.numerics.covariance import Diagonal, LowRank, Stationary
from ood_core.synthesis.latents import Interval, ShellGeometry
from ood_core.synthesis.pipeline import ExpertPlan, FittedPrior

KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        BandWeights, Diagonal, ExpertPlan, FittedPrior, Gate, GaussianPrior, Interval, LeftOpen,
        LowRank, Norms, PatchMixture, ShellGeometry, Stationary,
    )
}  # fmt: skip
KIND, ARRAY, TUPLE, NUMBER = "kind", "array", "tuple", "number"
MANIFEST = "manifest"


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write plain values, arrays, tensors and records of `KINDS`, nested at will."""
    arrays: dict[str, NDArray[Any]] = {}
    manifest = json.dumps(_plain(state, arrays), allow_nan=False)
    stream = io.BytesIO()
    arrays[MANIFEST] = np.frombuffer(manifest.encode(), np.uint8)
    np.savez(stream, allow_pickle=False, **arrays)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(stream.getvalue())
    partial.replace(path)


def read_state(path: Path) -> dict[str, Any]:
    """Read what `write_state` wrote; arrays of numbers that were tensors are tensors again.

    Raises:
        InputError: no such file, or one that `write_state` did not write.
    """
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        state = _object(json.loads(arrays[MANIFEST].tobytes()), arrays)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: got no file that can be read ({type(error).__name__}: {error}); expected "
            "one that Synthesizer.save wrote"
        ) from error
    return dict(state)


def _plain(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """JSON of a value; arrays go to `arrays`, by a number."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {NUMBER: repr(value)}
        case torch.Tensor() | np.ndarray():
            name = f"array_{len(arrays)}"
            if isinstance(value, torch.Tensor):
                arrays[name] = value.detach().cpu().numpy()
                return {ARRAY: name, "tensor": True}
            arrays[name] = value
            return {ARRAY: name, "tensor": False}
        case tuple():
            return {TUPLE: [_plain(part, arrays) for part in value]}
        case list():
            return [_plain(part, arrays) for part in value]
        case dict():
            return {"dict": {name: _plain(part, arrays) for name, part in value.items()}}
        case _ if is_dataclass(value) and type(value).__name__ in KINDS:
            named = {f.name: _plain(getattr(value, f.name), arrays) for f in fields(value)}
            return {KIND: type(value).__name__, "fields": named}
        case _:
            raise TypeError(f"got {type(value).__name__}, which no state can hold")


def _object(plain: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    match plain:
        case {"dict": inner}:
            return {name: _object(part, arrays) for name, part in inner.items()}
        case {"tuple": parts}:
            return tuple(_object(part, arrays) for part in parts)
        case {"array": name, "tensor": is_tensor}:
            return torch.from_numpy(arrays[name]) if is_tensor else arrays[name]
        case {"number": text}:
            return float(text)
        case {"kind": kind, "fields": named}:
            return KINDS[kind](**{name: _object(part, arrays) for name, part in named.items()})
        case list():
            return [_object(part, arrays) for part in plain]
        case _:
            return plain


def targets_state(targets: TargetSet) -> dict[str, Any]:
    """What of a set of targets is stored."""
    return {
        "values": targets.values,
        "ids": targets.ids,
        "unit": targets.unit,
        "header": targets.header,
        "source": targets.source,
        "transform": targets.transform.as_dict(),
        "symmetries": targets.symmetries,
        "fit_count": targets.fit_count,
        "model_range": targets.model_range,
        "missing": targets.missing,
    }


def targets_of(state: dict[str, Any]) -> TargetSet:
    """The set that `targets_state` told of."""
    transform = RangeTransform.from_dict(state["transform"])
    return TargetSet(**{**state, "transform": transform})
