"""Files of a base made to do harm: large, deep or armed when read without care."""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.hostile.attack_parts import Trap, edited


def base(place: Path, config: dict[str, Any], scheduler: dict[str, Any]) -> Path:
    from ood_core.models.networks import make_unet, save_base

    save_base(make_unet(8, 1, (4, 8), 1, (False, False), 4), "epsilon", place / "base")
    edited(place / "base", "unet/config.json", lambda r: r.update(config))
    return edited(place / "base", "scheduler/scheduler_config.json", lambda r: r.update(scheduler))


def base_channels(place: Path) -> Path:
    return base(place, {"block_out_channels": [10**5, 10**5]}, {})


def base_layers(place: Path) -> Path:
    return base(place, {"layers_per_block": 10**9}, {})


def base_steps(place: Path) -> Path:
    return base(place, {}, {"num_train_timesteps": 10**12})


def base_nested(place: Path) -> Path:
    folder = base(place, {}, {})
    (folder / "unet" / "config.json").write_text('{"a":' * 10**5)
    return folder


def weights(place: Path, content: bytes, name: str) -> Path:
    folder = base(place, {}, {})
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / f"diffusion_pytorch_model.{name}").write_bytes(content)
    return folder


def base_header(place: Path) -> Path:
    return weights(place, (2**60).to_bytes(8, "little") + b"{}", "safetensors")


def torch_bytes(data: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    """A torch file with this pickle in it."""
    stream = io.BytesIO()
    torch.save({}, stream)
    out = io.BytesIO()
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(out, "w", method) as new:
        for info in old.infolist():
            new.writestr(
                info.filename, data if info.filename.endswith("data.pkl") else old.read(info)
            )
    return out.getvalue()


def base_filler(place: Path) -> Path:
    """Torch's careful reader allows byte arrays, of any length."""
    length = b"J" + struct.pack("<i", 2**31 - 1)
    return weights(
        place, torch_bytes(b"\x80\x02cbuiltins\nbytearray\n" + length + b"\x85R."), "bin"
    )


def base_packed(place: Path) -> Path:
    return weights(place, torch_bytes(b"\x80\x02" + b"]" * 2**26, zipfile.ZIP_DEFLATED), "bin")


def base_lists(place: Path) -> Path:
    return weights(place, torch_bytes(b"\x80\x02" + b"]" * 2**26), "bin")


def base_wide(place: Path) -> Path:
    """One number on disk, a hundred million in memory."""
    stream = io.BytesIO()
    torch.save({"conv_in.weight": torch.zeros(1).expand(10**4, 10**4)}, stream)
    return weights(place, stream.getvalue(), "bin")


def base_trap(place: Path) -> Path:
    return weights(place, torch_bytes(pickle.dumps(Trap(place / "sprung"), protocol=2)), "bin")


BASES: dict[Callable[[Path], Path], str] = {
    base_channels: "weights do not fit the network",
    base_layers: "far more layers than there are weights",
    base_steps: "num_train_timesteps",
    base_nested: "cannot read config.json",
    base_header: "cannot read",
    base_filler: "damaged or would run code",
    base_packed: "cannot read",
    base_lists: "cannot read",
    base_wide: "got 400000000 bytes; expected at most",
    base_trap: "damaged or would run code",
}
"""Attacks by files of a base."""
