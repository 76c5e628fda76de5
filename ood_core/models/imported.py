"""A base made from another project's checkpoint: checked against its network, then written."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ood_core.errors import BaseModelError
from ood_core.models.networks import outline_network, save_network

SHOWN = 5


@final
@dataclass(frozen=True, slots=True)
class Imported:
    """A base in the terms of diffusers.

    `unet` configures `UNet2DModel`, `state` has its weights by its names, and `scheduler`
    configures `DDPMScheduler`.
    """

    unet: dict[str, Any]
    state: dict[str, Tensor]
    scheduler: dict[str, Any]


def write_imported(imported: Imported, folder: Path) -> None:
    """Check the weights against the network, then write a diffusers folder in float32, by rename.

    Raises:
        BaseModelError: weights that do not make the network exactly, a folder that is not free, or
            one that cannot be written. Nothing is left behind.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BaseModelError(f"got {str(folder)!r}, which holds something; expected a new folder")
    network = assemble(imported)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent
        ) as partial:
            save_network(network, imported.scheduler, Path(partial) / "base")
            os.replace(Path(partial) / "base", folder)
    except (OSError, SafetensorError) as error:
        raise BaseModelError(
            f"cannot write {str(folder)!r} ({error}); choose another folder or make room"
        ) from error


def assemble(imported: Imported) -> nn.Module:
    """Return the network with its weights, in float32.

    Raises:
        BaseModelError: missing, unexpected or misshapen weights, or weights that are not finite
            numbers: all of them in one error, by their names in diffusers.
    """
    network, state = outline_network(imported.unet), imported.state
    wrong = list(_differences(network.state_dict(), state))
    if wrong:
        raise BaseModelError(
            f"weights do not make the network: got {'; '.join(wrong)}; expected exactly those of "
            "a UNet2DModel (names as there); check that the file is whole and of this layout"
        )
    network.load_state_dict({name: _own(value) for name, value in state.items()}, assign=True)
    return network


def _own(value: Tensor) -> Tensor:
    """A float32 copy: weights of a file may share memory, and safetensors takes none that do."""
    kept = value.detach()
    return kept.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _differences(expected: dict[str, Tensor], got: dict[str, Tensor]) -> Iterator[str]:
    """One phrase for each way in which the weights differ from what the network needs."""
    shared = [name for name in expected if name in got]
    fitting = [name for name in shared if got[name].shape == expected[name].shape]
    kinds = {
        "missing": [name for name in expected if name not in got],
        "unexpected": [name for name in got if name not in expected],
        "misshapen": [
            f"{name} {tuple(got[name].shape)}, not {tuple(expected[name].shape)}"
            for name in shared
            if got[name].shape != expected[name].shape
        ],
        "not of finite numbers": [name for name in fitting if not _is_finite(got[name])],
    }
    for kind, names in kinds.items():
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            yield f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{more})"


def _is_finite(value: Tensor) -> bool:
    dense = value.layout == torch.strided and value.device.type == "cpu"
    return dense and value.is_floating_point() and bool(value.to(torch.float32).isfinite().all())
