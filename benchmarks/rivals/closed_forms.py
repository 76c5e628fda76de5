"""Denoisers of the literature that need no network, and ancestral steps with them from noise.

Both are posterior means over what the targets have, under a mask that makes them local: without one
they would be that of the targets themselves, whose every sample is a target.

    composites   E[p | y] over the targets' patches p at all places, of which the middle pixel is
                 kept: the equivariant local score of Kamb & Ganguli (2024, arXiv 2411.19339, eq. 5)
    masked       pixel q is an average of that pixel of the targets, weighted by their likelihood
                 under the pixels that the Wiener filter of their covariance looks at for q
                 (Lukoianov et al. 2025, arXiv 2509.09672)

The first paper measures the size of patches on a trained network. There is none here: of `SIDES`
the one is taken, at each noise level, whose patches of half of the targets denoise the others best.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from benchmarks.rivals.baseline import Made, parts, require_targets
from ood_core.arrays import Maps
from ood_core.config.method import AUTO_MIN_NOISE, AUTO_NOISE
from ood_core.config.targets import Symmetry
from ood_core.diffusion.sampling import decode
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.numerics.random import SeedRange, Stream, generator, normal, normal_like, root_key
from ood_core.numerics.symmetry import orbit

SIDES = (3, 5, 9, 15)
PATCHES = 4096  # of all sides alike: the cost is their number times that of the pixels
CHOOSING = 2  # targets that sides are chosen by, per half
ROWS = 1024  # patches that are compared at once, which bounds the memory
ROOT = root_key("closed forms")

Estimate = Callable[[Maps, int], Maps]


@final
@dataclass(frozen=True, slots=True)
class ClosedForm:
    """A closed form with the schedule of its steps, as a denoiser."""

    schedule: NoiseSchedule
    estimate: Estimate

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return the estimate of clean maps."""
        return self.estimate(x_t / float(self.schedule.alpha[t]), t)


def from_noise(denoiser: ClosedForm, steps: int, shape: Sequence[int], seeds: SeedRange) -> Maps:
    """Decode white noise in ancestral steps between the noise levels of the project's method."""
    grid = grid_of(denoiser.schedule, steps)
    made = []
    for part in parts(seeds):
        made.append(decode(denoiser, "ancestral", normal(part, tuple(shape)), grid, part))
    return torch.cat(made)


def grid_of(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Rising time indices of so many steps."""
    ends = schedule.index_of(AUTO_NOISE), schedule.index_of(AUTO_MIN_NOISE)
    return schedule.log_snr_grid(steps + 1, *ends)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PatchComposites:
    """Ancestral steps with posterior means over the targets' patches."""

    steps: int = 12

    def __call__(self, targets: Maps, symmetries: Sequence[Symmetry], seeds: SeedRange) -> Made:
        """Make one map per seed; see `Baseline`."""
        require_targets(targets, 4)
        schedule, mode = NoiseSchedule.linear(), border(symmetries)
        grid = grid_of(schedule, self.steps).tolist()
        sides = chosen_sides(targets, symmetries, {t: schedule.noise_to_signal(t) for t in grid})
        banks = {s: drawn_patches(targets, s, symmetries) for s in set(sides.values())}

        def estimate(y: Maps, t: int) -> Maps:
            return composite(y, banks[sides[t]], schedule.noise_to_signal(t), mode)

        made = from_noise(ClosedForm(schedule, estimate), self.steps, targets.shape[1:], seeds)
        notes = {f"side at step {i}": float(side) for i, side in enumerate(sides.values())}
        return Made(made, notes=notes)


def chosen_sides(
    targets: Maps, symmetries: Sequence[Symmetry], ratios: Mapping[int, float]
) -> dict[int, int]:
    """The sides of patches that denoise the other half of the targets best, by time index.

    `ratios` are `sigma/alpha` by time index.
    """
    sides = [side for side in SIDES if side <= min(targets.shape[-2:]) // 2] or [1]
    folds = [(targets[p::2][:CHOOSING], targets[1 - p :: 2]) for p in (0, 1)]
    banks = [{s: drawn_patches(seen, s, symmetries) for s in sides} for _, seen in folds]
    mode, taken = border(symmetries), {}
    for t, noise in ratios.items():
        errors = dict.fromkeys(sides, 0.0)
        for side in sides:
            for (x0, _), bank in zip(folds, banks, strict=True):
                clean = composite(noised(x0, noise, t), bank[side], noise, mode)
                errors[side] += float((clean - x0).square().sum())
        taken[t] = min(errors, key=lambda side: errors[side])
    return taken


def border(symmetries: Sequence[Symmetry]) -> str:
    """How maps go on beyond their borders."""
    return "circular" if "translate" in symmetries else "reflect"


def noised(x0: Maps, noise: float, t: int) -> Maps:
    """Maps with white noise of this standard deviation, the same for all sides."""
    return x0 + noise * normal_like(x0, ROOT, t, Stream.CALIBRATION)


def windows(maps: Maps, side: int, mode: str) -> Float[Tensor, "n pixels d"]:
    """The patch about every pixel, all channels."""
    half = side // 2
    wide = F.pad(maps, (half, half, half, half), mode=mode) if half else maps
    return F.unfold(wide, side).transpose(1, 2)


def drawn_patches(maps: Maps, side: int, symmetries: Sequence[Symmetry]) -> Float[Tensor, "k d"]:
    """At most `PATCHES` patches of the maps' images, at random places."""
    images = torch.cat(orbit(maps, symmetries))
    pixels = images.shape[-2] * images.shape[-1]
    rng = generator(ROOT, side, stream=Stream.RESAMPLE)
    found = torch.from_numpy(rng.permutation(len(images) * pixels)[:PATCHES])
    kept = []
    for number, image in enumerate(images):
        own = found[found // pixels == number] % pixels
        if len(own):
            kept.append(windows(image[None], side, border(symmetries))[0][own])
    return torch.cat(kept)


def composite(y: Maps, bank: Float[Tensor, "k d"], noise: float, mode: str) -> Maps:
    """The middle pixel of `E[p | y]` for the patch about every pixel of noised maps."""
    channels = y.shape[1]
    side = round((bank.shape[1] / channels) ** 0.5)
    middle = bank.unflatten(1, (channels, side * side))[..., side * side // 2]
    squares = bank.square().sum(1) / 2
    rows = windows(y, side, mode).flatten(0, 1)
    clean = [
        ((block @ bank.T - squares) / noise**2).softmax(dim=1) @ middle
        for block in rows.split(ROWS)
    ]
    middles: Tensor = torch.cat(clean).unflatten(0, (len(y), -1))
    return middles.transpose(1, 2).reshape(y.shape)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedPosterior:
    """Ancestral steps with posterior means over the targets, pixel by pixel under masks.

    A mask has the pixels whose weight in the Wiener filter, over that of the pixel itself, is at
    least `least` times the largest.
    """

    steps: int = 12
    least: float = 0.02

    def __call__(self, targets: Maps, symmetries: Sequence[Symmetry], seeds: SeedRange) -> Made:
        """Make one map per seed; see `Baseline`."""
        require_targets(targets, 4)
        schedule = NoiseSchedule.linear()
        images = torch.cat(orbit(targets, symmetries)).flatten(1)
        centred = (images - images.mean(0)).double()
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(images))
        seen = {
            t: masks(values.clamp_min(0), vectors, schedule.noise_to_signal(t), self.least)
            for t in grid_of(schedule, self.steps).tolist()
        }

        def estimate(y: Maps, t: int) -> Maps:
            return masked(y, images, seen[t], schedule.noise_to_signal(t))

        made = from_noise(ClosedForm(schedule, estimate), self.steps, targets.shape[1:], seeds)
        return Made(made)


def masks(
    values: Float[Tensor, " d"], vectors: Float[Tensor, "d d"], noise: float, least: float
) -> Bool[Tensor, "d d"]:
    """Row `q` has the pixels that the Wiener filter of a covariance looks at for pixel `q`."""
    wiener = (vectors * (values / (values + noise**2))) @ vectors.T
    share = (wiener / wiener.diagonal().clamp_min(1e-12)[:, None]).abs()
    return share >= least * share.max()


def masked(y: Maps, images: Float[Tensor, "m d"], mask: Bool[Tensor, "d d"], noise: float) -> Maps:
    """The average of images at every pixel, by their likelihood under its mask."""
    looked = mask.T.to(y)
    clean = []
    for row in y.flatten(1):
        far = (row - images).square() @ looked
        clean.append(((-far / (2 * noise**2)).softmax(dim=0) * images).sum(0))
    return torch.stack(clean).reshape(y.shape)
