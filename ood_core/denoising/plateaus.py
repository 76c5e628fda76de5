"""Values that many pixels share exactly, and what lies beside them: gaps that no pixel lies in.

An ionised bubble has 0 mK and all around it has more. Near a front a posterior mean lies between
the two, where no map has a pixel, and linear weights of experts keep it there at noise that leaves
no doubt: samples had frayed fronts with dim borders. There the estimate is instead the posterior
mean over the targets' own patches,

    E[p | y] = sum_i softmax_i(-|y - p_i|^2 / (2 s^2)) p_i,   s = sigma/alpha

of which the middle pixel is kept (Kamb & Ganguli 2024, arXiv 2411.19339, eq. 5, there at all
pixels and noise levels): one side or the other as soon as the noise allows. All other pixels keep
their texture, which a few thousand patches do not have. `benchmarks/composites.py` measures it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.config.targets import Symmetry
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.patches import block_rows
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.estimators.patches import drawn_patches
from ood_core.maps.quantization import Quantization
from ood_core.numerics.random import Stream, generator
from ood_core.numerics.symmetry import orbit

GAP = 5.0  # the soft step between a plateau and its edge is so much narrower than these are apart
SIDE = 3  # of patches, px: of a front this wide a few thousand show all that there is
DECIDED = 3.0  # noises that a gap is wide where a pixel's side of it is hardly in doubt
FAINT = 0.5  # of the pixels beyond a gap: few lie just beside it, where means do
PATCHES = 4096  # the cost goes with their number
MARGIN = 0.1  # of a gap beside the plateau, where an estimate is that of the plateau with its noise


@final
@dataclass(frozen=True, slots=True, eq=False)
class Plateaus:
    """Values that pixels beyond an edge are set to, per channel: at the lower and the upper end."""

    value: Float[Tensor, "c 2"]
    edge: Float[Tensor, "c 2"]
    there: Bool[Tensor, "c 2"]

    @classmethod
    def of(cls, targets: Maps) -> "Plateaus | None":
        """Find the plateaus of targets in model range; None where there are none."""
        found = Quantization.measure(targets.cpu().numpy())
        columns = [[found.lowest, found.highest], [found.lower_edge, found.upper_edge]]
        value, edge = (torch.from_numpy(np.hstack(ends)[:, :, 0]).float() for ends in columns)
        there = value != edge
        return cls(value, edge, there) if bool(there.any()) else None

    def __call__(self, maps: Maps) -> Maps:
        """Set what lies beyond an edge; the gradient passes unchanged."""
        free = maps.detach()
        beyond = [free < self.edge[:, :1, None], free > self.edge[:, 1:, None]]
        settled = free
        for end, passed in enumerate(beyond):
            own = slice(end, end + 1)
            settled = torch.where(
                passed & self.there[:, own, None], self.value[:, own, None], settled
            )
        return maps + (settled - free)

    def heights(
        self, flat: Float[Tensor, "n c p"], heights: Float[Tensor, "n c 2 p"]
    ) -> Float[Tensor, "n c 2 p"]:
        """Heights over levels, with the middle of a gap for a level where there is one."""
        middle = (self.value + self.edge) / 2
        own = (flat[..., None, :] - middle[..., None]) / self._widths()[..., None]
        return torch.where(self.there[..., None], own, heights)

    def heights_adjoint(
        self, by_heights: Float[Tensor, "n c 2 p"]
    ) -> tuple[Float[Tensor, "n c p"], Float[Tensor, "n c 2 p"]]:
        """Gradients by pixels, and by the heights that were given, of the gradient by heights."""
        own = by_heights * (self.there / self._widths())[..., None]
        return own.sum(2), by_heights * ~self.there[..., None]

    def _widths(self) -> Float[Tensor, "c 2"]:
        """Widths of the soft steps at plateaus, and 1 where there are none."""
        return torch.where(self.there, (self.edge - self.value).abs() / GAP, 1.0)

    def to(self, device: torch.device | str) -> "Plateaus":
        """Move to a device."""
        return Plateaus(self.value.to(device), self.edge.to(device), self.there.to(device))

    def gap(self) -> float:
        """Width of the widest gap between a plateau and its edge."""
        return float((self.edge - self.value).abs().max())

    def fainter(self, targets: Maps) -> Float[Tensor, "c 2"]:
        """Per channel and end, the value that `FAINT` of the targets' other pixels lie before."""
        found = self.value.clone()
        for channel, pixels in enumerate(targets.movedim(1, 0).flatten(1)):
            at = (pixels[:, None] == self.value[channel]) & self.there[channel]
            ends = np.quantile(pixels[~at.any(dim=1)].numpy(), (FAINT, 1 - FAINT))
            found[channel] = torch.where(
                self.there[channel], torch.from_numpy(ends), found[channel]
            )
        return found


@final
@dataclass(frozen=True, slots=True, eq=False)
class Fronts:
    """Plateaus of targets, and the targets' patches, which tell on which side of a gap a pixel is.

    Pixels beside a plateau are asked about as far as `until`. Rows of `patches` are channels, rows
    and columns of `SIDE` px squares.
    """

    plateaus: Plateaus
    until: Float[Tensor, "c 2"]
    patches: Float[Tensor, "k d"]

    @classmethod
    def of(
        cls, targets: Maps, symmetries: Sequence[Symmetry], plateaus: Plateaus, root: int
    ) -> "Fronts":
        """Draw patches of all images of the targets."""
        rng = generator(root, SIDE, stream=Stream.RESAMPLE)
        images = torch.cat(orbit(targets, symmetries))
        patches = drawn_patches(images, SIDE, 1, rng)[:PATCHES]
        return cls(plateaus, plateaus.fainter(targets), patches)

    def doubtful(self, maps: Maps) -> Bool[Tensor, "n c y x"]:
        """Where pixels lie between a plateau and `until`, but for a margin next to the plateau."""
        until, value = (ends[..., None, None] for ends in (self.until, self.plateaus.value))
        share = (maps[:, :, None] - value) / torch.where(until == value, 1.0, until - value)
        inside = (share > MARGIN) & (share < 1) & self.plateaus.there[..., None, None]
        return inside.any(dim=2)

    def decided(self, noise: float) -> bool:
        """Whether noise of this standard deviation leaves the side of a gap hardly in doubt."""
        return noise * DECIDED <= self.plateaus.gap()

    def __call__(self, y: Maps, estimate: Maps, noise: float) -> Maps:
        """The estimate of maps `y` with noise, made anew where it is doubtful."""
        where = self.doubtful(estimate)
        wide = F.pad(y, (SIDE // 2,) * 4, mode="reflect")
        rows = F.unfold(wide, SIDE).transpose(1, 2)
        if y.device.type == "cpu":  # elsewhere to ask which ones would stop the device
            asked = where.any(dim=1).flatten(1)
            made = torch.zeros(*rows.shape[:2], y.shape[1]).to(y)
            made[asked] = self._middle(rows[asked], noise)
        else:
            made = self._middle(rows.flatten(0, 1), noise).unflatten(0, rows.shape[:2])
        return torch.where(where, made.transpose(1, 2).reshape(y.shape), estimate)

    def _middle(self, rows: Float[Tensor, "n d"], noise: float) -> Float[Tensor, "n c"]:
        middle = self.patches.unflatten(1, (-1, SIDE**2))[..., SIDE**2 // 2]
        half = self.patches.square().sum(dim=1) / 2
        blocks = rows.split(block_rows(rows, len(self.patches)))
        clean = [((b @ self.patches.T - half) / noise**2).softmax(dim=1) @ middle for b in blocks]
        return torch.cat(clean)

    def to(self, device: torch.device | str) -> "Fronts":
        """Move to a device."""
        return Fronts(self.plateaus.to(device), self.until.to(device), self.patches.to(device))


@final
class FrontDenoiser:
    """A denoiser, with pixels that it leaves in a gap decided by the targets' patches."""

    def __init__(self, inner: Denoiser, fronts: Fronts) -> None:
        self._inner, self._fronts = inner, fronts

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule of the denoiser inside."""
        return self._inner.schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return the estimate of clean maps."""
        estimate, noise = self._inner(x_t, t), self.schedule.noise_to_signal(t)
        if not self._fronts.decided(noise):
            return estimate
        return self._fronts(x_t / float(self.schedule.alpha[t]), estimate, noise)
