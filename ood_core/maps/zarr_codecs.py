"""Decoders of Zarr chunks that take no more memory than a chunk has.

The library's own decoders unpack what they are given, to any size, and format 2 lets a chunk pass
through any codec of numcodecs. Here chunks are unpacked into memory
of the size that they must have, by codecs of a short list.
"""

import asyncio
import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import zarr
from numcodecs import blosc, lz4, zstd
from numcodecs.abc import Codec
from numpy.typing import NDArray
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    ZstdCodec,
)

from ood_core.errors import TargetError

Bytes = NDArray[np.uint8]

_PACKED: dict[type[Any], str] = {BloscCodec: "blosc", GzipCodec: "gzip", ZstdCodec: "zstd"}
_FILTERS = ("shuffle",)


def unpack(kind: str, packed: bytes, size: int) -> Bytes:
    """Unpack a chunk of known size.

    Args:
        kind: name of the codec, as in Zarr metadata: blosc, gzip, lz4, zlib or zstd.
        packed: the chunk as stored.
        size: bytes that it must hold.

    Raises:
        ValueError: it holds another number of bytes.
        Exception: whatever its decoder raises on damaged bytes.
    """
    values = _DECODERS[kind](packed, size)
    if len(values) != size:
        raise ValueError(f"a chunk holds {len(values)} bytes or more; expected {size}")
    return values


def bounded(found: "zarr.Array[Any]", path: str) -> "zarr.Array[Any]":
    """Return the same array, of which every chunk is unpacked by `unpack`.

    Raises:
        TargetError: codecs that are not known to be harmless.
    """
    metadata: Any = found.metadata
    if metadata.zarr_format == 3:
        metadata = replace(metadata, codecs=_bounded_codecs(metadata.codecs, path))
    else:
        filters = [codec.codec_id for codec in metadata.filters or ()]
        packing = metadata.compressor and metadata.compressor.codec_id
        if not set(filters) <= set(_FILTERS) or packing not in (None, *_DECODERS):
            raise _unknown([*filters, packing], path)
        if packing is not None:
            size = math.prod(metadata.chunks) * found.dtype.itemsize
            metadata = replace(metadata, compressor=_BoundedNumcodec(packing, size))
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=found.store_path))


def _bounded_codecs(codecs: Iterable[Any], path: str, nested: bool = False) -> tuple[Any, ...]:
    """Codecs in the one order that is known: turns, numbers to bytes, packing, checksum."""
    *front, last = [codec for codec in codecs if not isinstance(codec, TransposeCodec)] or [None]
    checksum = [last] if isinstance(last, Crc32cCodec) else []
    rest = front if checksum else [*front, last]
    turns = [codec for codec in codecs if isinstance(codec, TransposeCodec)]
    match rest:
        case [BytesCodec()]:
            pass
        case [BytesCodec() as plain, packing] if type(packing) in _PACKED:
            rest = [plain, _BoundedCodec(_PACKED[type(packing)])]
        case [ShardingCodec() as shards] if not nested and _is_plain(shards.index_codecs):
            rest = [replace(shards, codecs=_bounded_codecs(shards.codecs, path, nested=True))]
        case _:
            raise _unknown([type(codec).__name__ for codec in codecs], path)
    return (*turns, *rest, *checksum)


def _is_plain(codecs: Iterable[Any]) -> bool:
    return all(isinstance(codec, BytesCodec | Crc32cCodec) for codec in codecs)


def _unknown(names: list[Any], path: str) -> TargetError:
    return TargetError(
        f"{path}: got the codecs {', '.join(map(str, names))[:200]}; expected plain or sharded "
        "numbers, packed by blosc, gzip or zstd (in format 2 also lz4 or zlib), alone or with "
        "shuffle or crc32c; save the array again with the defaults of zarr"
    )


@final
@dataclass(frozen=True)
class _BoundedCodec(BytesBytesCodec):
    """Stands in for a packing codec of format 3."""

    kind: str
    is_fixed_size = False

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        size = math.prod(chunk_spec.shape) * chunk_spec.dtype.to_native_dtype().itemsize
        values = await asyncio.to_thread(unpack, self.kind, chunk_bytes.to_bytes(), size)
        return chunk_spec.prototype.buffer.from_array_like(values)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Not known for packed chunks."""
        raise NotImplementedError


@final
class _BoundedNumcodec(Codec):  # type: ignore[misc]  # the library has no types
    """Stands in for a compressor of format 2."""

    codec_id = "bounded"  # the library asks the class for it

    def __init__(self, kind: str, size: int) -> None:
        self._kind, self._size = kind, size

    def encode(self, buf: Any) -> Any:
        """Nothing is written through it."""
        raise NotImplementedError

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Unpack a chunk."""
        return unpack(self._kind, bytes(buf), self._size)


def _blosc(packed: bytes, size: int) -> Bytes:
    return _filled(blosc.decompress, packed, size, stated=packed[4:8])


def _lz4(packed: bytes, size: int) -> Bytes:
    return _filled(lz4.decompress, packed, size, stated=packed[:4])


def _zstd(packed: bytes, size: int) -> Bytes:
    """Frames need not say how much they hold; if one byte less is enough, it is too little."""
    try:
        _filled(zstd.decompress, packed, size - 1)
    except (RuntimeError, ValueError):
        return _filled(zstd.decompress, packed, size)
    raise ValueError("a chunk holds too few bytes")


def _filled(
    decompress: Callable[..., Any], packed: bytes, size: int, stated: bytes | None = None
) -> Bytes:
    """Let a decoder fill memory of the right size; `stated` is what the chunk says it holds."""
    if stated is not None and int.from_bytes(stated, "little") != size:
        raise ValueError(f"a chunk states {int.from_bytes(stated, 'little')} bytes")
    values = np.zeros(size, np.uint8)
    decompress(packed, values)
    return values


def _gzip(packed: bytes, size: int) -> Bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
        return np.frombuffer(stream.read(size + 1), np.uint8)


def _zlib(packed: bytes, size: int) -> Bytes:
    return np.frombuffer(zlib.decompressobj().decompress(packed, size + 1), np.uint8)


_DECODERS = {"blosc": _blosc, "gzip": _gzip, "lz4": _lz4, "zlib": _zlib, "zstd": _zstd}
