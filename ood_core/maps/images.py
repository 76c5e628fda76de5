"""PNG and TIFF images as maps: pixel values as they are stored, never as they are shown.

Palettes and transparency are no values, and are refused. TIFF pages and series have axes of their
own, which are honoured, and so are missing pixels, scales and units of a GeoTIFF. The package that
reads TIFF, tifffile, is optional.
"""

import math
import os
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ood_core.errors import TargetError
from ood_core.limits import Limits
from ood_core.maps.mapset import MapSet, as_stack, listing, numbered_ids, reading, require_count

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MODES = {"1": "yx", "L": "yx", "I;16": "yx", "I": "yx", "RGB": "yxc"}
"""Modes of Pillow that hold values, and their axes."""
_GDAL_METADATA, _GDAL_NODATA = 42112, 42113
_ITEM = re.compile(r"<Item ([^<>]*)>([^<>]*)</Item>")
_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')


def is_png(path: str, head: bytes) -> bool:
    """Whether a file with these first bytes is PNG."""
    return head.startswith(_PNG)


def is_tiff(path: str, head: bytes) -> bool:
    """Whether a file with these first bytes is TIFF or BigTIFF."""
    return head.startswith(_TIFF)


def read_png(path: str, array: str | None, limits: Limits, axes: str | None = None) -> MapSet:
    """Read one map of a PNG: 1, 8 or 16 bits of grey, or three channels of 8 bits.

    Args:
        path: the file.
        array: ignored; the file holds one image.
        limits: most that may be loaded.
        axes: what its axes are, as in `as_stack`; three channels are the last of them.

    Raises:
        TargetError: a file that is damaged or too large, has a palette or transparency, or channels
            of 16 bits.
    """
    with reading(path, "PNG", "tiff"):
        from PIL import Image

        with open(path, "rb") as file:
            depth, colours = file.read(26)[24:26]
        with Image.open(path) as image:
            frames, clear = getattr(image, "n_frames", 1), "transparency" in image.info
            known = image.mode in _MODES and not (colours != 0 and depth > 8)
            if not known or clear or frames > 1:
                got = f"mode {image.mode}, {depth} bits a channel, {frames} frames"
                raise TargetError(
                    f"{path}: got an image of {got}{' and transparency' if clear else ''}; "
                    "expected one frame of grey of up to 16 bits or RGB of 8, without palette and "
                    "transparency; save the values as TIFF or with numpy.save"
                )
            bands = len(image.getbands())
            _require_room(math.prod(image.size) * bands, path, limits)
            values = np.asarray(image)
            if colours == 0 and depth in (2, 4):  # Pillow spreads them over 0 to 255
                values = values // (255 // (2**depth - 1))
        stack = as_stack(values, path, axes or _MODES[image.mode])
    return MapSet(stack, (Path(path).stem,), "", "", path)


def read_tiff(path: str, array: str | None, limits: Limits, axes: str | None = None) -> MapSet:
    """Read one series of a TIFF: pages are maps, samples of a pixel are channels.

    Args:
        path: the file.
        array: number of the series, 0 being the first; may be None when there is only one.
        limits: most that may be loaded.
        axes: what its axes are, as in `as_stack`; None goes by the file.

    Raises:
        TargetError: tifffile is not installed, or the file is damaged or too large, or its series
            and axes leave a choice.
    """
    with reading(path, "TIFF", "tiff"):
        import tifffile

        _require_pages(path, limits)
        with tifffile.TiffFile(path) as file:
            names = [f"{n} ({s.axes} {s.shape})" for n, s in enumerate(file.series)]
            number = array if array is not None else "0" if len(names) == 1 else ""
            if not number.isdecimal() or int(number) >= len(names):
                raise TargetError(
                    f"{path}: got the series {listing(names) or 'none'} and targets.array = "
                    f"{array}; expected the number of one: name it with targets.array"
                )
            series: Any = file.series[int(number)]
            pixels = math.prod(series.shape)
            _require_room(max(pixels, series.nbytes // 4), path, limits)
            if series.dtype is None or series.dtype.kind not in "biuf":
                raise TargetError(
                    f"{path}: got pixels of type {series.dtype}; expected real numbers"
                )
            _require_values(series.keyframe, path)
            stack = as_stack(_pixels(series, path), path, axes or _axes(series, path))
            stack, unit = _as_gdal_means(stack, series.keyframe.tags, path)
    require_count(len(stack), path, limits.max_maps)
    stem = re.sub(r"(\.ome)?\.tiff?$", "", Path(path).name, flags=re.IGNORECASE)
    return MapSet(stack, numbered_ids(stem, len(stack)), unit, "", path)


def _require_values(page: Any, path: str) -> None:
    """Refuse numbers of a palette, and transparency."""
    palette = page.photometric is not None and page.photometric.name == "PALETTE"
    clear = any(kind.name in ("ASSOCALPHA", "UNASSALPHA") for kind in page.extrasamples)
    if palette or clear:
        raise TargetError(
            f"{path}: got pixels with {'a palette' if palette else 'transparency'}; expected "
            "values; save them as grey or RGB, or with numpy.save"
        )


def _pixels(series: Any, path: str) -> NDArray[Any]:
    try:
        pixels: NDArray[Any] = series.asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        raise TargetError(
            f"{path}: got a TIFF file packed by {series.keyframe.compression.name}; expected the "
            "package imagecodecs to unpack it; install it with pip install imagecodecs, or save "
            "the file without compression"
        ) from error
    return pixels


def _as_gdal_means(stack: NDArray[Any], tags: Any, path: str) -> tuple[NDArray[Any], str]:
    """Missing pixels, scales, offsets and the unit of a GeoTIFF, from the tags of GDAL."""
    told = {number: tags.valueof(number) for number in (_GDAL_NODATA, _GDAL_METADATA)}
    text = str(told[_GDAL_METADATA] or "")
    items = [(dict(_ATTRIBUTE.findall(words)), value) for words, value in _ITEM.findall(text)]
    scale, offset = np.ones(stack.shape[1]), np.zeros(stack.shape[1])
    units = {value.strip() for words, value in items if words.get("role") == "unittype"}
    try:
        for words, value in items:
            of_role = {"scale": scale, "offset": offset}.get(words.get("role", ""))
            if of_role is not None:
                of_role[int(words.get("sample", 0))] = float(value)
        null = None if told[_GDAL_NODATA] is None else float(str(told[_GDAL_NODATA]).strip(" \0"))
    except (ValueError, IndexError) as error:
        raise TargetError(
            f"{path}: got tags of GDAL that are no numbers ({error}); expected a number for "
            "missing pixels, and scale and offset of each band; correct them with gdal_edit"
        ) from error
    lacking = np.zeros(stack.shape, bool)
    if null is not None and not np.isnan(null):
        with np.errstate(over="ignore"):
            near = np.float64(null).astype(stack.dtype) if stack.dtype.kind == "f" else null
        lacking = stack == near
    if lacking.any() or (scale != 1).any() or offset.any():
        stack = stack * scale[:, None, None] + offset[:, None, None]
        stack[lacking] = np.nan
    return stack, units.pop() if len(units) == 1 else ""


def _require_pages(path: str, limits: Limits) -> None:
    """Follow the chain of pages to its end: tifffile leaves out those that were cut off.

    Raises:
        TargetError: the file ends before its last page, or has too many.
    """
    with open(path, "rb") as stream:
        head = stream.read(16)
        order: Literal["little", "big"] = "little" if head.startswith(b"II") else "big"
        large = int.from_bytes(head[2:4], order) == 43  # BigTIFF
        counts, entry, offsets = (8, 20, 8) if large else (2, 12, 4)
        following = head[8:16] if large else head[4:8]
        pages = 0
        while offset := int.from_bytes(following, order):
            pages += 1
            require_count(pages, path, limits.max_maps)
            stream.seek(offset)
            count = stream.read(counts)
            stream.seek(entry * int.from_bytes(count, order), os.SEEK_CUR)
            following = stream.read(offsets)
            if len(count) < counts or len(following) < offsets:
                raise TargetError(
                    f"{path}: got a TIFF file that ends before its page {pages}; expected a "
                    "complete file; copy or download it again"
                )


def _axes(series: Any, path: str) -> str:
    """Letters of `as_stack` for those of a TIFF: samples and channels are c, all others n."""
    named = {"Y": "y", "X": "x", "S": "c", "C": "c"}
    axes = "".join(
        "1" if length == 1 and axis not in "YX" else named.get(axis, "n")
        for axis, length in zip(series.axes, series.shape, strict=True)
    )
    if len(set(axes) - {"1"}) != len(axes.replace("1", "")):
        raise TargetError(
            f"{path}: got axes {series.axes} of lengths {series.shape}; expected one of maps and "
            "one of channels at most; split the file"
        )
    return axes


def _require_room(pixels: int, path: str, limits: Limits) -> None:
    if 4 * pixels > limits.max_bytes:  # maps are kept as float32
        raise TargetError(
            f"{path}: got {4 * pixels} bytes of maps; expected at most {limits.max_bytes} "
            "(targets.max_bytes); choose fewer maps, or raise targets.max_bytes"
        )
