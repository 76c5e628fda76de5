"""Autoencoders of latent bases: maps to the codes that such a base works on, and back.

    code = scale (E(map) - shift),      map = G(code / scale + shift)

(Rombach et al. 2022, section 4 and appendix G). `E` is deterministic: the mode of the posterior of
an `AutoencoderKL`, the encoder's output before quantisation of a `VQModel`, whose decoder does the
quantisation.
"""

import copy
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import nn

from ood_core.arrays import Maps
from ood_core.errors import BaseModelError
from ood_core.limits import BASE_BYTES
from ood_core.models.networks import read_autoencoder
from ood_core.models.weights import weights_file

FOLDERS = ("vqvae", "vae")
BATCH = 8  # maps through the autoencoder at once, which bounds the memory

Shape = tuple[int, int, int]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Autoencoder:
    """A frozen encoder and decoder, in float32.

    Maps in model range have `channels` channels, codes `code_channels`; a code has one pixel for
    `factor` pixels a side.
    """

    network: nn.Module
    channels: int
    code_channels: int
    factor: int
    scale: float
    shift: float
    digest: str

    def to(self, device: torch.device | str) -> "Autoencoder":
        """A copy on a device."""
        return replace(self, network=copy.deepcopy(self.network).to(device))

    def encode(self, maps: Maps) -> Maps:
        """Return the codes `(n, code_channels, y / factor, x / factor)` of maps in model range."""
        return self.scale * (_in_batches(self._encode, maps) - self.shift)

    def decode(self, codes: Maps) -> Maps:
        """Return the maps of codes, in model range."""
        return _in_batches(self._decode, codes / self.scale + self.shift)

    def floor(self, maps: Maps) -> float:
        """Root-mean-square error of the round trip, in standard deviations of the maps.

        This decoder floor is what the autoencoder alone loses, whatever becomes of the codes.
        """
        error = self.decode(self.encode(maps)) - maps
        return float(error.square().mean().sqrt() / maps.std())

    def code_shape(self, shape: Shape) -> Shape:
        """Shape of the code of a map."""
        _, y, x = shape
        return self.code_channels, y // self.factor, x // self.factor

    def _encode(self, maps: Maps) -> Maps:
        found = cast(Any, self.network).encode(maps)
        codes: Maps = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents
        return codes

    def _decode(self, codes: Maps) -> Maps:
        maps: Maps = cast(Any, self.network).decode(codes).sample
        return maps


def autoencoder_folder(folder: Path) -> Path | None:
    """Return where a base has its autoencoder, or None for a base of pixels."""
    return next((folder / n for n in FOLDERS if (folder / n / "config.json").is_file()), None)


def load_autoencoder(
    folder: Path,
    config: dict[str, Any],
    source: str,
    device: torch.device,
    max_bytes: int = BASE_BYTES,
) -> Autoencoder:
    """Load the autoencoder of a latent base.

    Raises:
        BaseModelError: another class than `AutoencoderKL` and `VQModel`, weights that cannot be
            read, are more than `max_bytes` or do not fit, output channels that are not the
            input's, or codes that are shifted and scaled channel by channel.
    """
    network = read_autoencoder(folder, config, source, max_bytes)
    found = cast(Any, network).config
    if found.in_channels != found.out_channels:
        raise BaseModelError(
            f"{source}: got an autoencoder of {found.in_channels} to {found.out_channels} "
            "channels; expected as many channels out as in"
        )
    if found.get("latents_mean") is not None or found.get("latents_std") is not None:
        raise BaseModelError(
            f"{source}: got an autoencoder with latents_mean or latents_std; expected one "
            "scaling_factor for all channels: this version knows no other scaling"
        )
    scale, shift = float(found.scaling_factor), float(found.get("shift_factor") or 0.0)
    if not (0 < scale < math.inf and math.isfinite(shift)):
        raise BaseModelError(
            f"{source}: got scaling_factor {scale}; expected more than 0, and finite, as "
            f"shift_factor {shift}"
        )
    scaling = f"{config['_class_name']}, scale {scale!r}, shift {shift!r}"
    weights = weights_file(folder, source).read_bytes()
    return Autoencoder(
        network=network.to(device),
        channels=int(found.in_channels),
        code_channels=int(found.get("vq_embed_dim") or found.latent_channels),
        factor=2 ** (len(found.block_out_channels) - 1),
        scale=scale,
        shift=shift,
        digest=hashlib.sha256(weights + scaling.encode()).hexdigest(),
    )


@torch.no_grad()
def _in_batches(call: Callable[[Maps], Maps], maps: Maps) -> Maps:
    return torch.cat([call(batch) for batch in maps.split(BATCH)])
