"""`farfield utility`: labels from files, maps or runs; the record and the report."""

import csv
import json

import numpy as np
import pytest
import torch

from flows.tools.downstream import (
    masked_in_turn,
    measured_labels,
    read_labels,
    without_filling,
)
from ood_core.config.targets import MissingSpec
from ood_core.errors import InputError
from ood_core.evaluation import probes
from ood_core.maps.target_set import TargetSet


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(probes, "STEPS", 5)


def written(tmp_path, lines):
    path = tmp_path / "slope.txt"
    path.write_text("\n".join(map(str, lines)) + "\n")
    return path


def test_a_label_per_target_goes_into_record_and_report(farfield, finished, tmp_path):
    labels = written(tmp_path, np.linspace(1, 2, 14))
    answer = farfield("utility", finished, "--labels", labels, "--json")
    assert answer.code == 0
    found = json.loads(answer.out)
    assert found["task"] == "slope" and found["metric"] == "R²" and found["samples"] == 10
    assert (found["real"], found["held_out"], found["labelled"]) == (7, 7, 10)
    assert json.loads((finished / "utility.json").read_text()) == found
    page = (finished / "report" / "index.html").read_text()
    assert "Gain of training with them" in page and "to predict slope" in page
    with (finished / "report" / "utility.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == [arm["score"] for arm in found["training_sets"]]
    # It stays in the report however often that is written.
    (finished / "report" / "index.html").unlink()
    assert farfield("report", finished).code == 0
    assert (finished / "report" / "index.html").read_text() == page


def test_measured_labels_and_classes_of_runs(farfield, finished, unbroken):
    answer = farfield("utility", finished, "--labels", "flux", "--classes", 2)
    assert answer.code == 0 and "flux class" in answer.out and "real + flips" in answer.out
    several = farfield("utility", finished, unbroken, "--json")
    assert several.code == 0
    found = json.loads(several.out)
    assert found["task"] == "which run" and found["real"] == 14 and found["samples"] == 20
    # Two copies of one run have one distribution: nothing can be told but by chance.
    assert all(abs(arm["score"] - 0.5) < 0.3 for arm in found["training_sets"])


def test_what_cannot_be_done_is_refused(farfield, finished, ready, tmp_path):
    assert farfield("utility", finished).code == 2
    assert farfield("utility", ready, "--labels", "flux").code == 5
    missing = farfield("utility", finished, "--labels", tmp_path / "none")
    assert missing.code == 2 and "cannot be read" in missing.err
    few = farfield("utility", finished, "--labels", written(tmp_path, range(12)))
    assert few.code == 2 and "got 12 lines; expected 14" in few.err
    assert not (finished / "utility.json").exists()


def test_labels_are_classes_or_values(tmp_path):
    words = read_labels(written(tmp_path, ["kind", "b", "a", "", "b"]), 4, 2, None)
    assert words.task.name == "kind" and words.task.classes == ("a", "b")
    assert words.labels.nan_to_num(9).tolist() == [1, 0, 9, 1]
    numbers = read_labels(written(tmp_path, [10, 9, 10, 9]), 4, 2, None)
    assert numbers.task.classes == ("9", "10") and numbers.labels.tolist() == [1, 0, 1, 0]
    values = read_labels(written(tmp_path, [*np.arange(11) / 7, "nan"]), 12, 6, None)
    assert values.task.classes == () and values.labels.isnan().sum() == 1
    halves = read_labels(written(tmp_path, np.arange(12)), 12, 6, 2)
    assert halves.labels.tolist() == [0] * 3 + [1] * 9  # cut at the median of the six fit targets
    with pytest.raises(InputError, match="as text"):
        read_labels(tmp_path, 4, 2, None)


def test_measured_classes_have_equal_numbers_of_fit_targets():
    # Discs of growing flux on another background each.
    y, x = np.mgrid[:16, :16] - 7.5
    disc = (np.hypot(y, x) < 3).astype(float)
    maps = torch.from_numpy(np.stack([i * disc + 7 * (i % 3) for i in range(1, 10)])[:, None])
    found = measured_labels("flux", maps, 9, None)
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len(found.task.classes) == 3 and found.task.classes[0].startswith("up to")


def test_what_missing_pixels_were_filled_with_is_not_trained_on():
    values = np.random.default_rng(2).lognormal(size=(8, 1, 12, 12)).astype("f4")
    values[::2, :, 3:7, 2:9] = np.nan
    one, other = (
        TargetSet.from_arrays(
            values, held_out=4, missing=MissingSpec(fill="constant", value=fill, limit=0.5)
        )
        for fill in (0.0, 50.0)
    )
    assert (one.values != other.values).any()  # else nothing is tested
    seen = without_filling(one)
    torch.testing.assert_close(without_filling(other), seen, rtol=0, atol=0)
    expected = np.where(np.isnan(values), np.nanmean(values, (2, 3), keepdims=True), values)
    np.testing.assert_allclose(seen, expected, rtol=1e-6)
    # Sample 6 has the hole of fit target 2, sample 5 that of target 1, which has none.
    samples = torch.rand(2, 1, 12, 12)
    masked = masked_in_turn(samples, np.array([6, 5]), one)
    assert torch.equal(masked[1], samples[1])
    hole = torch.from_numpy(np.isnan(values[2]))
    assert torch.equal(masked[0][~hole], samples[0][~hole])
    assert masked[0][hole].unique().numel() == 1
