"""Probe models: small models that predict a map's label, by which training sets are compared.

One is linear in the statistics that `ood_core.denoising.statistics` measures (ridge, or logistic
regression, by scikit-learn); the other is a network of three convolutions on the pixels, trained
for a fixed number of steps, so that every training set costs the same. Both are kept small: with a
few dozen real maps nothing larger could be trained at all.

A *class* label is a whole number from 0; a *value* is standardised by its training set, and
predictions are in its own unit again. Inputs are standardised by the training set too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional

from ood_core.arrays import Maps
from ood_core.denoising.statistics import Statistics

PENALTY = 0.1  # inverse strength of the logistic regression: features may outnumber maps
RIDGES = tuple(10.0**power for power in range(-2, 5))
RINGS = 7  # about the middle, where objects lie
SIDE = 32  # pixels of what the network sees; larger maps are averaged down
WIDTHS = (16, 32, 32)  # channels of the convolutions
STEPS, BATCH, RATE, DECAY = 120, 32, 3e-3, 1e-3
BLOCK = 256  # maps measured or predicted at once

Labels = Float[Tensor, " n"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Maps in model range as both probes see them, with a label each."""

    features: Float[Tensor, "n f"]
    pixels: Maps
    labels: Labels

    @classmethod
    def of(cls, maps: Maps, labels: Labels) -> "Examples":
        """Measure square maps."""
        statistics = Statistics(maps.shape[-2], RINGS, maps.shape[-1])
        features = torch.cat([statistics(block) for block in maps.float().split(BLOCK)])
        side = min(SIDE, maps.shape[-1])
        pixels = functional.adaptive_avg_pool2d(maps.float(), side)
        return cls(features, pixels, labels.double())

    def __len__(self) -> int:
        return len(self.labels)

    def taken(self, rows: NDArray[np.int64]) -> "Examples":
        """Return some of the examples."""
        at = torch.from_numpy(rows)
        return Examples(self.features[at], self.pixels[at], self.labels[at])

    @staticmethod
    def joined(parts: "list[Examples]") -> "Examples":
        """Return several sets as one."""
        return Examples(
            torch.cat([part.features for part in parts]),
            torch.cat([part.pixels for part in parts]),
            torch.cat([part.labels for part in parts]),
        )


Probe = Callable[[Examples, Examples, int, np.random.Generator], Labels]
"""Train on the first examples and predict the labels of the second; 0 classes means values."""


def linear(train: Examples, test: Examples, classes: int, rng: np.random.Generator) -> Labels:
    """Linear in statistics; a set of one class alone predicts that one."""
    features, labels = train.features.double().numpy(), train.labels.numpy()
    if len(np.unique(labels)) == 1:
        return torch.full((len(test),), float(labels[0]), dtype=torch.float64)
    model = (
        LogisticRegression(C=PENALTY, class_weight="balanced", max_iter=500)
        if classes
        else RidgeCV(RIDGES)
    )
    fitted = make_pipeline(StandardScaler(), model).fit(features, labels)
    return torch.from_numpy(fitted.predict(test.features.double().numpy())).double()


def network(train: Examples, test: Examples, classes: int, rng: np.random.Generator) -> Labels:
    """Three convolutions, mean and largest value of each feature, a linear layer; Adam."""
    middle = train.pixels.mean((0, 2, 3), keepdim=True)
    spread = train.pixels.std((0, 2, 3), keepdim=True).clamp_min(1e-6)
    centre, scale = train.labels.mean(), train.labels.std().clamp_min(1e-12)
    wanted = train.labels.long() if classes else ((train.labels - centre) / scale).float()
    weights = _weights(train.pixels.shape[1], max(classes, 1), rng)
    seen = (train.pixels - middle) / spread
    adam = torch.optim.Adam(weights, lr=RATE, weight_decay=DECAY)
    with torch.enable_grad():
        for step in range(STEPS):
            adam.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
            rows = torch.from_numpy(rng.integers(len(train), size=BATCH))
            out = _answer(seen[rows], weights)
            loss = (
                functional.cross_entropy(out, wanted[rows])
                if classes
                else functional.mse_loss(out[:, 0], wanted[rows])
            )
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()
    with torch.no_grad():
        blocks = ((test.pixels - middle) / spread).split(BLOCK)
        out = torch.cat([_answer(block, weights) for block in blocks])
    return out.argmax(1).double() if classes else out[:, 0].double() * scale + centre


PROBES: Mapping[str, tuple[str, Probe]] = {
    "linear": ("a linear model on statistics", linear),
    "network": ("a small network on pixels", network),
}


def _weights(channels: int, outputs: int, rng: np.random.Generator) -> list[Tensor]:
    """Normal weights of variance 2 over the number of inputs (He et al. 2015); no offsets."""
    shapes = [
        *((wide, narrow, 3, 3) for narrow, wide in zip((channels, *WIDTHS), WIDTHS, strict=False)),
        (outputs, 2 * WIDTHS[-1]),
    ]
    found: list[Tensor] = []
    for shape in shapes:
        spread = float(2 / np.prod(shape[1:])) ** 0.5
        drawn = spread * rng.standard_normal(shape, dtype=np.float32)
        found += [torch.from_numpy(drawn).requires_grad_(), torch.zeros(shape[0]).requires_grad_()]
    return found


def _answer(maps: Maps, weights: list[Tensor]) -> Float[Tensor, "n outputs"]:
    *convolutions, head, offset = weights
    for layer in range(0, len(convolutions), 2):
        maps = functional.relu(
            functional.conv2d(maps, convolutions[layer], convolutions[layer + 1], padding=1)
        )
        if layer < len(convolutions) - 2:
            maps = functional.avg_pool2d(maps, 2)
    pooled = torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)
    return functional.linear(pooled, head, offset)
