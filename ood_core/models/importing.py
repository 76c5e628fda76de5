"""Import of a checkpoint: read it, recognise its layout by its names, convert, write."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import Tensor

from ood_core.errors import BaseModelError
from ood_core.limits import BASE_BYTES
from ood_core.models.checkpoints import read_checkpoint
from ood_core.models.guided_layout import GuidedSchedule, from_guided, is_guided
from ood_core.models.ho_layout import from_ho, is_ho
from ood_core.models.imported import Imported, write_imported

State = dict[str, Tensor]


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """One project's way to name the weights."""

    name: str
    recognises: Callable[[State], bool]
    convert: Callable[[State, "ImportOptions"], Imported]


@final
@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Settings that cannot be read off the weights; the defaults are those of published networks.

    `size` is the side in pixels of the maps of training, where the weights do not say it or say it
    wrong. The others are settings of guided-diffusion networks alone.
    """

    size: int | None = None
    head_channels: int = 64
    heads: int | None = None
    new_attention_order: bool = False
    noise_schedule: GuidedSchedule = "linear"


def _guided(state: State, options: ImportOptions) -> Imported:
    return from_guided(
        state,
        options.size,
        head_channels=options.head_channels,
        heads=options.heads,
        new_attention_order=options.new_attention_order,
        noise_schedule=options.noise_schedule,
    )


LAYOUTS = (
    Layout("Ho et al. 2020", is_ho, lambda state, options: from_ho(state, options.size)),
    Layout("Dhariwal & Nichol 2021", is_guided, _guided),
)


@final
@dataclass(frozen=True, slots=True)
class Origin:
    """What an imported base was made from: its layout, and the key of its weights in the file."""

    layout: str
    place: str


def import_checkpoint(
    path: Path, folder: Path, options: ImportOptions | None = None, max_bytes: int = BASE_BYTES
) -> Origin:
    """Write the diffusers folder of a checkpoint; see `read_checkpoint` for what may be in it.

    Args:
        path: torch or safetensors file.
        folder: a new folder.
        options: settings that cannot be read off the weights.
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
        write_imported(layout.convert(checkpoint.state, options or ImportOptions()), folder)
    except BaseModelError as error:
        raise BaseModelError(f"{path} ({layout.name}): {error}") from error
    return Origin(layout.name, checkpoint.place)
