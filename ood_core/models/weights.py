"""Weights of a diffusers folder: read without running anything, and fitted to a network exactly."""

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from ood_core.errors import BaseModelError
from ood_core.limits import BASE_BYTES
from ood_core.models.checkpoints import load_pickled, require_bytes

FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
SHOWN = 8
Shapes = Mapping[str, tuple[int, ...]]

_ATTENTION = re.compile(r"(.*attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def weights_file(folder: Path, source: str) -> Path:
    """Return the weights of a network's folder: safetensors, or the pickle where there are none.

    Raises:
        BaseModelError: neither is there.
    """
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    raise BaseModelError(
        f"{source}: no {FILES[0]}; expected safetensors weights, or {FILES[1]}, in one file beside "
        f"{folder.name}/config.json"
    )


def read_weights(path: Path, source: str, max_bytes: int = BASE_BYTES) -> dict[str, Tensor]:
    """Read tensors by name from safetensors or a torch pickle, on the CPU.

    Names that early versions of diffusers gave to attention layers and to the frequencies of NCSN++
    are brought up to date.

    Args:
        path: the file.
        source: the base, for messages.
        max_bytes: most bytes of the file, and of the weights in float32.

    Raises:
        BaseModelError: a file that is damaged or too large, or a pickle that holds anything but
            tensors.
    """
    require_bytes(path, path.stat().st_size, max_bytes)
    state = _read(path, source, max_bytes)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise BaseModelError(
            f"{source}: got {path.name} with a {type(state).__name__} of other things than "
            "tensors; expected the network's state_dict() alone: save that"
        )
    # A tensor of stride zero takes few bytes of the file and any number in memory.
    require_bytes(path, sum(4 * value.numel() for value in state.values()), max_bytes)
    return {_current(str(name)): value for name, value in state.items()}


def _read(path: Path, source: str, max_bytes: int) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return load_pickled(path, max_bytes)
    except BaseModelError:
        raise
    except pickle.UnpicklingError as error:
        raise BaseModelError(
            f"{source}: got {path.name}, which is damaged or would run code when loaded; expected "
            "tensors alone: fetch it again, or ask its makers for safetensors"
        ) from error
    except Exception as error:  # damaged pickles make their reader raise anything
        raise BaseModelError(
            f"{source}: cannot read {path.name} ({type(error).__name__}): it is damaged or cut "
            "short: fetch it again"
        ) from error


def _current(name: str) -> str:
    if name == "time_proj.W":  # stored beside its twin of today
        return "time_proj.weight"
    old = _ATTENTION.fullmatch(name)
    return f"{old[1]}.{_NAMES[old[2]]}.{old[3]}" if old else name


def require_exactly(network: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Refuse weights that are not those which a network needs; its own may be on no device.

    Raises:
        BaseModelError: weights that are missing, left over, or of another shape: all in one error.
    """
    if wrong := differences(shapes_of(network), state):
        raise BaseModelError(
            f"{source}: weights do not fit the network: {wrong}; expected exactly those "
            f"of the {type(network).__name__} that config.json describes: check that both files "
            "are of one base"
        )


def shapes_of(network: nn.Module) -> Shapes:
    """Shapes of the weights that a network needs, by name."""
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def differences(needed: Shapes, given: Mapping[str, Tensor]) -> str:
    """How weights differ from those that are needed, in words; '' where they do not."""
    shapes = {name: tuple(value.shape) for name, value in given.items()}
    kinds = {
        "missing": sorted(needed.keys() - shapes.keys()),
        "left over": sorted(shapes.keys() - needed.keys()),
        "of another shape": [
            f"{name} has {shapes[name]}, not {shape}"
            for name, shape in needed.items()
            if shapes.get(name, shape) != shape
        ],
    }
    return "; ".join(f"{len(n)} {kind} ({listing(n)})" for kind, n in kinds.items() if n)


def listing(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
