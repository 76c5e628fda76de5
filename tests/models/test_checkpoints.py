"""Checkpoint files: where their weights are, and what is refused without being run."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ood_core.errors import BaseModelError
from ood_core.models.checkpoints import read_checkpoint


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(2, 3, 3), nn.GroupNorm(1, 3))


MODEL, AVERAGE = network(1).state_dict(), network(2).state_dict()


def prefixed(head: str, state: dict[str, Any]) -> dict[str, Any]:
    return {f"{head}.{name}": value for name, value in state.items()}


def optimiser() -> dict[str, Any]:
    """State of an optimiser that has made a step: tensors that are no weights."""
    trained = network(1)
    adam = torch.optim.Adam(trained.parameters())
    trained(torch.ones(1, 2, 4, 4)).sum().backward()
    adam.step()
    return adam.state_dict()


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def is_state(got: dict[str, torch.Tensor], expected: dict[str, Any]) -> bool:
    return got.keys() == expected.keys() and all(torch.equal(got[k], expected[k]) for k in got)


def test_the_two_states_can_be_told_apart() -> None:
    assert not is_state(MODEL, AVERAGE)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ([MODEL, optimiser(), 3, 4, AVERAGE], "[4]"),
        ([prefixed("module", MODEL), optimiser(), 3, 4, AVERAGE], "[4]"),
        ({"model": MODEL, "optimizer": optimiser(), "ema": AVERAGE}, "ema"),
        ({"ema": AVERAGE, "state_dict": MODEL, "step": torch.tensor(4)}, "ema"),
        ({"model": MODEL, "ema": {"decay": 0.9, "shadow": AVERAGE}}, "ema.shadow"),
        ({"model": MODEL, "ema": {"module": prefixed("module", AVERAGE)}}, "ema.module.module"),
        ({"state_dict": {"model": MODEL, "model_ema": AVERAGE}}, "state_dict.model_ema"),
        ({"model": [MODEL, AVERAGE]}, "model[1]"),
        (
            {
                "model": MODEL,
                "ema": {
                    "step": torch.tensor(4),
                    **prefixed("online_model.model", MODEL),
                    **prefixed("ema_model.model", AVERAGE),
                },
            },
            "ema.ema_model.model",
        ),
    ],
)
def test_the_average_is_found_and_preferred(tmp_path: Path, content: Any, place: str) -> None:
    found = read_checkpoint(saved(tmp_path / "any.ckpt", content))
    assert is_state(found.state, AVERAGE)
    assert found.place == place


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (MODEL, "top level"),
        (prefixed("module", MODEL), "module"),
        (prefixed("module.model", MODEL), "module.model"),
        ([MODEL, optimiser(), 3, 4], "[0]"),
        ({"model": MODEL, "optimizer": optimiser(), "ema": None}, "model"),
        ({"state_dict": MODEL, "ema": 0.999}, "state_dict"),
        ({"state_dict": prefixed("model", MODEL), "ema": {}}, "state_dict.model"),
        ({**MODEL, "epoch": 3}, "top level"),
    ],
)
def test_without_an_average_the_weights_are_taken(tmp_path: Path, content: Any, place: str) -> None:
    found = read_checkpoint(saved(tmp_path / "any.ckpt", content))
    assert is_state(found.state, MODEL)
    assert found.place == place


def test_a_prefix_that_only_some_names_have_stays(tmp_path: Path) -> None:
    mixed = {**prefixed("module", MODEL), "other.weight": torch.ones(2)}
    assert is_state(read_checkpoint(saved(tmp_path / "any.ckpt", mixed)).state, mixed)


def test_older_torch_files_and_safetensors_are_read(tmp_path: Path) -> None:
    old = saved(tmp_path / "old.ckpt", MODEL, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(old)
    assert is_state(read_checkpoint(old).state, MODEL)
    save_file(prefixed("module", MODEL), tmp_path / "any.bin")  # known by its bytes, not its name
    assert is_state(read_checkpoint(tmp_path / "any.bin").state, MODEL)


class Trap:
    """What a hostile file holds: an object whose reading makes a folder."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.made),)


def write_trap(kind: str, path: Path, made: Path) -> None:
    content = {**MODEL, "epoch": Trap(made)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_not_run(kind: str, tmp_path: Path) -> None:
    made, path = tmp_path / "made", tmp_path / "trap.ckpt"
    write_trap(kind, path, made)
    with pytest.raises(BaseModelError, match="cannot be read .*expected tensors.*fetch the file"):
        read_checkpoint(path)
    assert not made.exists()
    # The trap is live: a reader that runs what it reads falls into it.
    if kind == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert made.is_dir()


def test_what_a_file_asks_to_run_is_named(tmp_path: Path) -> None:
    write_trap("zip", tmp_path / "trap.ckpt", tmp_path / "made")
    with pytest.raises(BaseModelError, match=r"it asks for posix\.mkdir, which may run code"):
        read_checkpoint(tmp_path / "trap.ckpt")


@pytest.mark.parametrize(
    "content",
    [b"", bytes(4096), b"{}", b"PK\x03\x04" + bytes(100), b"\x80\x02]q\x00.", b"not a checkpoint"],
    ids=["empty", "zeros", "json", "zip magic", "a pickle", "text"],
)
def test_files_of_no_tensors_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "any.ckpt").write_bytes(content)
    with pytest.raises(BaseModelError, match=r"any\.ckpt: cannot be read \(.+\); expected"):
        read_checkpoint(tmp_path / "any.ckpt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r"no tensors with names \(top level\)"),
        ([1, 2.0, "text"], r"no tensors with names \(top level\)"),
        (optimiser(), r"no tensors with names \(top level\)"),
        ([torch.ones(2)], r"no tensors with names \(top level\)"),
        ({"model": MODEL, "ema": {"shadow_params": [torch.ones(2)]}}, r"no tensors .*\(ema\)"),
        ({"model": MODEL, "ema": [torch.ones(2)]}, r"no tensors with names \(ema\)"),
    ],
)
def test_tensors_without_names_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=rf"{message}; expected a state dict.*save the"):
        read_checkpoint(saved(tmp_path / "any.ckpt", content))


def test_content_that_holds_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    with pytest.raises(BaseModelError, match="no tensors with names"):
        read_checkpoint(saved(tmp_path / "any.ckpt", content))


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.ckpt", tmp_path):
        with pytest.raises(BaseModelError, match="no file .*expected a torch or safetensors"):
            read_checkpoint(path)


def outcome(path: Path) -> dict[str, torch.Tensor] | None:
    """The weights read, or None for a refusal; any other error fails the test."""
    try:
        return read_checkpoint(path).state
    except BaseModelError:
        return None


WRITERS = {
    "zip": lambda path: torch.save(MODEL, path),
    "legacy": lambda path: torch.save(MODEL, path, _use_new_zipfile_serialization=False),
    "safetensors": lambda path: save_file(MODEL, path),
}


@pytest.mark.parametrize("kind", list(WRITERS))
def test_a_truncated_file_is_refused_wherever_it_ends(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "whole"
    WRITERS[kind](path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 1 + len(whole) // 60):
        (tmp_path / "cut").write_bytes(whole[:length])
        assert outcome(tmp_path / "cut") is None, length


def test_a_changed_byte_never_changes_the_weights_unseen(tmp_path: Path) -> None:
    """Zip files have checksums: a changed byte is seen, or lies where it does not matter."""
    path = tmp_path / "whole"
    torch.save(MODEL, path)
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), 1 + len(whole) // 150):
        data = bytearray(whole)
        data[place] ^= 0x55
        (tmp_path / "spoilt").write_bytes(data)
        state = outcome(tmp_path / "spoilt")
        assert state is None or is_state(state, MODEL), place
        refused += state is None
    assert refused


def test_a_changed_weight_is_seen_where_torch_does_not_look(tmp_path: Path) -> None:
    path = tmp_path / "spoilt"
    torch.save(MODEL, path)
    weight = MODEL["0.weight"].numpy().tobytes()
    path.write_bytes(path.read_bytes().replace(weight, b"\x00" + weight[1:]))
    assert not is_state(torch.load(path, weights_only=True), MODEL)
    with pytest.raises(BaseModelError, match="wrong checksum of .*data"):
        read_checkpoint(path)


def test_sizes_are_limited_in_the_file_and_unpacked(tmp_path: Path) -> None:
    plain = saved(tmp_path / "plain", MODEL)
    size = plain.stat().st_size
    assert is_state(read_checkpoint(plain, size).state, MODEL)
    with pytest.raises(BaseModelError, match=rf"got {size} bytes; expected at most {size - 1}"):
        read_checkpoint(plain, size - 1)
    wide = saved(tmp_path / "wide", {"weight": torch.zeros(1).expand(10**4, 10**4)})
    assert wide.stat().st_size < 10**4
    with pytest.raises(BaseModelError, match="got 400000000 bytes; expected at most 10000;"):
        read_checkpoint(wide, 10**4)
    packed = tmp_path / "packed"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    with pytest.raises(BaseModelError, match="packed members"):
        read_checkpoint(packed, 10**4)
