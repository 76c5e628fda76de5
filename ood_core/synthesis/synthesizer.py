"""The method as one object: fit it to a few dozen targets, then draw as many maps as are wanted.

    model = load_model("models/dead-leaves-32")
    synth = Synthesizer(model, Method(steps=12)).fit(targets, seed=0)
    maps = synth.sample(256)

It works in memory. Runs on disk (`flows.run`) use the same functions of
`ood_core.synthesis.pipeline`, shard by shard: a run of the same identity stores the same maps.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from ood_core.arrays import Latents, Maps
from ood_core.config.identity import digest, read_method
from ood_core.config.method import Method
from ood_core.errors import IdentityRefused, InputError
from ood_core.estimators.gaussian import GaussianPrior
from ood_core.maps.target_set import TargetSet
from ood_core.models.loading import BaseModel
from ood_core.numerics.random import SeedRange
from ood_core.synthesis.cubes import make_cube
from ood_core.synthesis.fields import make_field
from ood_core.synthesis.fit import Fit, shown
from ood_core.synthesis.inpainting import inpaint
from ood_core.synthesis.met import UNSTEERED, Met, meet, unsteered
from ood_core.synthesis.preference import Preference, Reward, Rewarded, sealed
from ood_core.synthesis.state import read_state, write_state
from ood_core.synthesis.trust import Trust
from ood_core.synthesis.walks import geodesic

FORMAT = 5


@final
class Synthesizer:
    """A frozen model and a method, fitted to targets; draws synthetic maps of their kind.

    Sample `i` is a function of the identity (targets, model, method, seed) and of `i`: not of how
    many are drawn, nor in which order. It is computed in the batch of `batch` samples that it
    belongs to, since rounding depends on the shape of a batch.

    Args:
        model: from `load_model`; it stays frozen, and its device is the one that is used.
        method: what is done; what it leaves open is resolved for the model's noise schedule.
        batch: samples that are computed together, as `generation.shard_size` of a run.

    Raises:
        ConfigError: a method that the model's noise schedule has no room for.
    """

    def __init__(self, model: BaseModel, method: Method | None = None, *, batch: int = 64) -> None:
        if batch < 1:
            raise InputError(f"batch: got {batch}; expected 1 or more")
        self.model, self.batch = model, batch
        found = (Method() if method is None else method).resolve(model.denoiser.schedule)
        self.method = sealed(found)
        self._fitted: Fit | None = None

    def fit(self, targets: TargetSet, seed: int = 0, *, progress: bool = True) -> "Synthesizer":
        """Calibrate the denoiser, invert the fit targets and fit the prior of their latents.

        Held-out targets are not looked at. Takes seconds to minutes; `progress` shows bars.

        Raises:
            TargetError: targets that the model or the method cannot take.
            PriorUnderdetermined: fewer targets than the prior needs.
        """
        self._fitted = Fit.to(targets, self.model, self.method, seed, progress)
        return self

    def sample(self, n: int, start: int = 0, *, progress: bool = True) -> NDArray[np.float32]:
        """Make samples `start <= i < start + n`.

        Returns:
            Maps in the targets' unit, float32, of shape `(n, c, y, x)`.

        Raises:
            InputError: not fitted, or a negative number.
        """
        sampler = self._fit.sampler
        return self._numbered(lambda seeds: sampler.sample(seeds).maps, n, start, progress)

    def sample_one(self, number: int) -> NDArray[np.float32]:
        """Make the sample with this number, `(c, y, x)`, in the targets' unit."""
        one: NDArray[np.float32] = self.sample(1, number, progress=False)[0]
        return one

    def sample_towards(
        self,
        reward: Reward,
        n: int,
        start: int = 0,
        *,
        candidates: int = 4,
        strength: float = 2.0,
        progress: bool = True,
    ) -> NDArray[np.float32]:
        """Make samples `start <= i < start + n` that a function of yours scores well.

        Targets whose score is high are parents more often, and of several ways down those are kept
        whose maps score well (`ood_core.synthesis.preference`). It costs `candidates` times as much
        as `sample`, and the samples are no longer of the targets' distribution: evaluate them.

        Args:
            reward: takes maps in the targets' unit, `(n, c, y, x)`, and gives a number for each,
                `(n,)`; more is better.
            n: how many.
            start: number of the first.
            candidates: ways that are tried at each step.
            strength: of the choice, in inverse standard deviations; 0 chooses nothing.
            progress: whether to show a bar.

        Returns:
            Maps in the targets' unit, float32, of shape `(n, c, y, x)`.

        Raises:
            InputError: not fitted, impossible numbers, or a reward that does not give one finite
                number per map or is the same for all targets.
        """
        fitted = self._fit
        term = Rewarded(fitted.pipeline, reward, strength)
        preference = Preference(fitted.pipeline, [term], candidates)
        sampler = fitted.sampler.preferring(preference)
        return self._numbered(lambda seeds: sampler.sample(seeds).maps, n, start, progress)

    def inpaint(
        self,
        maps: NDArray[np.floating[Any]],
        draws: int = 16,
        *,
        seed: int = 0,
        progress: bool = True,
    ) -> NDArray[np.float32]:
        """Draw the pixels that are NaN, given all others of the same map, which stay as they are.

        Draw `j` of map `i` is a function of the identity, of `seed`, of the map, of `i` and of `j`.

        Args:
            maps: in the targets' unit, `(n, c, y, x)` of the targets' size.
            draws: how many per map.
            seed: another one gives other draws.
            progress: whether to show a bar.

        Returns:
            Float32, `(n, draws, c, y, x)`.

        Raises:
            InputError: not fitted; a method without calibration or a latent model; maps of another
                shape, without or with nothing but NaN, or that miss too many pixels.
        """
        return inpaint(
            self._fit.pipeline, self.identity, maps, draws, seed, batch=self.batch,
            each=lambda pieces: shown(pieces, "inpainting", progress, unit="batch of draws"),
        )  # fmt: skip

    def field(
        self,
        height: int,
        width: int,
        *,
        number: int = 0,
        periodic: bool = False,
        progress: bool = True,
    ) -> NDArray[np.float32]:
        """Make a field of any size, `(c, height, width)`, of targets that are the same everywhere.

        Field `i` is a function of the identity, of its size and of `i`. It is denoised in windows
        of the targets' size, half of which overlap; waves longer than the targets are Gaussian, of
        a power between that of the targets' longest waves and that of their means.

        Args:
            height: rows.
            width: columns.
            number: which field.
            periodic: whether opposite borders continue one another; the sides must then be
                multiples of half a target's.
            progress: whether to show a bar.

        Raises:
            InputError: not fitted; targets whose mean map is not the same everywhere; a latent
                model; a size that cannot be.
        """
        fitted = self._fit
        return make_field(
            fitted.pipeline, fitted.sampler, self.identity, (height, width), number,
            periodic=periodic, batch=self.batch,
            each=lambda pieces: shown(pieces, "denoising", progress, unit="batch of windows"),
        )  # fmt: skip

    def cube(self, depth: int, slices: int, *, number: int = 0) -> NDArray[np.float32]:
        """Make slices that go together along a third axis, `(depth, c, y, x)`. Experimental.

        The noise that neighbours are made of correlates as neighbouring fit targets do
        (`ood_core.synthesis.cubes`). Cube `i` is a function of the identity, of `depth`, of
        `slices` and of `i`. All slices are computed in one batch.

        Args:
            depth: slices of the cube.
            slices: consecutive fit targets that are one cube; all of them are whole cubes.
            number: which cube.

        Raises:
            InputError: not fitted, fit targets that are not whole cubes, a method that
                draws latents in another way than from the prior, or an impossible size.
        """
        fitted = self._fit
        return make_cube(fitted.pipeline, fitted.sampler, self.identity, slices, depth, number)

    def _numbered(
        self, make: Callable[[SeedRange], Maps], n: int, start: int, progress: bool
    ) -> NDArray[np.float32]:
        """Samples by their numbers, each computed in the batch that it belongs to."""
        if n < 0 or start < 0:
            raise InputError(f"sample: got n {n}, start {start}; expected 0 or more")
        pipeline, stop = self._fit.pipeline, start + n
        made = np.empty((n, *self._fit.targets.values.shape[1:]), dtype=np.float32)
        firsts = range(start - start % self.batch, stop, self.batch) if n else range(0)
        for first in shown(firsts, "sampling", progress, unit=f"batch of {self.batch}"):
            seeds = SeedRange(pipeline.root, first, first + self.batch)
            maps = pipeline.physical(make(seeds).cpu())
            low, high = max(first, start), min(first + self.batch, stop)
            made[low - start : high - start] = maps[low - first : high - first]
        return made

    @property
    def identity(self) -> str:
        """Digest of targets, model, method and seed: what decides every sample."""
        return digest(self._fit.record)

    @property
    def latents(self) -> Latents:
        """Latents of the fit targets, `(n, c, y, x)`, of about unit variance."""
        return self._fit.latents

    @property
    def prior(self) -> GaussianPrior:
        """The fitted prior of the latents whose round trip holds."""
        return self._fit.prior.prior

    def trust(self) -> Trust:
        """How much each expert is trusted at every timestep.

        Raises:
            InputError: not fitted, or the method does not calibrate.
        """
        pipeline = self._fit.pipeline
        if pipeline.weights is None or pipeline.plan is None:
            raise InputError("trust: got a method without calibration, which has no experts")
        weights = pipeline.weights
        return Trust(
            pipeline.plan.experts,
            weights.noise_to_signal.numpy(),
            weights.knots.numpy(),
            weights.weights.numpy(),
        )

    def met(self, maps: NDArray[np.float32]) -> Met:
        """How well samples meet the wishes of `Method.steer`, and what that costs.

        As many samples, `UNSTEERED` at most, are made without wishes to compare with.

        Args:
            maps: from `sample`, in the targets' unit, `(n, c, y, x)`.

        Raises:
            InputError: not fitted, a method without wishes, or no maps.
        """
        pipeline, sampler = self._fit.pipeline, self._fit.sampler
        plain = unsteered(pipeline, sampler, self.batch, min(UNSTEERED, max(1, len(maps))))
        return meet(pipeline, maps, plain)

    def walk(self, start: int, end: int, steps: int = 13) -> NDArray[np.float32]:
        """Decode the geodesic between the latents of two fit targets, given by their numbers.

        Returns:
            Maps in the targets' unit, `(steps, c, y, x)`; the ends are close to both targets.

        Raises:
            InputError: no such targets, or fewer than two steps.
        """
        fitted, count = self._fit, len(self._fit.latents)
        if not (0 <= start < count and 0 <= end < count and start != end) or steps < 2:
            raise InputError(
                f"walk: got targets {start} and {end} of {count}, {steps} steps; expected two "
                "different numbers of fit targets and 2 or more steps"
            )
        pipeline, shares = fitted.pipeline, np.linspace(0, 1, steps)
        way = geodesic(fitted.latents, start, end, shares.tolist())
        ends = pipeline.labels(pipeline.targets.fit_seen[[start, end]])
        labels = ends[torch.from_numpy((shares >= 0.5).astype(np.int64))]
        made = pipeline.lower(pipeline.denoiser(labels), way.to(pipeline.device))
        return pipeline.targets.physical(pipeline.maps(made).cpu())

    def save(self, path: str | Path) -> None:
        """Write targets and everything that was fitted to one `.npz` file; the model is not in it.

        Raises:
            InputError: not fitted.
        """
        told = {"format": FORMAT, "model": self.model.source, **self._fit.state}
        write_state(Path(path), told)

    @classmethod
    def load(cls, path: str | Path, model: BaseModel, *, batch: int = 64) -> "Synthesizer":
        """Read what `save` wrote, for the model that it was fitted with.

        Raises:
            InputError: no such file, or no file that `save` wrote.
            IdentityRefused: another model, or a file of another version.
        """
        state = read_state(Path(path))
        if state.get("format") != FORMAT:
            raise IdentityRefused(
                f"{path}: got format {state.get('format')}; expected {FORMAT}: fit it again"
            )
        record = state["record"]
        if record["base"]["digest"] != model.digest:
            raise IdentityRefused(
                f"{path}: was fitted with another model ({state['model']}) than {model.source}: "
                "its weights or its schedule differ; load that one"
            )
        made = cls(model, read_method(record), batch=batch)
        made._fitted = Fit.of_state(state, model, str(path))
        return made

    def to(self, device: torch.device | str) -> "Synthesizer":
        """The same on a device, to which all that sampling needs is moved here and now."""
        made = type(self)(self.model.to(device), self.method, batch=self.batch)
        if self._fitted is not None:
            made._fitted = Fit.of_state(self._fitted.state, made.model, "this synthesizer")
        return made

    @property
    def _fit(self) -> Fit:
        if self._fitted is None:
            raise InputError("got a Synthesizer that is not fitted; call fit(targets) first")
        return self._fitted
