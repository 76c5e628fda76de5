"""Changed files of every kind: read within the limits, or refused by an error of the project."""

import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile.readers import READERS, judge
from tests.strategies import repeatable


@cache
def writer(name: str) -> Any:
    return READERS[name][0]()


@pytest.mark.parametrize("name", READERS)
@settings(repeatable, max_examples=6)
@given(seed=st.integers(0, 2**32))
def test_a_changed_file_is_read_or_refused(name: str, seed: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = writer(name)(Path(place), random.Random(seed))
        assert judge(READERS[name][1], path) in ("read", "refused")


def test_a_reader_that_lets_an_error_through_is_seen() -> None:
    def careless(path: str) -> None:
        raise KeyError(path)

    assert judge(careless, "x").startswith("other: KeyError")
