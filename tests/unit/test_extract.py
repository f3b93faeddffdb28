from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pytest
import safe_factory
import shapely

from cropseg.core import taxonomy
from cropseg.core.bands import PAPER_BANDS
from cropseg.core.errors import InputError
from cropseg.core.tiling import Window
from data_prep.align import AlignedProduct
from data_prep.extract import Candidate, Rejection, extract
from data_prep.quality import Thresholds
from data_prep.safe import open_product

CROPS = taxonomy.load("eurocrops10")
SIZE = 64
SOME = Thresholds(max_nodata=0.2, min_foreground=0.5, max_scl_invalid=1, max_bright=1)


@dataclass(frozen=True)
class Region:
    bounds: tuple[float, float, float, float]
    crs: str = "EPSG:32633"
    name: str = "r1"


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    """Left half under crops, lower half without data."""
    bands, scl = safe_factory.pixels(SIZE, 1, swath=False)
    for array in bands.values():
        array[:] = np.random.default_rng(0).integers(1_500, 3_000, array.shape)
        array[len(array) // 2 :] = 0
    scl[:] = 4
    return open_product(
        safe_factory.write_product(safe_factory.meta(size=SIZE), bands, scl, tmp_path_factory.mktemp("p"))
    )


@pytest.fixture(scope="module")
def parcels():
    field = shapely.box(600_000, 5_300_040 - 640, 600_320, 5_300_040)
    return gpd.GeoDataFrame({"parcel": [3], "label": [2]}, geometry=[field], crs="EPSG:32633").to_crs("EPSG:31287")


def whole_tile():
    return Region((600_000, 5_300_040 - 640, 600_640, 5_300_040))


def run(scene, region, parcels, **options):
    options = {"size": 32, "stride": 32, "thresholds": SOME, "taxonomy": CROPS, **options}
    return list(extract(scene, region, parcels, **options))


def test_each_window_comes_once_accepted_or_with_its_reason(product, parcels):
    with AlignedProduct(product, PAPER_BANDS) as scene:
        kept, bare, no_data, neither = run(scene, whole_tile(), parcels)
        assert isinstance(kept, Candidate)
        np.testing.assert_array_equal(kept.image, scene.read(Window(0, 0, 32, 32)))
    assert kept.window == Window(0, 0, 32, 32)
    assert kept.grid.transform == (10, 0, 600_000, 0, -10, 5_300_040)
    assert (kept.mask == 2).all()
    assert (kept.parcels == 3).all()
    assert kept.figures.counts[2] == 1024
    assert [r.window for r in (bare, no_data, neither)] == [
        Window(0, 32, 32, 32), Window(32, 0, 32, 32), Window(32, 32, 32, 32)
    ]  # fmt: skip
    assert [r.rule for r in (bare, no_data, neither)] == ["foreground", "nodata", "nodata"]
    assert bare.reason == "0.00% of the pixels carry a crop, at least 50.00% needed"
    assert no_data.figures.nodata_fraction == 1


def test_pixels_are_read_once_for_all_windows(product, parcels, monkeypatch):
    asked = []
    with AlignedProduct(product, PAPER_BANDS) as scene:
        read = scene.read_block
        monkeypatch.setattr(scene, "read_block", lambda window: (asked.append(window), read(window))[1])
        found = run(scene, whole_tile(), parcels, stride=8)
    assert len(found) == 25
    assert asked == [Window(0, 0, 64, 64)]
    kept = [patch for patch in found if isinstance(patch, Candidate)]
    assert all(patch.image.base is None and patch.mask.base is None and patch.parcels.base is None for patch in kept)


def test_a_region_without_windows_is_one_refusal(product, parcels):
    with AlignedProduct(product, PAPER_BANDS) as scene:
        elsewhere = Region(whole_tile().bounds, crs="EPSG:32632")
        assert run(scene, elsewhere, parcels) == [
            Rejection(None, "region", "region r1 lies in EPSG:32632, the product in EPSG:32633", None)
        ]
        (small,) = run(scene, whole_tile(), parcels, size=65)
    assert small.reason == "region r1 has 64 × 64 pixels, a window needs 65 × 65"


def test_a_damaged_file_stops_it_and_is_named(product, parcels, tmp_path):
    copy = safe_factory.product(tmp_path, size=SIZE)
    path = copy.path_of("B12", 20)
    path.write_bytes(path.read_bytes()[:-100])
    with AlignedProduct(copy, PAPER_BANDS) as scene, pytest.raises(InputError, match=r"B12_20m\.jp2"):
        run(scene, whole_tile(), parcels)
