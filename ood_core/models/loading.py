"""Frozen bases loaded from diffusers folders or hub ids, and digested."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, final

import numpy as np
import torch

from ood_core.arrays import Maps
from ood_core.diffusion.denoiser import BasesContext
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.errors import BaseModelError, BaseModelMissing, FarfieldError, TargetError
from ood_core.limits import BASE_BYTES
from ood_core.maps.paths import BOTH, SHIPPED
from ood_core.maps.target_set import TargetSet
from ood_core.models.autoencoder import Autoencoder, Shape, autoencoder_folder, load_autoencoder
from ood_core.models.galaxygrad import PREFIX, find_weights, packaged, read_mixer
from ood_core.models.in_context import CLASS as IN_CONTEXT
from ood_core.models.in_context import DIVISOR, EXAMPLES, InContextNetwork, read_in_context
from ood_core.models.networks import Patched, read_network
from ood_core.models.pretrained import (
    Parametrisation,
    PretrainedDenoiser,
    SeveralDenoisers,
    suited,
)
from ood_core.models.schedulers import SettingRuling, read_scheduler, suit_network
from ood_core.models.weights import read_weights, weights_file
from ood_core.numerics.random import Root

LARGEST_JSON = 2**22
LINEAR = "linear betas from 1e-4 to 0.02 in 1000 steps"
"""What `NoiseSchedule.linear` is called in a digest."""


@final
@dataclass(frozen=True, slots=True)
class BaseModel:
    """A frozen base: its denoiser and what there is to know about it.

    Maps must have `channels` channels, or any number where that is 1 and there are no codes: then
    each channel is denoised by itself. Networks see sides that are multiples of `size_multiple`
    pixels, to which maps of pixels are mirrored; codes and `fixed_size`, sides of exactly `size`
    pixels, need maps that are so. The denoiser of a latent base works on the codes that its
    autoencoder `codes` makes of maps. `prediction` names the parametrisation,
    preconditioning included. `examples` is the number of maps that it can be shown. `several` are
    the bases that are asked as experts of one run, where there is more than one; `denoiser` is then
    all of them, on the schedule of the first.
    """

    denoiser: PretrainedDenoiser | SeveralDenoisers
    digest: str
    channels: int
    size: int
    parameters: int
    prediction: str
    rulings: tuple[SettingRuling, ...]
    source: str
    size_multiple: int
    fixed_size: bool = False
    codes: Autoencoder | None = None
    examples: int = 0
    several: "tuple[BaseModel, ...]" = ()

    @property
    def each(self) -> "tuple[BaseModel, ...]":
        """The bases that it is made of: itself, or several."""
        return self.several or (self,)

    @property
    def device(self) -> torch.device:
        """Where its network is."""
        device: torch.device = next(self.denoiser.network.parameters()).device
        return device

    def to(self, device: torch.device | str) -> "BaseModel":
        """A copy on a device."""
        if self.several:
            return together([one.to(device) for one in self.several], self.source)
        codes = None if self.codes is None else self.codes.to(device)
        return replace(self, denoiser=self.denoiser.to(device), codes=codes)

    @torch.no_grad()
    def show(self, maps: Maps, root: int) -> tuple[Any, ...]:
        """Return what the network makes of `examples` of the maps, in model range.

        Which ones is decided by `root`. Empty if the network looks at none.
        """
        if self.several:
            return (BasesContext(tuple(one.show(maps, root) for one in self.several)),)
        if self.examples == 0:
            return ()
        order = Root(root).child("examples").generator().permutation(len(maps))
        few = maps[np.sort(order[: self.examples])].to(self.device)
        shown = suited(few, self.channels, self.size_multiple)[: self.examples]
        return (cast(InContextNetwork, self.denoiser.network).context(shown),)

    def code_shape(self, shape: Shape) -> Shape:
        """Shape of what the denoiser sees of a map of this shape: the same, or that of its code."""
        return shape if self.codes is None else self.codes.code_shape(shape)

    def check(self, targets: TargetSet) -> None:
        """Refuse targets that this base, or any base, cannot take.

        Raises:
            TargetError: another number of channels, or sides that do not fit.
        """
        for one in self.several:
            one.check(targets)
        if self.several:
            return
        source, (channels, height, width) = targets.source, targets.shape
        if channels != self.channels and (self.channels != 1 or self.codes is not None):
            raise TargetError(
                f"{source}: got {channels} channels; expected {self.channels}, as the base has; "
                "save the maps with those channels or choose another base"
            )
        least = self.size_multiple
        if self.codes is not None and (height % least or width % least):
            raise TargetError(
                f"{source}: got maps of {height} x {width} px; expected sides that are multiples "
                f"of {least} px, as the base's autoencoder needs; crop the maps, or choose "
                "another base"
            )
        if self.fixed_size and (height, width) != (self.size, self.size):
            raise TargetError(
                f"{source}: got maps of {height} x {width} px; expected {self.size} x "
                f"{self.size} px, the only size that {self.source} takes: cut or resample the "
                "maps, or choose another base"
            )
        if min(height, width) <= least // 2:
            raise TargetError(
                f"{source}: got maps of {height} x {width} px; expected more than {least // 2} px "
                f"a side, since the base sees multiples of {least} px; choose another base"
            )
        targets.check(1 if self.codes is None else self.codes.factor)


def load_model(
    source: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    max_bytes: int = BASE_BYTES,
) -> BaseModel:
    """Load a diffusers folder or hub id, one that this project trained, or `galaxygrad:NAME`.

    Args:
        source: the base; nothing in its files is run. Several, joined by ` + `, are experts of one
            run, whose time indices are those of the first.
        device: where its network goes.
        dtype: number type that the network works in.
        max_bytes: most bytes of its weights, as stored and in float32.

    Raises:
        BaseModelError: missing or unreadable files, weights that do not fit, a scheduler that is
            not known or not the network's, a setting of it that cannot be honoured, or a network
            that is not an unconditional `UNet2DModel`, or a package that is not installed.
    """
    if len(names := source.split(BOTH)) > 1:
        models = [load_model(name, device, dtype, max_bytes) for name in names]
        return together(models, source)
    try:
        if source.startswith(PREFIX):
            return _load_packaged(source, device, dtype)
        return _load_folder(source, torch.device(device), dtype, max_bytes)
    except FarfieldError:
        raise
    except Exception as error:  # what settings of wrong types do on their way, nobody has listed
        raise BaseModelError(
            f"{source[:200]}: got files that make no base ({type(error).__name__}: {error}); "
            "expected those of a diffusers folder: fetch it again"
        ) from error


def together(models: Sequence[BaseModel], source: str) -> BaseModel:
    """Several bases as one, of the digest of all.

    Raises:
        BaseModelError: one with an autoencoder, or one given twice.
    """
    first, digests = models[0], [one.digest for one in models]
    if len(set(digests)) < len(digests) or any(one.codes is not None for one in models):
        raise BaseModelError(
            f"{source}: got several bases of which two are the same, or one works on codes; "
            "expected different ones that work on pixels: leave one out"
        )
    return replace(
        first,
        denoiser=SeveralDenoisers([cast(PretrainedDenoiser, one.denoiser) for one in models]),
        digest=hashlib.sha256(" ".join(digests).encode()).hexdigest(),
        parameters=sum(one.parameters for one in models),
        prediction=BOTH.join(one.prediction for one in models),
        rulings=tuple(ruling for one in models for ruling in one.rulings),
        source=source,
        several=tuple(models),
    )


def _load_folder(source: str, where: torch.device, dtype: torch.dtype, max_bytes: int) -> BaseModel:
    folder = _folder(source)
    unet_dir = folder / "unet" if (folder / "unet" / "config.json").is_file() else folder
    config = _read_json(unet_dir / "config.json", source)
    if config.get("_class_name") == IN_CONTEXT:
        return _load_in_context(unet_dir, config, source, where, dtype, max_bytes)
    reading = read_scheduler(_scheduler_config(folder, unet_dir, source))
    schedule, parametrisation, rulings, levels = suit_network(reading, config)
    weights = weights_file(unet_dir, source)
    network = read_network(unet_dir, config, weights, source, max_bytes).to(where)
    unet, patch = (network.unet, network.patch) if isinstance(network, Patched) else (network, 1)
    known = cast(Any, unet).config  # with the defaults of what config.json leaves out
    channels = int(known.in_channels) // patch**2
    codes = _codes(folder, channels, source, where, max_bytes)
    multiple, factor = (
        patch * 2 ** (len(known.block_out_channels) - 1),
        codes.factor if codes else 1,
    )
    digest = weights_digest(weights, parametrisation, levels)
    return BaseModel(
        denoiser=PretrainedDenoiser(network, schedule, parametrisation, dtype, channels, multiple),
        digest=digest if codes is None else _both(digest, codes.digest),
        channels=channels if codes is None else codes.channels,
        size=_square(known.sample_size, source) * patch * factor,
        parameters=sum(p.numel() for p in network.parameters()),
        prediction=str(parametrisation),
        rulings=rulings,
        source=source,
        size_multiple=multiple * factor,
        codes=codes,
    )


def _load_in_context(
    folder: Path,
    config: dict[str, Any],
    source: str,
    where: torch.device,
    dtype: torch.dtype,
    max_bytes: int,
) -> BaseModel:
    """A network that is shown examples; it takes any noise level, so its schedule is ours."""
    schedule, weights = NoiseSchedule.linear(), weights_file(folder, source)
    inner = read_in_context(config, read_weights(weights, source, max_bytes), source)
    network = InContextNetwork(inner, schedule).to(where)
    digest = weights_digest(weights, "v_prediction", LINEAR)
    return BaseModel(
        denoiser=PretrainedDenoiser(network, schedule, "v_prediction", dtype, 1, DIVISOR),
        digest=hashlib.sha256(f"{digest} {EXAMPLES} examples".encode()).hexdigest(),
        channels=1,
        size=_square(config["sample_size"], source),
        parameters=sum(p.numel() for p in network.parameters()),
        prediction="v_prediction",
        rulings=(),
        source=source,
        size_multiple=DIVISOR,
        examples=EXAMPLES,
    )


def _load_packaged(source: str, device: torch.device | str, dtype: torch.dtype) -> BaseModel:
    schedule, size = NoiseSchedule.linear(), packaged(source).size
    weights = find_weights(source)
    network = read_mixer(weights, size, schedule).to(torch.device(device))
    return BaseModel(
        denoiser=PretrainedDenoiser(network, schedule, "epsilon", dtype, 1),
        digest=weights_digest(weights, "epsilon", LINEAR),
        channels=1,
        size=size,
        parameters=sum(p.numel() for p in network.parameters()),
        prediction="epsilon",
        rulings=(),
        source=source,
        size_multiple=size,
        fixed_size=True,
    )


def weights_digest(weights: Path, parametrisation: Parametrisation, levels: str) -> str:
    """SHA-256 of weights, parametrisation and noise levels: all of a base that changes results.

    Of the levels it takes what was stated (`read_scheduler`), not their values: libraries round
    those otherwise on other CPUs, and a base is the same on all of them.
    """
    digest = hashlib.sha256(weights.read_bytes())
    digest.update(f"{parametrisation}; {levels}".encode())
    return digest.hexdigest()


def _both(network: str, autoencoder: str) -> str:
    return hashlib.sha256((network + autoencoder).encode()).hexdigest()


def _codes(
    folder: Path, channels: int, source: str, device: torch.device, max_bytes: int
) -> Autoencoder | None:
    """The autoencoder of a base whose network takes so many channels, if it has one."""
    found = autoencoder_folder(folder)
    if found is None:
        return None
    config = _read_json(found / "config.json", source)
    codes = load_autoencoder(found, config, source, device, max_bytes)
    if codes.code_channels != channels:
        raise BaseModelError(
            f"{source}: got a network of {channels} channels and codes of {codes.code_channels}; "
            "expected as many: check that both are of one base"
        )
    return codes


def _folder(source: str) -> Path:
    for folder in (Path(source), SHIPPED / source):
        if folder.is_dir():
            return folder
    if _is_path(source):
        shipped = ", ".join(f"models/{p.name}" for p in sorted((SHIPPED / "models").glob("*/")))
        raise BaseModelMissing(
            f"no folder {source!r}: expected a diffusers folder (with model_index.json or "
            f"config.json), a base that is shipped ({shipped}) or a hub id such as 'owner/name'; "
            "check the path (relative paths start at the working folder)"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors"]))
        if any(not any(c.parent.glob("*.safetensors")) for c in folder.rglob("config.json")):
            folder = Path(snapshot_download(source, allow_patterns=["*.json", "*.bin"]))
        return folder
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise BaseModelMissing(
            f"{source!r} is no local folder, and the hub did not give it ({type(error).__name__}): "
            "check the path, or the id and the network"
        ) from error


def _is_path(source: str) -> bool:
    """Whether a name is a path on disk, which must never be looked up at the hub."""
    first, *_ = parts = Path(source).parts or ("",)
    local = source.startswith((".", "~", "/", "models/")) or "\\" in source
    return local or len(parts) != 2 or source.count("/") != 1 or Path(first).exists()


def _scheduler_config(folder: Path, unet_dir: Path, source: str) -> dict[str, Any]:
    for path in (
        folder / "scheduler" / "scheduler_config.json",
        unet_dir / "scheduler_config.json",
    ):
        if path.is_file():
            return _read_json(path, source)
    raise BaseModelError(
        f"{source}: no scheduler_config.json; expected it beside the network or in scheduler/: "
        "without it neither the noise schedule nor the prediction type is known"
    )


def _read_json(path: Path, source: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"more than {LARGEST_JSON} bytes")
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}, not an object")
        return cast(dict[str, Any], content)
    except (OSError, RecursionError, ValueError) as error:
        raise BaseModelError(
            f"{source}: cannot read {path.name} ({error}); expected a diffusers model folder"
        ) from error


def _square(sample_size: int | list[int] | None, source: str) -> int:
    if not sample_size:
        raise BaseModelError(
            f"{source}: got a network without sample_size; expected the side of the maps it was "
            "trained on: state it in its config.json"
        )
    return int(sample_size if isinstance(sample_size, int) else max(sample_size))
