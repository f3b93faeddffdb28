"""Patches are exact: every pixel of image and mask is read again by other means and must be the same.

The images are read with GDAL: the product through its own SENTINEL2 driver at the patch's coordinates, by no index of
ours. The masks are made anew from the parcels by asking, for each pixel's centre, which polygons hold it.
"""

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import safe_factory
import shapely
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import from_bounds

from cropseg.core import taxonomy
from cropseg.core.bands import PAPER_BANDS, S2_BANDS
from data_prep.align import AlignedProduct
from data_prep.extract import Candidate, Rejection, extract
from data_prep.quality import Thresholds

CROPS = taxonomy.load("eurocrops10")
OFF = Thresholds(max_nodata=1, min_foreground=0, max_scl_invalid=1, max_bright=1)
SIZE = 96
ZONES = {
    32633: {"ulx": 600_000, "uly": 5_300_040, "crs": "EPSG:31287"},  # Austria, its Lambert projection
    32631: {"ulx": 399_960, "uly": 5_600_040, "crs": "EPSG:2154"},  # France, Lambert-93
}


@dataclass(frozen=True)
class Region:
    crs: str
    bounds: tuple[float, float, float, float]
    name: str = "r"


def random_parcels(rng, about, crs):
    """Overlapping convex and concave shapes in a national CRS, some across the tile's edges."""
    left, bottom, right, top = about.bounds
    shapes = []
    for _ in range(40):
        centre = rng.uniform([left - 30, bottom - 30], [right + 30, top + 30])
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        ring = centre + np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(10, 150, (len(angles), 1))
        shape = shapely.make_valid(shapely.Polygon(ring))
        shapes.append(shape.difference(shape.centroid.buffer(20)) if rng.random() < 0.3 else shape)
    columns = {"parcel": rng.permutation(40) + 1, "label": rng.choice([0, 1, 3, 7, 10, 255], 40).astype(np.uint8)}
    return gpd.GeoDataFrame(columns, geometry=shapes, crs=about.crs).to_crs(crs)


def random_region(rng, about, size, turn):
    """A region that starts on any pixel and may reach beyond the tile; the first two lie in its opposite corners."""
    height, width = (int(side) for side in rng.integers(2 * size, 4 * size, 2))
    row, col = (int(start) for start in rng.integers(-size, about.size - size, 2))
    if turn < 2:
        row, col = (0, 0) if turn == 0 else (about.size - height, about.size - width)
    left, top = about.ulx + 10 * col, about.uly - 10 * row
    return Region(about.crs, (left, top - 10 * height, left + 10 * width, top))


def read_with_gdal(product, patch, resampling, offset):
    """The patch's image by GDAL's SENTINEL2 driver and warper, and which of its values were halfway between two."""
    zone = product.crs.replace(":", "_")
    left, bottom, right, top = patch.grid.bounds
    image, close = [], []
    for band in PAPER_BANDS:
        resolution = S2_BANDS[band].resolution
        with rasterio.open(f"SENTINEL2_L2A:{product.folder}/MTD_MSIL2A.xml:{resolution}m:{zone}") as dataset:
            # Descriptions are like "B2, central wavelength 490 nm".
            names = [text.split(",")[0] for text in dataset.descriptions]
            index = names.index(f"B{band[1:].lstrip('0')}") + 1
            if resolution == 10:
                place = from_bounds(left, bottom, right, top, dataset.transform)
                values = dataset.read(index, window=place).astype(float)
            else:
                values = upsample_with_gdal(dataset, index, patch, resampling)
        missing = (values == 0) | (values == 65_535)
        image.append(np.where(missing, 0, np.clip(np.rint(values) + offset, 1, 65_535)).astype(int))
        close.append(np.abs(values % 1 - 0.5) < 1e-3)
    return np.stack(image), np.stack(close)


def upsample_with_gdal(dataset, index, patch, resampling):
    """One 20 m band on the patch's pixels, float64; saturated pixels are no data before anything is mixed."""
    coarse = dataset.read(index).astype(np.float64)
    coarse[coarse == 65_535] = 0
    profile = {"driver": "GTiff", "height": coarse.shape[0], "width": coarse.shape[1], "count": 1, "dtype": "float64"}
    with rasterio.MemoryFile() as memory:
        with memory.open(crs=dataset.crs, transform=dataset.transform, nodata=0, **profile) as copy:
            copy.write(coarse, 1)
        with (
            memory.open() as copy,
            WarpedVRT(
                copy,
                crs=copy.crs,
                transform=rasterio.Affine(*patch.grid.transform),
                height=patch.grid.height,
                width=patch.grid.width,
                resampling=Resampling[resampling],
                dtype="float64",
            ) as warped,
        ):
            return warped.read(1)


def mask_by_points(parcels, grid, coverage, extent):
    """Labels and numbers of each pixel's centre; and where a border is too near to the centre to tell."""
    near = parcels.to_crs(grid.crs)
    a, _, left, _, e, top = grid.transform
    cols, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    x, y = left + a * cols, top + e * rows
    over = np.stack([shapely.contains_xy(shape, x, y) for shape in near.geometry])
    labels, numbers = (near[name].to_numpy().astype(int)[:, None, None] for name in ("label", "parcel"))
    low, high = (np.where(over, labels, other) for other in (999, -1))
    mask = np.where(low.min(0) == high.max(0), low.min(0), 255)
    mask[~over.any(0)] = 0 if coverage == "exhaustive" else 255
    if extent is not None:
        lon, lat = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True).transform(x, y)
        mask[(lon < extent[0]) | (lon > extent[2]) | (lat < extent[1]) | (lat > extent[3])] = 255
    raster = np.where(over, numbers, 10**9).min(0)
    raster[~over.any(0)] = 0
    edges = shapely.union_all(shapely.boundary(near.geometry.to_numpy()))
    return mask, raster, shapely.distance(shapely.points(x, y), edges) < 1e-6


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("resampling", ["bilinear", "nearest"])
@pytest.mark.parametrize("baseline", ["05.10", "02.14"])
@pytest.mark.parametrize("epsg", ZONES)
def test_image_and_mask_are_exact(tmp_path, epsg, baseline, resampling):
    zone = ZONES[epsg]
    rng = np.random.default_rng([epsg, int(baseline[:2]), resampling == "nearest"])
    place = {"epsg": epsg, "ulx": zone["ulx"], "uly": zone["uly"], "size": SIZE, "baseline": baseline}
    about = safe_factory.meta(**place)
    product = safe_factory.product(tmp_path, int(rng.integers(10**6)), **place)
    parcels = random_parcels(rng, about, zone["crs"])
    centre = Transformer.from_crs(about.crs, "EPSG:4326", always_xy=True).transform(about.ulx + 300, about.uly - 300)
    offset = -1000 if baseline == "05.10" else 0
    seen = {"patches": 0, "dark": 0, "swath": 0, "edge": 0, "odd": 0}
    with AlignedProduct(product, PAPER_BANDS, resampling=resampling) as scene:
        for turn in range(6):
            size = int(rng.integers(8, 33))
            coverage = str(rng.choice(["exhaustive", "sparse"]))
            extent = None if rng.random() < 0.5 else (centre[0], centre[1] - 1, centre[0] + 1, centre[1] + 1)
            patches = extract(
                scene,
                random_region(rng, about, size, turn),
                parcels,
                size=size,
                stride=int(rng.integers(size // 2, size + 1)),
                thresholds=OFF,
                taxonomy=CROPS,
                coverage=coverage,
                extent=extent,
            )
            found = list(patches)
            for patch in [found[i] for i in rng.permutation(len(found))[:4]]:
                if isinstance(patch, Rejection):
                    assert patch.rule == "region"
                    continue
                assert isinstance(patch, Candidate)
                image, halfway = read_with_gdal(product, patch, resampling, offset)
                np.testing.assert_array_equal(patch.image[~halfway], image[~halfway])
                # Where bilinear lands halfway between two numbers, the last bit of a float decides for GDAL.
                assert np.abs(patch.image - image).max() <= 1
                np.testing.assert_array_equal(patch.image == 0, image == 0)
                mask, numbers, tie = mask_by_points(parcels, patch.grid, coverage, extent)
                np.testing.assert_array_equal(patch.mask[~tie], mask[~tie])
                np.testing.assert_array_equal(patch.parcels[~tie], numbers[~tie])
                assert patch.figures.nodata_fraction == pytest.approx((image == 0).any(axis=0).mean())
                window = patch.window
                seen["patches"] += 1
                seen["dark"] += bool((patch.image == 1).any())
                seen["swath"] += bool(0.1 < (image == 0).all(axis=0).mean() < 1)
                seen["edge"] += min(window.row, window.col) == 0 or max(window.row, window.col) + size == SIZE
                seen["odd"] += window.row % 2 == 1 and window.col % 2 == 1
    # The draw met what the test is about.
    assert seen["patches"] >= 10
    assert min(seen.values()) > 0, seen


@pytest.mark.parametrize("epsg", ZONES)
def test_a_shift_by_one_pixel_would_be_seen(tmp_path, epsg):
    """The tests above have teeth: a marked pixel of each band lies where its coordinates say, and nowhere else."""
    place = {"epsg": epsg, "ulx": ZONES[epsg]["ulx"], "uly": ZONES[epsg]["uly"], "size": SIZE}
    bands, scl = safe_factory.pixels(SIZE, 0, swath=False)
    for name, array in bands.items():
        array[:] = 1500
        factor = S2_BANDS[name].resolution // 10
        array[30 // factor, 50 // factor] = 4000
    about = safe_factory.meta(**place)
    product = safe_factory.open_product(safe_factory.write_product(about, bands, scl, tmp_path))
    left, top = about.ulx + 500, about.uly - 300
    parcel = gpd.GeoDataFrame(
        {"parcel": [7], "label": [4]}, geometry=[shapely.box(left, top - 10, left + 10, top)], crs=about.crs
    )
    region = Region(about.crs, (about.ulx + 410, about.uly - 510, about.ulx + 730, about.uly - 190))
    with AlignedProduct(product, PAPER_BANDS, resampling="nearest") as scene:
        (patch,) = extract(scene, region, parcel, size=32, stride=32, thresholds=OFF, taxonomy=CROPS)
    row, col = 30 - 19, 50 - 41
    assert np.argwhere(patch.mask == 4).tolist() == [[row, col]]
    assert np.argwhere(patch.parcels == 7).tolist() == [[row, col]]
    for channel, name in enumerate(PAPER_BANDS):
        factor = S2_BANDS[name].resolution // 10
        marked = [[row + i, col + j] for i in range(factor) for j in range(factor)]
        assert np.argwhere(patch.image[channel] == 3000).tolist() == marked
