"""The check of a GPU, tried on a CPU; and what it says where there is none."""

import json

import pytest
import torch

from benchmarks.speed import gpu


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["gpu", *arguments])
    gpu.main()


def test_the_program_runs_on_a_cpu(tmp_path, monkeypatch):
    out = tmp_path / "found.json"
    run(monkeypatch, "--small", "--device", "cpu", "--repeats", "1", "--out", str(out))
    figures = {n: f["value"] for n, f in json.loads(out.read_text())["figures"].items()}
    assert figures["1 x 16: largest difference from the CPU, unsteered"] == 0.0  # it is one
    assert figures["1 x 16: maps per second"] > 0
    assert 0 < figures["1 x 16: share of time in the network"] < 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    run(monkeypatch)
    assert "no CUDA device" in capsys.readouterr().out


def test_operators_are_counted_and_views_are_not():
    x = torch.ones(3, 4)
    with gpu.Operators() as operators:
        (x + 1).T[0].sum()
    assert operators.count == 2
