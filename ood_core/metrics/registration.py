"""Is a map a target that was warped, squeezed into a part of the map, or given other detail?

Maps are expanded in cosines, `cos(pi p (y + 1/2) / h) cos(pi q (x + 1/2) / w)`, whose modes of
mirrored and turned maps are the same ones with other signs and exchanged axes. Modes are whitened
by the targets' mean power, and `r` is the correlation of the modes of two maps; distances are
`(2 - 2 |r|)^1/2`, as a map with its sign inverted is a copy too.

`waves`: modes of `p^2 + q^2 <= 20` alone, waves of more than some 0.4 of a side, whatever the
detail. `registered`: a target is found by its long waves, in the whole map or in either half
stretched to a whole one, and laid on the map by a smooth displacement `u`, 3 x 3 cosines in each
direction. `u` is the most probable one if the difference of the whitened fields is white noise and
coefficients are normal (Gauss-Newton, from long waves to shorter ones; Lucas & Kanade 1981 with
smooth functions in the place of windows), so that maps that are not alike are hardly bent. Maps
of all eight orientations are searched where they are square.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from ood_core.config.targets import Symmetry
from ood_core.metrics.overlap import Found, summed
from ood_core.numerics.symmetry import orbit

WAVES = 20  # p^2 + q^2 of modes whose waves are compared by themselves
SEEN = 32  # and of those by which targets are found that may be warped
LEVELS = ((20, 1), (50, 2), (110, 2))  # and of those that registration looks at; iterations
ORDERS = 3  # cosines along either axis that a displacement is made of
STIFFNESS = 60.0  # inverse variance of displacements, in sides of a map, of maps as white noise
MOST = 1 / 8  # of a side, that a coefficient of a displacement may reach
NOISE = 1e-4  # power of modes, in maps' own units, that whitening does not blow up
EMPTY = 0.1  # of the mean energy of modes: with less, parts are alike for want of structure
CANDIDATES = 4  # targets that are laid on a map
BLOCK = 32  # maps at once

AnyMaps = Float[Tensor, "_ _ _ _"]
Modes = Float[Tensor, "n c p q"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Waves:
    """Cosines of a grid along both axes, gains of their modes that whiten them, the least energy.

    Gains are 0 of modes that are not looked at.
    """

    y: Float[Tensor, "p y"]
    x: Float[Tensor, "q x"]
    gain: Modes
    least: Tensor

    @classmethod
    def of(cls, maps: AnyMaps, most: int, power: Modes) -> "Waves":
        """Those of `0 < p^2 + q^2 <= most`, whitened by their mean `power`."""
        y, x = _cosines_of(maps, most)
        own, chosen = power[..., : len(y), : len(x)], _chosen(len(y), len(x), most).to(maps.device)
        return cls(y, x, (own + NOISE).rsqrt() * chosen, EMPTY * ((own > 0) & chosen).sum())

    def unit(self, maps: AnyMaps) -> Float[Tensor, "n modes"]:
        """Modes, whitened and of unit length; 0 where there is no structure."""
        modes = (self.y @ (maps @ self.x.T) * self.gain).flatten(1)
        energy = modes.square().sum(1, keepdim=True)
        unit: Tensor = torch.where(energy > self.least, modes * energy.clamp(min=1e-24).rsqrt(), 0)
        return unit

    def field(self, maps: AnyMaps) -> AnyMaps:
        """Whitened modes as maps with a mean square of 1."""
        modes = self.unit(maps).view(*maps.shape[:2], len(self.y), len(self.x))
        field: Tensor = self.y.T @ (modes @ self.x) * maps[0].numel() ** 0.5
        return field


@final
@dataclass(frozen=True, slots=True, eq=False)
class RegistrationSearch:
    """All images of targets, and their modes; `levels` are those of `LEVELS`."""

    images: AnyMaps
    count: int
    long: Waves
    longer: Waves
    levels: tuple[Waves, ...]
    waves: Float[Tensor, "images modes"]
    seen: Float[Tensor, "images modes"]

    @classmethod
    def of(cls, targets: AnyMaps, symmetries: tuple[Symmetry, ...]) -> "RegistrationSearch":
        """Prepare targets in units of their own, under images of which all have one shape."""
        most = LEVELS[-1][0]
        y, x = _cosines_of(targets, most)
        power = (y @ (targets @ x.T)).square().mean(0, keepdim=True)
        power = power * _chosen(len(y), len(x), most).to(power)
        if power.shape[-1] == power.shape[-2]:
            power = (power + power.mT) / 2
        images = torch.cat(orbit(targets, symmetries))
        longer, long = (Waves.of(targets, most, power) for most in (WAVES, SEEN))
        levels = tuple(Waves.of(targets, most, power) for most, _ in LEVELS)
        return cls(
            images, len(targets), long, longer, levels, longer.unit(images), long.unit(images)
        )

    def nearest(self, maps: AnyMaps) -> dict[str, Found]:
        """Return the nearest target by waves and after registration, of maps in own units."""
        parts = [self._nearest(block) for block in maps.split(BLOCK)]
        return {
            name: Found(torch.cat([p[i].distance for p in parts]),
                        torch.cat([p[i].target for p in parts]))
            for i, name in enumerate(("waves", "registered"))
        }  # fmt: skip

    def _nearest(self, maps: AnyMaps) -> tuple[Found, Found]:
        height, image = (self.longer.unit(maps) @ self.waves.T).abs().max(1)
        views = torch.stack(_views(maps), 1)
        found = self.long.unit(views.flatten(0, 1)) @ self.seen.T
        found = found.view(len(maps), -1)
        best = found.abs().topk(min(CANDIDATES, found.shape[1]), dim=1).indices
        sign = found.gather(1, best).sign()
        row = torch.arange(len(maps), device=maps.device)[:, None]
        view, images = best // len(self.images), best % len(self.images)
        own, others = views[row, view].flatten(0, 1), self.images[images.flatten()]
        heights = (self._registered(own, others, sign.flatten()).view_as(sign) * sign).max(1)
        target = images.gather(1, heights.indices[:, None])[:, 0]
        return self._found(height, image), self._found(heights.values, target)

    def _registered(
        self, maps: AnyMaps, images: AnyMaps, sign: Float[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Correlation of each map with its own image after registration."""
        height, width = maps.shape[-2:]
        (y, x), stiffness = _smooth(height, width)
        y, x, stiffness = y.to(maps), x.to(maps), stiffness.to(maps) * height * width
        pairs = [(rows[:, None] * rows).flatten(0, 1) for rows in (y, x)]
        ahead, along = (_slope(n).to(maps) * n for n in (height, width))
        bent = maps.new_zeros(len(maps), *stiffness.shape)  # coefficients, in sides
        for waves, (_, iterations) in zip(self.levels, LEVELS, strict=True):
            wanted = waves.field(maps) * sign[:, None, None, None]
            field = waves.field(images)
            for _ in range(iterations):
                now = _displaced(field, y.T @ bent @ x)
                by_y, by_x, gap = ahead @ now, now @ along.T, wanted - now
                products = torch.stack(
                    [summed(by_y * by_y), summed(by_y * by_x), summed(by_x * by_x)], 1
                )
                blocks = pairs[0] @ (products @ pairs[1].T)  # of products of the functions
                blocks = blocks.unflatten(-1, (len(x), -1)).unflatten(-3, (len(y), -1))
                normal = blocks[:, [[0, 1], [1, 2]]].permute(0, 1, 3, 5, 2, 4, 6)
                normal = normal.flatten(4).flatten(1, 3) + torch.diag(stiffness.flatten())
                aim = y @ (torch.stack([summed(by_y * gap), summed(by_x * gap)], 1) @ x.T)
                aim = (aim - stiffness * bent).flatten(1)
                step = torch.cholesky_solve(aim[..., None], torch.linalg.cholesky(normal))
                bent = (bent + step.view_as(bent)).clamp(-MOST, MOST)
        moved = _displaced(images, y.T @ bent @ x)
        return (self.levels[-1].unit(maps) * self.levels[-1].unit(moved)).sum(1)

    def _found(self, height: Tensor, image: Int[Tensor, " n"]) -> Found:
        return Found((2 - 2 * height.double().clamp(max=1)).sqrt(), image % self.count)


def _cosines_of(maps: AnyMaps, most: int) -> tuple[Float[Tensor, "p y"], Float[Tensor, "q x"]]:
    """Orthonormal cosines of `p^2 <= most` along either axis."""
    count = math.isqrt(most) + 1
    y, x = (_cosines(side, min(count, side)).to(maps) for side in maps.shape[-2:])
    return y, x


def _chosen(rows: int, columns: int, most: int) -> Bool[Tensor, "p q"]:
    square = torch.arange(rows)[:, None] ** 2 + torch.arange(columns) ** 2
    return (square > 0) & (square <= most)


@cache
def _cosines(side: int, count: int) -> Float[Tensor, "count side"]:
    """Orthonormal rows."""
    at = torch.arange(side).double() + 0.5
    rows = torch.cos(math.pi * torch.arange(count).double()[:, None] * at / side)
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True)
    return unit


@cache
def _smooth(
    height: int, width: int
) -> tuple[tuple[Float[Tensor, "p y"], Float[Tensor, "q x"]], Float[Tensor, "two p q"]]:
    """Displacements are made of products of these; their stiffness along y, then along x."""
    y, x = (_cosines(n, min(ORDERS, n)) for n in (height, width))
    p, q = torch.arange(len(y)), torch.arange(len(x))
    stiffness = STIFFNESS * (1 + p[:, None] ** 2 + q**2) / ORDERS**2
    return (y / y.abs().amax(1, True), x / x.abs().amax(1, True)), stiffness.expand(2, -1, -1)


@cache
def _slope(side: int) -> Float[Tensor, "side side"]:
    """Central differences of a row, one-sided at both ends."""
    slope: Tensor = torch.gradient(torch.eye(side, dtype=torch.float64), dim=0)[0]
    return slope


def _displaced(maps: AnyMaps, by: Float[Tensor, "n two y x"]) -> AnyMaps:
    """Take every pixel from its place and a displacement in sides (y, x), by cubic pieces."""
    height, width = maps.shape[-2:]
    places = [
        torch.linspace(-1, 1, n, device=maps.device, dtype=maps.dtype) for n in (height, width)
    ]
    y, x = torch.meshgrid(*places, indexing="ij")
    steps = [2 * n / max(n - 1, 1) for n in (height, width)]
    grid = torch.stack([x + steps[1] * by[:, 1], y + steps[0] * by[:, 0]], -1)
    moved: Tensor = functional.grid_sample(
        maps, grid, mode="bicubic", padding_mode="border", align_corners=True
    )
    return moved


def _views(maps: AnyMaps) -> list[AnyMaps]:
    """Return the maps, and either half along either axis stretched to a whole map."""
    height, width = maps.shape[-2:]
    halves = (
        maps[..., : -(-height // 2), :], maps[..., height // 2 :, :],
        maps[..., : -(-width // 2)], maps[..., width // 2 :],
    )  # fmt: skip
    size = (height, width)
    return [maps, *(functional.interpolate(half, size, mode="bicubic") for half in halves)]
