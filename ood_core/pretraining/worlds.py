"""Procedural worlds: every seed is a kind of map, a model with its own parameters.

A world is a model of one family, perhaps composed with a second (sum, mask, product), seen through
an instrument (blur, gain from map to map, noise, brightness curve, quantisation) and scaled into
model range. All of it is a function of the world's seed; its maps are functions of that and of
their own seed. Endless, licence-free; whole families can be kept back to see what a network learns
of kinds that it was never shown.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from ood_core.numerics.random import Stream, generator
from ood_core.pretraining.world_fields import (
    Array,
    Clouds,
    Drawer,
    MapModel,
    PowerLaw,
    Ridges,
    Rng,
    TwoPhase,
    Warped,
    Waves,
    as_array,
    beam,
    filtered,
    log_uniform,
    soft_step,
)
from ood_core.pretraining.world_shapes import Cells, Craters, Discs, Leaves
from ood_core.pretraining.world_sources import Arcs, Haloes, Points, Sources

FAMILIES: Mapping[str, type[MapModel]] = {
    "arcs": Arcs,
    "cells": Cells,
    "clouds": Clouds,
    "craters": Craters,
    "discs": Discs,
    "haloes": Haloes,
    "leaves": Leaves,
    "points": Points,
    "power_law": PowerLaw,
    "ridges": Ridges,
    "sources": Sources,
    "two_phase": TwoPhase,
    "warped": Warped,
    "waves": Waves,
}
# How often a family is drawn beside the others; sources differ most among themselves.
WEIGHTS: Mapping[str, float] = {"sources": 3.0, "two_phase": 1.5, "clouds": 1.5, "haloes": 1.5}

LIMIT = 1.25  # values beyond the world's own range are cut here
REFERENCE_MAPS, REFERENCE_SIZE = 8, 32  # maps whose values set the world's scale
MARGIN = 4  # pixels that a blur may carry over the border


@final
@dataclass(frozen=True, slots=True)
class Standardised:
    """A model in units of its own mean and spread."""

    model: Drawer
    mean: float
    spread: float

    def draw(self, rng: Rng, n: int, size: int) -> Array:
        """Draw `n` maps of about mean 0 and spread 1."""
        return as_array((self.model.draw(rng, n, size) - self.mean) / self.spread)


@final
@dataclass(frozen=True, slots=True)
class Composition:
    """Two models in one map: `sum`, `mask` (the second shows inside regions) or `product`."""

    form: str
    first: Standardised
    second: Standardised
    mask: PowerLaw
    weight: float

    def draw(self, rng: Rng, n: int, size: int) -> Array:
        """Draw `n` maps in units of the first model's spread."""
        first = self.first.draw(rng, n, size)
        second = self.second.draw(rng, n, size)
        if self.form == "sum":
            return first + self.weight * second
        if self.form == "product":
            return as_array(first * np.exp(np.clip(self.weight * second, -3, 3)))
        shown = soft_step(self.mask.draw(rng, n, size) + 0.5 - self.weight, 0.1)
        return first + shown * (second - first)


@final
@dataclass(frozen=True, slots=True)
class Instrument:
    """What happens to a map of range 0 to 1 between the sky and the file.

    `curve` is one of `plain`, `gamma`, `asinh` and `log`, with parameter `bend`; `levels` 0 keeps
    values as they are; noise is `white` plus, as photons have it, `photons` times the root of the
    brightness.
    """

    blur: float
    gain_spread: float
    white: float
    photons: float
    curve: str
    bend: float
    inverted: bool
    levels: int

    @classmethod
    def drawn(cls, rng: Rng) -> "Instrument":
        """Draw an instrument; every trait is absent in most of them."""
        curve = str(rng.choice(["plain", "gamma", "asinh", "log"], p=[0.6, 0.16, 0.12, 0.12]))
        bends = {"plain": (1, 1), "gamma": (0.4, 2.2), "asinh": (0.02, 1), "log": (0.003, 0.3)}
        return cls(
            blur=rng.uniform(0.2, 1.2) if rng.random() < 0.25 else 0.0,
            gain_spread=rng.uniform(0.05, 0.4) if rng.random() < 0.25 else 0.0,
            white=log_uniform(rng, 0.003, 0.12) if rng.random() < 0.35 else 0.0,
            photons=log_uniform(rng, 0.01, 0.15) if rng.random() < 0.2 else 0.0,
            curve=curve,
            bend=log_uniform(rng, *bends[curve]),
            inverted=bool(rng.random() < 0.3),
            levels=int(rng.integers(6, 64)) if rng.random() < 0.08 else 0,
        )

    def blurred(self, maps: Array) -> Array:
        """Blur maps drawn with a margin and cut the margin off."""
        if self.blur:
            maps = filtered(maps, beam(maps.shape[-1], self.blur))
        return maps[:, MARGIN:-MARGIN, MARGIN:-MARGIN]

    def exposed(self, rng: Rng, maps: Array) -> Array:
        """Apply gain, noise and curve to maps of range 0 to 1."""
        if self.gain_spread:
            gain = np.exp(self.gain_spread * rng.standard_normal((len(maps), 1, 1)))
            maps = as_array(maps * gain)
        if self.white or self.photons:
            spread = np.sqrt(self.white**2 + self.photons**2 * np.maximum(maps, 0))
            maps = as_array(maps + spread * rng.standard_normal(maps.shape, dtype=np.float32))
        maps = self._curved(maps)
        return as_array(1 - maps if self.inverted else maps)

    def read_out(self, maps: Array) -> Array:
        """Round maps of range -1 to 1 to the instrument's levels."""
        if not self.levels:
            return maps
        half = (self.levels - 1) / 2
        return as_array(np.round(maps * half) / half)

    def _curved(self, maps: Array) -> Array:
        if self.curve == "gamma":
            return as_array(np.sign(maps) * np.abs(maps) ** self.bend)
        if self.curve == "asinh":
            return as_array(np.arcsinh(maps / self.bend) / math.asinh(1 / self.bend))
        if self.curve == "log":
            bent = np.log(np.maximum(maps, 0) / self.bend + 1)
            return as_array(bent / math.log(1 / self.bend + 1))
        return maps


@final
@dataclass(frozen=True, slots=True)
class World:
    """A kind of map; `sky` is the model's range before the instrument, `scale` that after it."""

    seed: int
    family: str
    model: Drawer
    instrument: Instrument
    sky: tuple[float, float]
    scale: tuple[float, float]

    def maps(self, n: int, size: int, seed: int) -> Array:
        """Draw `n` maps `(n, size, size)` in about [-1, 1]: draw number `seed` of this world.

        Raises:
            ValueError: `n` or `size` is not positive.
        """
        if n < 1 or size < 1:
            raise ValueError(f"got {n} maps of {size} pixels; expected at least one of each")
        rng = generator(self.seed, seed, attempt=1, stream=Stream.TRAINING)
        seen = _exposures(rng, self.model, self.instrument, self.sky, n, size)
        low, high = self.scale
        maps = self.instrument.read_out(2 * (seen - low) / (high - low) - 1)
        return np.clip(maps, -LIMIT, LIMIT).astype(np.float32)


def draw_world(
    seed: int, family: str | None = None, families: Sequence[str] = tuple(FAMILIES)
) -> World:
    """Draw the world of a seed: of `family`, or of one of `families`.

    Second models of compositions are of `families` too, so that a family left out of them is never
    seen.

    Raises:
        KeyError: a family has no such name.
    """
    rng = generator(seed, 0, stream=Stream.TRAINING)
    chosen = _family(rng, families)
    family = chosen if family is None else family
    first = FAMILIES[family].drawn(rng)
    model: Drawer = first
    if rng.random() < 0.3:
        model = _composed(rng, first, FAMILIES[_family(rng, families)].drawn(rng))
    instrument = Instrument.drawn(rng)
    reference = model.draw(rng, REFERENCE_MAPS, REFERENCE_SIZE)
    sky = _range(reference, 0.5)
    seen = _exposures(rng, model, instrument, sky, REFERENCE_MAPS, REFERENCE_SIZE)
    scale = _range(seen, 0.0 if rng.random() < 0.5 else 0.2)
    return World(seed, family, model, instrument, sky, scale)


def _family(rng: Rng, families: Sequence[str]) -> str:
    weights = np.array([WEIGHTS.get(name, 1.0) for name in families])
    return str(rng.choice(list(families), p=weights / weights.sum()))


def _composed(rng: Rng, first: Drawer, second: Drawer) -> Composition:
    return Composition(
        form=str(rng.choice(["sum", "mask", "product"], p=[0.5, 0.25, 0.25])),
        first=_standardised(rng, first),
        second=_standardised(rng, second),
        mask=PowerLaw(slope=rng.uniform(3, 4.5), corner=0.02, cut=0.2),
        weight=rng.uniform(0.15, 0.9),
    )


def _standardised(rng: Rng, model: Drawer) -> Standardised:
    reference = model.draw(rng, REFERENCE_MAPS // 2, REFERENCE_SIZE)
    return Standardised(model, float(reference.mean()), max(float(reference.std()), 1e-6))


def _exposures(
    rng: Rng,
    model: Drawer,
    instrument: Instrument,
    sky: tuple[float, float],
    n: int,
    size: int,
) -> Array:
    raw = instrument.blurred(model.draw(rng, n, size + 2 * MARGIN))
    return instrument.exposed(rng, (raw - sky[0]) / (sky[1] - sky[0]))


def _range(maps: Array, tail: float) -> tuple[float, float]:
    """Lowest and highest value, without `tail` per cent on either side; never of zero width."""
    low, high = np.percentile(maps, [tail, 100 - tail])
    if high - low < 1e-6:  # nothing but rare events beyond the tails
        low, high = maps.min(), maps.max()
    return float(low), float(max(high, low + 1e-6))
