"""Configurations and words made to do harm: refused by one error, or shown as they are."""

import html
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from flows.orchestration.prefect_flows import folder_name
from flows.progress import printable
from flows.settings import load_recipe, load_settings
from ood_core.errors import ConfigError
from ood_core.report.card import markdown
from ood_core.report.page import render
from tests.report.test_card import front, hostile_card, render_card, shape, some_card
from tests.report.test_page import report, tags  # noqa: F401  # a fixture

HOSTILE = '"><img src=x onerror=alert(1)><script>x</script>`a`|b](http://e.vil)\n---\nlicense: mit'
LAUGHS = "a: &a [x, x]\nb: &b [*a, *a]\nname: *b"
MERGES = "a: &a {x: 1}\nb:\n  <<: [*a, *a]"
PLAIN = {"name": "x", "base": "models/dead-leaves-32", "targets": "{path: a.npy}"}


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object/apply:os.mkdir [sprung]", LAUGHS, MERGES, "name: " + "[" * 5000,
        "name: 2001-13-45", "name: !!int x", "name: !!bool x", "name: !!timestamp x",
        "name: a\nname: b",
        "name: " + "x" * 2**17, "generation: {samples: 1" + "0" * 5000 + "}", 'name: "a\\0b"',
        'name: "\\uDCFF"', 'name: "a\\nb"', "generation: {samples: 1000000000000}", "1: 2",
        "targets: {path: a, held_out: .nan}", "gate: {c2st: .inf}", 'targets: {path: "a\\0*"}',
        "method: {calibration: {ridge: .inf}}", "base: ~no-such-user/x",
        "targets: {path: a, max_maps: 0}",
    ],
)  # fmt: skip
def test_a_hostile_configuration_is_one_short_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    rest = [f"{key}: {value}" for key, value in PLAIN.items() if f"{key}:" not in text]
    (tmp_path / "c.yaml").write_text("\n".join([text, *rest]))
    with pytest.raises(ConfigError) as error:
        load_settings(tmp_path / "c.yaml")
    assert 0 < len(str(error.value)) < 2000
    assert [file.name for file in tmp_path.iterdir()] == ["c.yaml"]


@pytest.mark.parametrize(
    "override", ["name=*a", "a." * 5000 + "b=1", "generation.samples=1e400", "name=!!int x"]
)
def test_a_hostile_override_is_one_short_error(tmp_path: Path, override: str) -> None:
    (tmp_path / "c.yaml").write_text("\n".join(f"{k}: {v}" for k, v in PLAIN.items()))
    assert load_settings(tmp_path / "c.yaml").name == "x"
    with pytest.raises(ConfigError) as error:
        load_settings(tmp_path / "c.yaml", [override])
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize("name", ["../up", "a/b", "..", "", "a\nb", "-x"])
def test_names_of_folders_lead_nowhere_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "r.yaml").write_text(f"name: {name!r}".replace("\n", "\\n"))
    with pytest.raises(ConfigError):
        load_recipe(tmp_path / "r.yaml")
    with pytest.raises(ConfigError):
        folder_name(name)
    assert folder_name("vivid-otter 2.1") == "vivid-otter 2.1"


def outline(page: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(tag, tuple(sorted(attributes))) for tag, attributes in tags(page)]


def test_no_element_of_the_page_is_not_the_template_s(report: Callable[..., object]) -> None:  # noqa: F811
    words = {"name": HOSTILE, "unit": HOSTILE, "state": HOSTILE, "identity": HOSTILE}
    more = {"settings": {HOSTILE: HOSTILE}, "base": {HOSTILE: HOSTILE}, "versions": {"a": HOSTILE}}
    same = {"settings": {"a": "b"}, "base": {"a": "b"}, "versions": {"a": "b"}}
    page = render(replace(report, **words, **more))
    assert outline(page) == outline(render(replace(report, **same)))
    parser_sees = re.findall("<(?:img|script)", html.unescape(page))
    assert len(parser_sees) > len(re.findall("<(?:img|script)", page))  # unescaped, it is found


def test_front_matter_has_the_keys_of_the_template_alone() -> None:
    card = hostile_card()
    evil = replace(card, report=replace(card.report, name=HOSTILE, unit=HOSTILE), source=HOSTILE)
    text = render_card(evil)
    known = {"license", "license_name", "pretty_name", "tags", "size_categories"}
    assert set(front(text)) == known
    assert front(text)["license"] == "other"
    assert shape(text) == shape(render_card(hostile_card()))
    let_through = render_card(some_card()).replace("pretty_name: gamma", f"pretty_name: {HOSTILE}")
    assert "license: mit" in let_through.split("---\n")[2]  # what the check above would find


@pytest.mark.parametrize("text", ["see https://e.vil/x", "www.e.vil", "a@e.vil", "](http://e.vil)"])
def test_bare_addresses_are_no_links_where_markdown_makes_them(text: str) -> None:
    """GitHub and the hub link what looks like an address; an escape in it prevents that."""
    escaped = markdown(text)
    assert not re.search(r"(?<!\\):/|www\.|(?<!\\)@", escaped)
    inline = MarkdownIt("commonmark").parse(escaped)[1]
    assert "".join(child.content for child in inline.children or []) == text


def test_terminals_get_no_control_characters() -> None:
    assert printable("a\x1b[31m\x07b\nc") == "a\\x1b[31m\\x07b\nc"
