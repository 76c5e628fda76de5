"""The stages of a run as plain functions of a store; each does only what the store lacks."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from actors.pool import Notice, ShardFailure
from flows.progress import WorkerSeconds, listener, shares
from flows.report.inputs import card_input, report_input
from flows.report.publishing import write_report
from flows.runs.domain import domain_features
from flows.runs.lease_guard import lease_proof, require_lease
from flows.runs.reload import redraw_latents
from flows.runs.status_card import StatusCard
from flows.runs.wishes import meet_wishes, stored_wishes
from flows.runs.worker_pool import pool_for, worker_spec
from flows.settings import RunSettings
from ood_core.config.identity import read_method
from ood_core.errors import InputError, RunIncomplete
from ood_core.evaluation.evaluate import evaluate_features
from ood_core.evaluation.gate import Decision, decide
from ood_core.evaluation.results import EvaluationResult
from ood_core.maps.target_set import TargetSet
from ood_core.numerics.random import Root
from ood_core.store.files import exists, read_json, write_json, written
from ood_core.store.fitted import PatchFits, write_patches, write_prior
from ood_core.store.lease import driver
from ood_core.store.ledger import Failure, Receipt
from ood_core.store.run import GATE, PATCHES, PRIOR, RunStore
from ood_core.store.schema import SHARDED, ShardedStage
from ood_core.store.statistics import create_statistics, feature_extractor, read_statistics
from ood_core.store.targets import failed_round_trips, load_targets, read_latents
from ood_core.synthesis.pipeline import fit_mixtures, fit_prior_of

SEAL_SECONDS = 60.0
"""So often the driver gathers receipts into segments."""
Stage = Callable[[RunStore, RunSettings], str]


def calibrate(run: RunStore, settings: RunSettings) -> str:
    """Fit the mixtures of patches once, then the weights of the experts, a timestep per shard.

    Where samples are held to coarse maps, what makes those is fitted before.
    """
    if read_method(run.record["identity_record"]).factor > 1:
        for stage in (calibrate, invert, fit):
            stage(run.coarse, settings)
    _fit_patches(run, settings)
    return _sharded(run, "calibrate", settings)


def _fit_patches(run: RunStore, settings: RunSettings) -> None:
    spec = read_method(run.record["identity_record"]).calibration
    if spec is None or spec.patches == 0 or exists(run.root / PATCHES):
        return
    targets = load_targets(run)
    identity = run.record["identity"]
    every, first, second = fit_mixtures(targets.fit_seen, spec, targets.symmetries, identity)
    patches = PatchFits(every, (first, second))
    require_lease()
    write_patches(run, patches)


def invert(run: RunStore, settings: RunSettings) -> str:
    """Invert the fit targets to latents."""
    return _sharded(run, "invert", settings)


def fit(run: RunStore, settings: RunSettings) -> str:
    """Fit the prior of the latents and measure the geometry of its draws, once."""
    if run.has_prior:
        return "stored already"
    record = run.record
    method = read_method(record["identity_record"])
    targets, latents = load_targets(run), read_latents(run)
    fitted = fit_prior_of(method, latents, targets.symmetries, record["identity"])
    require_lease()
    names = [targets.ids[row] for row in failed_round_trips(run)]
    write_prior(run.root / PRIOR, fitted.prior, fitted.geometry, names, fitted.norms)
    found = [fitted.prior.description, fitted.norms.description]
    note = ", ".join([f"{len(latents)} latents", *filter(None, found)])
    return note + (f"; left out, as their round trip fails: {', '.join(names)}" if names else "")


def generate(run: RunStore, settings: RunSettings) -> str:
    """Draw, decode, measure and store samples, one shard after another."""
    if not run.statistics.exists:  # lost: the shards that are missing are measured again
        require_lease()
        create_statistics(run, feature_extractor(load_targets(run)), run.plan("generate"))
    return _sharded(run, "generate", settings)


def validate_set(run: RunStore, settings: RunSettings) -> str:
    """Compare samples with held-out targets, decide the gate on the scores, write the report."""
    targets = load_targets(run)
    extractor = feature_extractor(targets)
    blocks, count = read_statistics(run, extractor, targets), run.plan("generate").rows
    root = Root.of(run.record["identity"]).child("validation")
    latents, drawn, _ = redraw_latents(run)
    domain = domain_features(run, settings, extractor)
    result = evaluate_features(
        extractor,
        blocks,
        count,
        root,
        domain,
        (latents, drawn),
        places=targets.sides,
        maps=lambda numbers: targets.ranged(run.table("generate").pick("maps", numbers)),
    )
    decision = decide(settings.gate, result, len(targets.held_out))
    # Before the card, which has the digest of the metadata.
    run.table("generate").describe("left_out", list(result.copies.samples))
    meet_wishes(run, settings)
    _show(run, targets, result, decision)
    content = {
        "outcome": decision.outcome,
        "reasons": decision.reasons,
        "gate": asdict(settings.gate),
        "samples": count,
        "left_out": [asdict(copy) for copy in result.copies.found],
    }
    write_json(run.root / GATE, content)
    return result.summary


def is_judged(run: RunStore, settings: RunSettings) -> bool:
    """Whether this gate was decided on the samples as they are stored now."""
    judged = written(run.root).get(GATE)
    if judged is None or not exists(run.root / "report" / "report.json"):
        return False
    stored = read_json(run.root / GATE)
    return (
        stored["gate"] == json.loads(json.dumps(asdict(settings.gate)))
        and stored["samples"] == run.plan("generate").rows
        and judged > run.ledger("generate").last_written
    )


def is_stored(run: RunStore) -> bool:
    """Whether everything that precedes validation is stored."""
    missing = (run.ledger(stage).missing(plan) for stage, plan in run.plans.items())
    return run.has_prior and run.statistics.exists and not any(missing)


def rewrite_report(run: RunStore, settings: RunSettings) -> str:
    """Write report and card of a validated run again, from its stored scores and gate.

    Raises:
        InputError: there are no stored scores, or they are of another version.
    """
    place = run.root / "report" / "report.json"
    if not exists(place):
        raise InputError(f"{place} is not there; run `farfield validate` to compute the scores")
    result = EvaluationResult.from_json(read_json(place).get("evaluation"))
    stored = read_json(run.root / GATE)
    decision = Decision(stored["outcome"], tuple(stored["reasons"]))
    _show(run, load_targets(run), result, decision)
    return result.summary


def _show(
    run: RunStore,
    targets: TargetSet,
    result: EvaluationResult,
    decision: Decision,
) -> None:
    page = report_input(run, targets, result, decision, stored_wishes(run))
    require_lease()
    write_report(run, card_input(run, targets, page, decision))


STAGES: tuple[tuple[str, Stage], ...] = (
    ("calibrate", calibrate),
    ("invert", invert),
    ("fit", fit),
    ("generate", generate),
    ("validate", validate_set),
)


def perform(name: str, stage: Stage, run: RunStore, settings: RunSettings) -> str:
    """Run one stage with its timing, while the run is held.

    Raises:
        InUse: another driver took over.
    """
    require_lease()
    began = time.monotonic()
    note = stage(run, settings)
    require_lease()
    seconds = time.monotonic() - began
    run.add_timing(name, seconds)
    listener.get().end(name, seconds, note)
    return note


def _sharded(run: RunStore, stage: ShardedStage, settings: RunSettings) -> str:
    """Hand the stage's missing shards to a pool and follow the receipts.

    Raises:
        RunIncomplete: some shards failed for good; they are listed, the others are stored.
        InUse: another driver took over.
    """
    plan, ledger = run.plan(stage), run.ledger(stage)
    missing, name = ledger.missing(plan), f"coarse {stage}" if run.holder else stage
    listed = {failure.shard for failure in ledger.failures(missing)}
    proof, sealed = lease_proof(), time.monotonic()
    left = sum(len(shard) for shard in missing)
    listener.get().begin(name, plan.rows, plan.rows - left)
    card = StatusCard(run, stage, left)
    pool, spent = pool_for(settings.execution), WorkerSeconds()
    for outcome in pool.run(worker_spec(run, stage, settings), missing):
        if isinstance(outcome, Notice):
            listener.get().say(outcome.text)
            continue
        if proof is not None:
            proof.require()
        if isinstance(outcome, ShardFailure):
            _list_failure(run, stage, outcome)
            continue
        spent.add(outcome.writer, outcome.parts)
        if outcome.shard in listed:
            ledger.forget(plan[outcome.shard])
        if time.monotonic() - sealed >= SEAL_SECONDS:
            ledger.seal(plan)
            sealed = time.monotonic()
        listener.get().advance(name, len(plan[outcome.shard]))
        card.advance(len(plan[outcome.shard]))
    if missing:
        require_lease()
        ledger.seal(plan)
        run.add_split(stage, spent.end())
    receipts = ledger.all(plan)
    there = {receipt.shard for receipt in receipts}
    if failed := ledger.failures([shard for shard in plan if shard.index not in there]):
        card.stopped(f"{len(failed)} of {len(plan)} shards of {stage} failed")
        raise RunIncomplete(_failed(stage, len(plan), failed))
    nfe = sum(receipt.nfe for receipt in receipts)
    return f"{len(missing)} of {len(plan)} shards, {nfe:,} network evaluations in all"


def _list_failure(run: RunStore, stage: ShardedStage, found: ShardFailure) -> None:
    """List a shard that was given up; an inverted one with the names of its targets."""
    shard, ledger = run.plan(stage)[found.shard], run.ledger(stage)
    before = ledger.failure(shard)
    names = load_targets(run).ids[shard.start : shard.stop] if stage == "invert" else ()
    tried = found.tries + (before.tried if before else 0)
    ledger.fail(Failure(stage, shard.index, shard.start, shard.stop, found.reason, tried, names))


def _failed(stage: str, shards: int, failed: list[Failure]) -> str:
    lines = [f"shard {f.shard}: {f.error} (tried {f.tried} times){_named(f)}" for f in failed]
    return (
        f"{stage}: {len(failed)} of {shards} shards failed; the others are stored, later stages "
        "are not begun. Run the same command again to retry only these:\n  " + "\n  ".join(lines)
    )


def _named(failure: Failure) -> str:
    return f"; targets {', '.join(failure.targets)}" if failure.targets else ""


def summary(run: RunStore) -> dict[str, Any]:
    """Where a run stands, for machines; also the result of the flow."""
    plans, record = run.plans, run.record
    plan, found = plans["generate"], {s: run.ledger(s).scan(plans[s]) for s in SHARDED}
    missing = {
        stage: [
            shard
            for shard, receipt in zip(plans[stage], found[stage], strict=True)
            if receipt is None
        ]
        for stage in SHARDED
    }
    failed = [f for stage in SHARDED for f in run.ledger(stage).failures(missing[stage])]
    wished = "steer" in record["identity_record"]["method"]
    holder, met = driver(run.lease), stored_wishes(run) if wished else None
    return {
        "uri": str(run.root),
        "name": record["name"],
        "identity": record["identity"],
        "state": run.state_with(sum(len(found) for found in missing.values())),
        "samples_planned": plan.rows,
        "samples_done": plan.rows - sum(len(shard) for shard in missing["generate"]),
        "left_out": list(run.left_out),
        "shards_missing": [shard.index for shard in missing["generate"]],
        "stages_missing": {stage: len(found) for stage, found in missing.items()},
        "failures": [asdict(failure) for failure in failed],
        "driver": holder.description if holder else None,
        "seconds": run.timings,
        "workers": {stage: shares(split) for stage, split in run.splits.items()},
        **{key: record[key] for key in ("grown_from",) if key in record},
        **({"wishes": met.to_json()} if met is not None else {}),
        "hosts": _hosts([receipt for receipt in found["generate"] if receipt is not None]),
    }


def _hosts(receipts: Sequence[Receipt]) -> dict[str, dict[str, float]]:
    """Workers, maps and the rate of one worker, of every host that made samples."""
    writers, maps = defaultdict[str, set[str]](set), Counter[str]()
    seconds = defaultdict[str, float](float)
    for receipt in receipts:
        host, _, process = receipt.writer.rpartition(":")
        writers[host].add(process)
        maps[host] += receipt.stop - receipt.start
        seconds[host] += receipt.seconds
    return {
        host: {
            "workers": len(writers[host]),
            "maps": maps[host],
            "maps_per_second_each": round(maps[host] / max(seconds[host], 1e-9), 3),
        }
        for host in sorted(writers)
    }
