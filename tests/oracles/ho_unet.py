"""The network of Ho et al. 2020, appendix B, in plain torch, with the names of its PyTorch weights.

Written from the paper and the published names, independently of the code that it tests. Levels
count from the finest; `attended` are those with attention.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)


def embed(t: Tensor, width: int) -> Tensor:
    """Sines, then cosines, of angular frequencies from 1 down to 1e-4, both ends included."""
    powers = torch.arange(width // 2, dtype=torch.float32) / (width // 2 - 1)
    phases = t.float()[:, None] * 10000.0**-powers
    return torch.cat([phases.sin(), phases.cos()], dim=1)


class Block(nn.Module):
    def __init__(self, before: int, after: int, time: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(before), nn.Conv2d(before, after, 3, padding=1)
        self.temb_proj = nn.Linear(time, after)
        self.norm2, self.conv2 = norm(after), nn.Conv2d(after, after, 3, padding=1)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.temb_proj(F.silu(temb))[..., None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    """Every pixel looks at every pixel, with one head of all channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (part(h).flatten(2) for part in (self.q, self.k, self.v))
        logits = torch.einsum("bci,bcj->bij", q, k) / q.shape[1] ** 0.5
        seen = torch.einsum("bij,bcj->bci", logits.softmax(dim=2), v)
        return x + self.proj_out(seen.view_as(x))


class Resampling(nn.Module):
    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride, padding=1 if stride == 1 else 0)


class Level(nn.Module):
    def __init__(self, widths: list[tuple[int, int]], time: int, attended: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(Block(before, after, time) for before, after in widths)
        self.attn = nn.ModuleList(Attention(after) for _, after in widths if attended)

    def apply_one(self, j: int, x: Tensor, temb: Tensor) -> Tensor:
        x = self.block[j](x, temb)
        return self.attn[j](x) if len(self.attn) else x


class HoUnet(nn.Module):
    """Maps (n, c, y, x) and time indices (n,) to the noise predicted in the maps."""

    def __init__(
        self, width: int, factors: tuple[int, ...], blocks: int, attended: set[int], channels: int
    ) -> None:
        super().__init__()
        widths, time, last = [width * f for f in factors], 4 * width, len(factors) - 1
        self.width = width
        self.temb = nn.Module()
        self.temb.dense = nn.ModuleList([nn.Linear(width, time), nn.Linear(time, time)])
        self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        kept = [[width]]  # widths of what each level hands across, its input first
        for i, after in enumerate(widths):
            before = widths[max(i - 1, 0)] if i else width
            level = Level([(before, after)] + [(after, after)] * (blocks - 1), time, i in attended)
            if i < last:
                level.downsample = Resampling(after, stride=2)
            self.down.append(level)
            kept.append([after] * blocks + ([after] if i < last else []))
        self.mid = nn.Module()
        self.mid.block_1 = Block(widths[-1], widths[-1], time)
        self.mid.attn_1 = Attention(widths[-1])
        self.mid.block_2 = Block(widths[-1], widths[-1], time)
        stack, flow, levels = [w for row in kept for w in row], widths[-1], []
        for i in range(last, -1, -1):
            pairs = []
            for _ in range(blocks + 1):
                pairs.append((flow + stack.pop(), widths[i]))
                flow = widths[i]
            level = Level(pairs, time, i in attended)
            if i > 0:
                level.upsample = Resampling(flow, stride=1)
            levels.append(level)
        self.up.extend(reversed(levels))
        self.norm_out, self.conv_out = norm(flow), nn.Conv2d(flow, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        first, second = self.temb.dense
        temb = second(F.silu(first(embed(t, self.width).to(x.dtype))))
        h = self.conv_in(x)
        kept = [h]
        for level in self.down:
            for j in range(len(level.block)):
                h = level.apply_one(j, h, temb)
                kept.append(h)
            if hasattr(level, "downsample"):
                h = level.downsample.conv(F.pad(h, (0, 1, 0, 1)))
                kept.append(h)
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h, temb)), temb)
        for level in reversed(self.up):
            for j in range(len(level.block)):
                h = level.apply_one(j, torch.cat([h, kept.pop()], dim=1), temb)
            if hasattr(level, "upsample"):
                h = level.upsample.conv(F.interpolate(h, scale_factor=2, mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(h)))


def randomised(network: HoUnet, seed: int = 0) -> HoUnet:
    """Draw every weight, those of norms and biases too, about the scale that keeps a signal."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.named_parameters():
        drawn = torch.randn(value.shape, generator=generator)
        if value.ndim > 1:
            drawn = drawn / value[0].numel() ** 0.5
        elif name.endswith("weight"):
            drawn = 1 + 0.2 * drawn
        else:
            drawn = 0.1 * drawn
        value.data.copy_(drawn)
    return network.eval().requires_grad_(False)
