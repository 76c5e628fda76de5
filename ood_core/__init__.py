"""The method, in memory: targets in, synthetic maps and their evaluation out.

    import ood_core as ff

    targets = ff.TargetSet.read("clouds/*.fits", transform="asinh", held_out=0.5)
    model = ff.load_model("models/dead-leaves-32")
    synth = ff.Synthesizer(model, ff.Method(steps=12)).fit(targets, seed=0)
    maps = synth.sample(256)
    print(ff.evaluate(maps, targets).summary)

Names are imported when they are first used, since most of them need torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ood_core.config.method import CalibrationSpec, DrawSpec, Method, SteeringSpec
    from ood_core.config.steer import SteerSpec, WishSpec
    from ood_core.config.targets import CutoutsSpec, MissingSpec, TilesSpec
    from ood_core.evaluation.evaluate import evaluate
    from ood_core.evaluation.results import EvaluationResult
    from ood_core.exporting.exports import write_maps
    from ood_core.maps.target_set import TargetSet
    from ood_core.models.loading import BaseModel, load_model
    from ood_core.synthesis.injection import Injected, inject
    from ood_core.synthesis.synthesizer import Synthesizer
    from ood_core.synthesis.trust import Trust

_PLACES = {
    "BaseModel": "models.loading",
    "CalibrationSpec": "config.method",
    "CutoutsSpec": "config.targets",
    "DrawSpec": "config.method",
    "EvaluationResult": "evaluation.results",
    "Injected": "synthesis.injection",
    "Method": "config.method",
    "MissingSpec": "config.targets",
    "SteerSpec": "config.steer",
    "SteeringSpec": "config.method",
    "Synthesizer": "synthesis.synthesizer",
    "TargetSet": "maps.target_set",
    "TilesSpec": "config.targets",
    "Trust": "synthesis.trust",
    "evaluate": "evaluation.evaluate",
    "WishSpec": "config.steer",
    "inject": "synthesis.injection",
    "load_model": "models.loading",
    "write_maps": "exporting.exports",
}

__all__ = [
    "BaseModel",
    "CalibrationSpec",
    "CutoutsSpec",
    "DrawSpec",
    "EvaluationResult",
    "Injected",
    "Method",
    "MissingSpec",
    "SteerSpec",
    "SteeringSpec",
    "Synthesizer",
    "TargetSet",
    "TilesSpec",
    "Trust",
    "WishSpec",
    "evaluate",
    "inject",
    "load_model",
    "write_maps",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"ood_core.{_PLACES[name]}"), name)
