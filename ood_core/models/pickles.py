"""Torch files, read without running anything in them and with bounded memory.

Torch's own careful reader runs nothing, but it makes what it is asked to make: a byte array of any
length, or a million lists from a million bytes. So the pickle inside is measured and looked
through first.
"""

import pickle
import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any, cast

import torch

from ood_core.errors import BaseModelError
from ood_core.limits import Metered, TooMuch

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
