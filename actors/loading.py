"""The pipeline of a stored run, loaded onto a device."""

import os
from dataclasses import replace
from typing import Any

import torch

from actors.timing import TimedDenoiser
from ood_core.config.identity import read_method
from ood_core.diffusion.patches import PatchMixture
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.errors import BaseModelError, IdentityRefused
from ood_core.limits import BASE_BYTES
from ood_core.models.loading import BaseModel, load_model
from ood_core.numerics.random import root_key
from ood_core.store.fitted import read_calibration, read_patches
from ood_core.store.run import RunStore
from ood_core.store.series import frame_of
from ood_core.store.targets import load_targets
from ood_core.synthesis.pipeline import ExpertPlan, Pipeline, choose_device

NUMBERS = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
"""Number types of the network by the names of `execution.dtype`."""


def set_numbers(device: torch.device, dtype: str) -> None:
    """Set how a GPU multiplies: in full float32 unless `tf32` is asked for, and always alike.

    By torch's own default convolutions round to TF32, and the fastest algorithm wins, which may
    add up in another order every time.
    """
    if device.type != "cuda":
        return
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    torch.backends.cudnn.allow_tf32 = dtype == "tf32"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def load_pipeline(
    run: RunStore,
    base: str,
    device: str,
    dtype: str,
    max_base_bytes: int = BASE_BYTES,
    calibrated: bool | None = None,
) -> Pipeline:
    """Load a base and a run's targets and fits onto a device; its network's seconds are counted.

    `calibrated` says whether the calibration is finished; where nobody knows, receipts are read.

    Raises:
        IdentityRefused: the base on disk is not the one the run was planned with.
    """
    record = run.record
    where = choose_device(device)
    set_numbers(where, dtype)
    model = load_model(base, where, NUMBERS[dtype], max_base_bytes)
    require_base(model, record)
    return _loaded(run, model, TimedDenoiser(model.denoiser), calibrated)


def _loaded(
    run: RunStore, model: BaseModel, network: TimedDenoiser, calibrated: bool | None
) -> Pipeline:
    record = run.record
    method = read_method(record["identity_record"])
    plan, weights = None, None
    patches: tuple[PatchMixture, ...] = ()
    if method.calibration is not None:
        patches = read_patches(run, halves=False).every if method.calibration.patches else ()
        if calibrated is None:
            calibrated = not run.ledger("calibrate").missing(run.plan("calibrate"))
        if calibrated:
            plan, weights = read_calibration(run)
        else:
            plan = ExpertPlan.from_dict(run.table("calibrate").attributes)
    targets, root = load_targets(run), root_key(record["identity"])
    frame = frame_of(run, record)
    pipeline = Pipeline.of(
        model,
        frame or targets,
        method,
        root if frame is None else root_key(record["grown_from"]["frame"]),
        model.device,
        network=network,
        plan=plan,
        patches=patches,
        weights=weights,
    )
    if frame is not None:
        pipeline = replace(pipeline, targets=targets, root=root)
    if method.factor == 1 or not calibrated:
        return pipeline
    return pipeline.above(_loaded(run.coarse, model, network, True))


def frame_pipeline(run: RunStore, pipeline: Pipeline) -> Pipeline:
    """The pipeline as it was where the calibration of a run was fitted."""
    record = run.record
    frame = frame_of(run, record)
    if frame is None:
        return pipeline
    root = root_key(record["grown_from"]["frame"])
    return replace(pipeline, targets=frame, root=root)


def require_base(model: BaseModel, record: dict[str, Any]) -> None:
    """Refuse a base that is not the one in a run's record.

    Raises:
        IdentityRefused: its digest differs.
    """
    if model.digest != record["identity_record"]["base"]["digest"]:
        raise IdentityRefused(
            f"{model.source}: weights or schedule differ from those this run was planned with; "
            "restore the base, or give another --out"
        )


def require_fit(source: str, t_max: int, schedule: NoiseSchedule) -> None:
    """Refuse a `t_max` that the base's schedule does not have.

    Raises:
        BaseModelError: the time index is beyond the schedule.
    """
    if t_max >= len(schedule):
        raise BaseModelError(
            f"{source}: got method.t_max {t_max}; expected an index below {len(schedule)}, the "
            "length of the base's schedule"
        )
