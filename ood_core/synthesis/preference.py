"""Samples that a user wishes for, by choices alone: no gradient goes through network or statistic.

Where samples are steered, an aim decides their mean, their brightness and their size, so the choice
begins there: of several aims, mixtures of the statistics of targets, one is taken with probability
proportional to `exp(w)`. Then, with wishes, several whole ways down are gone, each towards an aim
of its own, and one map is kept with probability proportional to the exponential of its log weight.
With a reward alone, ways to go on are tried at every step, and kept by the weight of their clean
estimates (`search`): what an aim decides is missed by as much at each of them, but what it does not
decide is found. Terms of both weights:

- a **reward** `R`: `w = strength z`, where `z` is the same mixture of the normal scores of the
  targets' ranks, and that of its first parent: the flux of one bright galaxy then weighs no more
  than its rank. Maps weigh `strength R / spread`, with half the central 68 % of the targets' as
  spread.
- a **wish** for a statistic `s` of value `v` and width `d`: `w = -((z - z(v)) spread / d)^2 / 2`,
  with the mixture `z` of normal scores, between whose ranks `v` lies, or beyond them by spreads.
  Maps weigh `-((s - v) / d)^2 / 2`.
"""

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol, final

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.stats import norm, rankdata
from torch import Tensor

from ood_core.arrays import Maps, PerSample
from ood_core.config.method import Method
from ood_core.config.steer import SteerSpec, WishSpec
from ood_core.diffusion.sampling import evaluations_per_map
from ood_core.errors import ConfigError, IdentityRefused, InputError
from ood_core.metrics.wished import WISHED, means_something
from ood_core.numerics.symmetry import orbit
from ood_core.synthesis.pipeline import Pipeline

Reward = Callable[[NDArray[np.float32]], NDArray[np.floating]]
"""Scores of maps in physical units, `(n, c, y, x)` to `(n,)`; more is better."""
QUARTER = 0.25  # of the targets' spread, which a wish is as wide as where it does not say
LEAST_WIDTH = 1e-3  # of that spread: a narrower wish is a slip
SOURCE_BYTES = 2**24


class Term(Protocol):
    """A part of a preference: log weights of aims and of maps."""

    def of_aims(
        self, rows: Int[Tensor, "n tries k"], shares: Float[Tensor, "n tries k"]
    ) -> Float[Tensor, "n tries"]:
        """Weigh mixtures of images of targets; row `g * n + i` is image `g` of target `i`."""
        ...

    def of_maps(self, maps: NDArray[np.float32]) -> NDArray[np.float64]:
        """Weigh maps in physical units."""
        ...


def normal_scores(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quantiles of the standard normal at the ranks of values."""
    found: NDArray[np.float64] = norm.ppf((rankdata(values) - 0.5) / len(values))
    return found


def central(values: NDArray[np.float64]) -> float:
    """Half of the range that holds the central 68 % of values, or their standard deviation."""
    low, high = np.quantile(values, (0.16, 0.84))
    return float((high - low) / 2) or float(values.std())


@final
class Rewarded:
    """The term of a reward.

    Raises:
        InputError: a reward that does not give one finite number per map, or the same for all
            targets; an impossible strength.
    """

    def __init__(self, pipeline: Pipeline, reward: Reward, strength: float) -> None:
        if not 0 <= strength < np.inf:
            raise InputError(f"got strength {strength}; expected a number of 0 or more")
        self._reward, self._strength = reward, strength
        targets = pipeline.targets
        images = torch.cat(orbit(targets.fit_ranged, targets.symmetries))
        scores = self._scores(pipeline.physical(images))
        if scores.std() == 0:
            raise InputError(
                "got a reward that is the same for all fit targets; expected one that differs"
            )
        self._worth = strength * torch.from_numpy(normal_scores(scores))
        self._temperature = central(scores) / strength if strength else np.inf

    def of_aims(
        self, rows: Int[Tensor, "n tries k"], shares: Float[Tensor, "n tries k"]
    ) -> Float[Tensor, "n tries"]:
        """Weigh mixtures by their normal scores and those of their first."""
        found: Tensor = (self._worth[rows] * shares).sum(-1) + self._worth[rows[..., 0]]
        return found

    def of_maps(self, maps: NDArray[np.float32]) -> NDArray[np.float64]:
        """Weigh maps by the reward."""
        return self._scores(maps) / self._temperature

    def _scores(self, maps: NDArray[np.float32]) -> NDArray[np.float64]:
        scores = np.asarray(self._reward(maps), dtype=np.float64)
        if scores.shape != (len(maps),) or not np.isfinite(scores).all():
            raise InputError(
                f"got scores of shape {scores.shape}, {np.isfinite(scores).sum()} of them finite, "
                f"of {len(maps)} maps; expected one finite number per map"
            )
        return scores


@final
class WishedFor:
    """The term of a wish.

    Raises:
        InputError: a statistic that is the same for all fit targets, or that they have nothing to
            measure of; a width of next to nothing.
    """

    def __init__(self, pipeline: Pipeline, wish: WishSpec) -> None:
        targets, self._wish = pipeline.targets, wish
        if not means_something(wish.statistic, targets.fit_ranged):
            raise InputError(
                f"steer: got a wish for {wish.statistic}; expected one that fit targets can be "
                "asked for: they show no object at their middle"
            )
        values = self._values(pipeline.physical(targets.fit_ranged))
        spread = central(values)
        if spread == 0:
            raise InputError(
                f"steer: got a wish for {wish.statistic}, which is {values[0]:g} for all fit "
                "targets; expected one that differs"
            )
        self.width = QUARTER * spread if wish.width is None else wish.width
        if self.width < LEAST_WIDTH * spread:
            raise InputError(
                f"steer: got a wish for {wish.statistic} of width {self.width:g}; expected at "
                f"least a thousandth of the fit targets' spread, {spread:g}"
            )
        score = normal_scores(values)
        low, high = values.min(), values.max()
        order = values.argsort()
        beyond = (max(0.0, wish.value - high) - max(0.0, low - wish.value)) / spread
        self._aim = float(np.interp(wish.value, values[order], score[order])) + beyond
        images = len(orbit(targets.fit_ranged[:1], targets.symmetries))
        self._scores = torch.from_numpy(np.tile(score, images))
        self._narrow = self.width / spread

    def of_aims(
        self, rows: Int[Tensor, "n tries k"], shares: Float[Tensor, "n tries k"]
    ) -> Float[Tensor, "n tries"]:
        """Weigh mixtures by how near their normal score is to that of the value."""
        mixed = (self._scores[rows] * shares).sum(-1)
        found: Tensor = -0.5 * ((mixed - self._aim) / self._narrow).square()
        return found

    def of_maps(self, maps: NDArray[np.float32]) -> NDArray[np.float64]:
        """Weigh maps by how near they are to the value."""
        found: NDArray[np.float64] = (self._values(maps) - self._wish.value) / self.width
        return -0.5 * found**2

    def _values(self, maps: NDArray[np.float32]) -> NDArray[np.float64]:
        return measured(self._wish, maps)


def measured(wish: WishSpec, maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """The statistic of a wish, of physical maps, `(n,)`."""
    values: NDArray[np.float64] = WISHED[wish.statistic](torch.from_numpy(maps), wish.above).numpy()
    return values


@final
class Preference:
    """What is wished of the maps of a fitted pipeline; aims and maps weigh the sum of all terms.

    Args:
        pipeline: what was fitted.
        terms: rewards and wishes.
        candidates: ways that are tried, 1 or more.
        whole: whether they are whole ways down, or those of every step.

    Raises:
        InputError: an impossible number of candidates.
    """

    def __init__(
        self, pipeline: Pipeline, terms: Sequence[Term], candidates: int, whole: bool = False
    ) -> None:
        if candidates < 1:
            raise InputError(f"got {candidates} candidates; expected 1 or more")
        self._pipeline, self._terms = pipeline, tuple(terms)
        self.candidates, self.whole = candidates, whole

    @classmethod
    def of(cls, pipeline: Pipeline, spec: SteerSpec) -> "Preference":
        """What a method says.

        Raises:
            InputError: wishes or a reward that these targets cannot be asked for.
            IdentityRefused: the reward's file is not the one of the record.
        """
        terms: list[Term] = [WishedFor(pipeline, wish) for wish in spec.wishes]
        if spec.reward is not None:
            terms.append(Rewarded(pipeline, load_reward(spec), spec.strength))
        candidates = pipeline.method.candidates
        return cls(pipeline, terms, candidates, whole=bool(spec.wishes))

    def of_aims(
        self, rows: Int[Tensor, "n tries k"], shares: Float[Tensor, "n tries k"]
    ) -> Float[Tensor, "n tries"]:
        """Log weights of mixtures of images of targets."""
        return torch.stack([term.of_aims(rows, shares) for term in self._terms]).sum(0)

    def of_seen(self, seen: Maps) -> PerSample:
        """Log weights of clean estimates."""
        return self.of_ranged(self._pipeline.maps(seen))

    def of_ranged(self, maps: Maps) -> PerSample:
        """Log weights of maps in model range."""
        physical = self._pipeline.physical(maps.cpu())
        weights = np.sum([term.of_maps(physical) for term in self._terms], axis=0)
        return torch.from_numpy(weights)


def sample_evaluations(method: Method) -> int:
    """Evaluations of every expert for one sample of a resolved method, its coarse map included."""
    each = evaluations_per_map(method.solver, method.steps, method.eta)
    coarse = each if method.factor > 1 else 0
    if (steer := method.steer) is None:
        return coarse + each
    if steer.wishes:
        return method.candidates * (coarse + each)
    return coarse + 1 + method.steps * method.candidates


def sealed(method: Method) -> Method:
    """The method with the digest of the file of its reward, if it has one.

    Raises:
        ConfigError: no such module, or one without a file of Python to take a digest of.
        IdentityRefused: a digest is there already, and is another one.
    """
    steer = method.steer
    if steer is None or steer.reward is None:
        return method
    if steer.source is None:
        found = hashlib.sha256(_source(steer.reward).read_bytes()).hexdigest()
        steer = replace(steer, source=found)
    load_reward(steer)
    return replace(method, steer=steer)


def load_reward(spec: SteerSpec) -> Reward:
    """Import the function of a sealed spec, after its file was held against the digest.

    Raises:
        ConfigError: no such function.
        IdentityRefused: its file differs.
    """
    module, _, name = str(spec.reward).partition(":")
    content = _source(str(spec.reward)).read_bytes()
    if hashlib.sha256(content).hexdigest() != spec.source:
        raise IdentityRefused(
            f"steer.reward: the file of {module} differs from the one this run was planned with; "
            "restore it, or give another --out"
        )
    with _working_folder():
        function = getattr(importlib.import_module(module), name, None)
    if not callable(function):
        raise ConfigError(f"steer.reward: {module} has no function {name}; correct the name")
    found: Reward = function
    return found


def _source(reward: str) -> Path:
    """The file of a reward's module; nothing but the packages above it is imported."""
    module = reward.partition(":")[0]
    try:
        with _working_folder():
            spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"steer.reward: {module} cannot be found ({error})") from error
    place = Path(spec.origin) if spec is not None and spec.origin else None
    if place is None or place.suffix != ".py" or not place.is_file():
        raise ConfigError(
            f"steer.reward: got {reward}; expected a module in a .py file, in the working folder "
            "or installed, since a run's identity holds the file's digest: put the function there"
        )
    if place.stat().st_size > SOURCE_BYTES:
        raise ConfigError(f"steer.reward: {place} is larger than any source; expected a module")
    return place


@contextmanager
def _working_folder() -> Iterator[None]:
    """Let modules be found in the working folder as well, behind those that are installed."""
    folder = os.getcwd()
    sys.path.append(folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)
