"""The files of a walk: pictures, maps and numbers, each written whole."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from ood_core.report.pictures import Stretch
from ood_core.report.record import PhysicalMaps
from ood_core.report.strip import Path, animation, strip
from ood_core.store.files import as_bytes, write_atomic
from ood_core.store.place import Place

NUMBERS = "walk.json"


def write_walk(
    place: Place,
    told: dict[str, Any],
    paths: Sequence[Path],
    fit: PhysicalMaps,
    title: str,
) -> list[str]:
    """Write everything that a walk found, the numbers last; return the names of the files.

    The fit targets set the colour scale. `told["paths"]` has the numbers of each path's maps.
    """
    stretch = Stretch.fit(fit[:, 0])
    shares = [frame["share"] for frame in told["paths"][0]["frames"]]
    stream = io.BytesIO()
    np.save(stream, np.stack([path.maps for path in paths]))
    contents = {
        "strip.png": strip(paths, shares, stretch, title),
        "walk.gif": animation(paths, stretch),
        "walk.csv": table(told["paths"]),
        "maps.npy": stream.getvalue(),
    }
    files = [*contents, NUMBERS]
    contents[NUMBERS] = as_bytes({**told, "synthetic": True, "files": files})
    for name, content in contents.items():
        write_atomic(place / name, content)
    return files


def table(paths: Sequence[dict[str, Any]]) -> bytes:
    """One row per map, as CSV."""
    text = io.StringIO()
    names = ["start", "end", "frame", *paths[0]["frames"][0]]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for path in paths:
        for number, frame in enumerate(path["frames"]):
            ends = {"start": path["start"], "end": path["end"] or ""}
            writer.writerow({**ends, "frame": number, **frame})
    return text.getvalue().encode()
