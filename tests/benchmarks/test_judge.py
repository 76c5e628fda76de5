"""The judge's controls in short: the outcome of the true distribution and of planted faults.

`python -m benchmarks.judge` has the rates, of every kind of copy and of other laws.
"""

import pytest

from benchmarks.judge import LAWS, MADE_UP, Trial, with_copies


@pytest.fixture(scope="module")
def trial() -> Trial:
    return Trial.of(0, 96, 24)


@pytest.mark.parametrize("kind", ["verbatim", "inversion", "window", "rotation"])
def test_one_copy_is_found_and_six_are_too_many(trial: Trial, kind: str) -> None:
    six = trial.judged(with_copies(kind, 6)(trial))
    assert (six.outcome, six.found) == ("quarantined", frozenset(range(6)))
    one = trial.judged(with_copies(kind, 1)(trial))
    assert (one.outcome, one.found) == ("published", {0})


@pytest.mark.parametrize("name", ["smoother", "rougher", "brighter"])
def test_another_law_is_not_published(trial: Trial, name: str) -> None:
    """Brightness is not seen in maps in units of their own, but in their pixel values."""
    assert trial.judged(LAWS[name](trial)).outcome == "quarantined"


@pytest.mark.parametrize("name", MADE_UP)
def test_sets_made_of_targets_or_of_few_samples_are_not_published(trial: Trial, name: str) -> None:
    """But for mean maps, which are refused for being one map: few bad maps are not seen."""
    assert trial.judged(MADE_UP[name](trial)).outcome == "quarantined"


def test_the_true_law_is_published_and_nothing_left_out(trial: Trial) -> None:
    found = trial.judged(trial.features)
    assert (found.outcome, found.found) == ("published", frozenset())


def test_small_quadrants_are_not_seen_and_nothing_is_published() -> None:
    """At 16 pixels the search says that it misses them, and the true law is undecided as well."""
    small = Trial.of(0, 64, 16)
    found = small.judged(small.features)
    assert found.power["quadrant"] < 0.8 and found.outcome == "undecided"


def test_samples_from_elsewhere_are_not_convicted() -> None:
    """Targets are neighbouring tiles of one field, and samples are from others."""
    away = Trial.elsewhere(0, 64, 16)
    assert away.judged(away.features).outcome in ("published", "undecided")
