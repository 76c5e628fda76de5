"""Calibration of a run: the experts' weights per level and band."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.denoising.calibrated import EXPERTS, BandWeights
from ood_core.errors import IdentityRefused
from ood_core.store.run import RunStore

PATCHES = "patches "
"""Names of experts that are mixtures over patches begin so; they follow the fixed experts."""


def read_calibration(run: RunStore) -> BandWeights:
    """Read the band weights of a run, each expert's by its stored name.

    Raises:
        IdentityRefused: the run has weights of an expert that this version does not know.
    """
    table = run.table("calibrate")
    words = table.attributes
    stored = torch.from_numpy(table.read("weights"))
    return BandWeights(
        noise_to_signal=torch.from_numpy(table.read("noise_to_signal")),
        knots=torch.tensor(words["knots"]),
        weights=by_name(stored, words["experts"], str(run.root)),
    )


def by_name(
    weights: Float[Tensor, "levels bands stored"], names: Sequence[str], source: str
) -> Float[Tensor, "levels bands experts"]:
    """Weights in the order of `EXPERTS`, then of the mixtures over patches as they are stored.

    A fixed expert that was not there when the weights were stored has weight 0.

    Raises:
        IdentityRefused: a stored name is not known.
    """
    columns = {name: weights[..., number] for number, name in enumerate(names)}
    patches = [name for name in names if name.startswith(PATCHES)]
    if unknown := set(names) - set(EXPERTS) - set(patches):
        raise IdentityRefused(
            f"{source}: got calibration weights of {', '.join(sorted(unknown))}; expected "
            f"{', '.join(EXPERTS)} or patches: use the version that planned the run"
        )
    none = torch.zeros(weights.shape[:-1], dtype=weights.dtype)
    return torch.stack([columns.get(name, none) for name in (*EXPERTS, *patches)], dim=-1)
