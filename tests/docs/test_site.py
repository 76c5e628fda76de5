"""What the site is made of is complete: verbs, keys of the configuration, public names, links."""

import importlib.util
import re
from types import ModuleType

import pytest

import flows
import ood_core
from flows.cli.main import MODELS, VERBS
from flows.settings import PROJECT, RunSettings

PAGES = [
    *(f"docs/{path.name}" for path in (PROJECT / "docs").glob("*.md")),
    "README.md",
    "CONTRIBUTING.md",
    "deploy/README.md",
    "examples/targets/README.md",
]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", PROJECT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_verb_is_on_the_page_of_commands(generate):
    page = generate.commands()
    for group, verbs in VERBS.items():
        assert f"## {group}\n" in page
        assert all(f"### farfield {verb}\n" in page for verb in verbs)
    assert all(f"### farfield models {verb}\n" in page for verb in MODELS)


def test_every_key_is_on_the_page_of_the_configuration(generate):
    page = generate.configuration()
    schema = RunSettings.model_json_schema()
    for name, section in schema["$defs"].items():
        for key in section.get("properties", {}):
            assert re.search(rf"^\| `[\w.]*\b{key}` \|", page, re.MULTILINE), (name, key)


def test_every_public_name_is_on_the_page_of_the_interface(generate):
    found = re.findall(r"^::: (\S+)$", generate.interface(), re.MULTILINE)
    wanted = [f"ood_core.{n}" for n in ood_core.__all__] + [f"flows.{n}" for n in flows.__all__]
    assert sorted(found) == sorted(wanted)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(generate, page):
    text = re.sub(r"^```.*?^```", "", (PROJECT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    for label, to in generate.LINK.findall(generate.led(text, page)):
        if "://" not in to and not to.startswith("#"):
            name = to.partition("#")[0]
            known = name in generate.OUTSIDE.values() or (PROJECT / "docs" / name).exists()
            assert known, f"{page}: {label}({to})"


def test_the_site_has_every_page(generate):
    listed = re.findall(r"(\w+\.md)$", (PROJECT / "mkdocs.yml").read_text(), re.MULTILINE)
    made = ["interface.md", "commands.md", "configuration.md", *generate.OUTSIDE.values()]
    written = [path.name for path in (PROJECT / "docs").glob("*.md")]
    assert sorted(listed) == sorted([*made, *written])


@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith("examples")])
def test_files_and_modules_that_a_page_names_are_there(page):
    text = (PROJECT / page).read_text()
    folders = "ood_core|actors|flows|benchmarks|tests|deploy|docs|examples|models"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*)", text):
        if "NAME" not in path:
            assert (PROJECT / path).exists(), f"{page}: {path}"
    for name in re.findall(r"`(test_\w+\.py)", text):
        assert list((PROJECT / "tests").rglob(name)), f"{page}: {name}"
    for module in re.findall(r"python -m (benchmarks[\w.]*)", text):
        place = PROJECT / module.replace(".", "/")
        found = place.with_suffix(".py").exists() or (place / "__main__.py").exists()
        assert found, f"{page}: {module}"
