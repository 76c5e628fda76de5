"""The blocks of docs/python.md and the cells of the notebook run as they stand, on smaller data."""

import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from nbclient import NotebookClient

from flows.settings import PROJECT
from tests.fields import smooth_fields


@pytest.fixture
def small(tmp_path: Path, base: Path, tiny_dict, monkeypatch) -> dict[str, str]:
    """What the page names, to what is put in its place: small maps and a tiny network."""
    np.save(tmp_path / "maps.npy", smooth_fields(36))
    targets = {"path": str(tmp_path / "maps.npy"), "held_out": 20}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tiny_dict(targets=targets)))
    monkeypatch.chdir(tmp_path)
    return {
        "examples/targets/hubble.fits": str(tmp_path / "maps.npy"),
        "held_out=320": "held_out=20",
        "models/dead-leaves-32": str(base),
        "ff.Method(steps=12)": "ff.Method(steps=2, steering=None)",
        "synth.sample(256)": "synth.sample(48)",
        "side=6": "side=4",
        "examples/hubble.yaml": str(tmp_path / "run.yaml"),
    }


def replaced(text: str, small: dict[str, str]) -> str:
    for name, other in small.items():
        text = text.replace(name, other)
    return text


def test_every_block_of_the_page_runs(small):
    page = (PROJECT / "docs" / "python.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 7
    names: dict[str, object] = {}
    exec(compile(replaced("\n".join(blocks), small), "docs/python.md", "exec"), names)
    assert names["maps"].shape == (48, 1, 16, 16)
    assert names["walk"].shape == (9, 1, 16, 16)
    assert names["handle"].status()["samples_done"] == 10


def test_the_lines_of_the_readme_run(small):
    readme = (PROJECT / "README.md").read_text()
    lines = re.search(r"```python\n(import ood_core.*?)^run\(", readme, re.DOTALL | re.MULTILINE)
    assert lines is not None  # the run is the one of the page above
    names: dict[str, object] = {}
    exec(compile(replaced(lines[1], small), "README.md", "exec"), names)
    assert names["maps"].shape == (48, 1, 16, 16)


def test_the_notebook_runs(small, tmp_path):
    notebook = nbformat.read(PROJECT / "examples" / "quickstart.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.source = replaced(cell.source, small)
        if cell.cell_type == "code":
            cell.outputs = []
    client = NotebookClient(notebook, timeout=240, kernel_name="python3")
    done = client.execute(cwd=str(PROJECT))
    outputs = [out for cell in done.cells if cell.cell_type == "code" for out in cell.outputs]
    printed = [out.text for out in outputs if "text" in out]
    assert any("base: " in text for text in printed)
