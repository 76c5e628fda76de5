"""The recipe of a base model, checked where it is built."""

import re
from dataclasses import dataclass
from typing import Literal, final

from ood_core.errors import require, require_counts

Domain = Literal["dead_leaves", "random_fields", "mosaic"]
Prediction = Literal["epsilon", "v_prediction", "sample"]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainSpec:
    """Recipe of a base model: training domain, network, optimisation.

    Attributes:
        name: of the base and of its folder.
        domains: kinds of training maps, which share each batch equally.
        mosaic: image file of the domain `mosaic`.
        mosaic_margin: fraction of that image that is left out at top and bottom, where the map of
            a globe is stretched.
        seed: of weights and training maps.
        size: side of the maps in pixels.
        patch: side of the squares of pixels that are folded into channels before the first
            convolution.
        start_from: a base of the same shape whose weights the training starts with.
        dtype: number type of the network's evaluations.
        widths: channels per resolution.
        layers: residual blocks per resolution.
        attention: whether each resolution has attention.
        norm_groups: groups of the normalisation, which every width is a multiple of.
        prediction: what the network returns.
        steps: optimiser steps.
        batch: maps per step.
        rate: learning rate.
        ema: decay of the averaged weights that are kept.
    """

    name: str
    domains: tuple[Domain, ...] = ("dead_leaves",)
    mosaic: str = ""
    mosaic_margin: float = 0.0
    seed: int = 0
    size: int = 32
    patch: int = 1
    start_from: str = ""
    dtype: Literal["float32", "bfloat16"] = "float32"
    widths: tuple[int, ...] = (24, 64, 128, 128)
    layers: int = 1
    attention: tuple[bool, ...] = (False, False, True, True)
    norm_groups: int = 8
    prediction: Prediction = "v_prediction"
    steps: int = 6500
    batch: int = 32
    rate: float = 4e-4
    ema: float = 0.999

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", self.name) is not None,
            f"name: got {self.name[:100]!r}; expected letters, digits, `_`, `-` and `.`, since it "
            "names a folder",
        )
        require_counts(self, "size", "patch", "layers", "norm_groups", "batch", most=10**6)
        require_counts(self, "steps")
        require(1 <= len(self.widths) <= 16, f"widths: got {len(self.widths)}; expected 1 to 16")
        require(max(self.widths) <= 10**5, f"widths: got {max(self.widths)}; expected <= 100000")
        require(self.norm_groups >= 1, f"norm_groups: got {self.norm_groups}; expected 1 or more")
        require(len(self.widths) == len(self.attention), "widths and attention: one per level")
        require(
            all(w % self.norm_groups == 0 for w in self.widths),
            f"got widths {self.widths}; expected multiples of norm_groups {self.norm_groups}",
        )
        require(
            self.patch >= 1 and self.size % self.multiple == 0,
            f"got size {self.size}; expected a multiple of {self.multiple}",
        )
        require(
            len(self.domains) >= 1 and self.batch % len(self.domains) == 0,
            f"got batch {self.batch}; expected a multiple of the {len(self.domains)} domains",
        )
        require(
            ("mosaic" in self.domains) == bool(self.mosaic),
            "mosaic: give an image file with the mosaic domain, and only then",
        )
        require(0 <= self.mosaic_margin < 0.5, "mosaic_margin: expected 0 or more, below 0.5")
        require(self.steps > 0 and self.batch > 0, "steps and batch must be positive")
        require(0 <= self.ema < 1 and self.rate > 0, "ema in [0, 1) and a positive rate")

    @property
    def multiple(self) -> int:
        """Map sides must be a multiple of this many pixels."""
        return self.patch * int(2 ** (len(self.widths) - 1))
