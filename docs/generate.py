"""Pages of the site that are made when it is built; a hook of MkDocs, see `mkdocs.yml`.

The start page is the README. The commands come from the command line itself, the configuration from
its JSON Schema, the interface from the public names of `ood_core` and `flows`.
"""

import posixpath
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

PROJECT = Path(__file__).resolve().parents[1]

OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "deploy/README.md": "deployment.md",
    "examples/targets/README.md": "shipped_targets.md",
}
"""Files of the project outside docs/ that are pages, and the page that each becomes."""

LINK = re.compile(r"(?P<label>!?\[[^\]]*\])\((?P<to>[^)\s]+)\)")


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the pages that are no files of docs/."""
    from mkdocs.structure.files import File

    sys.path.insert(0, str(PROJECT))  # this tree, whichever one is installed
    pages = {page: (PROJECT / path).read_text("utf-8") for path, page in OUTSIDE.items()}
    pages |= {
        "interface.md": interface(),
        "commands.md": commands(),
        "configuration.md": configuration(),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Lead links to the pages of the site; a link to any other file of the project is its label."""
    places = {page: path for path, page in OUTSIDE.items()}
    return led(markdown, places.get(page.file.src_uri, f"docs/{page.file.src_uri}"))


def led(markdown: str, here: str) -> str:
    """Return the text of the file `here` of the project with links that lead within the site.

    Raises:
        FileNotFoundError: a link leads to a file that does not exist.
    """

    def lead(match: re.Match[str]) -> str:
        label, (path, hash_sign, anchor) = match["label"], match["to"].partition("#")
        if not path or "://" in path or match["to"].startswith("mailto:"):
            return match[0]
        to = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
        if to in OUTSIDE:
            return f"{label}({OUTSIDE[to]}{hash_sign}{anchor})"
        if to.startswith("docs/"):
            return f"{label}({to.removeprefix('docs/')}{hash_sign}{anchor})"
        if not (PROJECT / to).exists():
            raise FileNotFoundError(f"{here}: link to {match['to']}, which does not exist")
        words = label[1:-1]
        return words if to in words or "`" in words else f"{words} (`{to}`)"

    return LINK.sub(lead, markdown)


def interface() -> str:
    """Return the page of the public names, which mkdocstrings fills."""
    import flows
    import ood_core

    first = ["TargetSet", "load_model", "BaseModel", "Method"]
    first += sorted(name for name in ood_core.__all__ if name.endswith("Spec"))
    first += ["Synthesizer", "Trust", "evaluate", "EvaluationResult"]
    names = sorted(ood_core.__all__, key=lambda n: first.index(n) if n in first else len(first))
    lines = [
        "# Interface\n",
        "The public names of `ood_core` work in memory; those of `flows` make and read runs.",
        "[In Python](python.md) shows them at work.\n",
    ]
    lines += [f"::: ood_core.{name}\n" for name in names]
    lines += [f"::: flows.{name}\n" for name in reversed(sorted(flows.__all__))]
    return "\n".join(lines)


def commands() -> str:
    """Return the page of all verbs of the command line, in the groups of `farfield --help`."""
    from typer.main import get_command

    from flows.cli.main import app

    root: Any = get_command(app)
    lines = ["# Commands\n", f"{root.help}\n", f"{root.epilog.strip()}\n"]
    group = None
    for name, command in root.commands.items():
        if command.rich_help_panel != group:
            group = command.rich_help_panel
            lines.append(f"## {group}\n")
        if nested := getattr(command, "commands", None):
            for sub, verb in nested.items():
                lines += _verb(f"farfield {name} {sub}", verb)
        else:
            lines += _verb(f"farfield {name}", command)
    return "\n".join(lines)


def _verb(call: str, verb: Any) -> Iterator[str]:
    arguments = [p for p in verb.params if p.param_type_name == "argument"]
    options = [p for p in verb.params if p.param_type_name == "option"]
    words = [_word(argument) for argument in arguments]
    words += [f"{option.opts[0]} {_kind(option)}" for option in options if option.required]
    if any(not option.required for option in options):
        words.append("[OPTIONS]")
    yield f"### {call}\n"
    yield f"```\n{' '.join([call, *words])}\n```\n"
    yield f"{verb.help}\n"
    if verb.params:
        yield "| argument or option | value | default | meaning |\n|---|---|---|---|"
        for parameter in (*arguments, *options):
            named = [f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts)]
            shown = [f"`{_word(parameter)}`"] if parameter in arguments else named
            default = "required" if parameter.required else _default(parameter.default)
            kind = "" if getattr(parameter, "is_flag", False) else _kind(parameter).lower()
            help_text = _cell(parameter.help or "")
            yield f"| {', '.join(shown)} | {kind} | {default} | {help_text} |"
        yield ""


def _word(argument: Any) -> str:
    many = "..." if argument.nargs != 1 else ""
    return f"{argument.name.upper()}{many}" if argument.required else f"[{argument.name.upper()}]"


def _kind(parameter: Any) -> str:
    text = str(parameter.type_descriptor.annotation)
    for word, kind in (("Path", "PATH"), ("int", "INTEGER"), ("float", "NUMBER"), ("bool", "")):
        if word in text:
            return kind
    return "TEXT, repeatable" if parameter.multiple else "TEXT"


def _default(value: object) -> str:
    if value is None or value == [] or value is False:
        return ""
    return "yes" if value is True else f"`{value}`"


def configuration() -> str:
    """Return the page of all keys of the configuration files, by section."""
    from pydantic import TypeAdapter

    from flows.settings import PretrainSpec, RunSettings

    run = RunSettings.model_json_schema()
    recipe = TypeAdapter(PretrainSpec).json_schema()
    return "\n".join(
        [
            "# Configuration\n",
            "`farfield run` reads one YAML file. Unknown keys are refused. Any key can be given on",
            "the command line as well: `--set generation.samples=64`. `farfield schema` prints the",
            "JSON Schema that this page is made of.\n",
            *_section("A run", "", run, run.get("$defs", {})),
            "## A base (`farfield pretrain`)\n",
            *_table("", recipe, {}),
        ]
    )


def _section(
    title: str, prefix: str, schema: Mapping[str, Any], known: Mapping[str, Any]
) -> Iterator[str]:
    """Title, introduction and table of a section, then the sections within it."""
    yield f"## {title}\n"
    introduction = schema.get("description", "").partition("\n\nAttributes:")[0]
    yield re.sub(r"\s*\n(?!\n)\s*", " ", introduction).strip() + "\n"
    yield from _table(prefix, schema, known)
    for key, field in schema["properties"].items():
        if (inner := _inner(field, known)) is not None:
            yield from _section(f"`{prefix}{key}`", f"{prefix}{key}.", inner, known)


def _table(prefix: str, schema: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    meanings = attributes(schema.get("description", ""))
    for key, field in schema["properties"].items():
        meaning = meanings.get(key) or field.get("description")
        if not meaning:
            raise ValueError(f"{schema.get('title')}.{key}: the docstring does not describe it")
        inner = _inner(field, known)
        default = "required" if key in schema.get("required", ()) else _json(field.get("default"))
        if inner is not None and default != "required":
            default = "none" if field.get("default", {}) in (None, []) else "its own"
        sections = "list of sections" if "items" in field else "section"
        kind = sections if inner is not None else _type(field)
        yield f"| `{prefix}{key}` | {_cell(kind)} | {default} | {_cell(meaning)} |"
    yield ""


def _inner(field: Mapping[str, Any], known: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema of a key that is a section, or a list of them."""
    for choice in (field, field.get("items", {}), *field.get("anyOf", ()), *field.get("allOf", ())):
        if "$ref" in choice:
            found: Mapping[str, Any] = known[choice["$ref"].rpartition("/")[2]]
            return found if "properties" in found else None
    return field if "properties" in field else None


def attributes(docstring: str) -> dict[str, str]:
    """Return what the `Attributes` of a docstring say of each name."""
    found: dict[str, str] = {}
    name = ""
    for line in docstring.partition("Attributes:\n")[2].splitlines():
        if not line.startswith("    "):
            break
        if match := re.match(r" {4}(\w+): (.*)", line):
            name, found[match[1]] = match[1], match[2]
        elif name:
            found[name] += f" {line.strip()}"
    return found


def _type(field: Mapping[str, Any]) -> str:
    if choices := field.get("anyOf"):
        return " or ".join(_type(choice) for choice in choices if choice.get("type") != "null")
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of: {_type(field['items'])}" if "items" in field else "list"
    return {"string": "text", "boolean": "yes or no"}.get(field["type"], str(field["type"]))


def _json(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
