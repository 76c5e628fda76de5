"""The formats that maps can be written in: `EXPORTERS` is the one table.

An exporter is one function that writes a part of the maps to a path, in a file by subject. The file
is begun under a temporary name and renamed by the caller when it is whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final
from urllib.parse import urlsplit

from ood_core.errors import ConfigError
from ood_core.exporting.archives import write_npz, write_tar
from ood_core.exporting.fits_files import write_cube, write_extensions
from ood_core.exporting.hdf5_files import write_hdf5, write_netcdf
from ood_core.exporting.parquet_files import write_hf, write_parquet
from ood_core.exporting.source import Part
from ood_core.exporting.zarr_folders import write_zarr


@final
@dataclass(frozen=True, slots=True)
class Exporter:
    """One format.

    Attributes:
        write: writes the rows of a part to a path, which becomes a file or a folder; one that
            `resumes` takes any place.
        endings: of names; the first is that of files in a folder.
        reading: the two lines of Python that read a file; `{path}` is its name.
        packages: those it needs beside Farfield's own.
        extra: the optional extra that has them.
        whole: whether all maps lie in one store, however many there are.
        resumes: whether `write` goes on with what an earlier attempt left at its path.
    """

    write: Callable[[Any, Part], None]
    endings: tuple[str, ...]
    reading: str
    packages: tuple[str, ...] = ()
    extra: str = ""
    whole: bool = False
    resumes: bool = False


EXPORTERS: dict[str, Exporter] = {
    "fits": Exporter(
        write_cube,
        (".fits", ".fit", ".fts"),
        "from astropy.io import fits\nmaps = fits.getdata({path})",
    ),
    "fits-mef": Exporter(
        write_extensions,
        (".fits", ".fit", ".fts"),
        "from astropy.io import fits\n"
        'maps = [hdu.data for hdu in fits.open({path}) if hdu.name == "MAP"]',
    ),
    "zarr": Exporter(
        write_zarr,
        (".zarr",),
        "import xarray as xr\nmaps = xr.open_zarr({path}).maps",
        whole=True,
        resumes=True,
    ),
    "npz": Exporter(write_npz, (".npz",), 'import numpy as np\nmaps = np.load({path})["maps"]'),
    "hdf5": Exporter(
        write_hdf5,
        (".h5", ".hdf5", ".hdf"),
        'import h5py\nmaps = h5py.File({path})["maps"]',
        ("h5py",),
        "hdf5",
    ),
    "netcdf": Exporter(
        write_netcdf,
        (".nc", ".nc4"),
        'import xarray as xr\nmaps = xr.open_dataset({path}, engine="h5netcdf").maps',
        ("h5netcdf", "h5py"),
        "netcdf",
    ),
    "parquet": Exporter(
        write_parquet,
        (".parquet",),
        "import pyarrow.parquet as pq\n"
        'maps = pq.read_table({path})["maps"].combine_chunks().to_numpy_ndarray()',
        ("pyarrow",),
        "parquet",
    ),
    "hf": Exporter(
        write_hf,
        (".parquet",),
        "from datasets import load_dataset\n"
        'data = load_dataset("parquet", data_files={path}, split="train")\n'
        'maps = data.with_format("numpy")[:]["maps"]',
        ("pyarrow",),
        "parquet",
    ),
    "webdataset": Exporter(
        write_tar,
        (".tar",),
        "import webdataset as wds\n"
        'maps = [s["npy"] for s in wds.WebDataset({path}, shardshuffle=False).decode()]',
    ),
}
"""Every format that maps can be written in, by name; of two with one ending the first is meant."""


def exporter_of(dest: str, name: str | None) -> tuple[str, bool]:
    """Return the name of the format, and whether `dest` is a folder of such files.

    Args:
        dest: where to; its ending says the format of one file.
        name: the format, if it is said; with it, a name without a known ending is a folder.

    Raises:
        ConfigError: no such format, no way to tell it, or one that the ending speaks against.
    """
    path = urlsplit(dest).path if "://" in dest else dest
    ending = "" if path.endswith(("/", "\\")) else Path(path).suffix.lower()
    meant = [known for known, exporter in EXPORTERS.items() if ending in exporter.endings]
    if name is not None and name not in EXPORTERS:
        raise ConfigError(f"--format: got {name!r}; expected one of {', '.join(EXPORTERS)}")
    if name is None:
        if not meant:
            raise ConfigError(
                f"{dest}: got the ending {ending!r}, which no format has; expected {_endings()}, "
                f"or a folder and --format, one of {', '.join(EXPORTERS)}"
            )
        return meant[0], False
    if meant and name not in meant:
        raise ConfigError(
            f"{dest}: got the ending {ending!r} for the format {name}; expected "
            f"{' or '.join(EXPORTERS[name].endings)}, or a folder; leave --format out, or give "
            "another name"
        )
    return name, not meant


def require_packages(name: str) -> None:
    """Refuse a format whose packages are not installed.

    Raises:
        ConfigError: that is so; the message names the extra.
    """
    exporter = EXPORTERS[name]
    missing = [package for package in exporter.packages if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"format {name}: got no package {' or '.join(missing)}; expected it to be installed: "
            f"pip install 'farfield[{exporter.extra}]', or choose another --format"
        )


def _endings() -> str:
    names = [ending for exporter in EXPORTERS.values() for ending in exporter.endings]
    unique = list(dict.fromkeys(names))
    return f"{', '.join(unique[:-1])} or {unique[-1]}"
