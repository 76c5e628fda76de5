"""Is the set of use? Learners trained with synthetic maps are asked about real ones they never saw.

A task is a label per map: a class or a value. Training sets are compared in pairs, on the same
held-out real maps, by two small learners (`ood_core.evaluation.learners`), with several seeds:

    real                 the fit targets alone
    real + flips         with their images under the declared symmetries, or mirrored if none are
    real + fields        with Gaussian fields of each target's own power (its Fourier moduli, phases
                         of white noise: Theiler et al. 1992), as many as the most synthetic maps
    real + k synthetic   with k synthetic maps per target, drawn at random: the augmentation curve
    synthetic            as many synthetic maps and no real one: train on synthetic, test on real
                         (Esteban et al. 2017)

The score is the balanced accuracy for classes and `R^2 = 1 - SSE / SST` for values; more is better.
Intervals are 95 % of a bootstrap over held-out maps and seeds together; gains over `real` are
paired, map by map. They hold for these targets: other targets are not drawn. The sentence is about
the largest k, which is settled before anything is trained, so that nothing is picked by its score.

Labels of samples are those of their two parents: a class where both share it, the mean of values.
Labels that are measured on maps are measured on samples and fields as well.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.config.targets import Symmetry
from ood_core.errors import InputError
from ood_core.evaluation.gains import ArmScore, Utility, sentence
from ood_core.evaluation.learners import LEARNERS, Examples, Labels
from ood_core.numerics.random import Stream, generator, normal_like
from ood_core.numerics.symmetry import orbit

MULTIPLES = (1, 3, 10)  # synthetic maps per real one
SEEDS = 4
RESAMPLES = 1000
MIN_MAPS = 4  # real maps of either split
INDEX = 4000  # of random streams, past those of `copies`

ArmName = str
Kind = Literal["classes", "values"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What is to be told of a map: the names of its classes, none for a value."""

    name: str
    classes: tuple[str, ...] = ()

    @property
    def chance(self) -> float:
        """Score of who knows nothing: of guessing, or of always saying the mean."""
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


def inherited(labels: Labels, parents: Int[Tensor, "n 2"], task: Task) -> Float[Tensor, " n"]:
    """Label samples by their parents: the class that both share, or the mean of both values."""
    both = labels[parents.long()]
    if task.classes:
        return torch.where(both[:, 0] == both[:, 1], both[:, 0], torch.nan)
    return both.mean(1)


def gaussian_fields(maps: Maps, root: int, index: int) -> Maps:
    """Return Gaussian fields, each with the Fourier moduli and the mean of a map."""
    white = torch.fft.fft2(normal_like(maps.double(), root, index, Stream.RESAMPLE))
    phases = white / white.abs().clamp_min(1e-12)
    own = torch.fft.fft2(maps.double())
    made = phases * own.abs()
    made[..., 0, 0] = own[..., 0, 0]
    fields: Maps = torch.fft.ifft2(made).real.to(maps.dtype)
    return fields


def multiples(real: int, synthetic: int) -> tuple[int, ...]:
    """Return how many synthetic maps per real one are tried, of as many as there are."""
    return tuple(k for k in MULTIPLES if k * real <= synthetic)


def utility(
    task: Task,
    real: Labelled,
    held_out: Labelled,
    synthetic: Labelled,
    symmetries: Sequence[Symmetry],
    root: int,
    *,
    samples: int,
    label: Callable[[Maps], Labels] | None = None,
    told: Callable[[int], None] = lambda done: None,
) -> Utility:
    """Compare training sets; `label` measures the label of a map where that can be done.

    `told` hears after every training; there are `trainings` of them. `samples` is the size of the
    whole set that the synthetic maps are of.

    Raises:
        InputError: too few maps with a label, or real maps of one class alone.
    """
    real, held_out, synthetic = real.known(), held_out.known(), synthetic.known()
    _require(task, real, held_out, synthetic)
    tried = multiples(len(real), len(synthetic))
    fields = [gaussian_fields(real.maps, root, INDEX + 100 + i) for i in range(tried[-1])]
    images = torch.cat((orbit(real.maps, symmetries)[1:]) or [real.maps.flip(-1)])
    pools = {
        "real": real,
        "flips": Labelled(images, real.labels.repeat(len(images) // len(real))),
        "fields": _fields(torch.cat(fields), real.labels.repeat(len(fields)), label),
        "synthetic": synthetic,
    }
    seen = {name: Examples.of(pool.maps, pool.labels) for name, pool in pools.items()}
    asked = Examples.of(held_out.maps, held_out.labels)
    arms = _arms(tried, {name: len(pool) for name, pool in pools.items()}, len(real))
    found: list[ArmScore] = []
    for learner, (_, learn) in LEARNERS.items():
        said = {}
        for arm in arms:
            answers = []
            for seed in range(SEEDS):
                rng = generator(root, INDEX + seed, stream=Stream.RESAMPLE)
                train = Examples.joined(list(_drawn(arm, seen, rng)))
                answers.append(learn(train, asked, len(task.classes), rng))
                told(1)
            said[arm.name] = torch.stack(answers).numpy()
        found += _scored(learner, arms, said, asked.labels.numpy(), task, root)
    record = Utility(
        task=task.name,
        classes=task.classes,
        chance=task.chance,
        real=len(real),
        held_out=len(held_out),
        samples=samples,
        labelled=len(synthetic),
        multiple=tried[-1],
        seeds=SEEDS,
        arms=tuple(found),
        sentence="",
    )
    return replace(record, sentence=sentence(record))


def trainings(real: int, synthetic: int) -> int:
    """Return how often a learner is trained."""
    return len(LEARNERS) * SEEDS * (4 + len(multiples(real, synthetic)))


@final
@dataclass(frozen=True, slots=True)
class _Arm:
    """A training set: how many examples of which pools."""

    name: ArmName
    title: str
    parts: tuple[tuple[str, int], ...]
    multiple: int | None = None

    @property
    def maps(self) -> int:
        return sum(count for _, count in self.parts)


def _arms(tried: Sequence[int], sizes: Mapping[str, int], real: int) -> list[_Arm]:
    whole = ("real", real)
    most = tried[-1] * real
    return [
        _Arm("real", "real maps alone", (whole,)),
        _Arm("flips", "real + flips", (whole, ("flips", sizes["flips"]))),
        _Arm("fields", "real + Gaussian fields", (whole, ("fields", min(most, sizes["fields"])))),
        *(
            _Arm(f"real+{k}", f"real + {k} × synthetic", (whole, ("synthetic", k * real)), k)
            for k in tried
        ),
        _Arm("synthetic", "synthetic maps alone", (("synthetic", most),), tried[-1]),
    ]


def _drawn(
    arm: _Arm, pools: Mapping[str, Examples], rng: np.random.Generator
) -> Iterator[Examples]:
    for pool, count in arm.parts:
        yield pools[pool].taken(rng.permutation(len(pools[pool]))[:count])


def _fields(maps: Maps, labels: Labels, label: Callable[[Maps], Labels] | None) -> Labelled:
    return Labelled(maps, labels if label is None else label(maps)).known()


def _scored(
    learner: str,
    arms: Sequence[_Arm],
    said: Mapping[str, NDArray[np.float64]],
    truth: NDArray[np.float64],
    task: Task,
    root: int,
) -> list[ArmScore]:
    """Score every arm, and again on the same resampled maps and seeds."""
    rng = generator(root, INDEX + 50, stream=Stream.RESAMPLE)
    maps = rng.integers(len(truth), size=(RESAMPLES, len(truth)))
    seeds = rng.integers(SEEDS, size=(RESAMPLES, SEEDS))
    drawn = {
        name: np.array(
            [_score(answers[s][:, m], truth[m], task) for m, s in zip(maps, seeds, strict=True)]
        )
        for name, answers in said.items()
    }
    whole = {name: _score(answers, truth, task) for name, answers in said.items()}
    found = []
    for arm in arms:
        low, high = np.quantile(drawn[arm.name], (0.025, 0.975))
        gains = np.quantile(drawn[arm.name] - drawn["real"], (0.025, 0.975))
        found.append(
            ArmScore(
                learner, arm.name, arm.title, arm.multiple, arm.maps, whole[arm.name],
                float(low), float(high), whole[arm.name] - whole["real"],
                float(gains[0]), float(gains[1]),
            )
        )  # fmt: skip
    return found


def _score(said: NDArray[np.float64], truth: NDArray[np.float64], task: Task) -> float:
    """Mean over seeds of balanced accuracy or R^2; a class that was not drawn is left out."""
    if not task.classes:
        total = np.square(truth - truth.mean()).sum()
        return float((1 - np.square(said - truth).sum(1) / max(total, 1e-300)).mean())
    right = said == truth
    classes = np.unique(truth)
    return float(np.mean([right[:, truth == which].mean() for which in classes]))


def _require(task: Task, real: Labelled, held_out: Labelled, synthetic: Labelled) -> None:
    for name, found in (("fit", real), ("held-out", held_out)):
        if len(found) < MIN_MAPS:
            raise InputError(
                f"got {len(found)} {name} targets with a label of {task.name}; expected at least "
                f"{MIN_MAPS}: label more of them"
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
