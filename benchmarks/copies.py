"""Copies of kinds that the judge does not plant itself: how many are found, and what is decided.

    OMP_NUM_THREADS=1 PYTHONPATH=. python -m benchmarks.copies --trials 3

Laws, maps and gate of `benchmarks.judge`; of each kind 8 copies of targets are set among 96 samples
of the true law. Lengths are for maps of 24 px, and `other` is another map: a held-out one, or in
*two targets* another target. One row per kind: the share that is found one by one, with 95 % of
Clopper-Pearson, the sets that are published, and the copies that are left in these.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.fft import dctn, idctn
from scipy.ndimage import (
    affine_transform,
    fourier_shift,
    gaussian_filter,
    map_coordinates,
    zoom,
)
from scipy.stats import norm, rankdata

from benchmarks.judge import Trial, rate

COPIES = 8
Map = np.ndarray[Any, Any]
Kind = Callable[[Map, Map, np.random.Generator], Map]


def mapped(matrix: Sequence[Sequence[float]]) -> Kind:
    """Take every pixel from `matrix` times its place about the middle."""

    def kind(m: Map, _: Map, rng: np.random.Generator) -> Map:
        middle, turn = (np.array(m.shape) - 1) / 2, np.array(matrix)
        moved: Map = affine_transform(m, turn, middle - turn @ middle, mode="mirror")
        return moved

    return kind


def enlarged(times: float) -> Kind:
    """Enlarge about the middle; shrink below 1."""
    return mapped([[1 / times, 0], [0, 1 / times]])


def turned(degrees: float) -> Kind:
    """Turn about the middle."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return mapped([[c, -s], [s, c]])


def shifted(pixels: float) -> Kind:
    """Move periodically along both axes, by phases."""
    return lambda m, o, rng: np.fft.ifft2(fourier_shift(np.fft.fft2(m), pixels)).real


def warped(pixels: float, smooth: float) -> Kind:
    """Move every pixel by smooth random displacements of a standard deviation along each axis."""

    def kind(m: Map, _: Map, rng: np.random.Generator) -> Map:
        by = [gaussian_filter(rng.standard_normal(m.shape), smooth, mode="mirror") for _ in "yx"]
        at = [
            place + pixels * b / b.std() for place, b in zip(np.indices(m.shape), by, strict=True)
        ]
        moved: Map = map_coordinates(m, at, order=3, mode="mirror")
        return moved

    return kind


def moved_window(m: Map, _: Map, rng: np.random.Generator) -> Map:
    """Move by a quarter side both ways, and transpose; mirrored pixels come into view."""
    step = m.shape[0] // 4
    moved: Map = np.pad(m, ((0, step), (0, step)), mode="symmetric")[step:, step:].T
    return moved


def in_part(m: Map, other: Map, height: float, width: float) -> Map:
    """Shrink a map into a corner of another one."""
    small = zoom(gaussian_filter(m, (0.5 * (height < 1), 0.5 * (width < 1))), (height, width))
    made = other.copy()
    made[: small.shape[0], : small.shape[1]] = small
    return made


def noised(spread: float) -> Kind:
    """Add white noise, in standard deviations of the map."""
    return lambda m, o, rng: m + spread * m.std() * rng.standard_normal(m.shape)


def detail(low: Callable[[Map], Map]) -> Kind:
    """Give what a filter leaves over the place of the same of another map."""
    return lambda m, o, rng: low(m) + o - low(o)


def cosine_waves(m: Map) -> Map:
    """Waves of more than some 10 px, of maps mirrored at their edges."""
    modes, k = dctn(m), np.arange(len(m))
    waves: Map = idctn(np.where(k[:, None] ** 2 + k**2 <= 20, modes, 0))
    return waves


def periodic_waves(m: Map) -> Map:
    """Waves of more than 10 px, of periodic maps."""
    k = np.fft.fftfreq(len(m))
    waves: Map = np.fft.ifft2(np.fft.fft2(m) * (np.hypot(k[:, None], k) < 0.1)).real
    return waves


def unit(m: Map) -> Map:
    """Between 0 and 1."""
    scaled: Map = (m - m.min()) / np.ptp(m)
    return scaled


def phases(m: Map, other: Map, _: np.random.Generator) -> Map:
    """Phases of one map with the moduli of another."""
    made: Map = np.fft.ifft2(
        np.abs(np.fft.fft2(other)) * np.exp(1j * np.angle(np.fft.fft2(m)))
    ).real
    return made


def checkered(m: Map, other: Map, _: np.random.Generator) -> Map:
    """Every second pixel of another map."""
    made: Map = np.where(np.indices(m.shape).sum(0) % 2, m, other)
    return made


def blank(m: Map, _o: Map, _: np.random.Generator) -> Map:
    """Half of it has the mean of the map."""
    return np.where(np.indices(m.shape)[1] < m.shape[1] // 2, m, m.mean())


KINDS: dict[str, Kind] = {
    "moved by 0.5 px": shifted(0.5),
    "moved by 3.5 px": shifted(3.5),
    "transposed": lambda m, o, rng: m.T,
    "turned by 90 degrees": lambda m, o, rng: np.rot90(m),
    "turned by 45 degrees": turned(45),
    "sheared by 15 %": mapped([[1, 0.15], [0, 1]]),
    "shrunk by 15 %": enlarged(0.85),
    "enlarged by 30 %": enlarged(1.3),
    "enlarged by 50 %": enlarged(1.5),
    "enlarged twice": enlarged(2),
    "window moved and transposed": moved_window,
    "warped by 0.9 px over 4 px": warped(0.9, 4),
    "warped by 1.5 px over 6 px": warped(1.5, 6),
    "squeezed into half a map": lambda m, o, rng: in_part(m, o, 1, 0.5),
    "shrunk into a quadrant": lambda m, o, rng: in_part(m, o, 0.5, 0.5),
    "half beside half of another": lambda m, o, rng: np.hstack([m[:, :12], o[:, 12:]]),
    "half blank": blank,
    "sharpened": lambda m, o, rng: 2 * m - gaussian_filter(m, 1),
    "blurred by 1 px": lambda m, o, rng: gaussian_filter(m, 1),
    "blurred by 2 px": lambda m, o, rng: gaussian_filter(m, 2),
    "blurred by 1.5 px along an axis": lambda m, o, rng: gaussian_filter(m, (0, 1.5)),
    "gamma 0.5": lambda m, o, rng: unit(m) ** 0.5,
    "gamma 2": lambda m, o, rng: unit(m) ** 2,
    "exponential": lambda m, o, rng: np.exp(m / m.std()),
    "normal by rank": lambda m, o, rng: norm.ppf(rankdata(m).reshape(m.shape) / (m.size + 1)),
    "with a gradient": lambda m, o, rng: m + 3 * m.std() * np.indices(m.shape)[0] / len(m),
    "with 0.6 of another": lambda m, o, rng: m + 0.6 * o,
    "noise of 0.3": noised(0.3),
    "noise of 0.6": noised(0.6),
    "noise of 1": noised(1),
    "other detail, cosines": detail(cosine_waves),
    "other detail, periodic waves": detail(periodic_waves),
    "other detail, Gaussian filter": detail(lambda m: gaussian_filter(m, 2.5)),
    "other moduli": phases,
    "every second pixel of another": checkered,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[""], help="Words that rows begin with.")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[tuple[int, bool]]] = {}
    for seed in range(asked.trials):
        trial, rng = Trial.of(20_000 + seed, 96, 24), np.random.default_rng(seed)
        for name, kind in KINDS.items():
            if not name.startswith(tuple(asked.only)):
                continue
            rows = rng.permutation(len(trial.fit))[:COPIES]
            pairs = zip(trial.fit[rows, 0].numpy(), trial.held_out[rows, 0].numpy(), strict=True)
            maps = np.stack([kind(m, o, rng) for m, o in pairs])[:, None].astype(np.float32)
            judged = trial.judged(trial.first(torch.from_numpy(maps)))
            number = len(judged.found & frozenset(range(COPIES)))
            found.setdefault(name, []).append((number, judged.outcome == "published"))
    print("| copies | found | sets published | left in these |\n|---|---|---|---|")
    for name, sets in found.items():
        share = rate(sum(number for number, _ in sets), COPIES * len(sets))
        left = sum(COPIES - number for number, published in sets if published)
        print(f"| {name} | {share} | {sum(p for _, p in sets)} of {len(sets)} | {left} |")


if __name__ == "__main__":
    main()
