"""What every worker of a run holds: base, targets, method, grid and the denoiser made of them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from actors.timing import TimedDenoiser
from ood_core.arrays import Latents, Maps, TimeGrid
from ood_core.config.identity import read_method
from ood_core.config.method import Method
from ood_core.config.targets import Symmetry
from ood_core.decode import decode
from ood_core.denoising.calibrated import BandWeights, CalibratedDenoiser, Labels, TargetLaws
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.flow import CountingDenoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.diffusion.teleport import Shortcut, Teleport
from ood_core.errors import BaseModelError, IdentityRefused
from ood_core.invert import Inversion, invert
from ood_core.limits import BASE_BYTES
from ood_core.maps.quantization import Quantization
from ood_core.models.autoencoder import Autoencoder
from ood_core.models.loading import BaseModel, load_base
from ood_core.numerics.random import SeedRange, root_key
from ood_core.store.calibration import read_calibration
from ood_core.store.patches import read_patches
from ood_core.store.run import RunStore
from ood_core.store.targets import StoredTargets, load_targets
from ood_core.synthesis.levels import in_domain_law

LAW_ROOT = root_key("affine law of a base")


@final
@dataclass(frozen=True, eq=False)
class Line:
    """Everything of a run that stays the same from shard to shard.

    `codes` is the autoencoder of a latent base: `laws`, `bands` and denoisers are then of codes.
    `bands` are the calibration's weights, None while it is not done or not asked for. `base` counts
    network evaluations wherever it is used, `clock` their seconds. `rho` belongs to the Gaussian
    of `laws`, and `n_clusters` is the largest number of clusters. `above` leads from the top of
    `timesteps` to the level of the latents where the method teleports.
    """

    base: CountingDenoiser
    clock: TimedDenoiser
    codes: Autoencoder | None
    laws: TargetLaws | None
    bands: BandWeights | None
    rho: float
    n_clusters: int
    targets: StoredTargets
    method: Method
    symmetries: tuple[Symmetry, ...]
    timesteps: TimeGrid
    root: int
    device: torch.device
    above: Shortcut | None = None

    def denoiser(self, labels: Labels) -> Denoiser:
        """The denoiser for maps of the given clusters: the calibrated stack, or the base."""
        if self.laws is None or self.bands is None:
            return self.base
        return CalibratedDenoiser(self.base, self.laws, self.bands, labels)

    def invert(self, denoiser: Denoiser, seen: Maps) -> Inversion:
        """Invert maps, or codes, as the method says."""
        return invert(
            denoiser, seen, self.timesteps, self.method.fixed_point_iterations, self.above
        )

    def decode(self, denoiser: Denoiser, latents: Latents, seeds: SeedRange) -> Maps:
        """Decode latents, one per seed, as the method says."""
        how = self.method
        return decode(denoiser, how.solver, latents, self.timesteps, seeds, how.eta, self.above)

    def maps(self, seen: Maps) -> Maps:
        """Maps in model range of what the denoiser makes: decoded where it makes codes."""
        return seen if self.codes is None else self.codes.decode(seen)

    def physical(self, maps: Maps) -> NDArray[np.float32]:
        """Samples in physical units, as coarse as the targets where the method asks for it."""
        values = self.targets.physical(maps)
        return values if self._quantization is None else self._quantization(values)

    @cached_property
    def _quantization(self) -> Quantization | None:
        return self.targets.quantization if self.method.quantization else None

    def labels(self, maps: Maps) -> Labels:
        """The cluster of each clean map or code; all zero where the method has no clusters."""
        if self.laws is None:
            return torch.zeros(len(maps), dtype=torch.int64)
        return self.laws.assign(maps)


def load_line(
    run: RunStore, base: str, device: str, dtype: str, max_base_bytes: int = BASE_BYTES
) -> Line:
    """Load a base and a run's targets and fits onto a device.

    Raises:
        IdentityRefused: the base on disk is not the one the run was planned with.
    """
    record = run.record
    where = choose_device(device)
    model = load_base(base, where, getattr(torch, dtype), max_base_bytes)
    require_base(model, record)
    method = read_method(record["identity_record"])
    symmetries = tuple(record["identity_record"]["targets"]["symmetries"])
    schedule, targets = model.denoiser.schedule, load_targets(run)
    laws, bands = None, None
    rho, n_clusters = 1.0, 1
    if method.calibration is not None:
        rho, n_clusters = (
            float(run.table("calibrate").attributes["rho"]),
            method.calibration.n_clusters,
        )
        local = read_patches(run).every if method.calibration.patches else ()
        laws = TargetLaws.fit(targets.seen, schedule, rho, n_clusters, symmetries, local)
        if run.receipts("calibrate").missing(run.plan("calibrate")) == []:
            bands = read_calibration(run)
    clock = TimedDenoiser(model.denoiser)
    return Line(
        base=CountingDenoiser(clock),
        clock=clock,
        codes=model.codes,
        laws=laws,
        bands=bands,
        rho=rho,
        n_clusters=n_clusters,
        targets=targets,
        method=method,
        symmetries=symmetries,
        timesteps=time_grid(schedule, method),
        root=root_key(record["identity"]),
        device=where,
        above=_shortcut(model.denoiser, laws, targets.seen[0].shape, method, where),
    )


def _shortcut(
    base: Denoiser,
    laws: TargetLaws | None,
    shape: tuple[int, ...],
    method: Method,
    device: torch.device,
) -> Shortcut | None:
    """The way above the grid: of the targets' Gaussian, or of the base's own affine law."""
    if not method.teleport:
        return None
    law = in_domain_law(base, shape, LAW_ROOT, device) if laws is None else laws.gaussian
    flow = Teleport(base.schedule, law.mean, law.covariance)
    return Shortcut(flow, method.top, method.ends[1])


def choose_device(name: str) -> torch.device:
    """Return the named device, or for `auto` the GPU that this process sees, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def time_grid(schedule: NoiseSchedule, method: Method) -> TimeGrid:
    """The rising time indices of a resolved method."""
    if method.timesteps is not None:
        return torch.tensor(method.timesteps)
    match method.spacing:
        case "uniform":
            return schedule.uniform_grid(method.steps + 1, method.top, method.ends[0])
        case "log_snr":
            return schedule.log_snr_grid(method.steps + 1, method.top, method.ends[0])


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
    """Refuse a time index that the base's schedule does not have.

    Raises:
        BaseModelError: it is beyond the schedule.
    """
    if t_max >= len(schedule):
        raise BaseModelError(
            f"{source}: got method.t_max {t_max}; expected an index below {len(schedule)}, the "
            "length of the base's schedule"
        )
