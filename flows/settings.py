"""The configuration file: one YAML, checked before anything is read or written.

The sections are the core's own specs; here they only get their names, their defaults and their
place in the file. Unknown keys are refused everywhere.
"""

import copy
import os
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, final

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
    field_validator,
    with_config,
)
from pydantic_core import CoreSchema

from ood_core.config.gate import GateSpec
from ood_core.config.generation import GenerationSpec
from ood_core.config.method import PRESETS, Method, of_preset
from ood_core.config.pretraining import PretrainSpec
from ood_core.config.steer import SteerSpec, WishSpec
from ood_core.config.targets import CutoutsSpec, MissingSpec, TargetsSpec, TilesSpec
from ood_core.errors import ConfigError
from ood_core.limits import BASE_BYTES
from ood_core.maps import paths

PROJECT = Path(__file__).resolve().parents[1]
STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
MAX_FAULTS = 20
"""Faults of a configuration that are spelled out."""
MAX_COUNT = 100_000
"""Workers, processors or attempts: more are a slip."""
OPEN = ("base", "gate", "execution")
"""Sections that a session may choose anew; the others belong to the run."""

MAX_CHARACTERS = 2**16
"""Of a YAML text; configurations have about a thousand."""
MAX_DEPTH = 20
MAX_DIGITS = 40

PRINTABLE = r"^[^\p{C}\p{Zl}\p{Zp}]*$"
"""No control characters, line breaks, NUL."""


def _without_pattern(schema: dict[str, Any]) -> None:
    """Leave out a pattern that JSON Schema has no words for: Prefect's server would refuse it."""
    schema.pop("pattern", None)


class Execution(BaseModel):
    """Where and how a run is computed; never part of the identity.

    Attributes:
        pool: Ray actors, or one worker in this process.
        orchestrator: Prefect, or plain function calls.
        workers: number of workers; `auto` takes as many as the cluster has room for: one per
            `gpus_per_worker` GPUs, or per `cpus_per_worker` CPUs where there is no GPU.
        cpus_per_worker: CPUs, and threads, of each worker.
        gpus_per_worker: GPUs of each worker, or the part of one that it takes.
        accelerator: type of GPU by Ray's name for it, such as `H100`; '' takes any.
        patience: seconds that a run waits for a worker before it ends as incomplete.
        timeout: seconds after which a Ray worker that gives no answer for a shard is ended, and the
            shard tried again.
        logs: form of the lines that Ray's workers log, one per shard.
        reports: address under which the folder that holds the run is served, for links to reports.
        attempts: times that a shard is tried before it is given up.
        device: where samples are made; `auto` takes a CUDA GPU if there is one, else the CPU.
        dtype: number type of the network; `auto` is float32. `tf32` is for GPUs.
        max_base_bytes: most bytes that the weights of a base may have, as stored and in float32.
    """

    model_config = STRICT

    pool: Literal["ray", "inline"] = "ray"
    orchestrator: Literal["prefect", "none"] = "prefect"
    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=MAX_COUNT)] = "auto"
    cpus_per_worker: int = Field(default=1, ge=1, le=MAX_COUNT)
    gpus_per_worker: float = Field(default=1, gt=0, le=64)
    accelerator: str = Field(
        default="", max_length=100, pattern=PRINTABLE, json_schema_extra=_without_pattern
    )
    patience: float = Field(default=600, ge=1)
    timeout: float = Field(default=4 * 3600, ge=1)
    logs: Literal["text", "json"] = "text"
    reports: str = Field(
        default="", max_length=1000, pattern=PRINTABLE, json_schema_extra=_without_pattern
    )
    attempts: int = Field(default=3, ge=1, le=MAX_COUNT)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"
    max_base_bytes: int = Field(default=BASE_BYTES, ge=1)

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole_above_one(cls, gpus: float) -> float:
        if gpus > 1 and not gpus.is_integer():
            raise ValueError("expected a whole number, or a part of one GPU such as 0.5")
        return gpus

    @property
    def number_type(self) -> str:
        """The network's number type; `auto` is float32 on every device."""
        return "float32" if self.dtype == "auto" else self.dtype


def _with_preset(section: Any) -> Any:
    """A `method` section with the fields of the preset that it names."""
    return of_preset(section) if isinstance(section, Mapping) else section


class _PresetInSchema:
    """Adds the key `preset` to the schema of the `method` section."""

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        found = handler.resolve_ref_schema(handler(core))
        preset = {
            "enum": [*PRESETS],
            "default": "calibrated",
            "description": "whose fields stand where none is given.",
        }
        found["properties"] = {"preset": preset, **found["properties"]}
        return found


def _joined(base: Any) -> Any:
    """Several bases as one name, which is what travels to workers and records."""
    several = isinstance(base, list) and len(base) > 0 and all(isinstance(b, str) for b in base)
    return paths.BOTH.join(base) if several else base


def _or_list(found: dict[str, Any]) -> None:
    """Let the schema of a name allow a list of names."""
    _without_pattern(found)
    kind = {"type": found.pop("type"), "minLength": found.pop("minLength")}
    found["anyOf"] = [kind, {"type": "array", "items": kind, "minItems": 1}]


class RunSettings(BaseModel):
    """A whole run.

    Attributes:
        name: of the run, for people.
        base: folder or hub id of a diffusers model, or `galaxygrad:NAME`; or a list of them.
        targets: which files hold the targets.
        method: how samples are made; part of the identity.
        generation: how many samples.
        gate: what must hold before the set is published.
        execution: where the run is computed.
    """

    model_config = STRICT

    name: str = Field(
        min_length=1, max_length=100, pattern=PRINTABLE, json_schema_extra=_without_pattern
    )
    base: Annotated[str, BeforeValidator(_joined)] = Field(
        min_length=1, pattern=PRINTABLE, json_schema_extra=_or_list
    )
    targets: TargetsSpec
    method: Annotated[Method, BeforeValidator(_with_preset), _PresetInSchema()] = Method()
    generation: GenerationSpec = GenerationSpec()
    gate: GateSpec = GateSpec()
    execution: Execution = Execution()


for _spec in (
    MissingSpec,
    TilesSpec,
    CutoutsSpec,
    TargetsSpec,
    WishSpec,
    SteerSpec,
    Method,
    GenerationSpec,
    GateSpec,
    PretrainSpec,
):
    with_config(STRICT)(_spec)


def load_settings(path: Path, overrides: Sequence[str] = ()) -> RunSettings:
    """Read a configuration file, apply `a.b=c` overrides and make its paths absolute.

    Relative paths are looked for from the working folder, then from the file's folder, then from
    the project's own folder.

    Raises:
        ConfigError: unreadable file, wrong YAML, unknown key, impossible value.
    """
    return absolute(parse(overridden(read_yaml(path), overrides)), path.parent)


def overridden(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the content of a configuration with `a.b=c` overrides applied.

    Raises:
        ConfigError: an override that is none.
    """
    for override in overrides:
        _override(content, override)
    return content


def parse(content: Mapping[str, Any]) -> RunSettings:
    """Check a configuration that is already in memory.

    Raises:
        ConfigError: unknown key or impossible value.
    """
    try:
        return RunSettings.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error


def parse_open(content: Mapping[str, Any], overrides: Sequence[str]) -> RunSettings:
    """Check the stored configuration of a run, with overrides of what its identity leaves open.

    Raises:
        ConfigError: an override of anything else, unknown key or impossible value.
    """
    changed = copy.deepcopy(dict(content))
    for override in overrides:
        section = override.partition("=")[0].strip().partition(".")[0]
        if section not in OPEN:
            raise ConfigError(
                f"--set {override}: got a key that a planned run has settled; expected one of "
                f"{', '.join(OPEN)}"
            )
        _override(changed, override)
    return absolute(parse(changed), Path.cwd())


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> PretrainSpec:
    """Read the recipe of a base.

    Raises:
        ConfigError: unreadable file, wrong YAML, unknown key, impossible value.
    """
    return parse_recipe(overridden(read_yaml(path), overrides))


def parse_recipe(content: Mapping[str, Any]) -> PretrainSpec:
    """Check a recipe that is already in memory.

    Raises:
        ConfigError: unknown key or impossible value.
    """
    try:
        return TypeAdapter(PretrainSpec).validate_python(content)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error


def absolute(settings: RunSettings, beside: Path) -> RunSettings:
    """Return the settings with absolute paths where the files exist; a hub id stays as it is."""
    places = (Path.cwd(), beside.resolve(), paths.SHIPPED)
    targets = replace(settings.targets, path=_find(settings.targets.path, places))
    if targets.cutouts is not None:
        catalogue = _find(targets.cutouts.catalogue, places)
        targets = replace(targets, cutouts=replace(targets.cutouts, catalogue=catalogue))
    base = paths.BOTH.join(_find(name, places) for name in settings.base.split(paths.BOTH))
    return settings.model_copy(update={"targets": targets, "base": base})


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping of plain values.

    Raises:
        ConfigError: unreadable file or wrong YAML.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); check the path") from error
    try:
        content = read_plain(text)
    except ValueError as error:
        raise ConfigError(f"{path}: not plain YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: got {type(content).__name__}; expected a mapping of keys")
    return content


def _find(name: str, places: Sequence[Path]) -> str:
    try:
        for place in places:
            if next(paths.matches(name, str(place)), None) is not None:
                return os.path.join(*paths.meaning(name, str(place))).rstrip("/")
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{name[:100]!r}: no path that can be looked up ({error})") from error
    return name


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override}: expected key=value, such as generation.samples=64")
    *sections, last = key.strip().split(".")
    if len(sections) > MAX_DEPTH:
        raise ConfigError(f"--set {key[:100]}...: got {len(sections)} sections; expected a few")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise ConfigError(f"--set {override}: {section} is a value, not a section")
    try:
        content[last] = read_plain(value)
    except ValueError as error:
        raise ConfigError(f"--set {override[:200]}: not a plain YAML value: {error}") from error


def _explain(error: ValidationError) -> str:
    lines, faults = [], error.errors()
    for item in faults[:MAX_FAULTS]:
        place = ".".join(str(part)[:100] for part in item["loc"]) or "configuration"
        given = reprlib.repr(item["input"])
        got = "" if item["type"] in ("missing", "value_error") else f" (got {given})"
        lines.append(f"{place}: {item['msg'].removeprefix('Value error, ')}{got}")
    if len(faults) > MAX_FAULTS:
        lines.append(f"and {len(faults) - MAX_FAULTS} more")
    return "the configuration is not usable:\n  " + "\n  ".join(lines)


def read_plain(text: str) -> Any:
    """Return the values of a YAML text: plain ones alone, each key once, small and not deep.

    Tags that would build objects are refused by the safe loader. Aliases are refused as well, since
    a few lines of them stand for any number of values.

    Raises:
        ValueError: not YAML, or more than plain values; the message says where.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"got {len(text)} characters; expected at most {MAX_CHARACTERS}")
    try:
        return yaml.load(text, Loader=_PlainLoader)  # a safe one
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # `!!int x`, 2001-13-45 and the like: no common type
        raise ValueError(f"{type(error).__name__}: {error}") from error


@final
class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases, keys that are given twice, depths and endless numbers."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node that is no alias and not too deep."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _refused("an alias; write the value out", event)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _refused(f"more than {MAX_DEPTH} levels", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping without lost keys."""
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                raise _refused(f"the key {key.value[:50]!r} twice", key)
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        """Construct a number that can be shown."""
        if len(node.value) > MAX_DIGITS:
            raise _refused(f"a number of {len(node.value)} digits", node)
        return int(super().construct_yaml_int(node))


def _refused(what: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=f"got {what}", problem_mark=place.start_mark)


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_yaml_int)
