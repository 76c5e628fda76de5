"""What suits a set of targets: the transform to model range, and which symmetries they show.

A transform suits when the values are nearly Gaussian after it, since that is what a diffusion model
begins from. Transforms are compared by the likelihood of a Gaussian with the Jacobian of the
stretch, per pixel and in nats: Box & Cox (1964) for the logarithm, Burbidge, Magee & Robb (1988)
for the inverse hyperbolic sine. Maps are independent, pixels are not: so a stretch must win over
the maps by two standard errors.

A symmetry is tested by a group randomisation test (Hoeffding 1952): if turning maps leaves their
distribution as it is, means over maps that were turned at random are as large as the plain ones.
Maps of an even side that are centred on a pixel have their centre half a pixel off that of the
grid, so a symmetry that does not hold about the one may hold about the other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, final, get_args

import numpy as np
from numpy.typing import NDArray

from ood_core.config.targets import Symmetry, TransformChoice, TransformKind
from ood_core.maps.quantization import Quantization
from ood_core.maps.transforms import RangeTransform

MIN_GAIN = 0.1
"""Nats per pixel that a stretch must be better by; less is not worth its curvature."""
STANDARD_ERRORS = 2.0
MAX_PIXELS = 2**22
"""Pixels that advice looks at; of more, whole maps are left out at even steps."""
TRIALS = 999
CONTRADICTED = 0.01
"""A p-value below which maps deviate from a symmetry."""
SMALL_EFFECT = 0.2
"""Standard deviations: less is a small effect by the rule of Cohen (1988). Of the power of waves,
the share by which it is higher in one direction."""
BANDS = (1 / 32, 1 / 8, 1 / 4)
"""Lowest wavenumbers of the octaves whose power is looked at by direction, cycles per pixel."""
DIRECTIONS = 2 * len(BANDS)
CELLS = 4
"""Cells of a side of a map in which the tests of symmetry look at brightness and contrast."""

Values = NDArray[np.floating[Any]]
Numbers = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class TransformAdvice:
    """Which transform suits a set of maps, and why.

    Attributes:
        kind: the transform.
        gains: nats per pixel that each transform is better by than `linear`; those that the values
            do not allow are not in it.
        knee: value above the background where `asinh` turns from linear to logarithmic.
        centre: the background of `asinh`.
        reason: one sentence.
        log_normal: whether the logarithm suits clearly better than `linear` and than `asinh`.
    """

    kind: TransformKind
    gains: dict[TransformKind, float]
    knee: float
    centre: float
    reason: str
    log_normal: bool


def advise_transform(values: Values) -> TransformAdvice:
    """Compare the transforms on maps of shape (n, c, y, x); pixels that are not finite are missing.

    Pixels that share the lowest or the highest value of many (a plateau) are left out: no stretch
    moves them relative to each other.

    Raises:
        TargetError: no finite values, or one value only.
    """
    maps = values[:: -(-values.size // MAX_PIXELS)].astype(np.float64)
    known = np.isfinite(maps)
    asinh = RangeTransform.measure("asinh", maps[known]).as_dict()
    loose = known & ~_on_plateau(maps, known)
    kept = [values[mask] for values, mask in zip(maps, loose, strict=True) if mask.any()]
    kept = kept or [values[mask] for values, mask in zip(maps, known, strict=True) if mask.any()]
    scores: dict[TransformKind, Numbers] = {}
    scores["linear"] = _scores(kept, lambda v: v, np.zeros_like)
    scale, centre = float(asinh["scale"]), float(asinh["centre"])
    scores["asinh"] = _scores(
        kept,
        lambda v: np.arcsinh((v - centre) / scale),
        lambda v: -np.log(scale) - 0.5 * np.log1p(((v - centre) / scale) ** 2),
    )
    if maps[known].min() > 0:
        scores["log"] = _scores(kept, np.log, lambda v: -np.log(v))
    gains = {kind: float((found - scores["linear"]).mean()) for kind, found in scores.items()}
    kind: Any = "linear"
    for other in ("asinh", "log"):
        if other in scores and _is_better(scores[other], scores[kind]):
            kind = other
    log_normal = kind == "log" and _is_better(scores["log"], scores["asinh"])
    return TransformAdvice(
        kind, gains, scale, centre, _reason(kind, gains, scale, centre), log_normal
    )  # fmt: skip


def chosen_transform(choice: TransformChoice, fit: Values) -> tuple[TransformKind, tuple[str, ...]]:
    """Return the kind of transform that a choice means for the fitted maps, and what to say of it.

    `auto` takes the advice. With `asinh`, log-normal maps are pointed out.
    """
    if choice != "auto" and choice != "asinh":
        return choice, ()
    advice = advise_transform(fit)
    if choice == "auto":
        return advice.kind, (f"transform auto: {advice.kind}, since {advice.reason}",)
    if not advice.log_normal:
        return choice, ()
    return choice, (f"transform asinh: log would suit better, since {advice.reason}",)


def _on_plateau(maps: Numbers, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels that have exactly the value that many have at an end of the range."""
    on = np.zeros(maps.shape, bool)
    for channel in range(maps.shape[1]):
        pixels = maps[:, channel]
        seen = pixels[known[:, channel]]
        found = Quantization.measure(seen[None, None, None].astype(np.float32))
        for end, edge, sign in (
            (seen.min(), found.lower_edge - found.lowest, 1),
            (seen.max(), found.highest - found.upper_edge, -1),
        ):
            if float(edge.item()) > 0:
                on[:, channel] |= sign * pixels <= sign * end
    return on


def _scores(maps: Sequence[Numbers], stretch: Any, log_slope: Any) -> Numbers:
    """Mean log-likelihood per pixel of each map, by the Gaussian of all stretched pixels."""
    bent = [stretch(values) for values in maps]
    pooled = np.concatenate(bent)
    mean, deviation = pooled.mean(), max(float(pooled.std()), np.finfo(float).tiny)
    constant = np.log(deviation) + 0.5 * np.log(2 * np.pi)
    return np.array(
        [
            (-0.5 * ((b - mean) / deviation) ** 2 + log_slope(v)).mean() - constant
            for b, v in zip(bent, maps, strict=True)
        ]
    )


def _is_better(scores: Numbers, than: Numbers) -> bool:
    gain = scores - than
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.inf
    return bool(gain.mean() > max(MIN_GAIN, STANDARD_ERRORS * error))


def _reason(kind: str, gains: dict[Any, float], scale: float, centre: float) -> str:
    told = ", ".join(f"{name} {gain:+.3g}" for name, gain in gains.items() if name != "linear")
    compared = f"(nats per pixel beside linear: {told})"
    if kind == "log":
        return f"the logarithms of the values are nearest to Gaussian: log-normal maps {compared}"
    if kind == "asinh":
        return (
            f"a faint background at {centre:.4g} with bright tails: linear within {scale:.4g} of "
            f"it, logarithmic beyond {compared}"
        )
    return f"the values are as near to Gaussian as they are as under any stretch {compared}"


Outcome = Literal["agrees", "slight deviation", "contradicted"]
OUTCOMES = get_args(Outcome)


@final
@dataclass(frozen=True, slots=True)
class SymmetryTest:
    """How well maps agree with a symmetry.

    Attributes:
        p: chance of so large a deviation if the symmetry holds.
        effect: the largest mean deviation of a number that is looked at: of cells in standard
            deviations over maps, of the power of waves as a share of it.
        offset: the centre about which it is tested, (y, x) in pixels from that of the grid.
    """

    p: float
    effect: float
    offset: tuple[float, float] = (0.0, 0.0)

    @property
    def outcome(self) -> Outcome:
        """Whether the maps speak against the symmetry, and by an amount that matters."""
        if self.p >= CONTRADICTED:
            return "agrees"
        return "slight deviation" if self.effect < SMALL_EFFECT else "contradicted"


def symmetry_tests(
    values: Values, trials: int = TRIALS, seed: int = 0
) -> dict[Symmetry, SymmetryTest]:
    """Test each symmetry on maps.

    Looks at brightness and contrast in cells, and at the power of waves by their direction.
    `translate` is tested by rolling maps by whole cells, which is exact where maps are periodic.
    `flip` and `rotate90` that deviate about the centre of the grid are tested about those of the
    four crops of one pixel less, too, and the one that they hold about best counts. As a symmetry
    is refused only if all refuse it, that does not raise the chance of a false refusal.

    Args:
        values: square maps of shape (n, c, y, x), finite, in model range: bright tails would drown
            all else. Their first channel is looked at.
        trials: random choices of group elements; the least p-value is 1 / (trials + 1).
        seed: of the random choices.
    """
    maps = values[:: -(-values.size // MAX_PIXELS), 0].astype(np.float64)
    maps = (maps - maps.mean()) / max(float(maps.std()), np.finfo(float).tiny)
    tests: dict[Symmetry, SymmetryTest] = {}
    kinds: dict[Symmetry, Callable[[Numbers], Numbers]]
    kinds = {"flip": _mirrored, "rotate90": _turned}
    for name, images in kinds.items():
        found = [_tested(images(maps), trials, seed, DIRECTIONS)]
        if found[0].outcome != "agrees":
            found += [
                replace(_tested(images(crop), trials, seed, DIRECTIONS), offset=offset)
                for offset, crop in _crops(maps)
            ]
        tests[name] = min(found, key=lambda test: (OUTCOMES.index(test.outcome), -test.p))
    cells = _cells(maps)
    rolls = [np.roll(cells, (i, j), (1, 2)) for i in range(CELLS) for j in range(CELLS)]
    tests["translate"] = _tested(np.stack(rolls).reshape(CELLS**2, len(maps), -1), trials, seed)
    return tests


def _mirrored(maps: Numbers) -> Numbers:
    return np.stack([_features(m) for m in (maps, maps[:, :, ::-1])])


def _turned(maps: Numbers) -> Numbers:
    return np.stack([_features(np.rot90(maps, k, (1, 2))) for k in range(4)])


def _crops(maps: Numbers) -> Iterator[tuple[tuple[float, float], Numbers]]:
    """Maps without a row and a column at the edge, and how far that moves their centre."""
    cuts = ((0.5, slice(1, None)), (-0.5, slice(None, -1)))
    for (y, rows), (x, columns) in product(cuts, cuts):
        yield (y, x), maps[:, rows, columns]


def _cells(maps: Numbers) -> Numbers:
    """Mean and mean square in each cell: shape (n, CELLS, CELLS, 2).

    Cells lie evenly about the centre: of an odd side, the middle row and column are left out.
    """
    if maps.shape[-1] % 2:
        maps = np.delete(np.delete(maps, maps.shape[-1] // 2, 1), maps.shape[-1] // 2, 2)
    side = maps.shape[-1] // CELLS * CELLS
    first = (maps.shape[-1] - side) // 2
    maps = maps[:, first : first + side, first : first + side]
    parts = maps.reshape(len(maps), CELLS, side // CELLS, CELLS, side // CELLS)
    return np.stack([parts.mean((2, 4)), (parts**2).mean((2, 4))], axis=-1)


def _features(maps: Numbers) -> Numbers:
    """Numbers that change when a map is mirrored or turned: cells, and power by direction."""
    power = np.abs(np.fft.fft2(maps)) ** 2
    ky, kx = np.meshgrid(*2 * [np.fft.fftfreq(maps.shape[-1])], indexing="ij")
    angle = 2 * np.arctan2(ky, kx)
    wavenumber = np.hypot(ky, kx)
    directions = []
    for low in BANDS:
        band = power * ((wavenumber > low) & (wavenumber <= 2 * low))
        total = np.maximum(band.sum((1, 2)), np.finfo(float).tiny)
        directions += [(band * f(angle)).sum((1, 2)) / total for f in (np.cos, np.sin)]
    return np.concatenate([_cells(maps).reshape(len(maps), -1), np.stack(directions, 1)], axis=1)


def _tested(images: Numbers, trials: int, seed: int, directions: int = 0) -> SymmetryTest:
    """Of features of the images of each map, shape (elements, n, features), the first being plain.

    The statistic is the sum of the squared means, each in units of its spread over the group. Of
    the effect, the last `directions` features are shares: if power goes with 1 + a cos 2 angle,
    their mean is a / 2.
    """
    elements, count, _ = images.shape
    centred = images - images.mean(0, keepdims=True)
    spread = np.sqrt((centred**2).mean((0, 1)))
    centred = centred[:, :, spread > 1e-9] / spread[spread > 1e-9]
    random = np.random.default_rng(seed)
    plain = float((centred[0].mean(0) ** 2).sum())
    offset = np.abs((images - images.mean(0))[0].mean(0))
    unit = np.maximum(images.std((0, 1)), np.finfo(float).tiny)
    unit[len(unit) - directions :] = 0.5
    effect = offset / unit
    rows = np.arange(count)
    drawn = [
        float((centred[random.integers(elements, size=count), rows].mean(0) ** 2).sum())
        for _ in range(trials)
    ]
    p = (1 + sum(value >= plain * (1 - 1e-12) for value in drawn)) / (trials + 1)
    return SymmetryTest(p, float(effect[spread > 1e-9].max(initial=0)))
