"""The PASTIS importer on files laid out as the original, under its real metadata where that is at hand."""

import csv
import json
from datetime import date

import numpy as np
import pyproj
import pytest
from foreign import PASTIS_ORDER, refused, run_importer, stack, write_pastis

from cropseg.core.bands import PAPER_BANDS
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.manifest import open_dataset
from data_prep.importers.pastis_dates import RULES, DateLimits, Look, choose, way_table

SIZE = 32
DAYS = [20180915, 20190325, 20190402, 20190701, 20190710, 20190925, 20191001]
TABLE_8 = [0, 10, 3, 1, 4, 2, 4, 6, 255, 7, 3, 3, 255, 9, 10, 8, 255, 255, 255, 255]


def feature(number, east, days=DAYS, *, fold=1, size=SIZE):
    """A patch of ``metadata.geojson``: a square along UTM's axes, told in EPSG:2154."""
    to_lambert = pyproj.Transformer.from_crs("EPSG:32630", "EPSG:2154", always_xy=True)
    left, top, side = east, 5_498_240.0, size * 10
    ring = [(left, top), (left + side, top), (left + side, top - side), (left, top - side), (left, top)]
    return {
        "id": str(number),
        "type": "Feature",
        "properties": {
            "Fold": fold, "ID_PATCH": number, "N_Parcel": 3, "Parcel_Cover": 0.5, "TILE": "t30uxv",
            "dates-S2": {str(index): day for index, day in enumerate(days)}, "id": str(number),
        },
        "geometry": {"type": "MultiPolygon", "coordinates": [[[list(to_lambert.transform(*p)) for p in ring]]]},
    }  # fmt: skip


def collection(features):
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::2154"}}
    return {"type": "FeatureCollection", "features": features, "crs": crs}


def series(seed, days=DAYS, size=SIZE, *, cloudy=(), empty=()):
    """int16 (dates, 10, size, size); the no-data code, below and above the range, and clouds where asked for."""
    values = np.stack([stack(PASTIS_ORDER, size, size, seed=100 * seed + index) for index in range(len(days))])
    values[:, 4, 1, 2], values[:, 5, 2, 3] = -35, 12_345
    values[:, :, 0, 0] = -10_000
    for index in cloudy:
        values[index, :, : size // 2] = 9_000
    for index in empty:
        values[index] = -10_000
    return values.astype(np.int16)


def target(seed, size=SIZE):
    classes = np.random.default_rng(seed).integers(0, 20, (size // 4, size // 4)).repeat(4, 0).repeat(4, 1)
    return np.stack([classes, np.zeros_like(classes), np.ones_like(classes)]).astype(np.uint8)


def run(repo, source, out, **changes):
    return run_importer(repo, "pastis", source=str(source), out=str(out), **{"size": SIZE, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three patches: one clear on every date, one only in April, one on no date."""
    data = {
        10000: series(1),
        10001: series(2, cloudy=(3, 4), empty=(5,)),
        10002: series(3, cloudy=(2, 3, 4, 5)),
    }
    features = [feature(10000 + n, 620_000.0 + 1000 * n, fold=n + 1) for n in range(3)]
    folder = tmp_path_factory.mktemp("pastis") / "PASTIS"
    return write_pastis(folder, collection(features), data, {n: target(n) for n in data}), data


@pytest.fixture(scope="module")
def imported(made, repo, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, run(repo, made[0].parent, out)


def test_one_date_a_patch_by_the_primary_rule_with_the_reason_in_the_audit(imported):
    out, summary = imported
    dataset = open_dataset(out / "pastis")
    products = dataset.manifest["product"].to_pylist()
    assert products == ["S2_10000_20190701", "S2_10001_20190402"]
    with (out / "pastis/audit.csv").open() as file:
        rows = {row["patch"]: row for row in csv.DictReader(file)}
    assert [rows[n]["use"] for n in ("10000", "10001", "10002")] == ["used", "used", "no date clear enough"]
    assert rows["10000"]["dates_in_season"] == "4"  # September 2018 is the season before
    assert rows["10001"]["dates_allowed"] == "1"
    assert (rows["10000"]["date_first"], rows["10000"]["date_last"]) == ("2019-04-02", "2019-09-25")
    assert rows["10000"]["offset"] == "absent"
    assert rows["10000"]["order"] == "wavelength"
    assert float(rows["10000"]["nodata_share"]) > 0
    assert summary["date_rules"][0] == {
        "rule": "clearest", "samples": 2, "same_as_primary": 2, "mean_day_of_year": (182 + 92) / 2,
    }  # fmt: skip
    assert {row["what"]: row["here"] for row in summary["against_paper"]}["samples"] == 2


def test_pixels_lose_their_code_before_they_are_clipped_and_get_our_order(made, imported):
    dataset = open_dataset(imported[0] / "pastis")
    assert dataset.spec.patch_size == SIZE
    assert dataset.spec.protocol == "all"
    raw = made[1][10000][3][[PASTIS_ORDER.index(band) for band in PAPER_BANDS]].astype(int)
    np.testing.assert_array_equal(dataset.image(0), np.where(raw == -10_000, 0, raw.clip(1, 10_000)))
    image = dataset.image(0)
    assert (image[:, 0, 0] == 0).all()
    assert image[PAPER_BANDS.index("B06"), 1, 2] == 1
    assert image[PAPER_BANDS.index("B07"), 2, 3] == 10_000
    np.testing.assert_array_equal(dataset.mask(0), np.array(TABLE_8)[target(10000)[0]])
    counts = np.sum(dataset.manifest["counts"].to_pylist(), axis=0)
    agreed = {row["what"]: row["here"] for row in imported[1]["against_paper"]}
    assert agreed["pixels of pasture"] == counts[10]
    assert agreed["pixels of oats"] == 0


def test_other_ways_to_1955_are_counted_from_labels_and_cloud_alone(imported):
    rows = {
        (row["dates_a_patch"], row["cloud_limits"], row["least_crop_pixels"]): row for row in imported[1]["other_ways"]
    }
    assert rows["one", True, 0]["samples"] == 2
    assert rows["one", False, 0]["samples"] == 3
    assert rows["every", True, 0]["samples"] == 5
    assert rows["every", False, 0]["samples"] == 12
    assert rows["one", False, 1000]["samples"] == 0  # small patches
    assert rows["one", False, 0]["against_paper"] == "differ"
    counts = [np.array([50, 900, 200]), np.array([10, 0, 0])]
    day = Look(0, date(2019, 5, 1), 0.0, 0.0, 0.5)
    few = way_table([[day], [day]], counts, DateLimits(), 1, np.array([0, 900, 100]))
    assert [row["samples"] for row in few[:3]] == [2, 1, 1]
    assert few[2]["against_paper"] == "agree"
    assert [row["support_off_by"] for row in few[:3]] == [100, 100, 100]


def test_another_rule_makes_a_set_of_its_own(made, imported, repo, tmp_path):
    run(repo, made[0], tmp_path, dates="last", limits__year=None, folds=[1])
    dataset = open_dataset(tmp_path / "pastis_last")
    assert dataset.manifest["product"].to_pylist() == ["S2_10000_20190925"]
    run(repo, made[0], tmp_path, others=True, paper=None)
    assert sorted(path.parent.name for path in tmp_path.glob("*/dataset.json")) == [
        "pastis", "pastis_last", "pastis_other_offset", "pastis_other_order",
    ]  # fmt: skip
    read = open_dataset(tmp_path / "pastis_other_order").image(0)
    raw = made[1][10000][3].astype(int)
    np.testing.assert_array_equal(read, np.where(raw == -10_000, 0, raw.clip(1, 10_000)))  # as if it were our order


def test_the_rules_choose_what_they_say():
    limits = DateLimits(max_bright=0.2)
    looks = [
        Look(0, date(2019, 4, 5), 0.0, 0.10, 0.30),
        Look(1, date(2019, 6, 29), 0.0, 0.05, 0.60),
        Look(2, date(2019, 7, 1), 0.0, 0.50, 0.90),  # too cloudy
        Look(3, date(2019, 8, 1), 0.0, 0.01, 0.70),
        Look(4, date(2019, 9, 1), 0.0, 0.01, 0.20),
    ]
    chosen = {rule: choose(looks, limits, rule).index for rule in RULES}
    assert chosen == {"clearest": 3, "greenest": 3, "middle": 1, "first": 0, "last": 4}
    assert choose(looks[2:3], limits, "first") is None


def test_the_real_metadata_put_patches_on_the_grid_of_their_tile(real_data, repo, tmp_path):
    real = json.loads((real_data / "pastis/metadata.geojson").read_text())
    real["features"] = real["features"][:2]
    days = {f["properties"]["ID_PATCH"]: list(f["properties"]["dates-S2"].values()) for f in real["features"]}
    one = stack(PASTIS_ORDER, 128, 128).astype(np.int16)
    data = {number: np.broadcast_to(one, (len(dates), *one.shape)) for number, dates in days.items()}
    write_pastis(tmp_path / "in", real, data, {number: target(number, 128) for number in data})
    run(repo, tmp_path / "in", tmp_path / "out", size=128)
    manifest = open_dataset(tmp_path / "out/pastis").manifest
    assert manifest["crs"].to_pylist() == ["EPSG:32630"] * 2
    assert manifest["tile"].to_pylist() == ["30UXV"] * 2
    for transform in manifest["transform"].to_pylist():
        assert transform[:2] + transform[3:5] == [10.0, 0.0, 0.0, -10.0]
        # Both real footprints start at the same fraction of a pixel: one grid.
        assert transform[2] % 10 == pytest.approx(2.364, abs=0.002)
        assert transform[5] % 10 == pytest.approx(0.621, abs=0.002)
    assert [str(moment)[:10] for moment in manifest["datetime"].to_pylist()] == ["2019-07-01", "2019-07-01"]


def spoil(source, what):
    images, labels = source / "DATA_S2/S2_10000.npy", source / "ANNOTATIONS/TARGET_10000.npy"
    listed = json.loads((source / "metadata.geojson").read_text())
    facts = listed["features"][0]["properties"]
    if what == "cut off":
        images.write_bytes(images.read_bytes()[:-5000])
    elif what == "pickled":
        np.save(images, np.array([{}], dtype=object), allow_pickle=True)
    elif what == "broken header":
        content = images.read_bytes()
        images.write_bytes(content[:12] + b"(" + content[13:])
    elif what == "no images":
        images.unlink()
    elif what == "no target":
        labels.unlink()
    elif what == "other bands":
        np.save(images, np.load(images)[:, :9])
    elif what == "other dates":
        np.save(images, np.load(images)[1:])
    elif what == "unknown class":
        np.save(labels, np.load(labels) + 1)
    elif what == "other shape":
        np.save(labels, np.load(labels)[:, :16])
    elif what == "NaN":
        values = np.load(images).astype(np.float32)
        values[3, 2, 5, 6] = np.nan
        np.save(images, values)
    elif what == "no dates":
        del facts["dates-S2"]
    elif what == "broken date":
        facts["dates-S2"]["2"] = 20190231
    elif what == "other tile":
        facts["TILE"] = "somewhere"
    elif what == "other zone":
        facts["TILE"] = "t32uxv"
    elif what == "no crs":
        del listed["crs"]
    elif what == "no list":
        (source / "metadata.geojson").unlink()
        return
    (source / "metadata.geojson").write_text(json.dumps(listed))


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("cut off", "S2_10000.npy"),
        ("pickled", "S2_10000.npy"),
        ("broken header", "S2_10000.npy"),
        ("no images", "S2_10000.npy"),
        ("no target", "TARGET_10000.npy"),
        ("other bands", "9, 32, 32"),
        ("other dates", "S2_10000.npy must have the shape"),
        ("unknown class", r"TARGET_10000.npy holds classes.*\[20\]"),
        ("other shape", "TARGET_10000.npy must be"),
        ("NaN", r"S2_10000.npy, date 3,.*\(2, 5, 6\)"),
        ("no dates", "dates-S2"),
        ("broken date", "20190231"),
        ("other tile", "SOMEWHERE"),
        ("other zone", "no square"),
        ("no crs", "crs"),
        ("no list", "metadata.geojson"),
    ],
)
def test_a_missing_or_broken_file_is_named(repo, made, tmp_path, what, word):
    data = {10000: made[1][10000]}
    source = write_pastis(tmp_path / "in", collection([feature(10000, 620_000.0)]), data, {10000: target(1)})
    spoil(source, what)
    with pytest.raises(InputError, match=word):
        run(repo, source, tmp_path / "out")
    assert not (tmp_path / "out/pastis/manifest.parquet").exists()


@pytest.mark.parametrize(
    ("changes", "kind", "word"),
    [
        ({"limits__season": ["01-01", "01-31"]}, InputError, "no patch"),
        ({"limits__season": ["9", "1"]}, ConfigError, "season"),
        ({"limits__max_bright": 2}, ConfigError, "max_bright"),
        ({"folds": [9]}, InputError, "folds"),
        ({"primary": "best"}, ConfigError, "best"),
        ({"clip": [0, 10_000]}, ConfigError, "clip"),
        ({"labels__3": "vines"}, ConfigError, "vines"),
    ],
)
def test_impossible_options_are_refused(made, repo, tmp_path, changes, kind, word):
    with pytest.raises(kind, match=word):
        run(repo, made[0], tmp_path, **changes)


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [
        ("name", "../../x", "give the plain name of a folder"),
        ("primary", 5, "give one of clearest, greenest"),
        ("dates", "best", "give one of clearest, greenest"),
        ("folds", 1, "give a list such as [1, 2]"),
        ("folds", ["a"], "give a list such as [1, 2]"),
        ("size", 64.5, "give a whole number, 1 or more"),
        ("nodata", -10_000, "give a list such as [-10000]"),
        ("nodata", ["a"], "give a list such as [-10000]"),
        ("clip", 5, "give a list such as [1, 10000]"),
        ("clip", [1, 100, 10_000], "give a list such as [1, 10000]"),
        ("clip", [10_000, 1], "give the lower bound first"),
        ("others", "abc", "give true or false"),
        ("limits", None, "give the options"),
        ("limits.year", "abc", "give a whole number, 1 or more, or null"),
        ("limits.max_nodata", "abc", "give a number from 0 to 1"),
        ("limits.season", 5, "give a list such as"),
        ("limits.bright_reflectance", None, "give a number above 0"),
        ("paper.support.wheat", "much", "give a whole number, 0 or more"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_its_name(made, repo, tmp_path, option, value, remedy):
    given = {"source": str(made[0]), "out": str(tmp_path / "out")}
    assert refused(repo, "pastis", option, value, **given).startswith(remedy)
    assert not (tmp_path / "out").exists()
