"""Guided-diffusion checkpoints that cannot be used: what is wrong, listed or named."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ood_core.errors import BaseModelError
from ood_core.models.guided_layout import from_guided, is_guided
from tests.oracles.guided_unet import DOG, Settings, random_network, shapes_only

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def dog() -> State:
    return random_network(DOG).state_dict()


def test_the_layout_is_told_by_its_names(dog: State) -> None:
    assert is_guided(dog)
    assert not is_guided(from_guided(dog, **DOG.untold()).state)
    assert not is_guided({"down.0.block.0.conv1.weight": torch.zeros(8, 8, 3, 3)})


def test_every_misfit_is_listed(dog: State) -> None:
    state = dict(dog)
    del state["input_blocks.2.0.out_layers.3.bias"], state["middle_block.1.qkv.weight"]
    state["output_blocks.0.0.skip_connection.weight"] = torch.zeros(64, 128, 3, 3)
    state["input_blocks.2.0.op.weight"] = torch.zeros(32, 32, 3, 3)
    with pytest.raises(BaseModelError) as caught:
        from_guided(state, **DOG.untold())
    message = str(caught.value)
    for misfit in (
        "2 missing (input_blocks.2.0.out_layers.3.bias, middle_block.1.qkv.weight)",
        "1 of another shape (output_blocks.0.0.skip_connection.weight has (64, 128, 3, 3), not",
        "1 left over (input_blocks.2.0.op.weight)",
        "expected those of an unconditional guided-diffusion network",
    ):
        assert misfit in message


def test_a_long_list_is_cut(dog: State) -> None:
    state = {key: value for key, value in dog.items() if not key.endswith(".bias")}
    lost = len(dog) - len(state)
    with pytest.raises(BaseModelError, match=rf"{lost} missing .* and {lost - 8} more\)"):
        from_guided(state, **DOG.untold())


def without(*patterns: str) -> Callable[[State], State]:
    """Drop the keys that begin with one of the patterns."""
    return lambda state: {k: v for k, v in state.items() if not re.match("|".join(patterns), k)}


def having(**tensors: Tensor) -> Callable[[State], State]:
    return lambda state: state | {key.replace("__", "."): value for key, value in tensors.items()}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (having(label_emb__weight=torch.zeros(10, 128)), "class-conditional.*class_cond=True"),
        (without(r"input_blocks\.(2|4|6)\."), r"input_blocks \[2, 4, 6\].*conv_resample=False"),
        (without(r"output_blocks\.3\."), r"no weights for output_blocks \[3\]"),
        (without(r"output_blocks\.7\."), "got 8 input_blocks and 7 output_blocks"),
        (without(r"output_blocks\.3\.1\."), "attention in some blocks of level 2 and none"),
        (without(r"input_blocks\.5\.1\."), "attention in some blocks of level 2 and none"),
        (without(""), "no input_blocks or no output_blocks"),
        (without(r"time_embed\.0\.weight"), r"got none for time_embed\.0\.weight"),
        (
            having(input_blocks__0__0__weight=torch.zeros(32)),
            r"got shape \(32,\) for input_blocks\.0\.0\.weight; expected 4 axes",
        ),
    ],
)
def test_other_networks_are_refused(
    dog: State, spoil: Callable[[State], State], message: str
) -> None:
    with pytest.raises(BaseModelError, match=message):
        from_guided(spoil(dict(dog)), **DOG.untold())


def test_multipliers_that_diffusers_lacks_are_refused() -> None:
    state = shapes_only(replace(DOG, width=64, multipliers=(0.5, 1))).state_dict()
    with pytest.raises(BaseModelError, match="64 channels in the time.*32.*channel_mult"):
        from_guided(state, size=16)


def test_networks_that_upsample_are_refused(dog: State) -> None:
    state = dog | {"input_blocks.0.0.weight": torch.zeros(32, 12, 3, 3)}
    with pytest.raises(BaseModelError, match="from 12 to 6 channels.*upsample a smaller image"):
        from_guided(state, size=16)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"head_channels": 24}, r"head_channels=24; expected a divisor of .*\[64\]"),
        ({"head_channels": 0}, "head_channels=0; expected a divisor"),
        ({"heads": 5}, r"heads=5; expected a divisor of .*\[64\]"),
        ({"size": None}, r"got no size.*\(32, 32, 64, 64\); expected the side"),
        ({"size": 20}, "got size 20; expected a multiple of 8"),
        ({"size": 0}, "got size 0; expected a multiple of 8"),
        ({"noise_schedule": "zigzag"}, "noise_schedule 'zigzag'; expected one of"),
    ],
)
def test_arguments_that_do_not_suit_are_refused(
    dog: State, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(BaseModelError, match=message):
        from_guided(dog, **DOG.untold() | wrong)


def test_heads_whose_width_differs_between_levels_are_refused() -> None:
    state = shapes_only(Settings(multipliers=(1, 2, 4), attention=frozenset({2}))).state_dict()
    with pytest.raises(BaseModelError, match=r"heads=4 .*\[64, 128\].*UNet2DModel cannot express"):
        from_guided(state, size=16, heads=4)
    assert from_guided(state, size=16, head_channels=16).unet["attention_head_dim"] == 16
