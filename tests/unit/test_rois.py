"""Regions of interest against brute force: cells disjoint, aligned, complete, ranked; hot cells where the crop is."""

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from cropseg.core import taxonomy
from cropseg.core.errors import ConfigError
from data_prep import rois

TAXONOMY = taxonomy.load("eurocrops10")
UTM33 = "EPSG:32633"


def parcels(shapes, labels, crs=UTM33):
    return gpd.GeoDataFrame({"label": np.array(labels, dtype=np.uint8)}, geometry=list(shapes), crs=crs)


def field(left, bottom, width, height, angle=0.0):
    box = shapely.box(left, bottom, left + width, bottom + height)
    return shapely.affinity.rotate(box, angle) if angle else box


fields = st.lists(
    st.tuples(
        st.integers(500_000, 506_000), st.integers(5_300_000, 5_306_000),
        st.integers(5, 2500), st.integers(5, 2500), st.floats(0, 89), st.sampled_from([0, 1, 3, 10, 255]),
    ),
    min_size=1, max_size=12,
)  # fmt: skip


def square(roi):
    return shapely.box(*roi.bounds)


@settings(max_examples=60, deadline=None)
@given(fields, st.sampled_from([200, 640, 1000, 2560]))
def test_grid_cells_are_disjoint_aligned_complete_and_ranked(rows, cell):
    given_parcels = parcels([field(*row[:5]) for row in rows], [row[5] for row in rows])
    found = rois.grid(given_parcels, TAXONOMY, subset="s", cell_m=cell)
    crops = given_parcels[~given_parcels["label"].isin([0, 255])]
    assert all(value % cell == 0 for roi in found for value in roi.bounds)
    assert len({roi.bounds for roi in found}) == len(found) == len({roi.name for roi in found})
    assert {roi.crs for roi in found} <= {UTM33}
    total = crops.area.sum() / 1e4
    assert sum(roi.score for roi in found) == pytest.approx(total, rel=1e-6, abs=1e-6 * max(1, len(found)))
    for roi in found[:5]:  # each cell's figure, by cutting every parcel
        assert roi.score == pytest.approx(sum(s.intersection(square(roi)).area for s in crops.geometry) / 1e4, abs=1e-5)
    assert [roi.score for roi in found] == sorted((roi.score for roi in found), reverse=True)
    assert rois.grid(given_parcels, TAXONOMY, subset="s", cell_m=cell, limit=3) == found[:3]
    shuffled = given_parcels.iloc[::-1].reset_index(drop=True)
    assert {r.name for r in rois.grid(shuffled, TAXONOMY, subset="s", cell_m=cell)} == {r.name for r in found}


def test_grid_leaves_out_thin_cells_and_breaks_ties_by_place():
    shapes = [field(501_000 + 1000 * i, 5_300_000 + 1000 * j, 500, 500) for j in (1, 0) for i in (1, 0)]
    shapes.append(field(510_000, 5_300_000, 100, 100))
    found = rois.grid(parcels(shapes, [1, 2, 3, 4, 1]), TAXONOMY, subset="s", cell_m=1000, min_crop_share=0.25)
    assert [roi.bounds[:2] for roi in found] == [
        (501_000, 5_300_000), (502_000, 5_300_000), (501_000, 5_301_000), (502_000, 5_301_000),
    ]  # fmt: skip
    assert all(roi.score == 25.0 and roi.subset == "s" for roi in found)
    assert found[0].name == "grid_32633_501000_5300000"


@settings(max_examples=40, deadline=None)
@given(fields, st.sampled_from([(600, 200), (640, 160), (1000, 500)]), st.sampled_from([1, 3]))
def test_hot_cells_equal_a_greedy_search_over_every_start(rows, sizes, target):
    cell, step = sizes
    given_parcels = parcels([field(*row[:5]) for row in rows], [row[5] for row in rows])
    found = rois.hot_cell(
        given_parcels, TAXONOMY, subset="s", cell_m=cell, step_m=step, target=TAXONOMY.names[target], min_area_ha=0.5
    )
    wanted = given_parcels[given_parcels["label"] == target].geometry.to_numpy()
    for i, roi in enumerate(found):
        assert all(value % step == 0 for value in roi.bounds)
        assert roi.score >= 0.5 - 1e-6
        assert roi.score == pytest.approx(shapely.area(shapely.intersection(wanted, square(roi))).sum() / 1e4, abs=1e-2)
        assert not any(square(roi).overlaps(square(o)) or square(roi).equals(square(o)) for o in found[:i])
    if len(wanted) == 0:
        assert found == []
        return
    # The first holds most of all squares on the finer grid, and nothing worth a cell is left outside the chosen ones.
    left, bottom, right, top = shapely.total_bounds(wanted) // step * step
    starts = [(x, y) for x in np.arange(left - cell + step, right + step, step)
              for y in np.arange(bottom - cell + step, top + step, step)]  # fmt: skip
    squares = np.array([shapely.box(x, y, x + cell, y + cell) for x, y in starts])
    areas = sum(shapely.area(shapely.intersection(squares, one)) for one in wanted) / 1e4
    best = areas.max()
    assert (found[0].score if found else 0.0) == pytest.approx(
        best if best >= 0.5 else 0.0, abs=0.51 if not found else 1e-2
    )
    chosen = [shapely.buffer(square(roi), -1e-3) for roi in found]
    free = [not any(one.intersects(other) for other in chosen) for one in squares]
    assert max(areas[free], default=0.0) < 0.5 + 1e-2


def test_hot_cell_puts_a_lone_field_in_its_middle_and_prefers_more():
    shapes = [field(500_000 + 4_000, 5_300_000 + 4_000, 200, 200), field(520_000, 5_320_000, 400, 400)]
    shapes.append(field(540_000, 5_340_000, 900, 900))  # another crop
    found = rois.hot_cell(parcels(shapes, [6, 6, 1]), TAXONOMY, subset="s", cell_m=2560, target="sunflower")
    assert [roi.score for roi in found] == [16.0, 4.0]
    for roi, shape in zip(found, (shapes[1], shapes[0]), strict=True):
        assert square(roi).centroid.distance(shape.centroid) <= 320 * 0.75
        assert all(value % rois.SNAP_M == 0 for value in roi.bounds)
    assert rois.hot_cell(parcels(shapes, [6, 6, 1]), TAXONOMY, subset="s", cell_m=2560, target="potato") == []


def test_cells_lie_in_the_zone_of_their_parcels_and_never_overlap_across_it():
    # Fields along 12 degrees east, where zones 32 and 33 meet, and one south of the equator.
    centres = [(11.9 + 0.02 * i, 48.0 + 0.01 * j) for i in range(11) for j in range(3)] + [(12.5, -1.0)]
    shapes = [shapely.box(x - 0.004, y - 0.003, x + 0.004, y + 0.003) for x, y in centres]
    found = rois.grid(parcels(shapes, [1] * len(shapes), "EPSG:4326"), TAXONOMY, subset="s", cell_m=2000)
    assert {roi.crs for roi in found} == {"EPSG:32632", "EPSG:32633", "EPSG:32733"}
    ground = [gpd.GeoSeries([square(roi)], crs=roi.crs).to_crs("EPSG:3035").iloc[0] for roi in found]
    for i, one in enumerate(ground):
        for other in ground[:i]:
            assert one.intersection(other).area < 1e-3 * one.area


def test_many_parcels_are_fast():
    import time

    rng = np.random.default_rng(0)
    left, bottom = rng.uniform(400_000, 600_000, 20_000), rng.uniform(5_300_000, 5_400_000, 20_000)
    many = parcels(shapely.box(left, bottom, left + 120, bottom + 90), rng.integers(0, 11, 20_000))
    start = time.perf_counter()
    assert len(rois.grid(many, TAXONOMY, subset="s", cell_m=2560, limit=10)) == 10
    assert len(rois.hot_cell(many, TAXONOMY, subset="s", cell_m=2560, target="oats", limit=10)) == 10
    assert time.perf_counter() - start < 60


def test_a_stray_parcel_does_not_eat_the_memory():
    stray = parcels([field(500_000, 5_300_000, 10, 10), field(590_000, 8_000_000, 10, 10)], [5, 5])
    with pytest.raises(ConfigError, match="step_m"):
        rois.hot_cell(stray, TAXONOMY, subset="s", cell_m=40, step_m=20, target="oats", min_area_ha=0.001)


def test_no_crop_means_no_region():
    assert rois.grid(parcels([field(500_000, 5_300_000, 10, 10)], [255]), TAXONOMY, subset="s", cell_m=1000) == []


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda p: rois.grid(p, TAXONOMY, subset="s", cell_m=2570), "cell_m"),
        (lambda p: rois.grid(p, TAXONOMY, subset="s", cell_m=2560, limit=0), "limit"),
        (lambda p: rois.grid(p, TAXONOMY, subset="s", cell_m=2560, min_crop_share=2), "min_crop_share"),
        (lambda p: rois.hot_cell(p, TAXONOMY, subset="s", cell_m=2560, target="oat"), "no class"),
        (lambda p: rois.hot_cell(p, TAXONOMY, subset="s", cell_m=2560, target="oats", step_m=300), "step_m"),
        (lambda p: rois.hot_cell(p, TAXONOMY, subset="s", cell_m=2560, target="oats", min_area_ha=0), "min_area_ha"),
    ],
)
def test_impossible_values_are_refused(call, says):
    with pytest.raises(ConfigError, match=says):
        call(parcels([field(500_000, 5_300_000, 10, 10)], [1]))
    with pytest.raises(ConfigError, match="bounds"):
        rois.Roi("x", "s", UTM33, (0, 0, 10, 20), 0.0)


def test_the_military_grid_s_wide_zone():
    """South-west of Norway lies in tiles of zone 32, whatever its longitude says."""
    places = [(5.5, 59.0), (2.5, 59.0), (5.5, 55.0), (11.9, 63.9), (12.1, 60.0)]
    for (lon, lat), zone in zip(places, (32, 31, 31, 32, 33), strict=True):
        near = shapely.box(lon, lat, lon + 0.01, lat + 0.01)
        found = rois.grid(parcels([near], [3], "EPSG:4326"), TAXONOMY, subset="s", cell_m=2560)
        assert {roi.crs for roi in found} == {f"EPSG:326{zone}"}
