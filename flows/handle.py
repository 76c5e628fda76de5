"""A run from Python: what `farfield run` does, and a handle to look at what it stored."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from jaxtyping import Float

from flows.progress import bars_shown
from flows.settings import RunSettings, absolute, parse, read_yaml
from ood_core.errors import ConfigError, RunIncomplete
from ood_core.evaluation.results import EvaluationResult
from ood_core.store.files import exists, read_json
from ood_core.store.place import Place
from ood_core.store.run import RunStore
from ood_core.store.samples import StoredSamples

if TYPE_CHECKING:
    import xarray


@final
@dataclass(frozen=True, slots=True)
class RunHandle:
    """A stored run, as it is at the moment of each call.

    Attributes:
        path: folder or bucket of the run.
    """

    path: Place

    def status(self) -> dict[str, Any]:
        """Return state, identity, counts of samples, failures and seconds, from the store alone."""
        from flows.runs.stages import summary

        return summary(RunStore.open(str(self.path)))

    def result(self) -> EvaluationResult:
        """Return the evaluation of the samples.

        Raises:
            RunIncomplete: the samples are not evaluated yet.
        """
        path = self.page.parent / "report.json"
        if not exists(path):
            raise RunIncomplete(f"{self.path} is not evaluated yet; finish it by the same call")
        return EvaluationResult.from_json(read_json(path)["evaluation"])

    def maps(self, start: int = 0, stop: int | None = None) -> Float[np.ndarray, "n c y x"]:
        """Return samples `start` to `stop`, float32 in the unit of the targets.

        Those that are copies of targets are left out, as `status()["left_out"]` says.

        Raises:
            RunIncomplete: some of the samples are not stored yet.
        """
        run = RunStore.open(str(self.path))
        plan = run.plan("generate")
        if run.ledger("generate").missing(plan):
            raise RunIncomplete(f"{self.path} lacks samples; finish it by the same call")
        rows = range(plan.rows)[start:stop]
        maps = run.table("generate").read("maps", slice(rows.start, rows.stop))
        left_out = [number - rows.start for number in run.left_out if number in rows]
        return np.delete(maps, left_out, axis=0) if left_out else maps

    def dataset(self) -> "xarray.Dataset":
        """Return the samples with all columns as xarray shows them, read when they are asked for.

        Those that are copies of targets are left out.

        Raises:
            InputError: xarray is not installed.
        """
        return RunStore.open(str(self.path)).dataset()

    def samples(self) -> StoredSamples:
        """Return the samples as a `torch.utils.data.Dataset`, read when they are asked for.

        Those that are copies of targets are left out.

        Raises:
            RunIncomplete: some of the samples are not stored yet.
        """
        return StoredSamples(RunStore.open(str(self.path)))

    @property
    def page(self) -> Place:
        """The report, a web page."""
        return self.path / "report" / "index.html"


def run(
    config: str | Path | Mapping[str, Any] | RunSettings,
    out: str | Path,
    *,
    progress: bool = True,
    **sections: Mapping[str, Any],
) -> RunHandle:
    """Take a configuration from targets to report, sharded and resumable; a second call resumes.

    Args:
        config: a YAML file, or what such a file says.
        out: folder or `s3://bucket/prefix` of the run.
        progress: show a bar per stage.
        **sections: keys to change, by section, such as `generation={"samples": 64}`.

    Raises:
        ConfigError: an unknown key or an impossible value.
        TargetError: targets that the method cannot take.
        IdentityRefused: another run is stored at `out`.
        RunIncomplete: some shards failed for good; the others are stored.
    """
    settings = _settings(config, sections)
    with bars_shown() if progress else nullcontext():
        found = make(settings, str(out))
    return RunHandle(RunStore.open(found["uri"]).root)


def make(settings: RunSettings, out: str) -> dict[str, Any]:
    """Make a run under the orchestrator that the settings name; return its summary."""
    if settings.execution.orchestrator == "none":
        from flows.runs.lifecycle import make_run

        return make_run(settings, out)
    from flows.orchestration.service import require_prefect

    require_prefect()
    from flows.orchestration.prefect_flows import run_flow

    return run_flow(settings, out)


def _settings(
    config: str | Path | Mapping[str, Any] | RunSettings, sections: Mapping[str, Mapping[str, Any]]
) -> RunSettings:
    beside = Path.cwd()
    if isinstance(config, RunSettings):
        content = config.model_dump(mode="json")
    elif isinstance(config, Mapping):
        content = dict(config)
    else:
        content, beside = read_yaml(Path(config)), Path(config).parent
    for name, changes in sections.items():
        section = content.get(name, {})
        if not (isinstance(section, Mapping) and isinstance(changes, Mapping)):
            raise ConfigError(f"{name}: got {changes!r}; expected a section and keys to change")
        content[name] = {**section, **changes}
    return absolute(parse(content), beside)
