"""The one real product at hand, from its 60 m bands: autumn in Ireland, under clouds, 40 % of the tile without data."""

from collections import Counter
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.windows import from_bounds

from cropseg.core import taxonomy
from cropseg.core.errors import InputError
from cropseg.core.tiling import Window
from data_prep.align import AlignedProduct
from data_prep.extract import Candidate, extract
from data_prep.quality import Thresholds
from data_prep.rasterize import rasterize
from data_prep.safe import open_product

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B11", "B12")
CROPS = taxonomy.load("eurocrops10")


@dataclass(frozen=True)
class Region:
    bounds: tuple[float, float, float, float]
    crs: str = "EPSG:32629"
    name: str = "ireland"


@pytest.fixture(scope="module")
def product(real_data):
    return open_product(next((real_data / "safe").glob("*T29UNU*.SAFE")))


@pytest.fixture(scope="module")
def scene(product):
    with AlignedProduct(product, BANDS, resolution=60) as opened:
        yield opened


@pytest.fixture(scope="module")
def parcels(real_data):
    frame = gpd.read_file(f"/vsizip/{real_data / 'parcels' / 'ie_2022.gml.zip'}")
    matches = [CROPS.matches(name) for name in frame["crop_name"]]
    labels = [found[0].class_id if len(found) == 1 else 255 for found in matches]
    columns = {"parcel": np.arange(1, len(frame) + 1), "label": np.array(labels, np.uint8)}
    return gpd.GeoDataFrame(columns, geometry=frame.geometry, crs=frame.crs)


def test_what_the_product_is(product, scene):
    assert (product.tile, product.baseline) == ("29UNU", "04.00")
    assert set(product.offsets.values()) == {-1000}
    assert scene.grid.transform == (60, 0, 499_980, 0, -60, 5_900_040)
    assert (scene.grid.height, scene.grid.width) == (1830, 1830)


def test_band_8_is_not_there_and_10_m_neither(product):
    with pytest.raises(InputError, match=r"R60m/T29UNU_20221005T115411_B08_60m\.jp2"):
        AlignedProduct(product, (*BANDS, "B08"), resolution=60)
    with pytest.raises(InputError, match=r"R10m/T29UNU_20221005T115411_B02_10m\.jp2"):
        AlignedProduct(product, BANDS)


def test_pixels_are_those_of_the_files_less_the_offset(product, scene):
    rng = np.random.default_rng(0)
    for _ in range(4):
        height, width = (int(side) for side in rng.integers(1, 150, 2))
        window = Window(int(rng.integers(0, 1830 - height)), int(rng.integers(0, 1830 - width)), height, width)
        image = scene.read(window)
        bounds = scene.grid.window(window).bounds
        for channel, band in enumerate(BANDS):
            with rasterio.open(product.path_of(band, 60)) as dataset:
                raw = dataset.read(1, window=from_bounds(*bounds, dataset.transform)).astype(int)
            missing = (raw == 0) | (raw == 65_535)
            np.testing.assert_array_equal(image[channel], np.where(missing, 0, np.maximum(raw - 1000, 1)))
        with rasterio.open(product.path_of("SCL", 60)) as dataset:
            expected = dataset.read(1, window=from_bounds(*bounds, dataset.transform))
        np.testing.assert_array_equal(scene.scl(window), expected)


def test_twelve_parcels_lie_on_it(scene, parcels):
    on_tile = parcels.to_crs("EPSG:32629").intersects(shapely.box(*scene.grid.bounds))
    assert on_tile.sum() == 12
    whole = rasterize(parcels, scene.grid, "sparse", None)
    assert whole.report.parcels == 12
    burnt = set(np.unique(whole.parcels)) - {0}
    assert burnt <= set(parcels["parcel"][on_tile])
    # The others are so small that no centre of a 60 m pixel lies in them.
    assert len(burnt) == 12 - whole.report.without_pixels
    assert (whole.mask[whole.parcels == 0] == 255).all()


def regions(parcels, half=1_200):
    """A square of 2.4 km around each parcel on the tile."""
    near = parcels.to_crs("EPSG:32629")
    near = near[near.intersects(shapely.box(499_980, 5_790_240, 609_780, 5_900_040))]
    for x, y in zip(near.centroid.x, near.centroid.y, strict=True):
        left, top = 499_980 + 60 * ((x - half - 499_980) // 60), 5_900_040 - 60 * ((5_900_040 - y - half) // 60)
        yield Region((left, top - 2 * half, left + 2 * half, top))


@pytest.mark.parametrize("thresholds", [Thresholds(), Thresholds(1, 0, 1, max_bright=1)], ids=["default", "off"])
def test_each_window_becomes_a_patch_or_says_why_not(scene, parcels, thresholds):
    found = Counter()
    for region in regions(parcels):
        for patch in extract(
            scene,
            region,
            parcels,
            size=32,
            stride=8,
            thresholds=thresholds,
            taxonomy=CROPS,
            coverage="sparse",
        ):
            if isinstance(patch, Candidate):
                found["patch"] += 1
                assert patch.image.shape == (9, 32, 32)
                assert (patch.mask == 255).mean() > 0.5  # sparse: ground without a parcel is unknown
                assert patch.figures.ignored == (patch.mask == 255).sum()
            else:
                found[patch.rule] += 1
                assert patch.reason
    if thresholds == Thresholds():
        # Twelve parcels of a few hectares never fill 5 % of a window of 3.7 km²; most lie under cloud or no data.
        assert found["patch"] == 0
        assert found["nodata"] > 0
        assert found["foreground"] > 0
    else:
        assert found["patch"] == 44
    # Eleven regions with four windows each; the twelfth reaches over the tile's edge.
    assert sum(found.values()) == 11 * 4 + 1
    assert found["region"] == 1


def test_with_thresholds_for_lone_parcels_the_clear_ones_are_kept(scene, parcels):
    lone = Thresholds(max_nodata=0.0, min_foreground=0.001, max_scl_invalid=0.5, max_bright=0.2)
    outcomes = [
        patch
        for region in regions(parcels)
        for patch in extract(
            scene, region, parcels, size=32, stride=8, thresholds=lone, taxonomy=CROPS, coverage="sparse"
        )
    ]
    kept = [patch for patch in outcomes if isinstance(patch, Candidate)]
    assert 0 < len(kept) < len(outcomes)
    for patch in kept:
        assert patch.figures.scl_invalid_fraction <= 0.5
        assert patch.parcels.max() > 0
        assert (patch.image > 0).all()
