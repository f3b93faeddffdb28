"""The windows of a region on a product's grid.

Windows start at the region's own upper left corner and not at the tile's, so that the same ground is cut the same way
on every date and on every tile of one UTM zone.
"""

from __future__ import annotations

import math
from typing import Protocol

from cropseg.core.scene import Grid
from cropseg.core.tiling import Window, sliding


class Region(Protocol):
    """What is asked of a region of interest."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def crs(self) -> str:
        """Its CRS, such as ``EPSG:32633``."""
        ...

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top in its CRS."""
        ...


def pixels_of(roi: Region, grid: Grid) -> Window:
    """The pixels of ``grid``, continued beyond its edges, that lie wholly inside the region's bounds.

    Where the bounds fall between pixels (a region on a 10 m raster, seen at 60 m), they move inward to the next one.
    """
    left, bottom, right, top = roi.bounds
    a, _, x0, _, e, y0 = grid.transform
    col, col_end = _ceil((left - x0) / a), _floor((right - x0) / a)
    row, row_end = _ceil((top - y0) / e), _floor((bottom - y0) / e)
    return Window(row, col, max(0, row_end - row), max(0, col_end - col))


def windows_of(roi: Region, grid: Grid, size: int, stride: int) -> list[Window]:
    """Square windows of ``size`` pixels that lie wholly inside both the region and the grid, row by row.

    Args:
        roi: The region.
        grid: Grid of the product; the windows' rows and columns count from its upper left corner.
        size: Window size in pixels.
        stride: Step in pixels.

    Returns:
        The windows; none where the region lies in another CRS (another UTM zone) or beside the grid; then
        :func:`why_none` says which.

    Raises:
        ConfigError: ``size`` or ``stride`` is not positive.
    """
    if not _same_crs(roi.crs, grid.crs):
        return []
    area = pixels_of(roi, grid)
    moved = (window.shifted(area.row, area.col) for window in sliding(area.height, area.width, size, stride))
    return [window for window in moved if _inside(window, grid)]


def why_none(roi: Region, grid: Grid, size: int, stride: int) -> str | None:
    """Why :func:`windows_of` found no window; None if it found some."""
    if not _same_crs(roi.crs, grid.crs):
        return f"region {roi.name} lies in {roi.crs}, the product in {grid.crs}"
    if windows_of(roi, grid, size, stride):
        return None
    area = pixels_of(roi, grid)
    if min(area.height, area.width) < size:
        return f"region {roi.name} has {area.height} × {area.width} pixels, a window needs {size} × {size}"
    return f"no window of region {roi.name} lies wholly on the product's grid"


def _inside(window: Window, grid: Grid) -> bool:
    return (
        window.row >= 0
        and window.col >= 0
        and window.row + window.height <= grid.height
        and window.col + window.width <= grid.width
    )


def _same_crs(one: str, other: str) -> bool:
    return one.upper() == other.upper()


# A millionth of a pixel: what the division of large coordinates may be off by.
_SLACK = 1e-6


def _ceil(value: float) -> int:
    return math.ceil(value - _SLACK)


def _floor(value: float) -> int:
    return math.floor(value + _SLACK)
