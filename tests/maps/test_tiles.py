"""Maps cut from mosaics: the right pixels under the right names, splits apart, little memory."""

import re
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from flows.settings import load_settings, parse
from ood_core.config.targets import CutoutsSpec, MissingSpec, TargetsSpec, TilesSpec
from ood_core.errors import ConfigError, TargetError, TargetWarning
from ood_core.maps.paths import SHIPPED
from ood_core.maps.target_set import TargetSet
from ood_core.store.run import RunStore
from ood_core.store.targets import load_targets, write_targets

pytestmark = pytest.mark.filterwarnings("ignore::ood_core.errors.TargetWarning")
SKY = np.random.default_rng(4).normal(size=(100, 230)).astype("f4")


def wcs() -> WCS:
    frame = WCS(naxis=2)
    frame.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    frame.wcs.crval, frame.wcs.crpix, frame.wcs.cdelt = [30.0, 60.0], [115.5, 50.5], [-0.01, 0.01]
    return frame


def written(folder: Path, sky: np.ndarray = SKY, name: str = "m.fits") -> str:
    header = wcs().to_header()
    header["BUNIT"] = "Jy"
    fits.writeto(folder / name, sky, header)
    return str(folder / name)


def windows(targets: TargetSet) -> list[list[int]]:
    """Bounds y, y, x, x of each map, by its name."""
    return [[int(n) for n in re.findall(r"\d+", i.split("[")[-1])][-4:] for i in targets.ids]


def holds_its_pixels(targets: TargetSet, sky: np.ndarray) -> None:
    for (y, y_end, x, x_end), values in zip(windows(targets), targets.known[:, 0], strict=True):
        np.testing.assert_array_equal(values, sky[y:y_end, x:x_end])


@pytest.mark.parametrize("kind", ["plain", "npy", "cube", "packed", "scaled", "gz", "npz"])
def test_tiles_are_the_pixels_that_their_names_say(tmp_path: Path, kind: str) -> None:
    path, sky = str(tmp_path / "m.fits"), SKY
    if kind == "npy":
        path = str(tmp_path / "m.npy")
        np.save(path, SKY)
    elif kind == "npz":
        path = str(tmp_path / "m.npz")
        np.savez(path, SKY)
    elif kind == "packed":
        sky = (1000 * (SKY - SKY.min())).astype("u2")
        hdu = fits.CompImageHDU(sky, compression_type="RICE_1", tile_shape=(7, 50))
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
        sky = sky.astype("f4")
    elif kind == "scaled":
        stored = fits.PrimaryHDU((100 * SKY).astype("i2"))
        stored.header["BSCALE"], stored.header["BZERO"] = 0.25, 3.0
        stored.writeto(path)
        sky = (0.25 * (100 * SKY).astype("i2") + 3).astype("f4")
    else:
        path += ".gz" if kind == "gz" else ""
        fits.writeto(path, SKY[None, None] if kind == "cube" else SKY)
    targets = TargetSet.read(path, tiles=TilesSpec(size=20, stride=15, split="order"))
    assert len(targets) == 6 * 15 and targets.fit_count == 45  # (100 - 20) // 15 + 1 rows
    assert windows(targets)[1] == [0, 20, 15, 35]
    holds_its_pixels(targets, sky)


def test_splits_by_regions_are_a_size_apart(tmp_path: Path) -> None:
    targets = TargetSet.read(written(tmp_path), tiles=TilesSpec(size=20, stride=10), held_out=0.4)
    x = np.array(windows(targets))[:, 2]
    fit, held = x[: targets.fit_count], x[targets.fit_count :]
    assert held.min() - (fit.max() + 20) >= 20
    assert len(held) / len(targets) == pytest.approx(0.4, abs=0.05)  # columns of 9 in 196
    assert targets.unit == "Jy"
    assert any("within 20 px of held-out ones" in note for note in targets.notes)
    tall = TargetSet.read(written(tmp_path, SKY.T.copy(), "t.fits"), tiles=TilesSpec(size=20))
    y = np.array(windows(tall))[:, 0]
    assert y[tall.fit_count :].min() - (y[: tall.fit_count].max() + 20) >= 20


def test_places_go_with_the_maps_into_the_store_and_back(tmp_path: Path) -> None:
    first, second = written(tmp_path, name="a.fits"), SKY[:, ::-1].copy()
    second[:32, 32:64] = SKY[:32, :32]  # one tile twice
    written(tmp_path, second, "b.fits")
    targets = TargetSet.read(
        str(Path(first).parent / "*.fits"), tiles=TilesSpec(size=32), duplicates="leave_out"
    )
    assert targets.places is not None and len(targets) == 41
    for (y, _, x, _), name, place in zip(
        windows(targets), targets.ids, targets.places, strict=True
    ):
        assert place.tolist() == ["ab".index(name[0]), y, x]
    stored = RunStore(tmp_path / "run")
    write_targets(stored, targets)
    again = load_targets(stored)
    np.testing.assert_array_equal(again.places, targets.places)
    np.testing.assert_array_equal(again.sides, targets.places / [1, 32, 32])
    assert again.digest() == replace(again, places=None).digest()
    np.save(tmp_path / "m.npy", targets.values)
    assert TargetSet.read(str(tmp_path / "m.npy")).places is None


def test_whole_mosaics_are_held_out_where_there_are_several(tmp_path: Path) -> None:
    for number in range(4):
        written(tmp_path, SKY + number, f"m{number}.fits")
    targets = TargetSet.read(str(tmp_path / "m?.fits"), tiles=TilesSpec(size=20), held_out=0.5)
    held = {name[:2] for name in targets.ids[targets.fit_count :]}
    assert held == {"m2", "m3"} and len(targets) == 4 * 5 * 11 and targets.fit_count == 110


def test_tiles_that_lack_too_much_are_left_out(tmp_path: Path) -> None:
    sky = SKY.copy()
    sky[:20, :20] = np.nan  # a whole tile
    sky[40:50, 40:60] = np.nan  # half of one
    sky[60, 60] = np.nan
    path = written(tmp_path, sky)
    assert len(TargetSet.read(path, tiles=TilesSpec(size=20, split="order"))) == 55 - 3
    spec = TilesSpec(size=20, min_coverage=0.5, split="order")
    fill = MissingSpec(fill="nearest", limit=0.5)
    targets = TargetSet.read(path, tiles=spec, missing=fill)
    assert len(targets) == 54
    holds_its_pixels(targets, sky)


def test_little_of_a_large_mosaic_is_in_memory(tmp_path: Path) -> None:
    """A sparse file of 6.4 GB, beyond `max_bytes`: it is never loaded as a whole."""
    path = tmp_path / "m.npy"
    array = np.lib.format.open_memmap(path, "w+", "f4", (40_000, 40_000))
    rng = np.random.default_rng(0)
    for row in range(32):  # of all tiles at once, each unlike the others
        array[row::4000, :].reshape(10, 10, 4000)[:, :, :32] = rng.normal(size=(10, 10, 32))
    array[::4000, ::4000] = 1 + np.arange(100).reshape(10, 10)
    del array
    tracemalloc.start()
    targets = TargetSet.read(str(path), tiles=TilesSpec(size=32, stride=4000, split="order"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert targets.values[:, 0, 0, 0].tolist() == list(range(1, 101))
    assert peak < 2**24


@pytest.mark.parametrize("form", ["csv", "fits", "ecsv", "vot"])
def test_cutouts_are_where_the_sky_says(tmp_path: Path, form: str) -> None:
    """A pixel of each map carries the number of its source; the catalogue has it in degrees."""
    rng = np.random.default_rng(0)
    at = np.stack([rng.permutation(np.arange(20, 200))[:40], rng.integers(20, 80, 40)], 1)
    sky = SKY.copy()
    sky[at[:, 1], at[:, 0]] = 1000 + np.arange(40)
    world = wcs().pixel_to_world(at[:, 0], at[:, 1])
    ra, dec = world.ra.deg.copy(), world.dec.deg.copy()
    ra[7], dec[7] = 210.0, -60.0  # on the other side of the sky
    table = Table({"ID": [f"s{n}" for n in range(40)], "RA": ra, "DEC": dec})
    if form != "csv":
        table["RA"].unit = table["DEC"].unit = "deg"
    table.write(tmp_path / f"c.{form}", **({"format": "votable"} if form == "vot" else {}))
    spec = CutoutsSpec(
        catalogue=str(tmp_path / f"c.{form}"), ra="RA", dec="DEC", size=17, split="order"
    )
    targets = TargetSet.read(written(tmp_path, sky), cutouts=spec)
    assert len(targets) == 39 and any("1 sources lie outside" in note for note in targets.notes)
    for name, values in zip(targets.ids, targets.values[:, 0], strict=True):
        assert values[8, 8] == 1000 + int(name.split()[0][1:])
    holds_its_pixels(targets, sky)


@pytest.mark.parametrize("frame", ["icrs", "galactic"])
@pytest.mark.parametrize(
    "axes",
    [
        {"ctype": ["RA---TAN", "DEC--TAN"], "radesys": "FK4", "equinox": 1950.0},
        {"ctype": ["GLON-CAR", "GLAT-CAR"]},
        {"ctype": ["DEC--TAN", "RA---TAN"], "crval": [60.0, 30.0]},
    ],
)
def test_cutouts_of_a_mosaic_in_another_frame(tmp_path: Path, axes: dict, frame: str) -> None:
    """Pixels carry the numbers of sources whose places astropy gives in the frame of the table."""
    place = wcs()
    for name, value in axes.items():
        setattr(place.wcs, name, value)
    rng = np.random.default_rng(0)
    x, y = rng.permutation(np.arange(20, 200))[:40], rng.integers(20, 80, 40)
    sky = SKY.copy()
    sky[y, x] = 1000 + np.arange(40)
    fits.writeto(tmp_path / "m.fits", sky, place.to_header())
    world = place.pixel_to_world(x, y).transform_to(frame).spherical
    Table({"lon": world.lon.deg, "lat": world.lat.deg}).write(tmp_path / "c.csv")
    names = {"icrs": ("ra", "dec"), "galactic": ("glon", "glat")}[frame]
    columns = dict(zip(names, ("lon", "lat"), strict=True))
    spec = CutoutsSpec(catalogue=str(tmp_path / "c.csv"), size=17, split="order", **columns)
    targets = TargetSet.read(str(tmp_path / "m.fits"), cutouts=spec)
    np.testing.assert_array_equal(targets.values[:, 0, 8, 8], 1000 + np.arange(40))


def test_what_is_no_place_on_the_sky_is_refused(tmp_path: Path) -> None:
    columns = {"l": [30.0], "b": [60.0], "deg": [100.0], "hms": ["05:34:31"]}
    Table(columns).write(tmp_path / "c.csv")
    for ra, dec, words in (
        ("l", "b", "glon and glat"),
        ("b", "deg", "100 degrees in deg"),
        ("hms", "b", "hms has '05:34:31', no number: give degrees"),
    ):
        spec = CutoutsSpec(catalogue=str(tmp_path / "c.csv"), ra=ra, dec=dec, size=17)
        with pytest.raises(TargetError, match=words):
            TargetSet.read(written(tmp_path), cutouts=spec)
        (tmp_path / "m.fits").unlink()


def test_cutouts_of_several_mosaics_come_from_the_first_that_has_them(tmp_path: Path) -> None:
    written(tmp_path, SKY, "a.fits")
    written(tmp_path, SKY + 100, "b.fits")
    x = np.linspace(20, 210, 20)
    world = wcs().pixel_to_world(x, np.full(20, 50.0))
    Table({"ra": world.ra.deg, "dec": world.dec.deg}).write(tmp_path / "c.csv")
    spec = CutoutsSpec(catalogue=str(tmp_path / "c.csv"), ra="ra", dec="dec", size=16)
    targets = TargetSet.read(str(tmp_path / "*.fits"), cutouts=spec)
    assert all(" a[" in name for name in targets.ids)
    x = np.array(windows(targets))[:, 2]
    fit = targets.fit_count
    assert x[fit:].min() - (x[:fit].max() + 16) >= 16


def test_cutouts_in_pixels_and_what_cannot_be_cut(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", SKY)
    Table({"col": np.arange(10, 200, 10), "row": np.full(19, 50)}).write(tmp_path / "c.csv")
    place = str(tmp_path / "c.csv")
    spec = CutoutsSpec(catalogue=place, x="col", y="row", size=17, split="order")
    targets = TargetSet.read(str(tmp_path / "m.npy"), cutouts=spec)
    assert windows(targets)[0] == [42, 59, 2, 19]  # odd sizes are centred on the pixel
    sky = CutoutsSpec(catalogue=place, ra="col", dec="row", size=17)
    with pytest.raises(TargetError, match="without a usable celestial WCS"):
        TargetSet.read(str(tmp_path / "m.npy"), cutouts=sky)
    wrong = CutoutsSpec(catalogue=place, x="X", y="row", size=17)
    with pytest.raises(TargetError, match="columns col, row; expected X"):
        TargetSet.read(str(tmp_path / "m.npy"), cutouts=wrong)
    gone = CutoutsSpec(catalogue=str(tmp_path / "no.csv"), x="col", y="row", size=17)
    with pytest.raises(TargetError, match=r"no\.csv: got no table"):
        TargetSet.read(str(tmp_path / "m.npy"), cutouts=gone)
    with pytest.raises(TargetError, match="got no window of 300 x 300"):
        TargetSet.read(str(tmp_path / "m.npy"), tiles=TilesSpec(size=300))
    with pytest.raises(ConfigError, match="ra and dec, or glon and glat, or x and y"):
        CutoutsSpec(catalogue=place, ra="col", y="row", size=17)


def test_sections_of_the_configuration(tmp_path: Path) -> None:
    content = {
        "name": "t",
        "base": "b",
        "targets": {"path": "m.fits", "tiles": {"size": 32, "stride": 16, "min_coverage": 0.9}},
    }
    tiles = parse(content).targets.tiles
    assert tiles == TilesSpec(size=32, stride=16, min_coverage=0.9) and tiles.split == "regions"
    content["targets"]["tiles"]["sice"] = 1
    with pytest.raises(ConfigError, match="tiles"):
        parse(content)
    both = {"tiles": TilesSpec(size=8), "cutouts": CutoutsSpec(catalogue="c", x="x", y="y", size=8)}
    with pytest.raises(ConfigError, match="expected one of them"):
        TargetsSpec(path="m", **both)


def test_a_mosaic_warns_of_what_was_left_out(tmp_path: Path) -> None:
    with pytest.warns(TargetWarning, match="left out"):
        TargetSet.read(written(tmp_path), tiles=TilesSpec(size=20))


def test_the_example_of_terrain_is_cut_from_its_mosaic() -> None:
    """Heights in metres, by astropy; the held-out tiles lie in the east, a tile apart."""
    spec = load_settings(SHIPPED / "examples" / "terrain.yaml").targets
    targets = TargetSet.of(spec)
    assert (len(targets), targets.fit_count, targets.unit) == (420, 200, "m")
    assert targets.transform.kind == "linear"
    holds_its_pixels(targets, fits.getdata(spec.path, 1).astype("f4"))
    x = np.array(windows(targets))[:, 2]
    assert x[200:].min() - (x[:200].max() + 32) >= 32


def test_the_example_of_dust_is_cut_from_a_map_with_its_place_on_the_sky() -> None:
    """IC 348 and NGC 1333, by their galactic coordinates, are among its most extinguished parts."""
    path = SHIPPED / "examples" / "targets" / "dust.fits"
    field, header = fits.getdata(path, header=True)
    for longitude, latitude in ((160.49, -17.80), (158.29, -20.54)):
        x, y = WCS(header).world_to_pixel_values(longitude, latitude)
        around = field[int(y) - 5 : int(y) + 6, int(x) - 5 : int(x) + 6]
        assert around.max() > np.quantile(field, 0.98)
    targets = TargetSet.of(load_settings(SHIPPED / "examples" / "dust.yaml").targets)
    assert (len(targets), targets.fit_count, targets.unit) == (180, 84, "mag")
    holds_its_pixels(targets, field)
