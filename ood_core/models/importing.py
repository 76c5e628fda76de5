"""Import of a checkpoint: read it, tell its layout by its names, convert, write.

A base made from another project's checkpoint: checked against its network, then written.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ood_core.errors import BaseModelError
from ood_core.limits import BASE_BYTES
from ood_core.models.checkpoints import read_checkpoint
from ood_core.models.guided_layout import GuidedSchedule, from_guided, is_guided
from ood_core.models.ho_layout import from_ho, is_ho
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


State = dict[str, Tensor]


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """One project's way to name the weights."""

    name: str
    recognises: Callable[[State], bool]
    convert: Callable[[State, "Untold"], Imported]


@final
@dataclass(frozen=True, slots=True)
class Untold:
    """What weights do not tell of their network; the defaults are those of published networks.

    `size` is the side in pixels of the maps that it was trained on, where the weights do not tell
    it or tell it wrong. The others are settings of guided-diffusion networks alone.
    """

    size: int | None = None
    head_channels: int = 64
    heads: int | None = None
    new_attention_order: bool = False
    noise_schedule: GuidedSchedule = "linear"


def _guided(state: State, untold: Untold) -> Imported:
    return from_guided(
        state,
        untold.size,
        head_channels=untold.head_channels,
        heads=untold.heads,
        new_attention_order=untold.new_attention_order,
        noise_schedule=untold.noise_schedule,
    )


LAYOUTS = (
    Layout("Ho et al. 2020", is_ho, lambda state, untold: from_ho(state, untold.size)),
    Layout("Dhariwal & Nichol 2021", is_guided, _guided),
)


@final
@dataclass(frozen=True, slots=True)
class Origin:
    """What an imported base was made from: the layout, and where in the file its weights were."""

    layout: str
    place: str


def import_checkpoint(
    path: Path, folder: Path, untold: Untold | None = None, max_bytes: int = BASE_BYTES
) -> Origin:
    """Write the diffusers folder of a checkpoint; see `read_checkpoint` for what may be in it.

    Args:
        path: torch or safetensors file.
        folder: a new folder.
        untold: what the weights do not tell.
        max_bytes: most bytes of the file, and of its weights in float32.

    Raises:
        BaseModelError: a file that cannot be read, an unknown layout, weights that do not make the
            network exactly, a folder that is not free. Nothing is written then.
    """
    checkpoint = read_checkpoint(path, max_bytes)
    layout = next((each for each in LAYOUTS if each.recognises(checkpoint.state)), None)
    if layout is None:
        names = list(checkpoint.state)
        raise BaseModelError(
            f"{path}: got weights named {', '.join(names[:3])} and {len(names[3:])} more; expected "
            f"a layout of {', '.join(each.name for each in LAYOUTS)}; convert the checkpoint to a "
            "diffusers folder by the tools of its own project"
        )
    try:
        write_imported(layout.convert(checkpoint.state, untold or Untold()), folder)
    except BaseModelError as error:
        raise BaseModelError(f"{path} ({layout.name}): {error}") from error
    return Origin(layout.name, checkpoint.place)
