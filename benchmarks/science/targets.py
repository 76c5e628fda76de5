"""Target sets of the table: which maps a cell is fitted to, and which score it.

The last maps of a set, at most 128, score all cells, and nothing is ever fitted to them. The
methods were tuned by looking at earlier held-out maps of these sets, so those may be fitted to
where more targets are requested than the configuration fits. All scores are measured in the model
range of the configured fit targets and whitened by these, whatever a cell was fitted to, so that
they compare.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt

from flows.settings import RunSettings, load_settings
from ood_core.arrays import Maps
from ood_core.config.targets import TargetsSpec
from ood_core.evaluation.features import FeatureExtractor
from ood_core.maps.target_set import TargetSet

MAX_SCORING = 128


@final
@dataclass(frozen=True, eq=False)
class BenchTargets:
    """A configuration with its maps."""

    settings: RunSettings
    maps: TargetSet

    @classmethod
    def load(cls, config: Path) -> "BenchTargets":
        """Read a configuration and its targets.

        Raises:
            InputError: unusable settings or targets.
        """
        settings = load_settings(config)
        return cls(settings, TargetSet.of(settings.targets))

    @property
    def name(self) -> str:
        """Name of the configuration."""
        return self.settings.name

    @property
    def reference(self) -> int:
        """Number of maps that the configuration fits: they set range and whitening of scores."""
        return self.maps.fit_count

    @property
    def scoring(self) -> int:
        """Number of maps at the end that score cells."""
        return min(MAX_SCORING, len(self.maps) - self.reference)

    @property
    def available(self) -> int:
        """Most maps that a cell may be fitted to."""
        return len(self.maps) - self.scoring

    def chosen(self, n: int, seed: int) -> list[int]:
        """Numbers of the `n` maps that a seed's cells are fitted to.

        Of fewer than the configuration fits, seeds take different ones, evenly through the file:
        every `k`-th from the `seed`-th on. Else they are the first.
        """
        step = max(1, self.reference // n)
        return list(range(seed % step, self.available, step))[:n]

    def fit_values(self, n: int, seed: int) -> npt.NDArray[np.float32]:
        """The chosen maps, in physical units."""
        values: npt.NDArray[np.float32] = self.maps.values[self.chosen(n, seed)]
        return values

    @property
    def scoring_values(self) -> npt.NDArray[np.float32]:
        """The maps that score cells, in physical units."""
        values: npt.NDArray[np.float32] = self.maps.values[self.available :]
        return values

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """Feature extractor of the scores, set up on the configured fit targets."""
        real = self.ranged(self.scoring_values)
        return FeatureExtractor.of(self.maps.fit_ranged, real, self.maps.symmetries)

    def ranged(self, values: npt.NDArray[np.float32]) -> Maps:
        """Physical values in the model range of the scores."""
        return self.maps.ranged(values)

    def chosen_set(self, n: int, seed: int) -> TargetSet:
        """The chosen maps as a set of their own, with the scoring maps held out."""
        return TargetSet.from_arrays(
            np.concatenate([self.fit_values(n, seed), self.scoring_values]),
            unit=self.maps.unit,
            transform=self.maps.transform.kind,
            symmetries=self.maps.symmetries,
            held_out=self.scoring,
        )

    def write(self, n: int, seed: int, path: Path) -> TargetsSpec:
        """Write chosen and scoring maps as targets of a run of their own; the latter held out."""
        np.save(path, np.concatenate([self.fit_values(n, seed), self.scoring_values]))
        return replace(
            self.settings.targets, path=str(path), array=None, held_out=float(self.scoring),
            tiles=None, cutouts=None,
        )  # fmt: skip
