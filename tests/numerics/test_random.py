"""Counter-based numbers: a function of root, index, attempt and stream, and of nothing else."""

import hashlib
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ood_core.numerics.random import (
    Root,
    SeedRange,
    Stream,
    generator,
    normal,
    normal_like,
    root_key,
)
from tests.strategies import repeatable, roots, splits

SHAPE = (1, 3, 4)


@repeatable
@given(roots, st.integers(0, 2**40), st.integers(0, 50), st.sampled_from(Stream))
def test_numbers_are_those_of_philox(root: int, index: int, attempt: int, stream: Stream) -> None:
    bits = np.random.Philox(
        key=np.array([root, index], dtype=np.uint64),
        counter=np.array([0, 0, attempt, int(stream)], dtype=np.uint64),
    )
    expected = np.random.Generator(bits).standard_normal(SHAPE, dtype=np.float32)
    drawn = normal(SeedRange(root, index, index + 1), SHAPE, attempt, stream)
    np.testing.assert_array_equal(drawn[0].numpy(), expected)


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
        "STEERING": 10,
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
