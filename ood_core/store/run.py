"""A run as it is stored: one place, one identity, one plan; its state is read from it.

run.json  plan.json  gate.json  timings.json  split.json  utility.json  wishes.json
targets.zarr  latents.zarr  calibration.zarr  dataset.zarr  statistics.zarr
patches.zarr.zip  prior.zarr.zip  domain.zarr.zip
receipts/STAGE/00042.json      segments/STAGE/00003.json      failures/STAGE/00042.json
coarse/     lease/00007.json      report/      README.md  croissant.json  ro-crate-metadata.json

Growth of a run: more samples in the same place, and nothing that is stored is touched.

Every shard of samples is stored whole, the last one too, so growth is new shards and longer
metadata, never a rewritten chunk. Only this module changes `plan.json` after planning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, final

from ood_core.config.identity import difference, digest, require_scheme
from ood_core.errors import IdentityRefused, InputError
from ood_core.store.arrays import Table, zarr_store
from ood_core.store.files import exists, read_json, write_json
from ood_core.store.lease import driver
from ood_core.store.ledger import Ledger
from ood_core.store.place import Place, place_at
from ood_core.store.plan import ShardPlan
from ood_core.store.schema import SHARDED, ShardedStage

if TYPE_CHECKING:
    import xarray

PATCHES, PRIOR, DOMAIN = "patches.zarr.zip", "prior.zarr.zip", "domain.zarr.zip"
"""Bundles: mixtures over patches, the prior with its geometry, moments of the base's own maps."""
COARSE = "coarse"  # the run of coarse targets
GATE = "gate.json"  # the outcome of the gate; written last of all
SERIES = "series.json"
"""Of a place that holds versions of a data set: the newest, and the last one that was published."""
UTILITY = "utility.json"
"""The downstream gain of the samples, where it was measured."""
WISHES = "wishes.json"
"""What became of the user's wishes, of a run that is steered by them."""
State = Literal[
    "planned", "running", "incomplete", "complete", "published", "quarantined", "undecided"
]


@final
@dataclass(frozen=True, slots=True)
class RunStore:
    """Handle of a run; cheap to make and to pickle, holds no open file.

    `holder` is the place of the run that this one is a part of: who holds that holds both.
    """

    root: Place
    holder: Place | None = None

    @classmethod
    def at(cls, uri: str) -> "RunStore":
        """Return the handle of a place, which may be empty.

        Raises:
            InputError: the place is neither a path nor an object store's address.
        """
        return cls(place_at(uri))

    @classmethod
    def open(cls, uri: str) -> "RunStore":
        """Return the handle of a planned run.

        Of versions of a data set it is the last one that was published, else the newest.

        Raises:
            InputError: there is none.
            IdentityRefused: it is of another identity scheme.
        """
        run = cls.at(uri)
        try:
            record = run.record
        except FileNotFoundError:
            if exists(run.root / SERIES):
                told = read_json(run.root / SERIES)
                run = version_at(run.root, told["published"] or told["newest"])
            if not run.exists:
                raise InputError(
                    f"no run at {run.root} (no run.json); expected the --out of a `farfield run`"
                ) from None
            record = run.record
        require_scheme(record["identity_record"], str(run.root))
        return run

    @property
    def exists(self) -> bool:
        """Whether a run was planned here: `run.json` is written last."""
        return exists(self.root / "run.json")

    def claim(
        self, record: dict[str, Any], plans: dict[ShardedStage, ShardPlan], dtype: str
    ) -> bool:
        """Check that this place is free or holds this very run; return whether it is free.

        Raises:
            IdentityRefused: it holds another identity or another plan; the message lists the
                fields that differ. Or it is of another identity scheme.
        """
        if not self.exists:
            return True
        found = self.record
        require_scheme(found["identity_record"], str(self.root))
        lines = difference(found["identity_record"], record)
        if not lines:
            lines = difference(read_json(self.root / "plan.json"), plan_record(plans, dtype))
        if lines:
            raise IdentityRefused(
                f"{self.root} holds another run; these fields differ (stored -> requested):\n  "
                + "\n  ".join(lines)
                + "\nGive another --out, or restore these settings"
            )
        return False

    def write_plan(
        self,
        record: dict[str, Any],
        run: dict[str, Any],
        plans: dict[ShardedStage, ShardPlan],
        dtype: str,
    ) -> None:
        """Write `plan.json`, then `run.json`, which makes the run exist."""
        write_json(self.root / "plan.json", plan_record(plans, dtype))
        content = {"identity": digest(record), "identity_record": record, **run}
        write_json(self.root / "run.json", content)

    @property
    def record(self) -> dict[str, Any]:
        """Content of `run.json`."""
        return read_json(self.root / "run.json")

    def plan(self, stage: ShardedStage) -> ShardPlan:
        """The shard plan of a stage; an empty one where the run was planned without it."""
        return self.plans[stage]

    @property
    def plans(self) -> dict[ShardedStage, ShardPlan]:
        """The shard plan of every stage, in one reading."""
        stored, none = read_json(self.root / "plan.json"), {"rows": 0, "shard_rows": 1}
        return {stage: ShardPlan(**stored.get(stage, none)) for stage in SHARDED}

    @property
    def dtype(self) -> str:
        """The network's number type, settled when the run was planned."""
        return str(read_json(self.root / "plan.json")["dtype"])

    def table(self, stage: ShardedStage) -> Table:
        """The table that a stage fills."""
        return Table(self.root / SHARDED[stage].name)

    @property
    def targets(self) -> Table:
        """The targets' table."""
        return Table(self.root / "targets.zarr")

    @property
    def has_prior(self) -> bool:
        """Whether the prior of the latents was fitted."""
        return exists(self.root / PRIOR)

    @property
    def statistics(self) -> Table:
        """What was measured of every sample."""
        return Table(self.root / "statistics.zarr")

    def dataset(self) -> "xarray.Dataset":
        """Return the samples as xarray shows them, lazily; copies of targets are left out.

        Raises:
            InputError: xarray is not installed.
        """
        try:
            import xarray
        except ImportError as error:
            raise InputError(
                "got no package xarray; expected it for `dataset`; install it with pip install "
                "xarray, or read rows with `RunHandle.maps`"
            ) from error
        store = zarr_store(self.table("generate").path)
        found: xarray.Dataset = xarray.open_zarr(store, consolidated=True)
        return found.drop_isel(sample=list(self.left_out)) if self.left_out else found

    def ledger(self, stage: ShardedStage) -> Ledger:
        """Receipts and failures of a stage."""
        return Ledger(self.root, stage)

    @property
    def lease(self) -> Place:
        """Where drivers take the right to write to this run."""
        return (self.holder or self.root) / "lease"

    @property
    def coarse(self) -> "RunStore":
        """What is fitted to coarse targets: a run without samples, inside this one.

        It is there where `method.factor` is more than 1.
        """
        return RunStore(self.root / COARSE, self.root)

    def add_timing(self, stage: str, seconds: float) -> None:
        """Add wall seconds spent on a stage by this session."""
        timings = self.timings
        write_json(
            self.root / "timings.json", {**timings, stage: timings.get(stage, 0.0) + seconds}
        )

    @property
    def timings(self) -> dict[str, float]:
        """Wall seconds per stage, all sessions together."""
        path = self.root / "timings.json"
        return dict(read_json(path)) if exists(path) else {}

    def add_split(self, stage: str, seconds: Mapping[str, float]) -> None:
        """Add where the seconds of a stage's workers went in this session."""
        splits = self.splits
        before = splits.get(stage, {})
        total = {part: before.get(part, 0.0) + more for part, more in seconds.items()}
        write_json(self.root / "split.json", {**splits, stage: total})

    @property
    def splits(self) -> dict[str, dict[str, float]]:
        """Where the seconds of every stage's workers went, all sessions together."""
        path = self.root / "split.json"
        return dict(read_json(path)) if exists(path) else {}

    @property
    def left_out(self) -> tuple[int, ...]:
        """Numbers of the samples that are copies of targets: no part of the set."""
        gate = self.root / GATE
        found = read_json(gate).get("left_out", ()) if exists(gate) else ()
        return tuple(int(copy["sample"]) for copy in found)

    @property
    def state(self) -> State:
        """Where the run stands, by the store alone."""
        plans = self.plans
        return self.state_with(sum(len(self.ledger(s).missing(plans[s])) for s in SHARDED))

    def state_with(self, missing: int) -> State:
        """Where the run stands with so many shards missing."""
        plans = self.plans
        total = sum(map(len, plans.values()))
        gate = self.root / GATE
        if missing == 0 and exists(gate):
            found = read_json(gate)
            if found.get("samples") == plans["generate"].rows:
                state: State = found["outcome"]
                return state
        if driver(self.lease) is not None:
            return "running"
        return "planned" if missing == total else "incomplete"


def version_at(series: Place, number: int) -> RunStore:
    """The run of a version of a data set, which may not be there yet."""
    return RunStore(series / f"v{number:04d}")


def plan_record(plans: dict[ShardedStage, ShardPlan], dtype: str) -> dict[str, Any]:
    """Shard plans and the network's number type as plain JSON values.

    The type is no part of the identity, but one set is never of two types.
    """
    shards: dict[str, Any] = {
        stage: {"rows": plan.rows, "shard_rows": plan.shard_rows} for stage, plan in plans.items()
    }
    return {**shards, "dtype": dtype}


def require_room(run: RunStore, samples: int) -> None:
    """Refuse a number of samples that the run cannot grow to.

    Raises:
        InputError: fewer samples than are planned.
    """
    plan = run.plan("generate")
    if samples < plan.rows:
        raise InputError(
            f"{run.root}: got {samples} samples; expected at least the {plan.rows} that are "
            "planned: a run only grows. Give another --out to `farfield run` for a smaller set"
        )


def grow(run: RunStore, samples: int) -> int:
    """Plan `samples` samples in all; return how many were planned before.

    The plan is written first: from then on the run counts as incomplete, wherever a crash falls,
    and `settle` does the rest.

    Raises:
        InputError: see `require_room`.
    """
    require_room(run, samples)
    plan = run.plan("generate")
    if samples > plan.rows:
        record = read_json(run.root / "plan.json")
        record["generate"]["rows"] = samples
        write_json(run.root / "plan.json", record)
    settle(run)
    return plan.rows


def settle(run: RunStore) -> None:
    """Make the data set as long as the plan; finishes a growth that was cut short."""
    rows = run.plan("generate").rows
    for table in (run.statistics, run.table("generate")):
        if table.exists:  # one that was lost is made anew by the stage that fills it
            table.grow(rows)
