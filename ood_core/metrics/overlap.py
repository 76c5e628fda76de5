"""Does a map share a part with a target, turned or mirrored as declared, or moved?

Maps are whitened by a small filter that flattens the spectrum of the targets, so that parts of
smooth maps are not alike for being smooth, and bright pixels are held down. What a map and a target
share then stands out of their cross-correlation at the shift that lays the one on the other
(phase-only correlation weighs modes in the same way; Kuglin & Hines 1975): with a share `s` of `N`
pixels it is `s N^1/2` standard deviations high. It is computed at all periodic shifts for all
targets and declared images; the highest `CANDIDATES` pairs are looked at pixel by pixel, as they
are and moved by the part of a pixel that the peak's neighbours tell. There the distance is
`(2 - 2 r)^1/2` with the largest correlation `r` of the two within any square box of a given size: 0
where a whole box is copied. Boxes without structure, as empty sky, resemble nothing. Maps with
their sign inverted are copies too: correlations of either sign count.
"""

from dataclasses import dataclass
from functools import cache
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ood_core.config.targets import Symmetry
from ood_core.numerics.symmetry import inverse, orbit, orbit_size

BOXES = {"window": 0.75, "piece": 0.5}  # sides of boxes in parts of a map's side
REACH = 3  # pixels of the filter to either side
NOISE = 0.003  # variance of white noise, in maps' own units, that whitening does not blow up
BRIGHT = 2.0  # standard deviations at which whitened pixels are held down
EMPTY = 0.1  # of the mean energy of boxes: with less, boxes are alike for want of structure
BLUR = 0.5  # cycles per pixel that matter where maps may be moved by parts of pixels
CANDIDATES = 64  # pairs that are looked at, per map: small quadrants are not among the first few
BLOCK_VALUES = 2**20  # of correlations that are held at once, at least those of one map

AnyMaps = Float[Tensor, "_ _ _ _"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Per map: distance to the nearest part of a target, 0 to 2, and the number of that target."""

    distance: Float[Tensor, " n"]
    target: Int[Tensor, " n"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class OverlapSearch:
    """Targets as they are searched: whitened, with spectra of pairs and the energies of boxes."""

    turns: tuple[int, ...]
    symmetries: tuple[Symmetry, ...]
    kernel: Float[Tensor, "c one y x"]
    white: AnyMaps
    modes: Tensor
    boxes: tuple[int, ...]
    floor: float

    @classmethod
    def of(
        cls, targets: AnyMaps, symmetries: tuple[Symmetry, ...], *, blurred: bool
    ) -> "OverlapSearch":
        """Prepare targets in units of their own; `blurred` ones may be moved by parts of pixels."""
        side = min(targets.shape[-2:])
        kernel = _kernel(targets, blurred)
        kernel = kernel / _spread(_filtered(targets, kernel))[:, None, None, None]
        white = _whitened(targets, kernel)
        boxes = tuple(min(max(round(part * side), 2), side) for part in BOXES.values())
        return cls(
            tuple(inverse(g, symmetries) for g in range(orbit_size(symmetries))),
            symmetries,
            kernel,
            white,
            _paired_modes(white),
            boxes,
            EMPTY * float(white.square().sum(1).mean()),
        )

    def nearest(self, maps: AnyMaps) -> dict[str, Found]:
        """Return what boxes of each size share with a target, of maps in units of their own."""
        rows = max(1, BLOCK_VALUES // (self.white[:, 0].numel() * len(self.turns)))
        parts = [self._nearest(block) for block in maps.split(rows)]
        return {
            name: Found(*(torch.cat(column) for column in zip(*found, strict=True)))
            for name, found in zip(BOXES, zip(*parts, strict=True), strict=True)
        }

    def _nearest(self, maps: AnyMaps) -> list[tuple[Tensor, Tensor]]:
        images = orbit(maps, self.symmetries)
        turned = torch.stack([images[turn] for turn in self.turns], 1).flatten(0, 1)
        white = _whitened(turned, self.kernel)
        image, target, shift, weights = self._candidates(white, len(maps))
        own, energy = white[image], summed(white.square())
        around = _moved(self.white, target, shift)
        fields = []  # products of each pair, and the target's energies, moved by whole pixels first
        for other in (around[..., 1:-1, 1:-1], _blended(around, weights)):
            fields += [summed(own * other), summed(other.square())]
        stacked = torch.stack(fields)
        rows, found = torch.arange(len(maps), device=maps.device), []
        for box in self.boxes:
            mine = _means(energy, box)[image].clamp_(min=self.floor)
            product, theirs = _means(stacked.flatten(0, 1), box).view(2, 2, *mine.shape).unbind(1)
            square = product.square_() / (theirs.clamp_(min=self.floor) * mine)
            height, pair = square.flatten(2).amax((0, 2)).view(len(maps), -1).max(1)
            near = (2 - 2 * height.double().sqrt().clamp(max=1)).sqrt()
            found.append((near, target.view(len(maps), -1)[rows, pair]))
        return found

    def _candidates(self, white: AnyMaps, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows of images, targets, shifts and weights about these, of the highest correlations."""
        own, (height, width) = torch.fft.fft2(white), white.shape[-2:]
        products = own[:, None, 0] * self.modes[None, :, 0]
        for channel in range(1, own.shape[1]):
            products += own[:, None, channel] * self.modes[None, :, channel]
        both = torch.view_as_real(torch.fft.ifft2(products, norm="forward"))
        columns = both.flatten(3)  # the least and the largest of columns first: long rows are fast
        peaks = torch.maximum(columns.amax(2), -columns.amin(2)).unflatten(2, (width, 2)).amax(2)
        peaks = peaks.flatten(1)[:, : len(self.white)].reshape(count, -1)
        pair = peaks.topk(min(CANDIDATES, peaks.shape[1]), dim=1).indices
        targets = len(self.white)
        image = pair // targets + len(self.turns) * torch.arange(count, device=pair.device)[:, None]
        image, target = image.flatten(), (pair % targets).flatten()
        found = both.movedim(-1, 2)[image, target // 2, target % 2].flatten(1)
        shift = _largest(found.abs())
        found = found * found.gather(1, shift[:, None]).sign()
        places = torch.stack([shift // width, shift % width], 1)
        around = torch.arange(-1, 2, device=white.device)
        y, x = ((places[:, d, None] + around) % n for d, n in enumerate((height, width)))
        heights = torch.stack(
            [
                found.gather(1, y * width + places[:, 1:]),
                found.gather(1, places[:, :1] * width + x),
            ],
            1,
        ).clamp(min=0)
        return image, target, places, heights / heights.sum(2, keepdim=True).clamp(min=1e-12)


def _paired_modes(white: AnyMaps) -> Tensor:
    """`conj F a + i conj F b` of targets `a`, `b` in turn, 0 where an odd one is left over.

    Times `F x` these are the modes of the correlations with `a` and `b`, which are real, as real
    and imaginary part: on a CPU that is five times as fast as two real transforms.
    """
    modes = torch.fft.fft2(white).conj()
    first, second = modes[::2], torch.zeros_like(modes[::2])
    second[: len(modes) // 2] = modes[1::2]
    paired: Tensor = first + 1j * second
    return paired


def _moved(maps: AnyMaps, which: Int[Tensor, " n"], shift: Int[Tensor, "n 2"]) -> AnyMaps:
    """Roll some maps by shifts (y, x) of their own, with a pixel more, periodic, on every side."""
    height, width = maps.shape[-2:]
    rows = torch.cat([maps, maps, maps[..., :2]], -1).unfold(-1, width + 2, 1)  # from every start
    y = (torch.arange(-1, height + 1, device=maps.device) - shift[:, :1]) % height
    x = (-1 - shift[:, 1:]) % width
    return rows[which[:, None], :, y, x].movedim(2, 1)


def _blended(around: AnyMaps, weights: Float[Tensor, "n 2 3"]) -> AnyMaps:
    """Add up what lies one pixel back, here and one ahead, by weights along y and along x."""
    for axis in (0, 1):
        ahead, here, back = weights[:, axis, :, None, None, None].unbind(1)
        inner = around.shape[axis - 2] - 2
        parts = [around.narrow(axis - 2, start, inner) for start in range(3)]
        around = (parts[2] * ahead).addcmul_(parts[1], here).addcmul_(parts[0], back)
    return around


def _kernel(targets: AnyMaps, blurred: bool) -> Float[Tensor, "c one y x"]:
    """Return a filter without mean that flattens the targets' mean power, edges tapered."""
    height, width = targets.shape[-2:]
    edges = [torch.hann_window(n + 2, periodic=False)[1:-1] for n in (height, width)]
    taper = (edges[0][:, None] * edges[1]).to(targets)
    modes = torch.fft.fft2(targets * taper / taper.square().mean().sqrt())
    power = modes.abs().square().mean(0) / (height * width)
    mirrored = power.flip(-1).roll(1, -1)  # maps and their mirror images
    gain = ((power + mirrored) / 2 + NOISE).rsqrt()
    if blurred:  # half a pixel aside, fine modes would be in other phases
        k = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width))
        gain = gain * torch.exp(-((k / BLUR) ** 2)).to(gain)
    reach = min(REACH, (min(height, width) - 1) // 2)
    full = torch.fft.ifft2(gain).real.roll((reach, reach), (-2, -1))
    kernel: Tensor = full[:, None, : 2 * reach + 1, : 2 * reach + 1]
    fade = torch.hann_window(2 * reach + 3, periodic=False)[1:-1].to(targets)
    kernel = kernel * fade[:, None] * fade
    if reach:
        kernel = kernel - kernel.mean((-2, -1), keepdim=True)
    return kernel


def _filtered(maps: AnyMaps, kernel: Tensor) -> AnyMaps:
    reach = kernel.shape[-1] // 2
    framed = torch.nn.functional.pad(maps, (reach,) * 4, mode="replicate")
    found: Tensor = torch.nn.functional.conv2d(framed, kernel, groups=len(kernel))
    return found


def _spread(white: AnyMaps) -> Float[Tensor, " c"]:
    """Standard deviation by the median, as of the sky between sources, where it is not flat."""
    values = white.movedim(1, 0).flatten(1)
    all_of_it = values.square().mean(1).sqrt()
    sky = 1.4826 * values.abs().median(1).values
    spread: Tensor = torch.maximum(sky, 0.1 * all_of_it).clamp(min=1e-12)
    return spread


def _whitened(maps: AnyMaps, kernel: Tensor) -> AnyMaps:
    white = _filtered(maps, kernel)
    return white / (1 + (white / BRIGHT).square()).sqrt()


def _largest(values: Float[Tensor, "n k"]) -> Int[Tensor, " n"]:
    """Where rows are largest; on a CPU by NumPy, several times as fast as torch."""
    if values.device.type != "cpu":
        return values.argmax(1)
    return torch.from_numpy(values.numpy().argmax(1))


def summed(values: AnyMaps) -> Float[Tensor, "n y x"]:
    """Sums over channels; a view where there is one."""
    return values[:, 0] if values.shape[1] == 1 else values.sum(1)


def _means(maps: Float[Tensor, "n y x"], box: int) -> Float[Tensor, "n rows columns"]:
    """Means over all square boxes of so many pixels a side: products with sums of rows, columns."""
    rows, columns = (_windows(length, box).to(maps) for length in maps.shape[-2:])
    found: Tensor = rows @ (maps @ columns.T)
    return found


@cache
def _windows(length: int, box: int) -> Float[Tensor, "windows length"]:
    """Weights of means over all windows of so many of `length` numbers."""
    ahead = torch.arange(length) - torch.arange(length - box + 1)[:, None]
    return ((ahead >= 0) & (ahead < box)).double() / box
