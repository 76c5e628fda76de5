"""The score networks of `galaxygrad` in plain NumPy float64, from the arrays as they lie on disk.

Written from the description of the network, apart from the package's torch module: patches are cut
by hand, and the transposed convolution is a correlation over a map dilated with zeros.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

Array = np.ndarray
SIDE = 4  # of a patch
WIDTH, HIDDEN, BLOCKS = 64, 512, 4
LONGEST = 10.0


def shapes(size: int) -> list[tuple[int, ...]]:
    """The 54 arrays of a file for maps of `size` pixels, in order."""
    p = (size // SIDE) ** 2
    ends = [(WIDTH, 2, SIDE, SIDE), (WIDTH, 1, 1), (1, WIDTH, SIDE, SIDE), (1, 1, 1)]
    patch = [(HIDDEN, p), (HIDDEN,), (p, HIDDEN), (p,)]
    channel = [(HIDDEN, WIDTH), (HIDDEN,), (WIDTH, HIDDEN), (WIDTH,)]
    norms = [(WIDTH, p), (WIDTH, p), (p, WIDTH), (p, WIDTH)]
    return [*ends, *BLOCKS * [*patch, *channel, *norms], (WIDTH, p), (WIDTH, p)]


def random_arrays(size: int, seed: int) -> list[Array]:
    """Weights of such sizes that every layer answers with numbers of order one."""
    rng = np.random.default_rng(seed)
    arrays = []
    for shape in shapes(size):
        of_a_norm = len(shape) == 2 and HIDDEN not in shape
        fan = 1 if of_a_norm else int(np.prod(shape[1:]))
        arrays.append((rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32))
    return arrays


def write(file: BinaryIO, arrays: list[Array], longest: float = LONGEST) -> None:
    """Streams one after the other, the longest time last."""
    for array in arrays:
        np.save(file, array)
    np.save(file, np.float64(longest))


def install(folder: Path, sizes: dict[str, int]) -> Path:
    """A package of that name, to be put on the path, with random weights in the named files."""
    about, package = folder / "galaxygrad-0.2.1.dist-info", folder / "galaxygrad"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: galaxygrad\nVersion: 0.2.1\n")
    package.mkdir()
    for name, size in sizes.items():
        with (package / name).open("wb") as file:
            write(file, random_arrays(size, seed=size))
    return package


def read(file: BinaryIO, count: int) -> list[Array]:
    return [np.load(file) for _ in range(count)]


def score(arrays: list[Array], x: Array, t: float) -> Array:
    """`s(x, t)` of one map `(size, size)`."""
    take = iter([a.astype(np.float64) for a in arrays])
    entering, entering_bias, leaving, leaving_bias = (next(take) for _ in range(4))
    n = len(x) // SIDE
    y = np.empty((WIDTH, n, n))
    both = np.stack([x, np.full_like(x, t / LONGEST)])
    for i in range(n):
        for j in range(n):
            patch = both[:, SIDE * i : SIDE * (i + 1), SIDE * j : SIDE * (j + 1)]
            y[:, i, j] = np.einsum("oiuv,iuv->o", entering, patch) + entering_bias[:, 0, 0]
    y = y.reshape(WIDTH, n * n)
    for _ in range(BLOCKS):
        y = _block(y, take)
    y = _norm(y, next(take), next(take)).reshape(WIDTH, n, n)
    dilated = np.zeros((WIDTH, SIDE * (n + 1) - 1 + SIDE - 1, SIDE * (n + 1) - 1 + SIDE - 1))
    dilated[:, SIDE - 1 : SIDE - 1 + SIDE * n : SIDE, SIDE - 1 : SIDE - 1 + SIDE * n : SIDE] = y
    out = np.full((SIDE * n, SIDE * n), leaving_bias[0, 0, 0])
    for u in range(SIDE):
        for v in range(SIDE):
            window = dilated[:, u : u + SIDE * n, v : v + SIDE * n]
            out += np.einsum("c,cyx->yx", leaving[0, :, u, v], window)
    return out


def _block(y: Array, take: Iterator[Array]) -> Array:
    patch, channel = [next(take) for _ in range(4)], [next(take) for _ in range(4)]
    first, second = (next(take), next(take)), (next(take), next(take))
    normed = _norm(y, *first)
    y = y + np.stack([_perceptron(row, *patch) for row in normed])
    normed = _norm(y.T, *second)
    return y + np.stack([_perceptron(row, *channel) for row in normed]).T


def _perceptron(row: Array, into: Array, bias: Array, back: Array, back_bias: Array) -> Array:
    return back @ np.maximum(into @ row + bias, 0) + back_bias


def _norm(y: Array, weight: Array, bias: Array) -> Array:
    return (y - y.mean()) / np.sqrt(y.var() + 1e-5) * weight + bias
