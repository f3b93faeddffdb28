from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropseg.core.errors import ConfigError
from cropseg.core.scene import Grid
from cropseg.core.tiling import Window
from data_prep.patches import why_none, windows_of


@dataclass(frozen=True)
class Region:
    bounds: tuple[float, float, float, float]
    crs: str = "EPSG:32633"
    name: str = "r1"


def grid(left=600_000, top=5_300_040, height=100, width=120, resolution=10, crs="EPSG:32633"):
    return Grid(crs, (resolution, 0, left, 0, -resolution, top), height, width)


def region(row, col, height, width, of=None):
    """The region that covers these pixels of ``of``."""
    left, bottom, right, top = (of or grid()).window(Window(row, col, height, width)).bounds
    return Region((left, bottom, right, top))


def test_windows_start_at_the_regions_corner():
    assert windows_of(region(3, 7, 20, 33), grid(), size=10, stride=10) == [
        Window(row, col, 10, 10) for row in (3, 13) for col in (7, 17, 27)
    ]
    assert windows_of(region(0, 0, 10, 10), grid(), size=10, stride=3) == [Window(0, 0, 10, 10)]


def test_windows_that_leave_the_tile_are_left_out_and_the_others_stay_in_place():
    assert windows_of(region(-15, 95, 40, 40), grid(), size=10, stride=10) == [
        Window(row, col, 10, 10) for row in (5, 15) for col in (95, 105)
    ]


@settings(max_examples=100, deadline=None)
@given(
    shift=st.tuples(st.integers(-60, 60), st.integers(-60, 60)),
    size=st.integers(1, 30),
    stride=st.integers(1, 30),
    place=st.tuples(st.integers(-50, 110), st.integers(-50, 130)),
)
def test_the_same_ground_on_every_tile(shift, size, stride, place):
    """Two tiles that overlap: what both show of a region is cut into the same windows."""
    one = grid()
    other = grid(left=600_000 + 20 * shift[1], top=5_300_040 - 20 * shift[0])
    roi = region(*place, 64, 64)
    ground = [{g.window(w).bounds for w in windows_of(roi, g, size, stride)} for g in (one, other)]
    left, bottom, right, top = (
        max(one.bounds[0], other.bounds[0]),
        max(one.bounds[1], other.bounds[1]),
        min(one.bounds[2], other.bounds[2]),
        min(one.bounds[3], other.bounds[3]),
    )
    seen = [{b for b in g if b[0] >= left and b[1] >= bottom and b[2] <= right and b[3] <= top} for g in ground]
    assert seen[0] == seen[1]
    for windows, g in zip(ground, (one, other), strict=True):
        for bounds in windows:
            assert roi.bounds[0] <= bounds[0]
            assert roi.bounds[1] <= bounds[1]
            assert bounds[2] <= roi.bounds[2]
            assert bounds[3] <= roi.bounds[3]
            assert g.bounds[0] <= bounds[0]
            assert bounds[3] <= g.bounds[3]
            assert (bounds[0] - roi.bounds[0]) % (10 * stride) == 0
            assert (roi.bounds[3] - bounds[3]) % (10 * stride) == 0


def test_bounds_between_pixels_move_inward():
    at_60_m = grid(left=600_000, top=5_300_040, height=50, width=50, resolution=60)
    roi = Region((600_020, 5_300_040 - 660, 600_020 + 640, 5_300_040 - 20))
    assert windows_of(roi, at_60_m, size=10, stride=10) == [Window(1, 1, 10, 10)]


def test_a_region_in_another_zone_has_no_window_and_a_reason():
    roi = Region((600_000, 5_299_040, 601_000, 5_300_040), crs="EPSG:32632")
    assert windows_of(roi, grid(), 10, 10) == []
    assert why_none(roi, grid(), 10, 10) == "region r1 lies in EPSG:32632, the product in EPSG:32633"


def test_other_reasons():
    small = region(0, 0, 9, 40)
    assert windows_of(small, grid(), 10, 10) == []
    assert why_none(small, grid(), 10, 10) == "region r1 has 9 × 40 pixels, a window needs 10 × 10"
    beside = region(-40, 0, 40, 40)
    assert windows_of(beside, grid(), 10, 10) == []
    assert why_none(beside, grid(), 10, 10) == "no window of region r1 lies wholly on the product's grid"
    assert why_none(region(0, 0, 10, 10), grid(), 10, 10) is None


@pytest.mark.parametrize(("size", "stride"), [(0, 1), (1, 0), (-1, 5)])
def test_impossible_sizes(size, stride):
    with pytest.raises(ConfigError, match="at least 1 pixel"):
        windows_of(region(0, 0, 10, 10), grid(), size, stride)
