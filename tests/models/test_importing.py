"""Import of checkpoints: weights that do not fit, places that cannot be written, nothing left."""

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ood_core.errors import BaseModelError
from ood_core.models.ho_layout import from_ho
from ood_core.models.imported import write_imported
from ood_core.models.importing import ImportOptions, import_checkpoint
from ood_core.models.loading import load_model
from tests.oracles.guided_unet import DOG, random_network
from tests.oracles.ho_unet import HoUnet, randomised
from tests.strategies import randn

State = dict[str, Tensor]


def weights() -> State:
    return randomised(HoUnet(64, (1, 2), 1, {1}, 1)).state_dict()


def without(state: State, *names: str) -> State:
    return {name: value for name, value in state.items() if name not in names}


def one_bad_number(state: State) -> State:
    spoilt = state["mid.attn_1.q.bias"].clone()
    spoilt[3] = torch.nan
    return {**state, "mid.attn_1.q.bias": spoilt}


BAD: dict[str, tuple[Callable[[State], State], str]] = {
    "missing": (
        lambda s: without(s, "mid.attn_1.q.bias"),
        r"got 1 missing \(mid_block\.attentions\.0\.to_q\.bias\); expected exactly",
    ),
    "left over": (
        lambda s: {**s, "extra.weight": torch.ones(1)},
        r"got 1 left over \(extra\.weight \(not of this layout\)\); expected",
    ),
    "by its name in diffusers": (
        lambda s: {**s, "conv_norm_out.weight": torch.ones(64)},
        r"got 1 left over \(conv_norm_out\.weight \(not of this layout\)\); expected",
    ),
    "of another shape": (
        lambda s: {**s, "norm_out.bias": torch.ones(65)},
        r"got 1 of another shape \(conv_norm_out\.bias has \(65,\), not \(64,\)\); expected",
    ),
    "all three at once": (
        lambda s: {
            **without(s, "conv_out.bias"),
            "extra": torch.ones(1),
            "norm_out.bias": torch.ones(65),
        },
        r"got 1 missing \(conv_out\.bias\); 1 left over \(extra .*\); 1 of another shape \(conv",
    ),
    "not a number": (one_bad_number, r"got 1 not of finite numbers \(mid_block\.attentions\.0"),
    "integers": (
        lambda s: {**s, "norm_out.bias": torch.ones(64, dtype=torch.int8)},
        r"got 1 not of finite numbers \(conv_norm_out\.bias\)",
    ),
    "too large for float32": (
        lambda s: {**s, "norm_out.bias": torch.full((64,), 1e39, dtype=torch.float64)},
        r"got 1 not of finite numbers \(conv_norm_out\.bias\)",
    ),
    "sparse": (
        lambda s: {**s, "norm_out.bias": torch.ones(64).to_sparse()},
        r"got 1 not of finite numbers \(conv_norm_out\.bias\)",
    ),
    "no input": (lambda s: without(s, "conv_in.weight"), r"got conv_in\.weight missing; expected"),
    "no width": (
        lambda s: without(s, "down.1.block.0.conv1.weight"),
        r"got down\.1\.block\.0\.conv1\.weight missing; expected the kernels",
    ),
    "flat input": (
        lambda s: {**s, "conv_in.weight": torch.ones(32)},
        r"got conv_in\.weight of shape \(32,\); expected the kernels",
    ),
    "variances": (
        lambda s: {
            **s,
            "conv_out.weight": s["conv_out.weight"].repeat(2, 1, 1, 1),
            "conv_out.bias": s["conv_out.bias"].repeat(2),
        },
        "got 2 output channels for 1 input channels; expected as many",
    ),
    "odd width": (
        lambda s: {n: v[:24] if n == "down.0.block.0.conv1.weight" else v for n, v in s.items()},
        "got layers that make no UNet2DModel .*; expected those of a whole network",
    ),
    "pooled instead of strided": (
        lambda s: without(s, "down.0.downsample.conv.weight", "down.0.downsample.conv.bias"),
        r"got 2 missing \(down_blocks\.0\.downsamplers\.0\.conv\.bias",
    ),
    "wide shortcuts": (
        lambda s: {n.replace("nin_shortcut", "conv_shortcut"): v for n, v in s.items()},
        r"missing \(down_blocks\.1.*left over \(down\.1\.block\.0\.conv_shortcut\.bias \(not",
    ),
    "half of it": (
        lambda s: {n: v for n, v in s.items() if not n.startswith("up.1")},
        r"got \d\d missing \(up_blocks\.0.* and \d\d more\)",
    ),
    "another layout": (
        lambda s: {f"encoder.{name}": value for name, value in s.items()},
        r"got weights named encoder\..* and \d+ more; expected a layout of Ho et al\. 2020",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_weights_that_do_not_fit_are_refused_and_nothing_is_written(
    spoil: Callable[[State], State], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "any.ckpt"
    torch.save(spoil(weights()), path)
    with pytest.raises(BaseModelError, match=message) as refusal:
        import_checkpoint(path, tmp_path / "new" / "base")
    assert str(refusal.value).startswith(str(path))
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    imported = from_ho(weights())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    for folder in (tmp_path / "full", tmp_path / "full" / "mine"):
        with pytest.raises(BaseModelError, match="which holds something; expected a new folder"):
            write_imported(imported, folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine"]
    (tmp_path / "empty").mkdir()
    write_imported(imported, tmp_path / "empty")
    assert load_model(str(tmp_path / "empty")).channels == 1


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """A limit on the size of files stops the writer in the middle of the weights."""
    imported = from_ho(weights())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(BaseModelError, match="cannot write .*make room"):
            write_imported(imported, tmp_path / "base")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_a_written_base_can_be_read_by_others(tmp_path: Path) -> None:
    """Modes are those of any new folder and file, not those of private ones."""
    write_imported(from_ho(weights()), tmp_path / "base")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "base", *(tmp_path / "base").rglob("*")):
        plain = tmp_path / ("folder" if path.is_dir() else "file")
        assert path.stat().st_mode == plain.stat().st_mode, path


def test_guided_checkpoints_are_told_by_their_names(tmp_path: Path) -> None:
    """The imported base, loaded, computes what the independent network does, in float32."""
    network = random_network(DOG)
    torch.save(network.state_dict(), tmp_path / "any.pt")
    known = ImportOptions(size=16, head_channels=DOG.head_channels)
    origin = import_checkpoint(tmp_path / "any.pt", tmp_path / "base", known)
    assert origin.layout == "Dhariwal & Nichol 2021"
    base, x_t = load_model(str(tmp_path / "base")), randn(2, DOG.channels, 16, 16)
    with torch.no_grad():
        expected = network(x_t, torch.tensor([300, 300]))[:, : DOG.channels]
        got = base.denoiser.network(x_t.float(), 300).sample
    # Float32 rounds at 6e-8; some hundred operations in series.
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-5
