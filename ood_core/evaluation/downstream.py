"""Downstream gain: do synthetic maps help a model that is trained with them on unseen real maps?

A task is a label per map: a class or a value. Training sets are compared in pairs, on the same
held-out real maps, by two small models (`ood_core.evaluation.probes`), with several seeds:

    real                 the fit targets alone
    real + flips         with their images under the declared symmetries, or mirrored if none are
    real + fields        with Gaussian fields of each target's own power (its Fourier moduli, phases
                         of white noise: Theiler et al. 1992), as many as the most synthetic maps
    real + rotations     as many targets turned by a random angle, of any size where quarter turns
                         are declared and up to 15 degrees where not; edges are mirrored
    real + mixtures      as many weighted means of two targets, of one class or with the weighted
                         mean of both values (mixup: Zhang et al. 2018)
    real + k synthetic   with k synthetic maps per target, drawn at random: the augmentation curve
    synthetic            as many synthetic maps and no real one: train on synthetic, test on real
                         (Esteban et al. 2017)

The score is the balanced accuracy for classes and `R^2 = 1 - SSE / SST` for values; more is better.
Intervals are 95 % of a bootstrap over held-out maps and seeds together; gains over `real` are
paired, map by map. They hold for these targets: other targets are not drawn. The summary is about
the largest k, which is fixed before anything is trained, so that nothing is picked by its score.

Labels of samples are those of their two parents: a class where both share it, the mean of values.
Labels that are measured on maps are measured on samples and fields as well.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from pydantic import TypeAdapter, computed_field
from scipy.ndimage import rotate
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.config.targets import Symmetry
from ood_core.errors import InputError
from ood_core.evaluation.probes import PROBES, Examples, Labels
from ood_core.evaluation.results import read_back, written
from ood_core.numerics.random import Root
from ood_core.numerics.symmetry import orbit

MULTIPLES = (1, 3, 10)  # synthetic maps per real one
SEEDS = 4
RESAMPLES = 1000
MIN_REAL = 4  # maps of either split
OTHERS = {
    "flips": "real + flips",
    "fields": "real + Gaussian fields",
    "rotations": "real + rotations",
    "mixtures": "real + mixtures",
}
"""What real maps are augmented with beside synthetic ones."""

Predictions = NDArray[np.float64]
"""One row per seed, one column per held-out map."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What is to be predicted of a map: one of `classes`, or a value if there are none."""

    name: str
    classes: tuple[str, ...] = ()

    @property
    def chance(self) -> float:
        """Score without any knowledge: of guessing, or of always predicting the mean."""
        return 1 / len(self.classes) if self.classes else 0.0


@final
@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Maps in model range with a label each; NaN where there is none."""

    maps: Maps
    labels: Labels

    def known(self) -> "Labelled":
        """Return those that have a label."""
        has = ~self.labels.isnan()
        return Labelled(self.maps[has], self.labels[has])

    def __len__(self) -> int:
        return len(self.labels)


@final
@dataclass(frozen=True, slots=True)
class TrainingSetScore:
    """One training set by one probe: score and gain over the real maps alone, with intervals.

    `multiple` counts synthetic maps per real one; it is None for sets without any.
    """

    probe: str
    name: str
    title: str
    multiple: int | None
    maps: int
    score: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float

    @property
    def helps(self) -> bool:
        """Whether its gain is above 0 with 95 % confidence."""
        return self.gain_low > 0

    @property
    def hurts(self) -> bool:
        """Whether its gain is below 0 with 95 % confidence."""
        return self.gain_high < 0


@final
@dataclass(frozen=True, slots=True)
class DownstreamResult:
    """What training with synthetic maps gained, tested on `held_out` real maps.

    `labelled` of `samples` synthetic maps had a label; `multiple` is the k of the summary.
    """

    task: str
    classes: tuple[str, ...]
    chance: float
    real: int
    held_out: int
    samples: int
    labelled: int
    multiple: int
    seeds: int
    training_sets: tuple[TrainingSetScore, ...]
    summary: str

    @computed_field  # type: ignore[prop-decorator]
    @property
    def metric(self) -> str:
        """Name of the score."""
        return "balanced accuracy" if self.classes else "R²"

    def of(self, probe: str, name: str) -> TrainingSetScore:
        """Return the score of one training set by one probe."""
        return {(score.probe, score.name): score for score in self.training_sets}[probe, name]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON-ready numbers, lists and strings."""
        return written(_adapter(), self)

    @staticmethod
    def from_json(record: Any) -> "DownstreamResult":
        """Return the result whose `to_json` the record is.

        Raises:
            InputError: the record is of another version.
        """
        return read_back(_adapter(), record, "utility.json", "utility")


@cache
def _adapter() -> TypeAdapter[DownstreamResult]:
    return TypeAdapter(DownstreamResult)


def inherited(labels: Labels, parents: Int[Tensor, "n 2"], task: Task) -> Float[Tensor, " n"]:
    """Label samples by their parents: the class that both share, or the mean of both values."""
    both = labels[parents.long()]
    if task.classes:
        return torch.where(both[:, 0] == both[:, 1], both[:, 0], torch.nan)
    return both.mean(1)


def gaussian_fields(maps: Maps, root: Root, index: int) -> Maps:
    """Return Gaussian fields, each with the Fourier moduli and the mean of a map."""
    noise = root.generator(index).standard_normal(tuple(maps.shape), dtype=np.float32)
    white = torch.fft.fft2(torch.from_numpy(noise))
    phases = white / white.abs().clamp_min(1e-12)
    own = torch.fft.fft2(maps.double())
    made = phases * own.abs()
    made[..., 0, 0] = own[..., 0, 0]
    fields: Maps = torch.fft.ifft2(made).real.to(maps.dtype)
    return fields


def turned(
    real: Labelled, times: int, symmetries: Sequence[Symmetry], root: Root
) -> tuple[Maps, Labels]:
    """Return every map `times` times, turned by random angles about its middle, with its label."""
    rng, most = root.child("rotations").generator(), 180 if "rotate90" in symmetries else 15
    made = [
        rotate(m, angle, (-2, -1), reshape=False, mode="mirror")
        for m, angle in zip(
            real.maps.repeat(times, 1, 1, 1).numpy(),
            rng.uniform(-most, most, times * len(real)),
            strict=True,
        )
    ]
    return torch.from_numpy(np.stack(made)), real.labels.repeat(times)


def mixed(real: Labelled, times: int, task: Task, root: Root) -> tuple[Maps, Labels]:
    """Return `times` weighted means of every map with another, of its class if there are any."""
    rng, pairs = root.child("mixtures").generator(), []
    for row in range(len(real)):
        alike = real.labels == real.labels[row] if task.classes else torch.ones(len(real)) > 0
        others = [other for other in alike.nonzero()[:, 0].tolist() if other != row] or [row]
        pairs.append(rng.choice(others, size=times))
    other = torch.from_numpy(np.stack(pairs, 1)).flatten()
    weight = torch.from_numpy(rng.uniform(size=len(other)).astype(np.float32))

    def mean(values: Tensor) -> Tensor:
        part = weight.view(-1, *([1] * (values.ndim - 1))).to(values.dtype)
        return part * values.repeat(times, *([1] * (values.ndim - 1))) + (1 - part) * values[other]

    return mean(real.maps), mean(real.labels)


def multiples(real: int, synthetic: int) -> tuple[int, ...]:
    """Return how many synthetic maps per real one are tried, of as many as there are."""
    return tuple(k for k in MULTIPLES if k * real <= synthetic)


def trainings(real: int, synthetic: int) -> int:
    """Return how often a probe is trained."""
    return len(PROBES) * SEEDS * (6 + len(multiples(real, synthetic)))


def downstream_gain(
    task: Task,
    real: Labelled,
    held_out: Labelled,
    synthetic: Labelled,
    symmetries: Sequence[Symmetry],
    root: Root,
    *,
    samples: int,
    label: Callable[[Maps], Labels] | None = None,
    on_training: Callable[[int], None] = lambda done: None,
) -> DownstreamResult:
    """Compare training sets; `label` measures the label of a map where that can be done.

    `on_training` is called after every training with 1; there are `trainings` of them. `samples` is
    the size of the whole set that the synthetic maps are of.

    Raises:
        InputError: too few maps with a label, or real maps of one class alone.
    """
    real, held_out, synthetic = real.known(), held_out.known(), synthetic.known()
    _require(task, real, held_out, synthetic)
    tried = multiples(len(real), len(synthetic))
    noise = root.child("fields")
    fields = [gaussian_fields(real.maps, noise, i) for i in range(tried[-1])]
    images = torch.cat((orbit(real.maps, symmetries)[1:]) or [real.maps.flip(-1)])
    pools = {
        "real": real,
        "flips": Labelled(images, real.labels.repeat(len(images) // len(real))),
        "fields": _fields(torch.cat(fields), real.labels.repeat(len(fields)), label),
        "rotations": _fields(*turned(real, tried[-1], symmetries, root), label),
        "mixtures": _fields(*mixed(real, tried[-1], task, root), label),
        "synthetic": synthetic,
    }
    examples = {name: Examples.of(pool.maps, pool.labels) for name, pool in pools.items()}
    test = Examples.of(held_out.maps, held_out.labels)
    sets = _training_sets(tried, {name: len(pool) for name, pool in pools.items()}, len(real))
    scores: list[TrainingSetScore] = []
    for probe, (_, train) in PROBES.items():
        predicted = {}
        for chosen in sets:
            answers = []
            for seed in range(SEEDS):
                rng = root.child("training").generator(seed)
                drawn = Examples.joined(list(_drawn(chosen, examples, rng)))
                answers.append(train(drawn, test, len(task.classes), rng))
                on_training(1)
            predicted[chosen.name] = torch.stack(answers).numpy()
        scores += _scored(probe, sets, predicted, test.labels.numpy(), task, root)
    result = DownstreamResult(
        task=task.name,
        classes=task.classes,
        chance=task.chance,
        real=len(real),
        held_out=len(held_out),
        samples=samples,
        labelled=len(synthetic),
        multiple=tried[-1],
        seeds=SEEDS,
        training_sets=tuple(scores),
        summary="",
    )
    return replace(result, summary=summarize_gain(result))


def summarize_gain(result: DownstreamResult) -> str:
    """Say whether synthetic maps help, and beside what; where no gain shows, say that too."""
    return "; ".join(_summary_of(result, probe) for probe in PROBES) + "."


def _summary_of(result: DownstreamResult, probe: str) -> str:
    alone, most = result.of(probe, "real"), result.of(probe, f"real+{result.multiple}")
    words = {name: title.removeprefix("real + ") for name, title in OTHERS.items()}
    beside = (*words.items(), ("synthetic", "no real map"))
    others = ", ".join(f"{result.of(probe, name).score:.2f} with {word}" for name, word in beside)
    word = "help" if most.helps else "hurt" if most.hurts else "do not help"
    first, title = probe == next(iter(PROBES)), PROBES[probe][0]
    who = f"{title} to predict {result.task}" if first else title
    return (
        f"{'Synthetic maps' if first else 'they'} {word} {who}: {result.metric} {most.score:.2f} "
        f"with {result.multiple} per real map, {alone.score:.2f} without (gain {most.gain:+.2f}, "
        f"95 % {most.gain_low:+.2f} to {most.gain_high:+.2f}; {others})"
    )


@final
@dataclass(frozen=True, slots=True)
class _TrainingSet:
    """How many examples of which pools."""

    name: str
    title: str
    parts: tuple[tuple[str, int], ...]
    multiple: int | None = None

    @property
    def maps(self) -> int:
        return sum(count for _, count in self.parts)


def _training_sets(tried: Sequence[int], sizes: Mapping[str, int], real: int) -> list[_TrainingSet]:
    whole, most = ("real", real), tried[-1] * real
    others = ((n, sizes[n] if n == "flips" else min(most, sizes[n])) for n in OTHERS)
    return [
        _TrainingSet("real", "real maps alone", (whole,)),
        *(_TrainingSet(name, OTHERS[name], (whole, (name, count))) for name, count in others),
        *(
            _TrainingSet(
                f"real+{k}", f"real + {k} × synthetic", (whole, ("synthetic", k * real)), k
            )
            for k in tried
        ),
        _TrainingSet("synthetic", "synthetic maps alone", (("synthetic", most),), tried[-1]),
    ]


def _drawn(
    chosen: _TrainingSet, pools: Mapping[str, Examples], rng: np.random.Generator
) -> Iterator[Examples]:
    for pool, count in chosen.parts:
        yield pools[pool].taken(rng.permutation(len(pools[pool]))[:count])


def _fields(maps: Maps, labels: Labels, label: Callable[[Maps], Labels] | None) -> Labelled:
    return Labelled(maps, labels if label is None else label(maps)).known()


def _scored(
    probe: str,
    sets: Sequence[_TrainingSet],
    predicted: Mapping[str, Predictions],
    truth: NDArray[np.float64],
    task: Task,
    root: Root,
) -> list[TrainingSetScore]:
    """Score every training set, and again on the same resampled maps and seeds."""
    rng = root.child("bootstrap").generator()
    maps = rng.integers(len(truth), size=(RESAMPLES, len(truth)))
    seeds = rng.integers(SEEDS, size=(RESAMPLES, SEEDS))
    drawn = {
        name: np.array(
            [_score(answers[s][:, m], truth[m], task) for m, s in zip(maps, seeds, strict=True)]
        )
        for name, answers in predicted.items()
    }
    whole = {name: _score(answers, truth, task) for name, answers in predicted.items()}
    scores = []
    for chosen in sets:
        name = chosen.name
        low, high = np.quantile(drawn[name], (0.025, 0.975))
        gains = np.quantile(drawn[name] - drawn["real"], (0.025, 0.975))
        scores.append(
            TrainingSetScore(
                probe, name, chosen.title, chosen.multiple, chosen.maps, whole[name],
                float(low), float(high), whole[name] - whole["real"],
                float(gains[0]), float(gains[1]),
            )
        )  # fmt: skip
    return scores


def _score(predicted: Predictions, truth: NDArray[np.float64], task: Task) -> float:
    """Mean over seeds of balanced accuracy or R^2; a class that was not drawn is left out."""
    if not task.classes:
        total = np.square(truth - truth.mean()).sum()
        return float((1 - np.square(predicted - truth).sum(1) / max(total, 1e-300)).mean())
    right = predicted == truth
    classes = np.unique(truth)
    return float(np.mean([right[:, truth == which].mean() for which in classes]))


def _require(task: Task, real: Labelled, held_out: Labelled, synthetic: Labelled) -> None:
    for name, found in (("fit", real), ("held-out", held_out)):
        if len(found) < MIN_REAL:
            raise InputError(
                f"got {len(found)} {name} targets with a label of {task.name}; expected at least "
                f"{MIN_REAL}: label more of them"
            )
        if len(found.labels.unique()) < 2:
            raise InputError(
                f"got one label of {task.name} for all {name} targets; expected two or more"
            )
    if len(synthetic) < len(real):
        raise InputError(
            f"got {len(synthetic)} synthetic maps with a label of {task.name}; expected at least "
            f"{len(real)}, one per fit target: `farfield extend` makes more"
        )
