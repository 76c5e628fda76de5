"""Weights and networks of folders: exactly those that fit, and nothing that runs."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file

from ood_core.errors import BaseModelError
from ood_core.models.loading import load_model
from tests.strategies import randn

SAFE, PICKLED = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"
State = dict[str, torch.Tensor]


def unet(**settings: Any) -> UNet2DModel:
    """Two levels with attention, small enough to be read in no time."""
    small: dict[str, Any] = {
        "sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1,
        "block_out_channels": (8, 8), "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return UNet2DModel(**small | settings)


def save(folder: Path, network: UNet2DModel) -> str:
    network.save_pretrained(folder)
    diffusers.DDPMScheduler().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def _saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "base"
    save(folder, unet())
    return folder


@pytest.fixture
def base(_saved: Path, tmp_path: Path) -> Path:
    """A copy to be spoiled."""
    return Path(shutil.copytree(_saved, tmp_path / "base"))


def rewrite(folder: Path, change: Callable[[State], State]) -> None:
    save_file(change(load_file(folder / SAFE)), folder / SAFE)


def as_pickle(folder: Path, content: Any, **options: Any) -> None:
    (folder / SAFE).unlink()
    torch.save(content, folder / PICKLED, **options)


def answer(folder: Path) -> torch.Tensor:
    return load_model(str(folder)).denoiser(randn(2, 1, 8, 8).float(), 300)


def test_one_error_names_all_that_does_not_fit(base: Path) -> None:
    def spoil(state: State) -> State:
        del state["conv_in.bias"], state["conv_norm_out.weight"]
        state["conv_out.weight"] = state["conv_out.weight"][:, :4].contiguous()
        return state | {"stranger.weight": torch.ones(2)}

    rewrite(base, spoil)
    with pytest.raises(BaseModelError) as refusal:
        load_model(str(base))
    message = str(refusal.value)
    assert "2 missing (conv_in.bias, conv_norm_out.weight)" in message
    assert "1 left over (stranger.weight)" in message
    assert "1 of another shape (conv_out.weight has (1, 4, 3, 3), not (1, 8, 3, 3))" in message


def test_a_long_list_is_cut(base: Path) -> None:
    rewrite(base, lambda state: {f"unet.{name}": value for name, value in state.items()})
    with pytest.raises(BaseModelError, match=r"missing .* and \d+ more.*left over") as refusal:
        load_model(str(base))
    assert len(str(refusal.value)) < 1500


@pytest.mark.parametrize("cut", [0, 5, 1000, -1])
def test_a_file_that_is_cut_short_is_refused(base: Path, cut: int) -> None:
    whole = (base / SAFE).read_bytes()
    (base / SAFE).write_bytes(whole[:cut])
    with pytest.raises(BaseModelError, match=f"cannot read {SAFE}.*fetch it again"):
        load_model(str(base))


def test_a_damaged_header_is_refused(base: Path) -> None:
    data = bytearray((base / SAFE).read_bytes())
    data[8:24] = b"\xff" * 16
    (base / SAFE).write_bytes(data)
    with pytest.raises(BaseModelError, match=f"cannot read {SAFE}"):
        load_model(str(base))


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_weights_give_the_same_answers(base: Path, zipped: bool) -> None:
    expected = answer(base)
    as_pickle(base, load_file(base / SAFE), _use_new_zipfile_serialization=zipped)
    assert torch.equal(answer(base), expected)


def test_safetensors_win_over_a_pickle(base: Path) -> None:
    expected = answer(base)
    torch.save({}, base / PICKLED)
    assert torch.equal(answer(base), expected)


class Trap:
    """Makes a folder when a pickle of it is read without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("plain", [True, False])
def test_a_pickle_that_would_run_code_is_refused_unrun(
    base: Path, tmp_path: Path, plain: bool
) -> None:
    mark, file = tmp_path / "sprung", base / PICKLED
    content = {**load_file(base / SAFE), "trap": Trap(mark)}
    as_pickle(base, content)
    if plain:
        file.write_bytes(pickle.dumps(content))
    with pytest.raises(BaseModelError, match=r"damaged or would run code.*safetensors"):
        load_model(str(base))
    assert not mark.exists()
    if plain:
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert mark.exists()  # the trap is real


@pytest.mark.parametrize("cut", [0, 100, -100])
def test_a_pickle_that_is_cut_short_is_refused(base: Path, cut: int) -> None:
    as_pickle(base, load_file(base / SAFE))
    whole = (base / PICKLED).read_bytes()
    (base / PICKLED).write_bytes(whole[:cut])
    with pytest.raises(BaseModelError, match="damaged"):
        load_model(str(base))


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"step": 3}, [1.0], torch.ones(2)])
def test_a_pickle_of_other_things_is_refused(base: Path, content: Any) -> None:
    as_pickle(base, content)
    with pytest.raises(BaseModelError, match=r"of other things than tensors.*state_dict\(\) alone"):
        load_model(str(base))


def test_names_of_early_diffusers_are_understood(base: Path) -> None:
    expected = answer(base)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(name: str) -> str:
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        return name

    rewrite(base, lambda state: {rename(name): value for name, value in state.items()})
    assert any(".query." in name for name in load_file(base / SAFE))
    assert torch.equal(answer(base), expected)


def test_frequencies_of_ncsnpp_that_are_stored_twice_are_read_once(tmp_path: Path) -> None:
    unet(time_embedding_type="fourier").save_pretrained(tmp_path)
    diffusers.ScoreSdeVeScheduler().save_pretrained(tmp_path)
    expected = answer(tmp_path)
    rewrite(tmp_path, lambda state: state | {"time_proj.W": state["time_proj.weight"].clone()})
    assert torch.equal(answer(tmp_path), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"out_channels": 3}, "1 input and 3 output channels; expected as many"),
        ({"num_class_embeds": 4}, "got a UNet2DModel with classes.*expected an unconditional"),
        ({"class_embed_type": "timestep"}, "got a UNet2DModel with classes"),
        ({"sample_size": None}, "without sample_size"),
    ],
)
def test_networks_that_a_run_cannot_use_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(BaseModelError, match=message):
        load_model(save(tmp_path, unet(**settings)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_embedding_type": "zigzag"}, "config.json that makes no UNet2DModel"),
        ({"down_block_types": ["NoBlock", "DownBlock2D"]}, "config.json that makes no UNet2DModel"),
        ({"block_out_channels": [8, 8, 8]}, "config.json that makes no UNet2DModel"),
        ({"patch_size": 2}, "patch_size 2 and 1 channels; expected a multiple of 4"),
    ],
)
def test_a_configuration_that_makes_no_network_is_refused(
    base: Path, change: dict[str, Any], message: str
) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(BaseModelError, match=message):
        load_model(str(base))


def test_a_list_where_a_configuration_should_be_is_refused(base: Path) -> None:
    (base / "config.json").write_text("[]")
    with pytest.raises(BaseModelError, match=r"cannot read config.json \(a list, not an object\)"):
        load_model(str(base))


@pytest.mark.parametrize("pickled", [False, True])
def test_the_hub_is_asked_for_pickles_only_where_there_is_nothing_else(
    base: Path, monkeypatch: pytest.MonkeyPatch, pickled: bool
) -> None:
    asked: list[list[str]] = []

    def download(source: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(base)

    expected = answer(base)
    if pickled:
        as_pickle(base, load_file(base / SAFE))
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    found = load_model("someone/something")
    assert torch.equal(found.denoiser(randn(2, 1, 8, 8).float(), 300), expected)
    assert [any("bin" in pattern for pattern in call) for call in asked] == [False, True][
        : 1 + pickled
    ]
