"""The table of methods: cells are made once, scores are the report's, intervals are Student's."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.science.__main__ import SETS, read_spec
from benchmarks.science.bench import ground_of
from benchmarks.science.cells import Cell, Ground, grid
from benchmarks.science.methods import METHODS
from benchmarks.science.table import Interval, differences, markdown, rows
from flows.settings import PROJECT
from ood_core.errors import ConfigError
from ood_core.evaluation.evaluate import evaluate_maps
from ood_core.numerics.random import Root

Config = Callable[..., Path]
Farfield = Callable[..., Any]
SMALL = ("--n", "4", "--samples", "8")


@pytest.fixture
def ground(config: Config) -> Ground:
    return ground_of(config())


def stamps(out: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in sorted((out / "cells").rglob("*.json"))}


def test_cells_are_made_once_and_lost_ones_again(
    config: Config, farfield: Farfield, tmp_path: Path
) -> None:
    out = tmp_path / "science"
    asked = ("bench", "science", "--targets", config(), *SMALL, "--out", out, "--json")
    asked = (*asked, "--methods", "copies,mixing", "--seeds", "2")
    answer = farfield(*asked)
    assert answer.code == 0 and json.loads(answer.out)["done"] == 4
    made = stamps(out)
    assert len(made) == 4
    assert farfield(*asked).code == 0 and stamps(out) == made
    lost = Path(next(name for name in made if "mixing" in name))
    before = json.loads(lost.read_text())
    lost.unlink()
    assert farfield(*asked).code == 0
    assert {name for name, at in stamps(out).items() if at != made[name]} == {str(lost)}
    after = json.loads(lost.read_text())
    for clock in ("cpu_seconds", "cpu_seconds_per_map", "wall_seconds"):
        del before[clock], after[clock]
    assert after == before
    table = (out / "table.md").read_text()
    assert "| tiny | copies |" in table and "±" in table and (out / "scores.png").stat().st_size
    scores = json.loads((out / "scores.json").read_text())["scores"]
    assert [(s["method"], s["seed"]) for s in scores] == [
        (method, seed) for method in ("copies", "mixing") for seed in (0, 1)
    ]
    assert markdown(scores) == table


def test_lines_and_fine_tuning_with_their_budget(
    config: Config, farfield: Farfield, tmp_path: Path
) -> None:
    out = tmp_path / "science"
    answer = farfield(
        *("bench", "science", "--targets", config(), *SMALL, "--out", out, "--json"),
        *("--methods", "fine-tuning,discovery,calibrated-unsteered", "--seeds", "1"),
    )
    assert answer.code == 0, answer.err
    made = [json.loads(Path(path).read_text()) for path in stamps(out)]
    cells = {cell["record"]["method"]: cell for cell in made}
    assert set(cells) == {"fine-tuning", "discovery", "calibrated-unsteered", "calibrated"}
    assert cells["fine-tuning"]["notes"]["steps"] >= 1  # within the seconds of `calibrated`
    nfe = {name: cell["nfe_per_map"] for name, cell in cells.items()}
    # 2 steps and the last estimate; 79 steps of the published 80 points; 20 steps and the last.
    expected = {"calibrated": 3, "calibrated-unsteered": 3, "discovery": 79, "fine-tuning": 21}
    assert nfe == expected
    assert not list(out.glob("work-*"))


def test_scores_are_those_of_validate(
    config: Config, farfield: Farfield, tmp_path: Path, ground: Ground
) -> None:
    out = tmp_path / "science"
    farfield(
        *("bench", "science", "--targets", config(), "--n", "7", "--samples", "24"),
        *("--seeds", "1", "--methods", "copies", "--out", out),
    )
    cell = Cell(ground, "copies", 7, 0, 24)
    stored, targets = cell.stored(out), ground.targets
    assert stored is not None
    fit, real = targets.ranged(targets.maps.values[:7]), targets.ranged(targets.scoring_values)
    samples = targets.ranged(cell.shown(out))  # all 24 are kept
    found = evaluate_maps(samples, fit, real, (), Root.of("science/0"))
    for name, score in found.scores.items():
        kept = stored["nearest_ratio"] if name == "nearest_ratio" else None
        value = stored["scores"][name]["value"] if kept is None else kept
        assert value == pytest.approx(score.value, rel=1e-6, abs=1e-6), name
    for test in found.tests.families:
        if not test.steered:
            assert stored["families"][test.name]["value"] == pytest.approx(test.distance, rel=1e-6)


def test_what_determines_a_cell_is_in_its_name(ground: Ground, config: Config) -> None:
    cell, out = Cell(ground, "mixing", 4, 0, 8), Path("out")
    others = [
        Cell(ground, "mixing", 4, 0, 16),
        Cell(ground, "mixing", 4, 1, 8),
        Cell(ground, "mixing", 5, 0, 8),
        Cell(ground_of(config(targets={"symmetries": ["flip"]})), "mixing", 4, 0, 8),
    ]
    names = {c.place(out).name for c in (cell, *others)}
    assert len(names) == 5
    assert Cell(ground_of(config()), "mixing", 4, 0, 8).place(out) == cell.place(out)


def test_judges_are_never_fitted_and_small_numbers_differ_by_seed(ground: Ground) -> None:
    targets = ground.targets
    assert (targets.reference, targets.scoring, targets.available) == (7, 7, 7)
    assert targets.chosen(3, 0) == [0, 2, 4] and targets.chosen(3, 1) == [1, 3, 5]
    assert targets.chosen(7, 0) == targets.chosen(7, 1) == list(range(7))
    assert list(grid([ground], ["copies"], [4, 8], 1, 8)) != []
    assert {cell.n for cell in grid([ground], ["copies"], [4, 8], 1, 8)} == {4}  # 8 are not there


def test_order_is_number_then_seed_then_set_then_method(ground: Ground) -> None:
    cells = list(grid([ground, ground], ["copies", "mixing"], [7, 4], 2, 8))
    assert [(c.n, c.seed) for c in cells[::4]] == [(7, 0), (7, 1), (4, 0), (4, 1)]
    assert [c.method for c in cells[:4]] == ["copies", "mixing"] * 2


def test_intervals_are_students() -> None:
    found = Interval.of([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.half == pytest.approx(4.302653 / math.sqrt(3))  # t of 2 degrees at 97.5 %
    assert Interval.of([5.0]) == Interval(5.0, None)


def made_up(method: str, values: list[float | None], targets: str = "sun") -> list[dict[str, Any]]:
    """Scores of one method by seed, as they are stored."""
    shared = {"targets": targets, "method": method, "n": 64, "samples": 8, "real": {}}
    return [{**shared, "seed": i, "figures": {"fsd": v}} for i, v in enumerate(values)]


def test_differences_are_taken_seed_by_seed() -> None:
    """What all methods share in a seed cancels, and only seeds that both have count."""
    shared, own, rival = [0.0, 100.0, 200.0, 300.0], [1.0, 2.0, 3.0, 4.0], [5.0, 7.0, 9.0, 11.0]
    scores = made_up("calibrated", [s + v for s, v in zip(shared, own, strict=True)])
    scores += made_up("mixing", [s + v for s, v in zip(shared, rival, strict=True)])[::-1]
    scores += made_up("copies", [1.0, None, None, None]) + made_up("restart", [0.0, 1.0], "moon")
    (found,) = differences(scores)  # one shared seed has no interval, another set no partner
    assert (found.targets, found.rival, found.key, found.seeds) == ("sun", "mixing", "fsd", 4)
    assert found.interval.mean == pytest.approx(-5.5)
    half = stats.t(3).ppf(0.975) * np.std([-4, -5, -6, -7], ddof=1) / 2
    assert found.interval.half == pytest.approx(half)
    assert found.p == pytest.approx(stats.ttest_rel(own, rival).pvalue)
    assert str(found) == "-5.5 ± 2.1 lower" and "-5.5 ± 2.1 lower" in markdown(scores)


def test_words_stand_only_where_all_comparisons_together_allow_them() -> None:
    """The same difference has its word alone, and not among twenty."""
    own = made_up("calibrated", [0.0, 0.0, 0.0])
    (alone,) = differences(own + made_up("mixing", [1.0, 1.3, 1.2]))
    assert str(alone).endswith("lower") and alone.p == pytest.approx(0.0056, abs=1e-4)
    rng = np.random.default_rng(0)
    others = [made_up(f"rival {i}", rng.standard_normal(3).tolist()) for i in range(19)]
    among = differences([*own, *made_up("mixing", [1.0, 1.3, 1.2]), *itertools.chain(*others)])
    assert len(among) == 20 and all(d.p > 0.05 for d in among)
    assert {d.rival: str(d) for d in among}["mixing"] == str(alone).removesuffix(" lower")


def test_differences_that_never_vary_are_not_proved_by_that() -> None:
    (same,) = differences(made_up("calibrated", [0.5] * 3) + made_up("copies", [1.0] * 3))
    assert same.p == 1 and str(same) == "-0.5 ± 0"


def test_words_are_false_as_rarely_as_stated() -> None:
    """Equal laws of 3 seeds: of 300 tables of 10 comparisons each, 5 % may have any word."""
    rng, tables, wrong = np.random.default_rng(4), 300, 0
    for _ in range(tables):
        scores = made_up("calibrated", rng.standard_normal(3).tolist())
        for i in range(10):
            scores += made_up(f"rival {i}", rng.standard_normal(3).tolist())
        wrong += any(d.p <= 0.05 for d in differences(scores))
    assert wrong <= stats.binom(tables, 0.05).isf(1e-3)


@pytest.mark.parametrize("key", ["unsteered_c2st", "fsd_above_real"])
def test_the_page_of_results_has_the_figures_that_are_stored(key: str) -> None:
    stored = json.loads((PROJECT / "benchmarks" / "science" / "scores.json").read_text())["scores"]
    found = {row.targets: row.figures[key] for row in rows(stored) if row.method == "calibrated"}
    line = f"| **calibrated** | {' | '.join(str(found[name]) for name in SETS)} |"
    assert line in (PROJECT / "docs" / "results.md").read_text()


def test_wrong_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="got magic; expected some of calibrated"):
        read_spec((), "copies,magic", "64", 3, 8)
    with pytest.raises(ConfigError, match="expected numbers such as"):
        read_spec((), "", "many", 3, 8)
    with pytest.raises(ConfigError, match="at least 4"):
        read_spec((), "", "2", 3, 8)
    assert read_spec((), "", "64", 3, 8).methods == METHODS


def test_subsets_are_written_as_targets_of_a_run(ground: Ground, tmp_path: Path) -> None:
    spec = ground.targets.write(3, 1, tmp_path / "subset.npy")
    values = np.load(spec.path)
    assert spec.fit_count(len(values)) == 3
    np.testing.assert_array_equal(values[:3], ground.targets.maps.values[[1, 3, 5]])
    np.testing.assert_array_equal(values[3:], ground.targets.scoring_values)
    assert torch.from_numpy(values).isfinite().all()
