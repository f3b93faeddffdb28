import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from cropseg.core.errors import ConfigError, InputError
from cropseg.core.scene import Grid
from cropseg.core.tiling import Window
from data_prep.rasterize import rasterize

LEFT, TOP = 600_000, 5_300_040
GRID = Grid("EPSG:32633", (10, 0, LEFT, 0, -10, TOP), 16, 20)


def frame(shapes, labels, numbers=None, crs="EPSG:32633"):
    numbers = range(1, len(labels) + 1) if numbers is None else numbers
    columns = {"parcel": np.array(list(numbers), np.int64), "label": np.array(labels, np.uint8)}
    return gpd.GeoDataFrame(columns, geometry=list(shapes), crs=crs)


def square(row, col, height, width):
    """The rectangle over these pixels."""
    left, bottom, right, top = GRID.window(Window(row, col, height, width)).bounds
    return shapely.box(left, bottom, right, top)


def by_definition(parcels, grid, coverage):
    """Mask and numbers, pixel centre by pixel centre."""
    mask = np.full((grid.height, grid.width), 0 if coverage == "exhaustive" else 255, np.uint8)
    numbers = np.zeros(mask.shape, np.uint32)
    a, _, x, _, e, y = grid.transform
    rows, cols = np.indices(mask.shape)
    over = np.stack([shapely.contains_xy(g, x + a * (cols + 0.5), y + e * (rows + 0.5)) for g in parcels.geometry])
    for row, col in np.argwhere(over.any(axis=0)):
        here = parcels[over[:, row, col]]
        numbers[row, col] = here["parcel"].min()
        mask[row, col] = here["label"].iloc[0] if here["label"].nunique() == 1 else 255
    return mask, numbers


def tie(parcels, grid):
    """Whether a boundary passes through a pixel centre, where no rule is the right one."""
    rows, cols = np.indices((grid.height, grid.width))
    a, _, x, _, e, y = grid.transform
    centres = shapely.points(x + a * (cols + 0.5), y + e * (rows + 0.5)).ravel()
    edges = shapely.geometrycollections(parcels.boundary.to_numpy())
    return bool(shapely.dwithin(edges, shapely.multipoints(centres), 1e-6))


@st.composite
def parcels_of_any_shape(draw):
    """Triangles to heptagons, some with a hole, overlapping freely and reaching beyond the grid; shuffled numbers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = []
    for _ in range(draw(st.integers(1, 7))):
        centre = np.array([LEFT, TOP]) + rng.uniform([-20, -180], [220, 20])
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        radii = rng.uniform(3, 90, len(angles))
        ring = shapely.Polygon(centre + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None])
        shape = shapely.make_valid(ring)
        if rng.random() < 0.3:
            shape = shape.difference(shape.centroid.buffer(15))
        shapes.append(shape)
    numbers = rng.permutation(1000)[: len(shapes)] + 1
    return frame(shapes, rng.choice([0, 1, 3, 10, 255], len(shapes)), numbers)


@settings(max_examples=25, deadline=None)
@given(parcels=parcels_of_any_shape(), coverage=st.sampled_from(["exhaustive", "sparse"]))
def test_pixels_are_those_whose_centre_lies_inside(parcels, coverage):
    if tie(parcels, GRID):
        return
    found = rasterize(parcels, GRID, coverage, None)
    mask, numbers = by_definition(parcels, GRID, coverage)
    np.testing.assert_array_equal(found.mask, mask)
    np.testing.assert_array_equal(found.parcels, numbers)
    assert (found.mask.dtype, found.parcels.dtype) == (np.uint8, np.uint32)


@settings(max_examples=25, deadline=None)
@given(parcels=parcels_of_any_shape(), row=st.integers(0, 15), col=st.integers(0, 19))
def test_a_window_is_the_crop_of_the_whole(parcels, row, col):
    window = Window(row, col, 16 - row, 20 - col)
    whole = rasterize(parcels, GRID, "exhaustive", None)
    part = rasterize(parcels, GRID.window(window), "exhaustive", None)
    np.testing.assert_array_equal(part.mask, whole.mask[window.slices])
    np.testing.assert_array_equal(part.parcels, whole.parcels[window.slices])


def test_unparcelled_ground():
    parcels = frame([square(2, 2, 3, 3)], [4])
    exhaustive, sparse = (rasterize(parcels, GRID, coverage, None) for coverage in ("exhaustive", "sparse"))
    assert (exhaustive.mask == 4).sum() == (sparse.mask == 4).sum() == 9
    assert (exhaustive.mask[0] == 0).all()
    assert (sparse.mask[0] == 255).all()
    assert rasterize(parcels.iloc[:0], GRID, "sparse", None).mask.min() == 255


def test_three_parcels_over_one_pixel_of_which_the_outer_two_agree():
    shapes = [square(0, 0, 4, 4), square(0, 0, 4, 2), square(0, 0, 4, 4)]
    found = rasterize(frame(shapes, [1, 2, 1]), GRID, "exhaustive", None)
    assert (found.mask[:4, :2] == 255).all()
    assert (found.mask[:4, 2:4] == 1).all()
    assert (found.parcels[:4, :4] == 1).all()
    assert found.report.overlap_pixels == 8
    assert found.report.without_pixels == 2


def test_overlap_with_unknown_ground_is_unknown_and_with_the_same_label_goes_to_the_lower_number():
    shapes = [square(0, 0, 4, 4), square(2, 2, 4, 4), square(3, 3, 4, 4)]
    found = rasterize(frame(shapes, [7, 7, 255], numbers=[9, 5, 6]), GRID, "exhaustive", None)
    assert found.parcels[2, 2] == 5
    assert found.mask[2, 2] == 7
    assert found.mask[3, 3] == 255
    assert found.parcels[6, 6] == 6


def test_large_parcel_numbers_keep_every_digit():
    found = rasterize(frame([square(0, 0, 1, 1)], [1], numbers=[4_294_967_295]), GRID, "sparse", None)
    assert found.parcels[0, 0] == 4_294_967_295


def test_all_touched():
    sliver = shapely.box(LEFT + 1, TOP - 100, LEFT + 3, TOP)
    assert (rasterize(frame([sliver], [3]), GRID, "exhaustive", None).mask == 3).sum() == 0
    found = rasterize(frame([sliver], [3]), GRID, "exhaustive", None, all_touched=True)
    assert (found.mask[:10, 0] == 3).all()


def test_what_is_reported():
    tiny = shapely.box(LEFT + 1, TOP - 3, LEFT + 3, TOP - 1)
    far = shapely.box(LEFT + 5_000, TOP - 100, LEFT + 5_100, TOP)
    report = rasterize(frame([square(0, 0, 2, 2), tiny, far], [1, 1, 1]), GRID, "exhaustive", None).report
    assert (report.parcels, report.without_pixels, report.overlap_pixels, report.outside_pixels) == (2, 1, 0, 0)


@pytest.mark.parametrize("crs", ["EPSG:31287", "EPSG:4326", "EPSG:3035", "EPSG:32632"])
def test_parcels_in_any_crs(crs):
    """Corners projected there and back lie where they lay, to far less than a pixel."""
    parcels = frame([square(2, 3, 5, 7), square(10, 10, 5, 4)], [1, 2])
    expected = rasterize(parcels, GRID, "exhaustive", None)
    found = rasterize(parcels.to_crs(crs), GRID, "exhaustive", None)
    np.testing.assert_array_equal(found.mask, expected.mask)
    np.testing.assert_array_equal(found.parcels, expected.parcels)


@pytest.mark.parametrize("coverage", ["exhaustive", "sparse"])
def test_ground_outside_the_extent_is_unknown(coverage):
    to_degrees = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    west, south = to_degrees.transform(LEFT + 104, TOP - 146)
    extent = (west, south, west + 1, south + 1)
    parcels = frame([square(0, 0, 16, 20)], [6])
    found = rasterize(parcels, GRID, coverage, extent)
    for row, col in np.ndindex(found.mask.shape):
        lon, lat = to_degrees.transform(LEFT + 10 * (col + 0.5), TOP - 10 * (row + 0.5))
        assert found.mask[row, col] == (6 if lon >= west and lat >= south else 255)
    assert (found.parcels == 1).all()
    assert found.report.outside_pixels == (found.mask == 255).sum() > 0


def test_bad_input_is_refused():
    parcels = frame([square(0, 0, 2, 2)], [1])
    with pytest.raises(InputError, match="parcels have no CRS"):
        rasterize(parcels.set_crs(None, allow_override=True), GRID, "sparse", None)
    with pytest.raises(InputError, match=r"lack columns: \['label'\]"):
        rasterize(parcels.drop(columns="label"), GRID, "sparse", None)
    with pytest.raises(InputError, match="parcel numbers"):
        rasterize(parcels.assign(parcel=0), GRID, "sparse", None)
    with pytest.raises(InputError, match="labels must lie in"):
        rasterize(parcels.assign(label=256), GRID, "sparse", None)
    with pytest.raises(ConfigError, match="coverage of a subset: 'full'"):
        rasterize(parcels, GRID, "full", None)
    for extent in ((1, 2, 1, 3), (1, 2, 3), (0, 5, 1, 4)):
        with pytest.raises(ConfigError, match="extent of a subset"):
            rasterize(parcels, GRID, "sparse", extent)


def test_parcels_that_cannot_lie_there_are_refused():
    """A gnomonic projection shows one half of the Earth; the grid lies on the other."""
    parcels = frame([shapely.box(0, 0, 10, 10)], [1], crs="+proj=gnom +lat_0=-48 +lon_0=-165")
    with pytest.raises(InputError, match="does not reach the ground"):
        rasterize(parcels, GRID, "sparse", None)


@pytest.mark.parametrize("coverage", ["exhaustive", "sparse"])
def test_undefined_labels_as_background(coverage):
    """The paper ignores nothing in training: with an exhaustive file no pixel is 255."""
    parcels = frame([square(0, 0, 4, 6), square(0, 4, 4, 4), square(8, 0, 4, 4)], [3, 4, 255])
    nowhere = (0.0, 0.0, 1.0, 1.0)
    ignored = rasterize(parcels, GRID, coverage, None).mask
    mask = rasterize(parcels, GRID, coverage, None, undefined="background").mask
    under = rasterize(parcels, GRID, coverage, None).parcels > 0
    assert (mask[under] == np.where(ignored == 255, 0, ignored)[under]).all()
    assert set(np.unique(mask[~under])) == ({0} if coverage == "exhaustive" else {255})
    outside = rasterize(parcels, GRID, coverage, nowhere, undefined="background").mask
    assert (outside == (mask if coverage == "exhaustive" else 255)).all()
    with pytest.raises(ConfigError, match=r"labels\.undefined"):
        rasterize(parcels, GRID, coverage, None, undefined="lowest")
