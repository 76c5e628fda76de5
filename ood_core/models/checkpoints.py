"""Weights read from other people's checkpoint files; nothing in a file is ever run.

Torch files, read without running anything in them and with bounded memory.

Torch's own careful reader runs nothing, but it allocates whatever a file requests: a byte array of
any length, or a million lists from a million bytes. So the pickle inside is measured and looked
through first.
"""

import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast, final

import torch
from safetensors.torch import load_file
from torch import Tensor

from ood_core.errors import BaseModelError
from ood_core.limits import BASE_BYTES, Metered, TooMuch

ASKS = "it asks for"
LARGEST_PICKLE = 2**22
"""Bytes of names and structure; those of large networks have a tenth of it."""
_LEGACY_PICKLES = 5  # magic number, protocol, system, content, names of storages
_FILLERS = ("bytearray", "UntypedStorage", "TypedStorage")
"""Globals that take memory of any size for a few bytes; no state dict has them."""


def load_pickled(path: Path, max_bytes: int) -> Any:
    """Return what a torch file holds, on the CPU.

    Args:
        path: zip archive of torch 1.6 and later, or the older form.
        max_bytes: most bytes of the file, and of what it holds.

    Raises:
        BaseModelError: more bytes than that.
        ValueError: packed members, wrong checksums, or a pickle that is too long.
        UnpicklingError: a pickle that asks for memory to be filled.
        Exception: whatever torch raises on damaged files, or on pickles that ask for more than
            tensors in plain containers.
    """
    require_bytes(path, path.stat().st_size, max_bytes)
    zipped = zipfile.is_zipfile(path)
    try:
        if zipped:
            _check_zip(path, max_bytes)
        else:
            _check_legacy(path)
    except TooMuch as error:
        raise ValueError(f"a pickle of more than {LARGEST_PICKLE} bytes") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about files that are refused in a moment
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def require_bytes(path: Path, size: int, max_bytes: int) -> None:
    """Refuse more bytes than are allowed.

    Raises:
        BaseModelError: that is so.
    """
    if size > max_bytes:
        raise BaseModelError(
            f"{path}: got {size} bytes; expected at most {max_bytes}; save the network's "
            "state_dict() by itself, or raise execution.max_base_bytes (--max-bytes of "
            "`farfield models import`)"
        )


def _check_zip(path: Path, max_bytes: int) -> None:
    """Compare sizes and checksums, which torch does not look at."""
    with path.open("rb") as file:
        metered = Metered(file, LARGEST_PICKLE)
        with zipfile.ZipFile(cast(IO[bytes], metered)) as archive:
            metered.allow(2 * max_bytes)
            members = archive.infolist()
            if any(info.compress_type != zipfile.ZIP_STORED for info in members):
                raise ValueError("packed members, which torch never writes")
            require_bytes(path, sum(info.file_size for info in members), max_bytes)
            for info in members:
                if info.filename.endswith(".pkl"):
                    with archive.open(info) as inner:
                        _check_pickle(Metered(cast(Any, inner), LARGEST_PICKLE))
            spoiled = archive.testzip()
    if spoiled is not None:
        raise ValueError(f"wrong checksum of {spoiled}")


def _check_legacy(path: Path) -> None:
    with path.open("rb") as file:
        metered = Metered(file, LARGEST_PICKLE)
        for _ in range(_LEGACY_PICKLES):
            if not file.peek(1):
                break  # cut short: torch says so
            _check_pickle(metered)


def _check_pickle(stream: Metered) -> None:
    """Look through one pickle, without following it; ValueError where it is damaged."""
    for _, argument, _ in pickletools.genops(cast(IO[bytes], stream)):
        if isinstance(argument, str) and argument.endswith(_FILLERS):
            raise pickle.UnpicklingError(f"{ASKS} {argument[-50:]}, which may fill memory")


AVERAGES = (
    "ema",
    "ema_state_dict",
    "state_dict_ema",
    "ema_model",
    "ema_model_state_dict",
    "model_ema",
    "model_ema_state_dict",
    "shadow",
)
WRAPPERS = ("state_dict", "model", "model_state_dict", "module", "net", "network", "unet", "params")
TOP = "top level"
DEEPEST = 5


@final
@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights by name, and where in the file they were, such as `ema` or `[4].module`."""

    state: dict[str, Tensor]
    place: str


def read_checkpoint(path: Path, max_bytes: int = BASE_BYTES) -> Checkpoint:
    """Read a torch or safetensors file: its averaged weights where it has them, else its weights.

    A state dict may be plain, lie in dicts under the names `AVERAGES` and `WRAPPERS`, or in a list
    such as `[model, optimiser, epoch, step, average]`, whose last state dict is the average. The
    same names are understood as prefixes of keys, and stripped.

    Args:
        path: the file.
        max_bytes: most bytes of the file, and of the weights in float32.

    Raises:
        BaseModelError: a file that is missing, too large, damaged, or that holds more than tensors
            in plain containers; no tensors with names.
    """
    if not path.is_file():
        raise BaseModelError(f"no file {str(path)!r}; expected a torch or safetensors checkpoint")
    require_bytes(path, path.stat().st_size, max_bytes)
    found = _find(_load(path, max_bytes), set()) or Checkpoint({}, TOP)
    if not found.state:
        raise BaseModelError(
            f"{path}: got no tensors with names ({found.place}); expected a state dict, alone or "
            f"under one of {', '.join((*AVERAGES, *WRAPPERS))}; save the network's state_dict() "
            "by itself"
        )
    # A tensor of stride zero takes few bytes of the file and any number in memory.
    require_bytes(path, sum(4 * value.numel() for value in found.state.values()), max_bytes)
    return found


def _load(path: Path, max_bytes: int) -> Any:
    try:
        if _is_safetensors(path):
            return load_file(path)
        return load_pickled(path, max_bytes)
    except BaseModelError:
        raise
    except Exception as error:  # damaged pickles make their reader raise anything
        raise BaseModelError(
            f"{path}: cannot be read ({_reason(error)}); expected tensors in plain dicts and "
            "lists, written by torch.save or as safetensors; fetch the file again, or, where you "
            "trust its source, save its state_dict() by itself"
        ) from error


def _is_safetensors(path: Path) -> bool:
    """Eight bytes of length, then JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _reason(error: Exception) -> str:
    """What was found; torch's own message also advises how to load the file unsafely."""
    text = str(error)
    wanted = re.search(r"GLOBAL (\S+)", text)
    if wanted:
        return f"{ASKS} {wanted[1]}, which may run code"
    if text.startswith(ASKS):
        return text
    if isinstance(error, pickle.UnpicklingError) or not text:
        return type(error).__name__
    return text.splitlines()[0].partition(". ")[0][:200]


def _find(content: Any, seen: set[int], place: str = "", depth: int = DEEPEST) -> Checkpoint | None:
    """The average in what was loaded, else its weights, else None.

    Nothing is looked at twice: a few lists can hold one another any number of times.
    """
    if depth == 0 or id(content) in seen:
        return None
    if isinstance(content, list | tuple):
        seen.add(id(content))
        parts = [_find(part, seen, f"{place}[{i}]", depth - 1) for i, part in enumerate(content)]
        return next((part for part in reversed(parts) if part), None)
    if not isinstance(content, Mapping):
        return None
    for name in AVERAGES:
        if isinstance(content.get(name), Mapping | list | tuple) and content[name]:
            inside = f"{place}.{name}"
            found = _find(content[name], seen, inside, depth - 1)
            return found or Checkpoint({}, inside.lstrip("."))
    inner = (_find(content.get(name), seen, f"{place}.{name}", depth - 1) for name in WRAPPERS)
    return next((part for part in inner if part), None) or _stripped(content, place)


def _stripped(content: Mapping[Any, Any], place: str) -> Checkpoint | None:
    """The tensors of a flat dict: those of the average if some are, without common prefixes."""
    state = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    while True:
        heads = {name.partition(".")[0] for name in state}
        average = (name for name in AVERAGES if name in heads)
        common = (name for name in WRAPPERS if heads == {name})
        head = next(average, None) or next(common, None)
        if head is None:
            return Checkpoint(state, place.lstrip(".") or TOP) if state else None
        place, inside = f"{place}.{head}", head + "."
        state = {k.removeprefix(inside): v for k, v in state.items() if k.startswith(inside)}
