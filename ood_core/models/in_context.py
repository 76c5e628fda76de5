"""A denoiser that is shown examples: `E[x0 | x_t, examples]`, one frozen network for every kind.

The network is trained over procedural worlds; the maps of a real kind are its context. Examples
become tokens at half and a quarter of the map's resolution, which are keys and values of attention
in the denoiser, and one vector of what they have in common, which modulates its layers. No weight
moves when the kind changes. Residual blocks follow Dhariwal & Nichol (2021), attention Vaswani et
al. (2017), the pooled set Zaheer et al. (2017), the prediction of `v` Salimans & Ho (2022).

The denoiser is a convolutional U-net of three levels. The first works on whole pixels, so that
sharp fronts can be drawn; it is thin, because that is where the arithmetic is.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from ood_core.arrays import Maps, PerSample
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.models.weights import FILES, require_exactly

CLASS = "InContextDenoiser"
EXAMPLES = 12
"""Maps of a kind that the network is shown: the most that it was trained to look at."""
LOG_NOISE_RANGE = (-4.5, 4.0)
"""Least and largest `ln(sigma/alpha)` that it was trained at."""
DIVISOR = 4  # sides of maps are multiples of this
QUANTILES = 16
FREQUENCIES = 32
FASTEST = 1000.0  # ratio of the embedding's frequencies
GROUPS = 8
SMALLEST_SPREAD = 1e-5  # keeps the gradient of a root finite where examples are alike

Examples = Float[Tensor, "k e 1 y x"]
Tokens = Float[Tensor, "k t c"]
Vector = Float[Tensor, "n v"]


@final
@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the network: channels of its three levels, of its vectors, and attention heads."""

    widths: tuple[int, int, int] = (32, 64, 128)
    vector: int = 192
    heads: int = 4

    def __post_init__(self) -> None:
        if any(width < 1 or width % GROUPS or width % self.heads for width in self.widths):
            raise ValueError(
                f"got widths {self.widths}; expected multiples of {GROUPS} and {self.heads} heads"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return what a configuration file holds."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Sizes":
        """Return the sizes that `as_dict` wrote, from JSON or not."""
        full, half, quarter = saved["widths"]
        return cls((full, half, quarter), int(saved["vector"]), int(saved["heads"]))


@final
@dataclass(frozen=True, slots=True)
class Context:
    """What the network knows of `k` kinds: fine and coarse tokens, one vector each."""

    fine: Tokens
    coarse: Tokens
    vector: Float[Tensor, "k v"]


class InContextDenoiser(nn.Module):
    """U-net over whole, halved and quartered maps with attention to examples at the latter two."""

    def __init__(self, sizes: Sizes | None = None) -> None:
        super().__init__()
        self.sizes = sizes = sizes or Sizes()
        full, half, quarter = sizes.widths
        vector, heads = sizes.vector, sizes.heads
        self.examples = ExampleEncoder(sizes)
        self.no_examples = nn.Parameter(torch.zeros(1, vector))
        self.level = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, vector), nn.SiLU(), nn.Linear(vector, vector)
        )
        self.entry = nn.Conv2d(1 + PLACES, full, 3, padding=1)
        self.full_down = Block(full, full, vector)
        self.to_half = nn.Conv2d(full, half, 2, 2)
        self.half_down = nn.ModuleList([Block(half, half, vector) for _ in range(2)])
        self.to_quarter = nn.Conv2d(half, quarter, 2, 2)
        self.quarter_in = Block(quarter, quarter, vector)
        self.quarter_looks = CrossAttention(quarter, heads)
        self.quarter_self = SelfAttention(quarter, heads)
        self.quarter_out = Block(quarter, quarter, vector)
        self.from_quarter = nn.Conv2d(quarter, half, 1)
        self.half_in = Block(2 * half, half, vector)
        self.half_looks = CrossAttention(half, heads)
        self.half_out = Block(half, half, vector)
        self.from_half = nn.Conv2d(half, full, 1)
        self.full_up = Block(2 * full, full, vector)
        self.exit_norm = nn.GroupNorm(GROUPS, full)
        self.exit = nn.Conv2d(full, 1, 3, padding=1)
        nn.init.zeros_(self.exit.weight)

    def context(self, examples: Examples) -> Context:
        """Encode `e` examples of each of `k` kinds, in model range; their order plays no part.

        Raises:
            ValueError: the maps' sides are not multiples of `DIVISOR`.
        """
        _check(examples)
        context: Context = self.examples(examples)
        return context

    def null_context(self, kinds: int) -> Context:
        """Return the context of `kinds` kinds of which no example is known."""
        _, half, quarter = self.sizes.widths
        vector = self.no_examples.expand(kinds, -1)
        return Context(
            vector.new_zeros(kinds, 0, half), vector.new_zeros(kinds, 0, quarter), vector
        )

    def forward(self, x: Maps, log_noise: PerSample, context: Context) -> Maps:
        """Predict `v = alpha eps - sigma x0` of maps `x = alpha x0 + sigma eps`.

        Args:
            x: `(k b, 1, y, x)`, variance-preserving; the `b` maps of a kind lie side by side.
            log_noise: `ln(sigma/alpha)` of every map.
            context: what is known of the `k` kinds.

        Raises:
            ValueError: sides are not multiples of `DIVISOR`, or maps no multiple of the kinds.
        """
        _check(x)
        kinds = len(context.vector)
        if len(x) % kinds:
            raise ValueError(f"got {len(x)} maps of {kinds} kinds; expected as many of each")
        known = context.vector.repeat_interleave(len(x) // kinds, 0)
        state = functional.silu(self.level(_waves(log_noise)) + known)
        full: Tensor = self.full_down(self.entry(_placed(x)), state)
        half: Tensor = self.to_half(full)
        for block in self.half_down:
            half = block(half, state)
        quarter = self.quarter_in(self.to_quarter(half), state)
        quarter = self.quarter_self(self.quarter_looks(quarter, context.coarse))
        quarter = self.quarter_out(quarter, state)
        half = self.half_in(torch.cat([_doubled(self.from_quarter(quarter)), half], 1), state)
        half = self.half_out(self.half_looks(half, context.fine), state)
        full = self.full_up(torch.cat([_doubled(self.from_half(half)), full], 1), state)
        v: Tensor = self.exit(functional.silu(self.exit_norm(full)))
        return v


class Velocity(NamedTuple):
    """Output in the form that diffusers networks have."""

    sample: Maps


@final
class InContextNetwork(nn.Module):
    """`v` at the time indices of a schedule, with what is known of one kind, or of none.

    Levels beyond those that the network was trained at are replaced by the nearest one.
    """

    def __init__(self, inner: InContextDenoiser, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.inner = inner
        levels = (schedule.sigma / schedule.alpha).log().clamp(*LOG_NOISE_RANGE)
        self.register_buffer("log_noise", levels.float(), persistent=False)

    def context(self, examples: Maps) -> Context:
        """Encode examples of one kind, in model range."""
        return self.inner.context(examples[None])

    def forward(self, x_t: Maps, t: Tensor | int, context: Context | None = None) -> Velocity:
        """Predict `v` of maps, at one index or at one for each."""
        known = self.inner.null_context(1) if context is None else context
        levels = self.get_buffer("log_noise")[t]
        return Velocity(self.inner(x_t, levels.expand(len(x_t)), known))


class ExampleEncoder(nn.Module):
    """Examples to tokens of two sizes and a vector of their common traits.

    The vector comes from the mean and the spread of coarse tokens over all examples and places, and
    from quantiles of their pixels.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        full, half, quarter = sizes.widths
        self.entry = nn.Conv2d(1 + PLACES, full, 3, padding=1)
        self.full_block = Block(full, full)
        self.to_half = nn.Conv2d(full, half, 2, 2)
        self.half_block = Block(half, half)
        self.to_quarter = nn.Conv2d(half, quarter, 2, 2)
        self.quarter_block = Block(quarter, quarter)
        self.fine_norm = nn.GroupNorm(GROUPS, half)
        self.coarse_norm = nn.GroupNorm(GROUPS, quarter)
        # Normed tokens have forgotten the contrast of their map; those of the vector have not.
        self.pooled = nn.Sequential(
            nn.Linear(2 * quarter + QUANTILES, sizes.vector),
            nn.SiLU(),
            nn.Linear(sizes.vector, sizes.vector),
        )

    def forward(self, examples: Examples) -> Context:
        """Encode examples of `k` kinds."""
        kinds = len(examples)
        full = self.full_block(self.entry(_placed(examples.flatten(0, 1))))
        half = self.half_block(self.to_half(full))
        quarter = self.quarter_block(self.to_quarter(half))
        traits = _tokens(quarter, kinds)
        spread = (traits.var(1, unbiased=False) + SMALLEST_SPREAD).sqrt()
        known = torch.cat([traits.mean(1), spread, _quantiles(examples)], 1)
        return Context(
            _tokens(self.fine_norm(half), kinds),
            _tokens(self.coarse_norm(quarter), kinds),
            self.pooled(known),
        )


class Block(nn.Module):
    """Residual block of two convolutions; a vector, if there is one, scales and shifts between."""

    def __init__(self, before: int, after: int, vector: int = 0) -> None:
        super().__init__()
        self.first_norm = nn.GroupNorm(GROUPS, before)
        self.first = nn.Conv2d(before, after, 3, padding=1)
        self.second_norm = nn.GroupNorm(GROUPS, after)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.modulation = nn.Linear(vector, 2 * after) if vector else None
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, state: Vector | None = None) -> Tensor:
        """Return maps `(n, after, y, x)`."""
        h = self.second_norm(self.first(functional.silu(self.first_norm(x))))
        if self.modulation is not None:
            scale, shift = self.modulation(state)[:, :, None, None].chunk(2, 1)
            h = h * (1 + scale) + shift
        out: Tensor = self.skip(x) + self.second(functional.silu(h))
        return out


class CrossAttention(nn.Module):
    """Every place of a noised map looks at all tokens of its kind's examples, and at one of none.

    The token of none lets a query decline, and is all there is where no examples are shown.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.none = nn.Parameter(torch.zeros(1, 1, channels))
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        """Return `x` with what was found; `(k b, c, y, x)` and `(k, t, c)`."""
        kinds, channels = len(tokens), x.shape[1]
        # The queries of all maps of a kind share its keys, so that these are computed once.
        query = _tokens(self.query(self.norm(x)), kinds)
        seen = torch.cat([tokens, self.none.to(tokens.dtype).expand(kinds, 1, -1)], 1)
        key, value = self.key_value(seen).chunk(2, -1)
        found = _attention(query, key, value, self.heads)
        per_map = found.reshape(len(x), -1, channels).transpose(1, 2).reshape(x.shape)
        looked: Tensor = x + self.out(per_map)
        return looked


class SelfAttention(nn.Module):
    """Every place of a map looks at all places of the map."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.all_three = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with what was found, `(n, c, y, x)`."""
        query, key, value = _tokens(self.all_three(self.norm(x)), len(x)).chunk(3, -1)
        found = _attention(query, key, value, self.heads)
        looked: Tensor = x + self.out(found.transpose(1, 2).reshape(x.shape))
        return looked


def save_in_context(
    network: InContextDenoiser, size: int, folder: Path, about: Mapping[str, Any]
) -> None:
    """Write half-precision weights, and their configuration with `about` as JSON, into a folder.

    `size` is the side of the maps that it was trained on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    halves = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_file(halves, folder / FILES[0])
    sizes = network.sizes.as_dict()
    config = {"_class_name": CLASS, "sample_size": size, "sizes": sizes, **about}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def read_in_context(
    config: Mapping[str, Any], state: dict[str, Tensor], source: str
) -> InContextDenoiser:
    """Build the network that `save_in_context` wrote, in float32.

    Raises:
        BaseModelError: weights that are not those of the sizes in the configuration.
    """
    with torch.device("meta"):  # sizes may be any; memory is taken by weights that fit alone
        network = InContextDenoiser(Sizes.from_dict(config["sizes"]))
    require_exactly(network, state, source)
    network.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    return network


PLACES = 3  # channels that say where a pixel is: y, x and the distance from the centre


def _placed(maps: Maps) -> Float[Tensor, "n 4 y x"]:
    """Append the pixels' places in units of half a side, for kinds that have a centre."""
    height, width = maps.shape[-2:]
    y = torch.linspace(-1 + 1 / height, 1 - 1 / height, height, device=maps.device)
    x = torch.linspace(-1 + 1 / width, 1 - 1 / width, width, device=maps.device)
    y, x = y[:, None].expand(height, width), x[None, :].expand(height, width)
    places = torch.stack([y, x, torch.hypot(y, x)]).to(maps.dtype)
    placed = torch.cat([maps, places.expand(len(maps), -1, -1, -1)], 1)
    return placed.contiguous(memory_format=torch.channels_last)


def _waves(log_noise: PerSample) -> Float[Tensor, "n f"]:
    """Sines and cosines of the noise level, from slow to fast."""
    steps = torch.linspace(0, math.log(FASTEST), FREQUENCIES, device=log_noise.device)
    phase = 0.5 * (log_noise[:, None] / 8 + 0.5) * steps.exp()
    return torch.cat([phase.sin(), phase.cos()], 1)


def _quantiles(examples: Examples) -> Float[Tensor, "k q"]:
    """Quantiles of the pixels of each kind's examples."""
    pixels = examples.flatten(1).float()
    places = torch.linspace(0, 1, QUANTILES + 2, device=pixels.device)[1:-1]
    ranks = (places * (pixels.shape[1] - 1)).round().long()
    quantiles: Tensor = pixels.sort(1).values[:, ranks].to(examples.dtype)
    return quantiles


def _tokens(maps: Tensor, kinds: int) -> Tokens:
    """Turn `(k b, c, y, x)` into `(k, b y x, c)`."""
    return maps.flatten(2).transpose(1, 2).reshape(kinds, -1, maps.shape[1])


def _attention(query: Tokens, key: Tokens, value: Tokens, heads: int) -> Tokens:
    query, key, value = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value))
    found = functional.scaled_dot_product_attention(query, key, value)
    return found.transpose(1, 2).flatten(2)


def _doubled(maps: Tensor) -> Tensor:
    return functional.interpolate(maps, scale_factor=2.0, mode="nearest")


def _check(maps: Tensor) -> None:
    if any(side % DIVISOR for side in maps.shape[-2:]):
        raise ValueError(f"got maps {tuple(maps.shape)}; expected sides divisible by {DIVISOR}")
