"""A base made from another project's checkpoint: checked against its network, then written."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ood_core.errors import BaseModelError
from ood_core.models.networks import outline_network, save_network
from ood_core.models.weights import differences, listing, shapes_of


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
        BaseModelError: weights that are missing, left over or of another shape, or are not finite
            numbers: all of them in one error, by their names in diffusers.
    """
    network, state = outline_network(imported.unet), imported.state
    wrong = differences(shapes_of(network), state)
    if not wrong and (bad := [name for name, value in state.items() if not _is_finite(value)]):
        wrong = f"{len(bad)} not of finite numbers ({listing(bad)})"
    if wrong:
        raise BaseModelError(
            f"weights do not make the network: got {wrong}; expected exactly those of "
            "a UNet2DModel (names as there); check that the file is whole and of this layout"
        )
    network.load_state_dict({name: _own(value) for name, value in state.items()}, assign=True)
    return network


def _own(value: Tensor) -> Tensor:
    """A float32 copy: weights of a file may share memory, and safetensors takes none that do."""
    kept = value.detach()
    return kept.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _is_finite(value: Tensor) -> bool:
    dense = value.layout == torch.strided and value.device.type == "cpu"
    return dense and value.is_floating_point() and bool(value.to(torch.float32).isfinite().all())
