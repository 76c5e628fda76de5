"""How often hidden pixels lie in the intervals of their draws, as a Markdown table.

python -m benchmarks.coverage --known [--maps 96]
python -m benchmarks.coverage --targets examples/hubble.yaml examples/lognormal.yaml ...

Of 48 held-out maps a square of 12 x 12 pixels in the middle is hidden and drawn 39 times given the
rest. The truth has one of 40 ranks among the draws, ties at random: intervals of 20, 36 and 38
ranks hold it in 50, 90 and 95 % of cases if draws are right. Pixels of one map go together, so
errors are standard errors over maps, each of which counts by its share of pixels. The last columns
say the same of the square's mean, standard deviation and largest value at 90 %. CPU seconds are
those of one draw.

`--known`: fields whose law is known, 64 of them fitted to: Gaussian ones that are periodic, and
log-normal ones that are cut from periodic fields of four times the side, as those of
`examples/targets/lognormal.fits` are. Their draws by the true law, by the Gaussian that is fitted
to the targets and used alone, periodic or as it is likeliest, and by `Synthesizer.inpaint`: what
true and fitted law differ by is due to finite targets and to the form of the law, and what fitted
law and `inpaint` differ by to the method.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from flows.settings import load_settings
from ood_core.config.method import Method
from ood_core.estimators.prior import fit_gaussian
from ood_core.estimators.windowed import fit_conditional
from ood_core.maps.target_set import TargetSet
from ood_core.models.loading import load_model
from ood_core.synthesis.synthesizer import Synthesizer

MAPS, DRAWS, SIDE = 48, 39, 12
INSIDE = {"50 %": (10, 29), "90 %": (2, 37), "95 %": (1, 38)}
WHOLE, FIT, SLOPE, GRID = 32, 64, 2.5, 128
BASE = "models/dead-leaves-32"


def measure(config: str, count: int) -> list[str]:
    """The cells of one set."""
    settings = load_settings(Path(config))
    targets, model = TargetSet.of(settings.targets), load_model(settings.base)
    synth = Synthesizer(model, settings.method).fit(targets, progress=False)
    return [Path(config).stem, "inpaint", *_inpainted(synth, targets.held_out[:count])]


def _inpainted(synth: Synthesizer, truth: np.ndarray) -> list[str]:
    hidden = square(truth.shape)
    maps = truth.copy()
    maps[hidden] = np.nan
    began = time.process_time()
    made = synth.inpaint(maps, DRAWS, progress=False)
    cost = (time.process_time() - began) / (len(maps) * DRAWS)
    return [*covered(made[hidden], truth[hidden]), f"{cost:.3f}"]


def square(shape: tuple[int, ...]) -> tuple[object, ...]:
    """Where pixels are hidden."""
    top, left = ((side - SIDE) // 2 for side in shape[-2:])
    return (..., slice(top, top + SIDE), slice(left, left + SIDE))


def covered(draws: np.ndarray, real: np.ndarray) -> list[str]:
    """Shares of the truth in intervals of draws `(maps, draws, c, y, x)`."""
    ranks = rank(draws.reshape(*draws.shape[:2], -1), real.reshape(len(real), -1))
    cells = []
    for low, high in INSIDE.values():
        per = ((ranks >= low) & (ranks <= high)).mean(axis=1)
        cells.append(f"{per.mean():.3f} +- {per.std(ddof=1) / len(per) ** 0.5:.3f}")
    low, high = INSIDE["90 %"]
    for what in (np.mean, np.std, np.max):
        ranks = rank(what(draws, axis=(2, 3, 4))[..., None], what(real, axis=(1, 2, 3))[:, None])
        cells.append(f"{((ranks >= low) & (ranks <= high)).mean():.2f}")
    return cells


def rank(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Rank of the truth among its draws, `(maps, numbers)`, ties at random."""
    equal = (draws == truth[:, None]).sum(axis=1)
    return (draws < truth[:, None]).sum(axis=1) + np.random.default_rng(0).integers(equal + 1)


@dataclass(frozen=True)
class Known:
    """Targets whose law in model range is Gaussian with this mean and covariance of pixels."""

    name: str
    targets: TargetSet
    mean: np.ndarray
    covariance: np.ndarray


def known(name: str, grid: int, logarithm: bool, seed: int) -> Known:
    """Windows of fields on a torus of `grid` pixels; log-normal ones are exponentials."""
    frequency = np.fft.fftfreq(grid)
    square_k = frequency[:, None] ** 2 + frequency**2
    square_k[0, 0] = np.inf
    power = square_k ** (-SLOPE / 2)
    power /= power.sum()
    rng, made = np.random.default_rng(seed), []
    for _ in range(FIT + 320):
        white = np.fft.fft2(rng.standard_normal((grid, grid)))
        made.append(np.fft.ifft2(white * np.sqrt(power)).real[:WHOLE, :WHOLE] * grid)
    fields = np.stack(made)
    targets = TargetSet.from_arrays(
        (np.exp(fields - 0.5) if logarithm else fields).astype(np.float32),
        transform="log" if logarithm else "linear",
        symmetries=("flip", "rotate90") if logarithm else ("flip", "rotate90", "translate"),
        held_out=320,
    )
    gain, offset = np.polyfit(fields[:FIT].ravel(), targets.fit_ranged.double().numpy().ravel(), 1)
    lags = np.fft.ifft2(power).real * grid**2
    y, x = np.divmod(np.arange(WHOLE**2), WHOLE)
    covariance = gain**2 * lags[(y[:, None] - y) % grid, (x[:, None] - x) % grid]
    return Known(name, targets, np.full(WHOLE**2, offset), covariance)


def by_law(law: Known, mean: np.ndarray, covariance: np.ndarray, count: int) -> list[str]:
    """Cells of draws by the conditional of a Gaussian in model range."""
    truth = law.targets.held_out_ranged[:count].double().numpy()
    inside = np.zeros((WHOLE, WHOLE), dtype=bool)
    inside[square(inside.shape)] = True
    hidden, seen = np.flatnonzero(inside), np.flatnonzero(~inside)
    flat = truth.reshape(len(truth), -1)
    pull = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[np.ix_(seen, hidden)])
    left = covariance[np.ix_(hidden, hidden)] - covariance[np.ix_(hidden, seen)] @ pull
    middle = mean[hidden] + (flat[:, seen] - mean[seen]) @ pull
    white = np.random.default_rng(1).standard_normal((len(flat), DRAWS, len(hidden)))
    values, vectors = np.linalg.eigh(left)
    spread = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    draws = middle[:, None] + white @ spread
    to_square = (-1, DRAWS, 1, SIDE, SIDE)
    physical = law.targets.physical(torch.from_numpy(draws).float().reshape(-1, 1, SIDE, SIDE))
    real = law.targets.held_out[:count][square(truth.shape)]
    return [*covered(physical.reshape(to_square), real), ""]


def rows(law: Known, count: int) -> list[list[str]]:
    """True law, the fitted one if it has to be periodic and if not, and the method."""
    fit, symmetries = law.targets.fit_ranged, law.targets.symmetries
    every = torch.eye(WHOLE**2, dtype=torch.float64).reshape(-1, 1, WHOLE, WHOLE)
    found = [[law.name, "true law", *by_law(law, law.mean, law.covariance, count)]]
    for name, fitted in (
        ("periodic law", fit_gaussian(fit, "spectral_low_rank", symmetries)),
        ("fitted law", fit_conditional(fit, symmetries)),
    ):
        matrix = fitted.covariance.apply(every).flatten(1).numpy()
        cells = by_law(law, fitted.mean.flatten().double().numpy(), matrix, count)
        found.append([law.name, name, *cells])
    synth = Synthesizer(load_model(BASE), Method()).fit(law.targets, progress=False)
    return [*found, [law.name, "inpaint", *_inpainted(synth, law.targets.held_out[:count])]]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="+", default=[])
    parser.add_argument("--known", action="store_true")
    parser.add_argument("--maps", type=int, default=MAPS)
    told = parser.parse_args()
    torch.set_num_threads(1)
    header = ["targets", "draws by", *INSIDE, "mean", "std", "largest", "CPU s per draw"]
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|", flush=True)
    laws = (("Gaussian", WHOLE, False), ("log-normal", GRID, True)) if told.known else ()
    for name, grid, logarithm in laws:
        for cells in rows(known(name, grid, logarithm, seed=11), told.maps):
            print("| " + " | ".join(cells) + " |", flush=True)
    for config in told.targets:
        print("| " + " | ".join(measure(config, told.maps)) + " |", flush=True)


if __name__ == "__main__":
    main()
