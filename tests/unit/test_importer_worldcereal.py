"""The importer of a WorldCereal place: on files of our own, and on the real Flemish place."""

from datetime import datetime

import netCDF4
import numpy as np
import pytest
import rasterio
import yaml
from foreign import refused
from rasterio.warp import Resampling, reproject

from cropseg.core.bands import PAPER_BANDS, S2_BANDS
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.manifest import open_dataset
from data_prep.importers.worldcereal import import_place
from data_prep.importers.worldcereal_files import PlaceFiles
from data_prep.importers.worldcereal_parts import Parcel, by_parcel, by_pixel, find_parcels, label_mask

CODES = {1110: "wheat", 1200: "maize", 9120: "pasture"}
SIZE = 24
DAYS = ["2019-03-31", "2019-04-01", "2019-06-01", "2019-07-01", "2019-09-30", "2019-10-01"]


def crops():
    """Six fields of wheat, maize and grass in two rows, unknown ground between, one field of chicory."""
    codes = np.zeros((SIZE, SIZE), np.uint16)
    for index, code in enumerate([1110, 1200, 9120, 1110, 1200, 9120]):
        row, col = divmod(index, 3)
        codes[row * 9 : row * 9 + 7, col * 8 : col * 8 + 7] = code
    codes[20:, :6] = 2170
    return codes


def place(folder, *, offset=0, days=DAYS, drop=(), shift=0.0):
    """Write a place; on 2019-06-01 a tenth is cloudy, on 2019-07-01 one 20 m pixel has no data."""
    random = np.random.default_rng(0)
    here = folder / "PLACE"
    here.mkdir(parents=True)
    codes = crops()
    for key, step in (("S2_L2A_10m", 10), ("S2_L2A_20m", 20), ("OUTPUT_POLY-110_10m", 10)):
        with netCDF4.Dataset(here / f"{key}_PLACE_32631_x.nc", "w") as file:
            file.setncatts({"location_id": "PLACE", "tile": "31UES", "epsg": "32631"})
            n = SIZE * 10 // step
            for name, start, sign in (("x", 500_000.0 + shift * (step == 20), 1), ("y", 5_600_000.0, -1)):
                file.createDimension(name, n)
                file.createVariable(name, "f8", (name,))[:] = start + sign * (np.arange(n) + 0.5) * step
            if key.startswith("OUTPUT"):
                file.createVariable("CT", "u2", ("y", "x"))[:] = codes
                continue
            file.createDimension("timestamp", len(days))
            stamps = file.createVariable("timestamp", "i8", ("timestamp",))
            stamps.setncatts({"units": "seconds since 2018-08-04 10:50:22", "calendar": "proleptic_gregorian"})
            start = datetime(2018, 8, 4, 10, 50, 22)
            stamps[:] = [int((datetime.fromisoformat(f"{day}T11:00") - start).total_seconds()) for day in days]
            for band in (b for b in PAPER_BANDS if S2_BANDS[b].resolution == step and b not in drop):
                values = random.integers(1, 900 if band == "B04" else 4000, (len(days), n, n)) + offset
                if step == 20 and "2019-07-01" in days:
                    values[days.index("2019-07-01"), 3, 4] = 0
                variable = file.createVariable(band, "u2", ("timestamp", "y", "x"), fill_value=0)
                variable.scale_factor = 0.0001
                variable.set_auto_maskandscale(False)
                variable[:] = values
            if step == 20:
                scl = np.full((len(days), n, n), 4)
                if "2019-06-01" in days:
                    scl[days.index("2019-06-01"), 0] = 9
                file.createVariable("SCL", "u1", ("timestamp", "y", "x"), fill_value=0)[:] = scl
    (folder / "wc2eurocrops_map.csv").write_text(
        "name,croptype\nUnknown,0\nWinter wheat,1110\nMaize,1200\nGrass,9120\n"
    )
    return folder


def run(source, out, **options):
    return import_place(source, out, "eurocrops10", CODES, min_parcel=1, **options)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worldcereal")
    return place(folder / "in"), folder / "out", run(folder / "in", folder / "out", buffer=1)


def test_dates_are_taken_by_the_rule_and_refused_with_a_reason(imported):
    _, _, summary = imported
    assert [date[:10] for date in summary["dates"]] == ["2019-04-01", "2019-09-30"]
    reasons = {entry["date"][:10]: entry["reason"] for entry in summary["refused"]}
    assert set(reasons) == {"2019-06-01", "2019-07-01"}
    assert "91.7% of the pixels are clear" in reasons["2019-06-01"]
    assert "no data" in reasons["2019-07-01"]


def test_a_lower_limit_takes_the_cloudy_date_too(imported, tmp_path):
    assert len(run(imported[0], tmp_path, min_clear=0.9)["dates"]) == 3


def test_the_evaluation_set_has_every_known_crop_and_nothing_else(imported):
    _, out, summary = imported
    dataset = open_dataset(out / "flanders")
    assert dataset.spec.protocol == "crop"
    assert not dataset.spec.simulated
    assert dataset.spec.bands == PAPER_BANDS
    assert [len(rows) for rows in dataset.parts("test").values()] == [0, 0, 2]
    expected = np.full((SIZE, SIZE), 255)
    for code, label in ((1110, 3), (1200, 1), (9120, 10)):
        expected[crops() == code] = label
    for row in range(2):
        np.testing.assert_array_equal(dataset.mask(row), expected)
    counts = dict(enumerate(dataset.manifest["counts"][0].as_py()))
    assert {k: v for k, v in counts.items() if v} == {1: 98, 3: 98, 10: 98}
    assert dataset.manifest["ignored"][0].as_py() == SIZE * SIZE - 3 * 98
    rows = {row["code"]: row for row in summary["codes"]}
    assert rows[2170] == {
        "code": 2170, "name": "not in the table of names", "class": "ignored (255)", "pixels": 24, "parcels": 1,
    }  # fmt: skip
    assert rows[1110]["class"] == "wheat"
    assert rows[0]["class"] == "ignored (255)"


@pytest.mark.parametrize(("resampling", "method"), [("bilinear", Resampling.bilinear), ("nearest", Resampling.nearest)])
def test_pixels_are_those_of_gdal(imported, resampling, method):
    with PlaceFiles(imported[0] / "PLACE") as files:
        image = files.image(PAPER_BANDS, 1, resampling)
        fine = rasterio.Affine(*files.grid.transform)
        for band, found in zip(PAPER_BANDS, image, strict=True):
            raw = files.raw(band, 1)
            expected = raw
            if S2_BANDS[band].resolution == 20:
                exact = np.zeros(image.shape[1:], np.float64)
                coarse = fine * rasterio.Affine.scale(2)
                crs = files.grid.crs
                reproject(
                    raw.astype(np.float64), exact, src_transform=coarse, dst_transform=fine, src_crs=crs, dst_crs=crs,
                    resampling=method,
                )  # fmt: skip
                expected = np.rint(exact)
            assert np.abs(found.astype(int) - expected).max() <= (1 if resampling == "bilinear" else 0), band


def test_the_parts_are_disjoint_by_parcel_with_a_buffer(imported):
    _, out, summary = imported
    masks = {}
    train = open_dataset(out / "flanders_train")
    for part, rows in train.parts("parcels").items():
        masks[part] = [train.mask(row) for row in rows]
    test = open_dataset(out / "flanders_test")
    masks["test"] = [test.mask(row) for row in test.parts("test")["test"]]
    assert {part: len(found) for part, found in masks.items()} == {"train": 2, "val": 2, "test": 2}
    raster, _ = find_parcels(crops(), {})
    for part, found in masks.items():
        assert (found[0] == found[1]).all()  # every date of a pixel on one side
        for other in set(masks) - {part}:
            numbers = [set(np.unique(raster[m[0] != 255])) for m in (masks[part], masks[other])]
            assert not numbers[0] & numbers[1]
            here, there = (np.argwhere(masks[p][0] != 255) for p in (part, other))
            if len(here) and len(there):
                assert np.abs(here[:, None] - there[None]).max(axis=-1).min() > 1
    sides = summary["parts"]
    for name, label in (("wheat", 3), ("maize", 1), ("pasture", 10)):
        for part in ("train", "test"):
            assert sides[name][part] == {"pixels": int((masks[part][0] == label).sum()), "parcels": 1}


def test_the_leak_has_the_same_pixels_of_each_class_from_the_same_fields(imported):
    _, out, summary = imported
    train, test = open_dataset(out / "flanders_pixel_leak_train"), open_dataset(out / "flanders_pixel_leak_test")
    parts = train.parts("pixels")
    for date in range(2):
        found = {part: train.mask(parts[part][date]) for part in ("train", "val")} | {"test": test.mask(date)}
        taken = np.sum([mask != 255 for mask in found.values()], axis=0)
        assert taken.max() == 1
        for part, mask in found.items():
            for name, label in (("wheat", 3), ("maize", 1), ("pasture", 10)):
                assert (mask == label).sum() == summary["parts"][name][part]["pixels"]
    assert not np.array_equal(test.mask(0), test.mask(1))


def test_the_same_input_gives_the_same_bytes_and_another_seed_other_parts(imported, tmp_path):
    source, out, _ = imported
    run(source, tmp_path / "again", buffer=1)
    first, second = (
        {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
        for root in (out, tmp_path / "again")
    )
    assert first == second
    others = [run(source, tmp_path / f"s{seed}", buffer=1, seed=seed)["parcels"] for seed in (1, 2, 3)]
    assert any(parcels != others[0] for parcels in others[1:])


def test_touching_fields_of_a_crop_are_one_parcel_and_numbers_follow_codes():
    codes = np.array([[5, 0, 3], [0, 5, 3], [4, 0, 5]])
    raster, parcels = find_parcels(codes, {5: 1})
    assert raster.tolist() == [[3, 0, 1], [0, 3, 1], [2, 0, 3]]
    assert parcels == [Parcel(1, 3, 255, 2), Parcel(2, 4, 255, 1), Parcel(3, 5, 1, 3)]
    assert label_mask(raster, parcels).tolist() == [[1, 255, 255], [255, 1, 255], [255, 255, 1]]


def test_a_class_of_one_parcel_is_learned_and_of_two_also_tested():
    raster = np.kron(np.arange(1, 5, dtype=np.uint32).reshape(2, 2), np.ones((4, 4), np.uint32))
    parcels = [Parcel(1, 10, 1, 16), Parcel(2, 20, 2, 16), Parcel(3, 20, 2, 16), Parcel(4, 30, 255, 16)]
    masks, part_of = by_parcel(raster, parcels, seed=0, buffer=0, min_parcel=1)
    assert part_of[1] == "train"
    assert {part_of[2], part_of[3]} == {"train", "test"}
    assert 4 not in part_of
    assert (masks["val"] == 255).all()
    drawn = by_pixel(masks, raster, parcels, part_of, seed=0, date=0)
    assert (drawn["train"] == 1).sum() == 16
    _, large = by_parcel(raster, parcels, seed=0, buffer=0, min_parcel=17)
    assert large == {}


def break_up(folder, what):
    here = folder / "PLACE"
    if what == "no place":
        here.rename(folder / "x")
        for path in (folder / "x").glob("*"):
            path.unlink()
    elif what == "no labels":
        next(here.glob("OUTPUT*")).unlink()
    elif what == "cut off":
        path = next(here.glob("*_20m_*"))
        path.write_bytes(path.read_bytes()[:300])
    elif what == "no names":
        (folder / "wc2eurocrops_map.csv").unlink()
    elif what == "other names":
        (folder / "wc2eurocrops_map.csv").write_text("a,b\n1,2\n")


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("no place", "one place"),
        ("no labels", "OUTPUT"),
        ("cut off", "cannot read"),
        ("no names", "wc2eurocrops_map"),
        ("other names", "columns"),
    ],
)
def test_a_missing_or_broken_file_is_named(tmp_path, what, word):
    source = place(tmp_path / "in")
    break_up(source, what)
    with pytest.raises(InputError, match=word):
        run(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"offset": 1000}, "offset"),
        ({"drop": ("B8A",)}, "B8A"),
        ({"shift": 10.0}, "do not agree"),
        ({"days": ["2019-06-01"]}, "no clear date"),
        ({"days": ["2018-09-01"]}, "no clear date"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, options, word):
    with pytest.raises(InputError, match=word):
        run(place(tmp_path / "in", **options), tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"min_clear": 1.5}, "min_clear"),
        ({"buffer": -1}, "buffer"),
        ({"resampling": "cubic"}, "cubic"),
        ({"season": ("4-31", "x")}, "season"),
        ({"bands": ["B99"]}, "B99"),
    ],
)
def test_impossible_options_are_refused(imported, tmp_path, options, word):
    with pytest.raises(ConfigError, match=word):
        run(imported[0], tmp_path, **options)


def test_a_class_that_the_taxonomy_lacks_is_refused(imported, tmp_path):
    with pytest.raises(ConfigError, match="chicory"):
        import_place(imported[0], tmp_path, "eurocrops10", {2170: "chicory"})
    with pytest.raises(ConfigError, match=r"importer.codes: a label value must be a whole number: 'corn'"):
        import_place(imported[0], tmp_path, "eurocrops10", {"corn": "maize"})


def test_the_real_place_is_what_its_readme_counts(real_data, repo, tmp_path):
    options = yaml.safe_load((repo / "conf/importer/worldcereal.yaml").read_text())
    kept = {k: options[k] for k in ("codes", "year", "season", "bands", "min_clear", "buffer", "min_parcel")}
    summary = import_place(real_data / "worldcereal", tmp_path, "eurocrops10", **kept)
    pixels = {row["code"]: row["pixels"] for row in summary["codes"]}
    assert pixels == {0: 371, 1110: 1378, 1200: 413, 1500: 72, 1510: 294, 5100: 27, 8100: 154, 9120: 1387}
    assert len(summary["dates"]) == 11
    assert len(summary["refused"]) == 17
    dataset = open_dataset(tmp_path / "flanders")
    counts = dataset.manifest["counts"][0].as_py()
    assert counts == [0, 413, 0, 1378, 366, 0, 0, 154, 0, 27, 1387]
    for path in sorted(tmp_path.glob("flanders*")):
        again = open_dataset(path)
        assert (again.manifest["nodata_fraction"].to_numpy() == 0).all()
        assert again.manifest["crs"][0].as_py() == "EPSG:32631"
        assert again.manifest["transform"][0].as_py() == [10, 0, 574680, 0, -10, 5622440]
    # An independent look at the 10 m bands, in the order of the dates.
    source = next((real_data / "worldcereal").glob("*/S2_L2A_10m*.nc"))
    order = dataset.manifest["datetime"].to_pylist()
    with netCDF4.Dataset(source) as file:
        file.set_auto_maskandscale(False)
        seconds = file["timestamp"][:].tolist()
        start = datetime.fromisoformat(file["timestamp"].units.removeprefix("seconds since "))
        for row, moment in enumerate(order):
            index = seconds.index(int((moment.replace(tzinfo=None) - start).total_seconds()))
            for channel, band in enumerate(("B02", "B03", "B04", "B08")):
                np.testing.assert_array_equal(dataset.image(row)[channel], file[band][index])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("name", "../x"), ("year", "abc"), ("season", 5), ("min_clear", "abc"), ("buffer", 1.5), ("min_parcel", None),
        ("seed", -1), ("label_source", "abc"), ("resampling", 5),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused_by_its_name(repo, imported, tmp_path, option, value):
    refused(repo, "worldcereal", option, value, source=str(imported[0]), out=str(tmp_path / "out"))
