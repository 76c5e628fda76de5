"""Counter-based numbers: a function of root, index, attempt and stream, and of nothing else."""

import hashlib
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from ood_core.numerics.random import (
    Root,
    SeedRange,
    Stream,
    _tensor_words,
    generator,
    normal,
    normal_like,
    normals,
    root_key,
    uniform,
    words,
)
from tests.strategies import repeatable, roots, splits

SHAPE = (1, 3, 4)


@repeatable
@given(
    roots, st.integers(0, 2**40), st.integers(1, 5), st.integers(1, 21),
    st.lists(st.integers(0, 999), min_size=1, max_size=3), st.sampled_from(Stream),
)  # fmt: skip
def test_words_are_those_of_philox_by_either_way(
    root: int, start: int, n: int, count: int, attempts: list[int], stream: Stream
) -> None:
    """NumPy's counter run by hand, the rows of NumPy, and tensor arithmetic: the same bits."""
    seeds, blocks = SeedRange(root, start, start + n), -(-count // 4)
    by_hand = [
        np.random.Philox(
            key=np.array([root, 0], dtype=np.uint64),
            counter=np.array([i * blocks, blocks, attempt, int(stream)], dtype=np.uint64),
        ).random_raw(4 * blocks)
        for attempt in attempts
        for i in range(start, start + n)
    ]
    expected = torch.from_numpy(np.array(by_hand).view(np.int64)).flatten()
    whole = words(seeds, count, attempts, stream)
    assert whole.shape == (len(attempts), n, count)
    rows = expected.view(len(attempts), n, -1)[..., :count]
    assert torch.equal(whole, rows)
    by_tensors = _tensor_words(seeds, blocks, attempts, stream, torch.device("cpu"))
    assert torch.equal(by_tensors.flatten(), expected)


def test_known_answers_of_philox() -> None:
    """Zeros and ones of Random123's `kat_vectors`, philox4x64 with 10 rounds."""
    zero = np.random.Philox(key=[0, 0], counter=[2**64 - 1] * 4).random_raw(4)
    assert hex(int(zero[0])) == "0x16554d9eca36314c"
    ours = _tensor_words(SeedRange(0, 0, 1), 1, [0], Stream.LATENT, torch.device("cpu"))
    theirs = np.random.Philox(key=[0, 0], counter=[0, 1, 0, 0]).random_raw(4)
    assert ours.flatten().tolist() == theirs.view(np.int64).tolist()


def test_normals_are_those_of_box_and_muller() -> None:
    """In exact order of operations by `math`, to one unit in the last place of the radius."""
    seeds = SeedRange(9, 3, 8)
    drawn = words(seeds, 6, stream=Stream.SOLVER)[0]
    made = normal(seeds, SHAPE, stream=Stream.SOLVER).flatten(1)
    for row, made_row in zip(drawn.tolist(), made.tolist(), strict=True):
        unsigned = [word % 2**64 for word in row]
        radius = [math.sqrt(-2 * math.log(((w >> 24) + 0.5) / 2**40)) for w in unsigned]
        angle = [math.tau * (w % 2**24) / 2**24 for w in unsigned]
        cosines = [r * math.cos(a) for r, a in zip(radius, angle, strict=True)]
        sines = [r * math.sin(a) for r, a in zip(radius, angle, strict=True)]
        for value, want, size in zip(made_row, cosines + sines, radius * 2, strict=True):
            assert abs(value - want) <= 2**-23 * size


def test_several_attempts_at_once_are_each_of_them() -> None:
    seeds, attempts = SeedRange(4, 2, 5), (7, 0, 3)
    rows = normals(seeds, SHAPE, attempts, Stream.COMPLETION)
    for row, attempt in zip(rows, attempts, strict=True):
        assert torch.equal(row, normal(seeds, SHAPE, attempt, Stream.COMPLETION))


def test_uniform_numbers_fill_the_unit_interval() -> None:
    drawn = uniform(SeedRange(3, 0, 5000), 2, stream=Stream.STATISTIC)
    assert drawn.shape == (5000, 2) and drawn.dtype == torch.float64
    assert float(drawn.min()) >= 0 and float(drawn.max()) < 1
    assert kstest(drawn.flatten().numpy(), "uniform").pvalue > 1e-4
    assert kstest(drawn.flatten().numpy() ** 1.1, "uniform").pvalue < 1e-4  # negative control


@repeatable
@given(roots, splits(), st.integers(0, 1000), st.integers(0, 3), st.sampled_from(Stream))
def test_a_range_is_the_concatenation_of_any_split(
    root: int, split: tuple[int, list[int]], start: int, attempt: int, stream: Stream
) -> None:
    n, cuts = split
    whole = normal(SeedRange(root, start, start + n), SHAPE, attempt, stream)
    parts = [
        normal(SeedRange(root, start + a, start + b), SHAPE, attempt, stream)
        for a, b in itertools.pairwise(cuts)
    ]
    assert whole.shape == (n, *SHAPE)
    assert torch.equal(torch.cat(parts), whole)


def test_a_larger_run_begins_with_the_smaller_one() -> None:
    assert torch.equal(normal(SeedRange(1, 0, 50), SHAPE)[:20], normal(SeedRange(1, 0, 20), SHAPE))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two rows of standard normals, in standard errors."""
    return abs(float(a @ b)) / math.sqrt(len(a))


def test_neighbours_in_every_direction_are_independent() -> None:
    def row(root: int = 7, index: int = 3, attempt: int = 0, stream: int = 0) -> np.ndarray:
        return generator(root, index, attempt, Stream(stream)).standard_normal(20_000)

    rows = [row(), row(root=8), row(index=4), row(attempt=1), row(attempt=2)]
    rows += [row(stream=int(s)) for s in Stream if s != Stream.LATENT]
    rows += [row(root=3, index=7), row(attempt=1, stream=1)]
    worst = max(correlation(a, b) for a, b in itertools.combinations(rows, 2))
    assert worst < 5
    assert correlation(row(), row()) > 5  # negative control: a shared seed is seen


def test_draws_are_standard_normal() -> None:
    drawn = normal(SeedRange(5, 0, 200), (10, 10)).double().flatten()
    n = len(drawn)
    assert kstest(drawn.numpy(), "norm").pvalue > 1e-4
    halves = drawn.view(200, 2, 50)  # cosines and sines of the same words
    assert correlation(*halves.transpose(0, 1).flatten(1).numpy()) < 5
    assert abs(float(drawn.mean())) < 5 / math.sqrt(n)
    assert abs(float(drawn.var()) - 1) < 5 * math.sqrt(2 / n)
    assert abs(float((drawn**4).mean()) - 3) < 5 * math.sqrt(96 / n)  # variance of x^4 is 96
    assert abs(float((1.1 * drawn).var()) - 1) > 5 * math.sqrt(2 / n)  # negative control


def test_streams_are_numbered_apart_for_ever() -> None:
    """Numbers 4 and 11 were in use: no new stream takes them."""
    assert {stream.name: int(stream) for stream in Stream} == {
        "LATENT": 0,
        "FACTOR": 1,
        "STATISTIC": 2,
        "CALIBRATION": 3,
        "TRAINING": 5,
        "RESAMPLE": 6,
        "SOLVER": 7,
        "SOURCE": 8,
        "COMPONENT": 9,
        "COMPLETION": 10,
        "KNOWN": 11,
        "CHOICE": 12,
    }


def test_root_is_the_head_of_a_sha256() -> None:
    expected = int(hashlib.sha256(b"a run").hexdigest()[:16], 16)
    assert root_key("a run") == expected
    assert root_key("a run") != root_key("a run ")


def test_a_named_sub_key_depends_on_its_path_alone() -> None:
    root = Root.of("a run")
    assert root.key == root_key("a run")
    assert root.child("tests", "peaks") == root.child("tests").child("peaks")
    assert root.child("peaks").key == root_key(f"{root.key:016x}/peaks")
    paths = [(), ("tests",), ("tests", "peaks"), ("peaks", "tests"), ("tests/peaks",), ("a", "")]
    assert len({root.child(*path).key for path in paths}) == len(paths)
    assert Root.of("another run").child("tests") != root.child("tests")


def test_a_root_has_many_generators() -> None:
    root = Root.of("a run")
    first, again, second = (root.generator(i).integers(2**40) for i in (0, 0, 1))
    assert first == again != second
    assert first == generator(root.key, 0, stream=Stream.RESAMPLE).integers(2**40)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (5, 4)])
def test_ranges_that_are_none_are_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= start <= stop"):
        SeedRange(0, start, stop)


def test_a_range_counts_and_lists_its_samples() -> None:
    assert len(SeedRange(0, 3, 7)) == 4
    assert list(SeedRange(0, 3, 7)) == [3, 4, 5, 6]


def test_noise_like_a_batch_depends_on_its_number_and_stream() -> None:
    x = torch.zeros(2, *SHAPE)
    first = normal_like(x, 1, 2, Stream.CALIBRATION)
    assert (first.shape, first.dtype) == (x.shape, torch.float32)
    assert torch.equal(first, normal_like(x + 1, 1, 2, Stream.CALIBRATION))
    assert not torch.equal(first, normal_like(x, 1, 3, Stream.CALIBRATION))
    assert not torch.equal(first, normal_like(x, 1, 2, Stream.TRAINING))
