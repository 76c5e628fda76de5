"""The calibrated denoiser: experts stacked per noise level and wavenumber in closed form.

    D_cal(x_t, t) = mu + F^-1 [ sum_i w_i(t, k) F[e_i - mu] ]

    e_1 = x_t / alpha      the identity, which keeps texture that the base would wipe out
    e_2 = D_base(x_t, t)   the frozen base, shown a few targets if it is one that looks at them
    e_3 = D_gauss(x_t, t)  the exact denoiser of the targets' own Gaussian
    e_4 = D_cluster(x_t, t)   the same, of the cluster of targets that the map belongs to
    e_5 ... = D_base_2(x_t, t)    further frozen bases, where the run names several
    ... = D_patches(x_t, t)       posterior means under mixtures of Gaussians over their patches

Weights minimise `|F[x0 - mu] - sum_i w_i F[e_i - mu]|^2` over noised targets, plus a ridge. They
are piecewise linear in `k` (hat functions) and in `ln(sigma/alpha)`. The experts that learn from
targets are fitted on the other half of them (2-fold cross-fitting), so that their weight is earned
on maps that they have not seen. What brightness says of the weights is added to the stack
(`ood_core.denoising.gate`). An expert whose absence would hardly raise the error at a timestep
has no weight there and is not evaluated; bases go first, since they cost most. So each of several
is asked only where the others and the experts miss it. Weights have any sign: a base whose own
domain misleads is repelled where that lowers the error. No weight of a network changes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ood_core.arrays import Map, Maps, on_device, wide
from ood_core.config.method import CalibrationSpec
from ood_core.config.targets import Symmetry
from ood_core.denoising.completed import LeftOpen
from ood_core.denoising.gate import Gate, GateGains, fit_gate
from ood_core.denoising.hats import band_knots, hat_functions
from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.denoiser import Base, further
from ood_core.diffusion.patches import PatchDenoiser, PatchMixture
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.errors import IdentityRefused
from ood_core.estimators.gaussian import estimate
from ood_core.estimators.mixture import fit_mixture, nearest_cluster
from ood_core.numerics.random import Stream, normal_like
from ood_core.numerics.symmetry import orbit_size, transform

Labels = Int[Tensor, " n"]
Expert = Callable[[Maps, int], Maps]
Gains = tuple[list[int], Float[Tensor, "evaluated y half"], GateGains | None]
ENOUGH = 2**18  # numbers of noised targets from which weights are fitted
LEAST_TARGETS = 16  # that are noised: the longest waves are a few numbers of each
Show = Callable[[Maps], tuple[Any, ...]]
"""Gives what a base makes of a few of the maps; empty if it looks at none."""


def _nothing(maps: Maps) -> tuple[Any, ...]:
    return ()


@final
@dataclass(frozen=True, eq=False)
class BandWeights:
    """Weights per timestep, band and expert; `knots` are band centres in cycles per pixel."""

    noise_to_signal: Float[Tensor, " timesteps"]
    knots: Float[Tensor, " bands"]
    weights: Float[Tensor, "timesteps bands experts"]
    gate: Gate | None = None
    left: LeftOpen | None = None

    def gains(self, noise_to_signal: float, y: int, x: int, device: torch.device | str) -> Gains:
        """Experts that are evaluated, their gain per mode of a half spectrum, and their gate.

        Those of one timestep are made and moved once.
        """
        place = noise_to_signal, y, x, str(device)
        if place not in self._made:
            weights = self.at(noise_to_signal)
            evaluated = weights.ne(0).any(dim=0).nonzero()[:, 0].tolist() or [0]
            hats = hat_functions(self.knots, y, x)[..., : x // 2 + 1]
            gains = torch.einsum("be,byx->eyx", weights[:, evaluated], hats)
            gate = self._gate_at(noise_to_signal)
            added = None if gate is None else on_device(gate.gains(evaluated, y, x), device)
            self._made[place] = evaluated, gains.to(device), added
        return self._made[place]

    def by_name(self, names: Sequence[str], source: str) -> "BandWeights":
        """Those of stored experts, by the stored names, `in_order`; see `by_name`."""
        weights, gate = by_name(self.weights, names, source), self.gate
        if gate is not None:
            gate = replace(gate, weights=by_name(gate.weights, names, source))
        return replace(self, weights=weights, gate=gate)

    @cached_property
    def _made(self) -> dict[tuple[float, int, int, str], Gains]:
        return {}

    def at(self, noise_to_signal: float) -> Float[Tensor, "bands experts"]:
        """Interpolate in `ln(sigma/alpha)`; constant beyond the first and last timestep."""
        return self._between(self.weights, noise_to_signal)

    def left_at(self, noise_to_signal: float) -> LeftOpen | None:
        """What the stack leaves, if that was measured."""
        if self.left is None:
            return None
        parts = self.left.left, self.left.kept, self.left.gaps
        return LeftOpen(*(self._between(part, noise_to_signal) for part in parts))

    def _gate_at(self, noise_to_signal: float) -> Gate | None:
        if self.gate is None:
            return None
        parts = self.gate.edges, self.gate.weights, self.gate.offsets
        return Gate(*(self._between(part, noise_to_signal) for part in parts))

    def _between(self, rows: Tensor, noise_to_signal: float) -> Tensor:
        log = self.noise_to_signal.log()
        where = torch.tensor(noise_to_signal, dtype=log.dtype).log().clamp(log[0], log[-1])
        above = int(torch.searchsorted(log, where).clamp(1, len(log) - 1))
        share = float((where - log[above - 1]) / (log[above] - log[above - 1]))
        return torch.lerp(rows[above - 1], rows[above], share)


@final
@dataclass(frozen=True, slots=True, eq=False)
class TargetExperts:
    """Exact denoisers of distributions that are fitted to the targets.

    One Gaussian, one Gaussian per cluster, and mixtures over patches that were fitted beforehand.
    `context` is what the base made of a few targets, where it is one that is shown some.
    """

    gaussian: GaussianDenoiser
    clusters: tuple[GaussianDenoiser, ...]
    weights: Float[Tensor, " clusters"]
    patches: tuple[PatchDenoiser, ...] = ()
    context: tuple[Any, ...] = ()

    @classmethod
    def fit(
        cls,
        targets: Maps,
        schedule: NoiseSchedule,
        rho: float,
        n_clusters: int,
        symmetries: Sequence[Symmetry],
        patches: Sequence[PatchMixture] = (),
        show: Show = _nothing,
    ) -> "TargetExperts":
        """Fit to maps, and show them to the base.

        `rho` is the stationary share of the Gaussian's covariance.
        """
        law = estimate(targets, "spectral_low_rank", rho, symmetries)
        weights, laws = fit_mixture(targets, n_clusters, symmetries)
        clusters = tuple(GaussianDenoiser(schedule, *cluster) for cluster in laws)
        local = tuple(PatchDenoiser(schedule, mixture) for mixture in patches)
        return cls(GaussianDenoiser(schedule, *law), clusters, weights, local, show(targets))

    @classmethod
    def cross_fitted(
        cls,
        targets: Maps,
        schedule: NoiseSchedule,
        rho: float,
        n_clusters: int,
        symmetries: Sequence[Symmetry],
        patches: Sequence[Sequence[PatchMixture]] = ((), ()),
        show: Show = _nothing,
    ) -> "list[TargetExperts]":
        """One fit per half of the targets: number `p` has not seen the maps `p::2`."""
        return [
            cls.fit(seen, schedule, rho, n_clusters, symmetries, mixtures, show)
            for seen, mixtures in zip(halves(targets), patches, strict=True)
        ]

    def assign(self, maps: Maps) -> Labels:
        """Return the cluster that each clean map belongs to."""
        laws = [(cluster.mean, cluster.covariance) for cluster in self.clusters]
        return nearest_cluster(maps, self.weights, laws)

    def by_cluster(self, x_t: Maps, t: int, groups: "Groups") -> Maps:
        """Denoise every map by the Gaussian of its own cluster."""
        parts = x_t[groups.order].split(groups.counts)
        clean = [
            cluster(part, t)
            for cluster, part in zip(self.clusters, parts, strict=True)
            if len(part)
        ]
        return torch.cat(clean)[groups.back]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Maps of a batch sorted by their clusters: `maps[order]`, `counts` of each, and `back`."""

    counts: list[int]
    order: Labels
    back: Labels

    @classmethod
    def of(cls, labels: Labels, clusters: int, device: torch.device | str = "cpu") -> "Groups":
        """Sort labels, which lie on the host, and move the orders to a device.

        Raises:
            ValueError: labels of no cluster.
        """
        if not bool(((labels >= 0) & (labels < clusters)).all()):
            raise ValueError(f"got labels beyond the {clusters} clusters: {labels}")
        order = labels.argsort(stable=True)
        counts = torch.bincount(labels, minlength=clusters).tolist()
        return cls(counts, order.to(device), order.argsort().to(device))


def halves(targets: Maps) -> tuple[Maps, Maps]:
    """The targets of both folds: fold `p` lacks the maps `p::2`."""
    return targets[1::2], targets[0::2]


@final
class CalibratedDenoiser:
    """Stack of the experts with band weights, for a batch of maps of known clusters."""

    def __init__(
        self, base: Base, fitted: TargetExperts, bands: BandWeights, labels: Labels
    ) -> None:
        self._base, self._fitted, self.bands = base, fitted, bands
        mean = fitted.gaussian.mean
        self._groups = Groups.of(labels.cpu(), len(fitted.clusters), mean.device)

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule of the base."""
        return self._base.schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return the calibrated estimate of `E[x0 | x_t, cluster]`."""
        mean, (y, x) = self._fitted.gaussian.mean.to(x_t), x_t.shape[-2:]
        ratio = self.schedule.noise_to_signal(t)
        evaluated, gains, gate = self.bands.gains(ratio, y, x, x_t.device)
        experts = experts_of(self._base, self._fitted, self._groups)
        seen = torch.stack([experts[number](x_t, t) for number in evaluated]) - mean
        return mean + combined(torch.fft.rfft2(seen), gains, gate, y, x)


def combined(
    modes: Tensor, gains: Float[Tensor, "experts y half"], gate: GateGains | None, y: int, x: int
) -> Maps:
    """Estimates about the mean of half spectra of experts about it, `(experts, n, c, y, half)`."""
    stacked = (modes * gains[:, None, None].to(modes.real.dtype)).sum(dim=0)
    estimate: Tensor = torch.fft.irfft2(stacked, s=(y, x))
    return estimate if gate is None else estimate + gate.added(modes, estimate)


EXPERTS: dict[str, Callable[[Base, TargetExperts, Groups], Expert]] = {
    "identity": lambda base, fitted, groups: lambda x_t, t: x_t / float(base.schedule.alpha[t]),
    "base": lambda base, fitted, groups: lambda x_t, t: base(x_t, t, *fitted.context),
    "gaussian": lambda base, fitted, groups: fitted.gaussian,
    "cluster": lambda base, fitted, groups: partial(fitted.by_cluster, groups=groups),
}
"""Experts that every calibration has, by name, for a batch of maps of known clusters."""
BASE = list(EXPERTS).index("base")
FURTHER = "base "
"""How names of further bases begin, `base 2` the first; they follow those of `EXPERTS`."""
PATCHES = "patches "
"""How names of experts that are mixtures over patches begin; they come last."""


def experts_of(base: Base, fitted: TargetExperts, groups: Groups) -> list[Expert]:
    """All experts for a batch of maps of known clusters, in the order of their weights."""
    fixed = (make(base, fitted, groups) for make in EXPERTS.values())
    others = (_asking(base, asked) for asked in further(fitted.context))
    return [*fixed, *others, *fitted.patches]


def _asking(base: Base, context: Any) -> Expert:
    return lambda x_t, t: base(x_t, t, context)


def further_names(bases: int) -> tuple[str, ...]:
    """Names of the bases after the first."""
    return tuple(f"{FURTHER}{number}" for number in range(2, bases + 1))


def in_order(names: Sequence[str]) -> tuple[str, ...]:
    """Names of the experts in the order of their weights, those that are not fixed as they are."""
    return (*EXPERTS, *(name for name in names if name.startswith((FURTHER, PATCHES))))


def by_name(
    weights: Float[Tensor, "*rest stored"], names: Sequence[str], source: str
) -> Float[Tensor, "*rest experts"]:
    """Stored weights `in_order`.

    A fixed expert that was not there when the weights were stored has weight 0.

    Raises:
        IdentityRefused: a stored name is not known.
    """
    columns = {name: weights[..., number] for number, name in enumerate(names)}
    if unknown := set(names) - set(in_order(names)):
        raise IdentityRefused(
            f"{source}: got calibration weights of {', '.join(sorted(unknown))}; expected "
            f"{', '.join(EXPERTS)} or patches: use the version that planned the run"
        )
    none = torch.zeros(weights.shape[:-1], dtype=weights.dtype)
    return torch.stack([columns.get(name, none) for name in in_order(names)], dim=-1)


def expert_modes(x_t: Maps, t: int, experts: Sequence[Expert], mean: Map) -> Tensor:
    """Fourier modes of `e_i - mu`, complex, of shape `(experts, n, c, y, x)`."""
    return torch.stack([torch.fft.fft2(expert(x_t, t) - mean) for expert in experts])


@final
@dataclass(frozen=True, slots=True, eq=False)
class NormalEquations:
    """Cross-spectra of experts and clean modes in bands, which is all that the regression needs."""

    gram: Float[Tensor, "bands experts bands experts"]
    moment: Float[Tensor, "bands experts"]
    signal: Float[Tensor, " bands"]
    power: float

    @classmethod
    def of(cls, modes: Tensor, clean: Tensor, knots: Float[Tensor, " bands"]) -> "NormalEquations":
        """Sum over maps; `modes` is `(experts, n, c, y, x)`, `clean` `(n, c, y, x)`, complex."""
        hats = wide(hat_functions(knots, *clean.shape[-2:]).to(clean.device))
        flat, target = modes.flatten(1, 2), clean.flatten(0, 1)
        # In float64: what experts leave is a small difference of these sums.
        pairs = wide(torch.view_as_real(flat)).movedim(-1, 1).flatten(1, 2)
        aim = wide(torch.view_as_real(target)).movedim(-1, 0).flatten(0, 1)
        cross = torch.stack([(one * pairs).sum(dim=1) for one in pairs]).flatten(2)
        right, power = (aim * pairs).sum(dim=1).flatten(1), aim.square().sum(dim=0).flatten()
        bands = hats.flatten(1)
        both = (bands[:, None] * bands[None, :]).flatten(0, 1)  # hats of neighbours overlap
        gram = (both @ cross.flatten(0, 1).T).unflatten(0, (len(knots), len(knots)))
        return cls(
            gram=gram.unflatten(2, (len(modes), len(modes))).permute(0, 2, 1, 3),
            moment=bands @ right.T,
            signal=bands @ power,
            power=float(power.sum()),
        )

    def plus(self, other: "NormalEquations", among: Sequence[int]) -> "NormalEquations":
        """Add the sums over further maps, which some of the experts were evaluated on."""
        gram, moment = torch.zeros_like(self.gram), torch.zeros_like(self.moment)
        part = torch.tensor(among, device=gram.device)
        moment[:, part] = other.moment
        gram[:, part[:, None], :, part[None, :]] = other.gram.permute(1, 3, 0, 2)
        return NormalEquations(
            self.gram + gram,
            self.moment + moment,
            self.signal + other.signal,
            self.power + other.power,
        )

    def solved(
        self, ridge: float, among: Sequence[int]
    ) -> tuple[Float[Tensor, "bands experts"], float]:
        """Weights of some experts, zero for the others, and the squared error that they leave."""
        gram, moment = self.gram[:, among][:, :, :, among], self.moment[:, among]
        right = moment.reshape(-1)
        gram = gram.reshape(len(right), len(right))
        damping = (ridge * self.signal).repeat_interleave(len(among))
        flat = torch.linalg.solve(gram + torch.diag(damping), right)
        weights = torch.zeros_like(self.moment)
        weights[:, among] = flat.reshape(len(moment), -1)
        return weights, float(self.power - 2 * flat @ right + flat @ gram @ flat)


def fit_weights(
    modes: Tensor,
    clean: Tensor,
    knots: Float[Tensor, " bands"],
    ridge: float,
    prune_tolerance: float = 0.0,
    bases: Sequence[int] = (BASE,),
) -> Float[Tensor, "bands experts"]:
    """Ridge regression of the clean modes on the experts' modes, at one timestep.

    `modes` is `(experts, n, c, y, x)` and `clean` `(n, c, y, x)`, complex. The regression needs
    only the experts' cross-spectra, summed over maps, so its cost does not grow with bands.

    Experts are left out one by one while the error stays within `1 + prune_tolerance` times the
    error of all of them: of `bases` the one that is missed least as soon as that holds without it,
    else the expert whose absence raises the error least.
    """
    system = NormalEquations.of(modes, clean, knots)
    return pruned(system, range(len(modes)), ridge, prune_tolerance, bases)[0].float().cpu()


def pruned(
    system: NormalEquations,
    among: Sequence[int],
    ridge: float,
    prune_tolerance: float,
    bases: Sequence[int] = (BASE,),
) -> tuple[Float[Tensor, "bands experts"], list[int]]:
    """Weights of those experts `among` some that are kept, and which these are."""
    among = list(among)
    weights, error = system.solved(ridge, among)
    most = error * (1 + prune_tolerance)
    while prune_tolerance and len(among) > 1:
        fewer = {i: system.solved(ridge, [j for j in among if j != i]) for i in among}
        least = min(fewer, key=lambda i: fewer[i][1])
        costly = [i for i in bases if i in among and fewer[i][1] <= most]
        gone = min(costly, key=lambda i: fewer[i][1]) if costly else least
        if fewer[gone][1] > most:
            break
        weights = fewer[gone][0]
        among.remove(gone)
    return weights, among


def noised_targets(half: Maps) -> Maps:
    """Those of a half of the targets that weights are fitted from, evenly spread."""
    most = max(LEAST_TARGETS // 2, -(-ENOUGH // (2 * half[0].numel())))
    if len(half) <= most:
        return half
    return half[torch.arange(most) * len(half) // most]


def calibrate_timestep(
    targets: Maps,
    base: Base,
    folds: Sequence[TargetExperts],
    mean: Map,
    t: int,
    spec: CalibrationSpec,
    symmetries: Sequence[Symmetry],
    root: int,
) -> tuple[Float[Tensor, "bands experts"], Gate, tuple[Maps, Maps]]:
    """Fit weights and gate of one timestep on noised targets; `folds[p]` has not seen `p::2`.

    Also return their estimates of the noised targets, and these as they are, about the mean.

    Targets are noised `spec.draws` times, or as often as `ENOUGH` numbers take: the regression
    counts modes, and larger maps have more of each band. Of larger ones still fewer are noised,
    `LEAST_TARGETS` at least, evenly through the set. Experts that the first draw prunes are not
    evaluated in the others.
    """
    alpha, sigma = float(base.schedule.alpha[t]), float(base.schedule.sigma[t])
    knots = band_knots(targets.shape[-2], targets.shape[-1], spec.bands)
    seen = [noised_targets(targets[parity::2]) for parity in range(2)]
    groups = [
        Groups.of(fitted.assign(own).cpu(), len(fitted.clusters), targets.device)
        for fitted, own in zip(folds, seen, strict=True)
    ]
    system: NormalEquations | None = None
    noised: list[list[tuple[Tensor, list[int], Maps]]] = [[], []]
    among = list(range(len(experts_of(base, folds[0], groups[0]))))
    others = range(len(EXPERTS), len(EXPERTS) + len(further(folds[0].context)))
    weights = torch.empty(0)
    for draw in range(min(spec.draws, -(-ENOUGH // targets.numel()))):
        modes, clean = [], []
        for parity, fitted in enumerate(folds):
            element = (2 * draw + parity) * 3 % orbit_size(symmetries)  # 3 is coprime to 1, 2, 4, 8
            x0 = transform(seen[parity], element, symmetries)
            seed = (t * spec.draws + draw) * 2 + parity
            x_t = alpha * x0 + sigma * normal_like(x0, root, seed, Stream.CALIBRATION)
            experts = experts_of(base, fitted, groups[parity])
            modes.append(expert_modes(x_t, t, [experts[i] for i in among], mean))
            clean.append(torch.fft.fft2(x0 - mean))
            noised[parity].append((modes[-1], among.copy(), x0 - mean))
        found = NormalEquations.of(torch.cat(modes, dim=1), torch.cat(clean), knots)
        system = found if system is None else system.plus(found, among)
        weights, among = pruned(system, among, spec.ridge, spec.prune_tolerance, (BASE, *others))
    kept = [
        torch.cat([modes[[which.index(i) for i in among]] for modes, which, _ in fold], dim=1)
        for fold in noised
    ]
    details = [torch.cat([x0 for *_, x0 in fold]) for fold in noised]
    gate = fit_gate(kept, details, weights[:, among])
    y, x = targets.shape[-2:]
    hats = hat_functions(knots, y, x)[..., : x // 2 + 1]
    gains = torch.einsum("be,byx->eyx", weights[:, among].float().cpu(), hats).to(targets)
    local = on_device(gate.gains(range(len(among)), y, x), targets.device)
    estimates = torch.cat(
        [combined(modes[..., : x // 2 + 1], gains, local, y, x) for modes in kept]
    )
    every = torch.zeros(*gate.weights.shape[:-1], weights.shape[1])
    every[..., among] = gate.weights
    return weights.float().cpu(), replace(gate, weights=every), (estimates, torch.cat(details))
