"""What comes with the project is found from anywhere, in a checkout and from a wheel."""

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ood_core.errors import BaseModelMissing
from ood_core.maps.paths import SHIPPED
from ood_core.models.loading import load_model

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*words: Any, **more: Any) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", asked)


def test_shipped_bases_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_model("models/dead-leaves-32").size == 32


@pytest.mark.parametrize(
    "source",
    ["models/nothing", "./nothing", "../a/b", ".hidden/a", "here/nothing", "~/nothing", "~me/model",
     "nothing", "a/b/c", "a\\b", "/nothing/here"],
)  # fmt: skip
def test_what_looks_like_a_path_is_never_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(BaseModelMissing, match=r"no folder .*shipped \(models/dead-leaves-32, "):
        load_model(source)


def test_another_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="the hub was asked"):
        load_model("owner/name")


@pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="asks git which files there are")
def test_a_wheel_has_bases_and_examples(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    code = (
        "from setuptools import build_meta; import sys; print(build_meta.build_wheel(sys.argv[1]))"
    )
    tree = tmp_path / "tree"
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    wanted = ("ood_core/", "actors/", "flows/", "models/", "examples/")
    top = {"pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"}
    for file in files:
        if (file.startswith(wanted) or file in top) and (PROJECT / file).is_file():
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            (tree / file).write_bytes((PROJECT / file).read_bytes())
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=tree, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("models", "examples"):
        for file in (SHIPPED / folder).rglob("*"):
            if file.is_file() and file.suffix not in (".py", ".pyc"):
                assert f"ood_core/shipped/{file.relative_to(SHIPPED)}" in names
