"""Score networks of astronomical images, read from the installed package `galaxygrad`.

They are MLP-Mixers for the score `s(x, t)` of the variance-preserving diffusion with constant
rate 1 (Sampson et al. 2024, arXiv 2401.07313; Song et al. 2021, eq. 33):

    x_t = exp(-t/2) x0 + sqrt(1 - exp(-t)) eps,     0 < t <= 10.

The linear schedule of DDPM has the same distribution of `x_t` at `t = -ln(alpha_k^2)`, so that
index `k` evaluates the network at that time, and the noise estimate is `eps = -sigma_k s(x, t)`.
Values are `log(flux + 1) / 0.1`. Only the weight files are read: importing the package would start
JAX.
"""

import math
import tokenize
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast, final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ood_core.arrays import Maps
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.errors import BaseModelError

PREFIX = "galaxygrad:"
REMEDY = "`pip install --no-deps galaxygrad==0.2.1`"
CHANNELS, HIDDEN, BLOCKS, PATCH = 64, 512, 4, 4


@final
@dataclass(frozen=True, slots=True)
class Packaged:
    """A weight file of the package: its name, the side of its maps, what it was trained on."""

    file: str
    size: int
    domain: str


NETWORKS = {
    "hsc32": Packaged("eqx_hsc_ScoreNet32.eqx", 32, "galaxies of the HSC survey"),
    "hsc64": Packaged("eqx_hsc_ScoreNet64.eqx", 64, "galaxies of the HSC survey"),
    "hsc-log32": Packaged("eqx_hsc_LogNet32.eqx", 32, "galaxies of HSC, undocumented scaling"),
    "hsc-log64": Packaged("eqx_hsc_LogNet64.eqx", 64, "galaxies of HSC, undocumented scaling"),
    "ztf32": Packaged("eqx_ZTF_ScoreNet32.eqx", 32, "simulated galaxies as ZTF sees them"),
    "ztf64": Packaged("eqx_ZTF_ScoreNet64.eqx", 64, "simulated galaxies as ZTF sees them"),
    "lsst60": Packaged("eqx_lsst_ScoreNet60.eqx", 60, "simulated lensed galaxies, LSST"),
    "quasar72": Packaged("eqx_quasar_lens72.eqx", 72, "simulated lensed quasars"),
    "roman120": Packaged("eqx_roman_Scorenet120.eqx", 120, "simulated lensed galaxies, Roman"),
}


class NoiseEstimate(NamedTuple):
    """Output in the form that diffusers networks have."""

    sample: Maps


@final
class ScoreMixer(nn.Module):
    """MLP-Mixer (Tolstikhin et al. 2021) of maps `(n, 1, size, size)`, in non-overlapping patches.

    Modules stand in the order of their arrays in the file.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        patches = (size // PATCH) ** 2
        self.enter = nn.Conv2d(2, CHANNELS, PATCH, PATCH)
        self.leave = nn.ConvTranspose2d(CHANNELS, 1, PATCH, PATCH)
        self.blocks = nn.Sequential(*(MixerBlock(patches) for _ in range(BLOCKS)))
        self.norm = nn.LayerNorm((CHANNELS, patches))

    def forward(self, x: Maps, time: float) -> Maps:
        """Return the score; `time` is the share of the longest time that has passed."""
        if x.shape[1:] != (1, self.size, self.size):
            raise BaseModelError(
                f"got maps of shape {tuple(x.shape[1:])}; expected (1, {self.size}, {self.size}): "
                "the weights of this network are tied to pixels"
            )
        patches = self.enter(torch.cat([x, torch.full_like(x, time)], dim=1))
        mixed = self.norm(self.blocks(patches.flatten(2)))
        return cast(Maps, self.leave(mixed.reshape(patches.shape)))


@final
class MixerBlock(nn.Module):
    """Mixes patches, then channels, of `(n, channels, patches)`."""

    def __init__(self, patches: int) -> None:
        super().__init__()
        self.over_patches = _perceptron(patches)
        self.over_channels = _perceptron(CHANNELS)
        self.first_norm = nn.LayerNorm((CHANNELS, patches))
        self.second_norm = nn.LayerNorm((patches, CHANNELS))

    def forward(self, y: Float[Tensor, "n c p"]) -> Float[Tensor, "n c p"]:
        """Return `y` with what both perceptrons add."""
        y = y + self.over_patches(self.first_norm(y))
        turned = y.mT
        return cast(Tensor, turned + self.over_channels(self.second_norm(turned))).mT


@final
class MixerNoise(nn.Module):
    """The noise estimate `-sigma_k s(x, -ln(alpha_k^2))` at integer times of a schedule.

    Times beyond the longest that the network knows are replaced by that one.
    """

    def __init__(self, score: ScoreMixer, schedule: NoiseSchedule, longest: float) -> None:
        super().__init__()
        self.score, self._schedule, self._longest = score, schedule, longest

    host_time = True  # of its schedule, which lies there

    def forward(self, x_t: Maps, t: int) -> NoiseEstimate:
        """Return the estimate of the noise in `x_t` at index `t`."""
        time = -2 * math.log(float(self._schedule.alpha[t]))
        score = self.score(x_t, min(time, self._longest) / self._longest)
        return NoiseEstimate(-float(self._schedule.sigma[t]) * score)


def packaged(source: str) -> Packaged:
    """Return what is known of `galaxygrad:NAME`.

    Raises:
        BaseModelError: unknown name.
    """
    name = source.removeprefix(PREFIX)
    if name not in NETWORKS:
        names = ", ".join(NETWORKS)
        raise BaseModelError(f"{source}: got network {name!r}; expected one of {names}")
    return NETWORKS[name]


def find_weights(source: str) -> Path:
    """Return the weight file of `galaxygrad:NAME` in the installed package.

    Raises:
        BaseModelError: unknown name, or a package that is not installed or holds no such file.
    """
    file = packaged(source).file
    try:
        package = distribution("galaxygrad")
    except PackageNotFoundError as error:
        raise BaseModelError(
            f"{source}: the package galaxygrad is not installed; {REMEDY} gets its weights"
        ) from error
    path = Path(str(package.locate_file(f"galaxygrad/{file}")))
    if not path.is_file():
        raise BaseModelError(
            f"{source}: galaxygrad {package.version} holds no {file}; {REMEDY} gets the version "
            "that does"
        )
    return path


def read_mixer(path: Path, size: int, schedule: NoiseSchedule) -> MixerNoise:
    """Read a weight file: 54 `.npy` streams of float32 end to end, then the longest time.

    Raises:
        BaseModelError: a file of another layout, cut short, or with values that are not finite.
    """
    score = ScoreMixer(size)
    parameters = list(score.parameters())
    shapes = [tuple(p.shape) for p in parameters]
    shapes[1:4] = [(CHANNELS, 1, 1), (1, CHANNELS, PATCH, PATCH), (1, 1, 1)]
    try:
        with path.open("rb") as file:
            arrays = [_read_array(file, shape, "<f4") for shape in shapes]
            longest = float(_read_array(file, (), "<f8"))
            if file.read(1):
                raise ValueError("more data after the last array")
        if not 0 < longest < math.inf or not all(np.isfinite(a).all() for a in arrays):
            raise ValueError("values that are not finite, or no positive longest time")
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"{path}: not the weights of a {size} px network ({error}); {REMEDY} with "
            "--force-reinstall renews the file"
        ) from error
    arrays[2] = _as_convolution(arrays[2])
    with torch.no_grad():
        for parameter, array in zip(parameters, arrays, strict=True):
            parameter.copy_(torch.from_numpy(array.copy()).reshape(parameter.shape))
    return MixerNoise(score, schedule, longest)


def _as_convolution(kernel: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The file's kernel `(out, in, y, x)` is laid over each patch turned by 180 degrees.

    torch takes `(in, out, y, x)` and lays it as it is.
    """
    return kernel.swapaxes(0, 1)[:, :, ::-1, ::-1]


def _read_array(file: BinaryIO, shape: tuple[int, ...], kind: str) -> npt.NDArray[Any]:
    """Read one stream; its header is compared before memory is taken for its data."""
    dtype = np.dtype(kind)
    found = _read_header(file)
    if found != (shape, False, dtype):
        raise ValueError(f"got an array {found[0]} of {found[2]}; expected {shape} of {dtype}")
    wanted = math.prod(shape) * dtype.itemsize
    data = file.read(wanted)
    if len(data) < wanted:
        raise ValueError(f"the file ends in an array {shape}")
    return np.frombuffer(data, dtype).reshape(shape)


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("an array of another npy version")
    try:
        return np.lib.format.read_array_header_1_0(file)
    except (SyntaxError, TypeError, tokenize.TokenError, MemoryError, RecursionError) as error:
        raise ValueError(f"an unreadable header: {error}") from error


def _perceptron(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, width))
