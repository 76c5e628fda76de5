"""Training of a base on several workers: Ray Train and torch's distributed data parallelism."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from actors.ray_cluster import connect
from actors.training import run_training
from ood_core.config.pretraining import PretrainSpec
from ood_core.errors import ConfigError
from ood_core.pretraining.trainer import Share


def train_on_workers(spec: PretrainSpec, work: Path, commit: str, workers: int, gpu: bool) -> None:
    """Train to the last step on `workers` workers, resuming from `work`, which all can reach.

    Raises:
        ConfigError: Ray Train is not installed, or the batch cannot be shared equally.
    """
    if spec.batch % workers:
        raise ConfigError(f"got batch {spec.batch}; expected a multiple of {workers} workers")
    try:
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
    except ImportError as error:
        raise ConfigError(
            "more than one training worker needs Ray Train: pip install 'farfield[train]'"
        ) from error
    connect(workers)
    trainer = TorchTrainer(
        _loop,
        train_loop_config={"spec": asdict(spec), "work": str(work.absolute()), "commit": commit},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
        run_config=RunConfig(name=spec.name, storage_path=str(work.absolute() / "ray")),
    )
    trainer.fit()


def _loop(config: dict[str, Any]) -> None:
    """Body of one worker."""
    from ray.train import get_context
    from ray.train.torch import get_device, prepare_model

    context = get_context()
    wrap: Callable[[torch.nn.Module], torch.nn.Module] = prepare_model
    share = Share(context.get_world_rank(), context.get_world_size(), wrap)
    spec = PretrainSpec(**config["spec"])
    run_training(spec, Path(config["work"]), config["commit"], str(get_device()), share, _mean)


def _mean(loss: float) -> float:
    """Average a number over the workers."""
    total = torch.tensor(loss)
    distributed.all_reduce(total)
    return float(total) / distributed.get_world_size()
