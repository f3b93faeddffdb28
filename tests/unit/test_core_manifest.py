import datetime as dt
import hashlib

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely

from cropseg.core import manifest, storage, taxonomy
from cropseg.core.bands import PAPER_BANDS
from cropseg.core.errors import ConfigError, InputError

SPEC = manifest.DatasetSpec("tiny", PAPER_BANDS, taxonomy.load("eurocrops10"), 10.0, 16, simulated=True)


def row(root, i, rng):
    image = rng.integers(1, 4000, (10, 16, 16), dtype=np.uint16)
    mask = rng.integers(0, 11, (16, 16), dtype=np.uint8)
    storage.write_array(root / f"p{i}.image.npy", image)
    storage.write_array(root / f"p{i}.mask.npy", mask)
    return {
        "id": f"a/b/c/{i}",
        "image": f"p{i}.image.npy",
        "mask": f"p{i}.mask.npy",
        "parcels": None,
        "image_sha256": storage.sha256(root / f"p{i}.image.npy"),
        "mask_sha256": storage.sha256(root / f"p{i}.mask.npy"),
        "subset": "a",
        "country": "AT",
        "roi": "b",
        "product": "c",
        "datetime": dt.datetime(2021, 5, 1, 10, tzinfo=dt.UTC),
        "tile": "33UXP",
        "crs": "EPSG:32633",
        "transform": [10.0, 0.0, 600000.0, 0.0, -10.0, 5400000.0],
        "height": 16,
        "width": 16,
        "nodata_fraction": 0.0,
        "foreground_fraction": 1.0,
        "scl_invalid_fraction": 0.0,
        "bright_fraction": 0.0,
        "clamped_fraction": 0.0,
        "counts": np.bincount(mask.ravel(), minlength=11).tolist(),
        "ignored": 0,
        "geometry": shapely.to_wkb(shapely.box(16, 48, 16.01, 48.01)),
    }


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(0)
    rows = [row(tmp_path, i, rng) for i in (2, 0, 1)]
    parts = ["train", "val", "test"]
    split = [{"id": r["id"], "part": p, "group": r["id"]} for r, p in zip(rows, parts, strict=True)]
    manifest.write_dataset(tmp_path, SPEC, rows, {"location": split})
    return tmp_path


def test_round_trip(dataset):
    opened = manifest.open_dataset(dataset)
    assert opened.spec == SPEC
    assert opened.manifest["id"].to_pylist() == ["a/b/c/0", "a/b/c/1", "a/b/c/2"]
    assert {k: v.tolist() for k, v in opened.parts("location").items()} == {"train": [2], "val": [0], "test": [1]}
    assert opened.image(0).shape == (10, 16, 16)
    assert opened.mask(0).dtype == np.uint8
    assert opened.digest == hashlib.sha256((dataset / "manifest.parquet").read_bytes()).hexdigest()


def test_opens_in_geopandas(dataset):
    frame = gpd.read_parquet(dataset / "manifest.parquet")
    assert len(frame) == 3
    assert frame.crs.to_epsg() in (4326, None) or "CRS84" in frame.crs.to_string()
    assert frame.geometry.iloc[0].bounds == pytest.approx((16, 48, 16.01, 48.01))


def test_same_rows_same_bytes_in_any_order(tmp_path):
    rows = [row(tmp_path, i, np.random.default_rng(i)) for i in range(4)]
    manifest.write_table(tmp_path / "x.parquet", rows, manifest.MANIFEST_SCHEMA)
    manifest.write_table(tmp_path / "y.parquet", rows[::-1], manifest.MANIFEST_SCHEMA)
    assert (tmp_path / "x.parquet").read_bytes() == (tmp_path / "y.parquet").read_bytes()


def test_missing_folder_names_the_remedy(tmp_path):
    with pytest.raises(InputError, match=r"no dataset at .*prepare\.py"):
        manifest.open_dataset(tmp_path / "nowhere")


def test_foreign_manifest_names_missing_columns(dataset):
    table = pq.read_table(dataset / "manifest.parquet").drop_columns(["tile", "counts"])
    pq.write_table(table, dataset / "manifest.parquet")
    with pytest.raises(InputError, match=r"lacks columns.*tile.*counts"):
        manifest.open_dataset(dataset)


def test_broken_manifest_is_named(dataset):
    (dataset / "manifest.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match=r"manifest\.parquet cannot be read"):
        manifest.open_dataset(dataset)


def test_unknown_split_lists_those_there_are(dataset):
    with pytest.raises(InputError, match=r"no split: 'random'.*location"):
        manifest.open_dataset(dataset).parts("random")


def test_split_that_misses_patches(dataset):
    manifest.write_table(
        dataset / "splits" / "half.parquet", [{"id": "a/b/c/0", "part": "train", "group": "g"}], manifest.SPLIT_SCHEMA
    )
    with pytest.raises(InputError, match="lacks 2 patches"):
        manifest.open_dataset(dataset).parts("half")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "missing"),
        (b"garbage", "cannot be read"),
        (np.zeros((10, 16, 16), np.float32), "must be uint16"),
        (np.zeros((9, 16, 16), np.uint16), "number of bands"),
    ],
)
def test_broken_patch_is_named(dataset, content, message):
    path = dataset / "p0.image.npy"
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(InputError, match=rf"p0\.image\.npy.*{message}|{message}.*p0\.image\.npy"):
        manifest.open_dataset(dataset).image(0)


def test_pickled_array_is_never_loaded(dataset):
    np.save(dataset / "p0.image.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        manifest.open_dataset(dataset).image(0)


def test_bands_are_checked():
    with pytest.raises(ConfigError, match="unknown Sentinel-2 band: 'B99'"):
        manifest.DatasetSpec("x", ("B02", "B99"), SPEC.taxonomy, 10.0, 16, simulated=False)
