"""The network of Nichol & Dhariwal (2021) and Dhariwal & Nichol (2021), written apart.

Plain modules whose names give the keys of published checkpoints. Resampling, attention and the
walk over blocks are spelt out, not taken from a library of networks.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Resampling = Literal["keep", "down", "up"]


@dataclass(frozen=True)
class Settings:
    """`attention` holds the factors of downsampling at which levels attend."""

    width: int = 32
    multipliers: tuple[float, ...] = (1, 2)
    blocks: int = 1
    attention: frozenset[int] = frozenset()
    heads: int | None = None
    head_channels: int = 16
    new_order: bool = False
    scale_shift: bool = False
    residual: bool = False
    learn_sigma: bool = False
    channels: int = 3

    def widths(self) -> list[int]:
        """Channels per level, finest first."""
        return [int(self.width * m) for m in self.multipliers]

    def untold(self, size: int = 16) -> dict[str, Any]:
        """Arguments of the importer: what keys and shapes do not tell."""
        return {
            "size": size,
            "head_channels": self.head_channels,
            "heads": self.heads,
            "new_attention_order": self.new_order,
        }


# As the AFHQ-Dog network: one block a level, attention in the last level but one.
DOG = Settings(
    multipliers=(1, 1, 2, 2),
    attention=frozenset({4}),
    scale_shift=True,
    residual=True,
    learn_sigma=True,
)


class Norm(nn.GroupNorm):
    """32 groups, whatever the width; variance offset 1e-5."""

    def __init__(self, width: int) -> None:
        super().__init__(32, width, eps=1e-5)


def resample(x: Tensor, how: Resampling) -> Tensor:
    """Means of 2 x 2 pixels, or every pixel four times."""
    if how == "down":
        n, c, h, w = x.shape
        return x.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))
    if how == "up":
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return x


class Residual(nn.Module):
    """Two convolutions conditioned on time, around which the input is carried."""

    def __init__(
        self, before: int, width: int, settings: Settings, how: Resampling = "keep"
    ) -> None:
        super().__init__()
        self.how, self.scale_shift = how, settings.scale_shift
        conditions = 2 * width if settings.scale_shift else width
        self.in_layers = nn.Sequential(
            Norm(before), nn.SiLU(), nn.Conv2d(before, width, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * settings.width, conditions))
        self.out_layers = nn.Sequential(
            Norm(width), nn.SiLU(), nn.Dropout(), nn.Conv2d(width, width, 3, padding=1)
        )
        if before != width:
            self.skip_connection = nn.Conv2d(before, width, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Resample after the first activation, and the carried input alike."""
        h = self.in_layers[2](resample(self.in_layers[:2](x), self.how))
        condition = self.emb_layers(time)[:, :, None, None]
        if self.scale_shift:
            scale, shift = condition.tensor_split(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + condition)
        carried = resample(x, self.how)
        return h + (self.skip_connection(carried) if hasattr(self, "skip_connection") else carried)


class Attention(nn.Module):
    """All pixels attend to all, one head after another."""

    def __init__(self, width: int, settings: Settings) -> None:
        super().__init__()
        self.heads = settings.heads or width // settings.head_channels
        self.new_order = settings.new_order
        self.norm = Norm(width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Old order: rows are `q k v` of head 0, of head 1, ...; new: `q` of all heads, ..."""
        pixels = x.flatten(2)
        rows = self.qkv(self.norm(pixels))
        width = pixels.shape[1]
        each = width // self.heads
        answers = []
        for head in range(self.heads):
            starts = [head * each + part * width for part in range(3)]
            if not self.new_order:
                starts = [3 * head * each + part * each for part in range(3)]
            q, k, v = (rows[:, start : start + each] for start in starts)
            weights = (q.transpose(1, 2) @ k / math.sqrt(each)).softmax(-1)
            answers.append(v @ weights.transpose(1, 2))
        return x + self.proj_out(torch.cat(answers, 1)).reshape(x.shape)


class Down(nn.Module):
    """Convolution of stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Up(nn.Module):
    """Every pixel four times, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(resample(x, "up"))


class GuidedUNet(nn.Module):
    """The whole network; `forward` takes maps `(n, c, y, x)` and indices `(n,)`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        s, widths = settings, settings.widths()
        self.width = s.width
        self.time_embed = nn.Sequential(
            nn.Linear(s.width, 4 * s.width), nn.SiLU(), nn.Linear(4 * s.width, 4 * s.width)
        )
        stem = nn.Conv2d(s.channels, widths[0], 3, padding=1)
        self.input_blocks = nn.ModuleList([nn.ModuleList([stem])])
        carried, now = [widths[0]], widths[0]
        for level, width in enumerate(widths):
            for _ in range(s.blocks):
                self.input_blocks.append(nn.ModuleList(self._pair(now, level, s)))
                now = width
                carried.append(now)
            if level < len(widths) - 1:
                shrink = Residual(now, now, s, "down") if s.residual else Down(now)
                self.input_blocks.append(nn.ModuleList([shrink]))
                carried.append(now)
        self.middle_block = nn.ModuleList(
            [Residual(now, now, s), Attention(now, s), Residual(now, now, s)]
        )
        self.output_blocks = nn.ModuleList()
        for level in range(len(widths) - 1, -1, -1):
            for i in range(s.blocks + 1):
                block = nn.ModuleList(self._pair(now + carried.pop(), level, s))
                now = widths[level]
                if i == s.blocks and level > 0:
                    block.append(Residual(now, now, s, "up") if s.residual else Up(now))
                self.output_blocks.append(block)
        outputs = s.channels * (2 if s.learn_sigma else 1)
        self.out = nn.Sequential(Norm(now), nn.SiLU(), nn.Conv2d(now, outputs, 3, padding=1))

    @staticmethod
    def _pair(before: int, level: int, settings: Settings) -> list[nn.Module]:
        width = settings.widths()[level]
        attends = [Attention(width, settings)] if 2**level in settings.attention else []
        return [Residual(before, width, settings), *attends]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.time_embed(embedding(t, self.width).to(x.dtype))
        h, carried = x, []
        for block in self.input_blocks:
            h = _through(block, h, time)
            carried.append(h)
        h = _through(self.middle_block, h, time)
        for block in self.output_blocks:
            h = _through(block, torch.cat([h, carried.pop()], 1), time)
        return self.out(h)


def embedding(t: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of `t / 10000^(i / half)`; in float32, as published."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32)
    angles = t[:, None].float() * torch.exp(-math.log(10000) * steps / half)
    return torch.cat([angles.cos(), angles.sin()], 1)


@functools.cache
def random_network(settings: Settings) -> GuidedUNet:
    """Every parameter drawn, those that training starts from zero too; signals stay near 1."""
    network, generator = GuidedUNet(settings), torch.Generator().manual_seed(5)
    for name, p in network.named_parameters():
        draw = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        if p.ndim > 1:
            p.data = draw / math.sqrt(p[0].numel())
        else:
            p.data = 0.3 * draw + name.endswith(NORMS)
    return network.double().eval()


NORMS = ("in_layers.0.weight", "out_layers.0.weight", "norm.weight", "out.0.weight")


def shapes_only(settings: Settings) -> GuidedUNet:
    """The network without numbers, however large."""
    with torch.device("meta"):
        return GuidedUNet(settings)


def _through(block: nn.ModuleList, h: Tensor, time: Tensor) -> Tensor:
    for layer in block:
        h = layer(h, time) if isinstance(layer, Residual) else layer(h)
    return h
