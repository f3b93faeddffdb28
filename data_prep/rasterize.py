"""Parcels onto a grid: the mask of classes, and the raster of parcel numbers beside it.

A pixel belongs to the parcel that its centre lies in. Where parcels of different labels overlap, the pixel's label is
unknown; where they agree, the lower parcel number stands. Polygons are reprojected vertex by vertex.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pyproj
import rasterio.features
import shapely
from affine import Affine

from cropseg.core.errors import ConfigError, InputError
from cropseg.core.labels import BACKGROUND, IGNORE
from cropseg.core.scene import Grid, UInt8Array

Coverage = Literal["exhaustive", "sparse"]
Undefined = Literal["ignore", "background"]
UInt32Array = npt.NDArray[np.uint32]

WGS84: Final = "EPSG:4326"

_OTHER_GROUND: Final = "check the CRS of the parcel file, or choose a region where its parcels lie"


@dataclass(frozen=True)
class RasterReport:
    """What became of the parcels.

    Attributes:
        parcels: Parcels whose polygon touches the grid's rectangle.
        without_pixels: Of these, those that hold no pixel: too small, or wholly under parcels of lower number.
        overlap_pixels: Pixels under parcels of different labels.
        outside_pixels: Pixels outside the subset's extent.
    """

    parcels: int
    without_pixels: int
    overlap_pixels: int
    outside_pixels: int


class Rasterized(NamedTuple):
    """Labels of a grid.

    Attributes:
        mask: uint8 (height, width), class ids and 255.
        parcels: uint32 (height, width), parcel numbers, 0 = no parcel.
        report: What became of the parcels.
    """

    mask: UInt8Array
    parcels: UInt32Array
    report: RasterReport


def rasterize(
    parcels: gpd.GeoDataFrame,
    grid: Grid,
    coverage: Coverage,
    extent: tuple[float, float, float, float] | None,
    *,
    all_touched: bool = False,
    undefined: Undefined = "ignore",
) -> Rasterized:
    """Burn parcels into ``grid``.

    Args:
        parcels: Columns ``parcel`` (numbers from 1), ``label`` (class id or 255) and a valid ``geometry``, in any CRS.
        grid: The target grid, in a projected CRS.
        coverage: ``exhaustive`` where ground without a parcel is background, ``sparse`` where it is unknown.
        extent: Left, bottom, right, top in degrees (WGS 84) of the ground that the parcel file speaks for; pixels
            whose centre lies outside are unknown. None for all ground.
        all_touched: Whether a pixel belongs to every parcel that touches it, rather than to the one at its centre;
            pixels on the border of two labels are then unknown.
        undefined: What pixels under parcels of different labels and under ignored parcels become: ``ignore`` (255) or
            ``background`` (the paper's, which ignores nothing in training); with that, the extent of an exhaustive
            file has no effect either. Ground without a parcel of a sparse one stays unknown.

    Returns:
        Mask, parcel numbers and a report. Parcel numbers stand wherever a parcel lies, also where the mask is 255.

    Raises:
        ConfigError: An unknown coverage, or an impossible extent.
        InputError: The parcels have no CRS, lack a column, or have numbers or labels out of range.
    """
    _check(parcels, coverage, extent)
    if undefined not in get_args(Undefined):
        raise ConfigError("labels.undefined", undefined, "use ignore or background")
    near = _near(parcels, grid)
    order = np.argsort(near["parcel"].to_numpy(), kind="stable")
    near = near.iloc[order]
    shapes, labels, numbers = near.geometry.to_numpy(), near["label"].to_numpy(), near["parcel"].to_numpy()

    mask = np.full((grid.height, grid.width), BACKGROUND if coverage == "exhaustive" else IGNORE, np.uint8)
    covered = np.zeros(mask.shape, np.uint8)
    # Label by label, so that a pixel knows of every label over it and not only of the first and the last.
    for label in np.unique(labels):
        here = _burn(((shape, 1) for shape in shapes[labels == label]), grid, np.uint8, all_touched).astype(bool)
        mask[here] = label
        covered += here
    overlap = covered > 1
    mask[overlap] = IGNORE
    if undefined == "background":
        mask[(mask == IGNORE) & (covered > 0)] = BACKGROUND
    outside = _outside(extent, grid)
    if undefined == "ignore" or coverage == "sparse":
        mask[outside] = IGNORE

    # The last one burnt stays: so the lowest number comes last.
    backwards = ((shape, int(number)) for shape, number in zip(shapes[::-1], numbers[::-1], strict=True))
    raster = _burn(backwards, grid, np.uint32, all_touched)
    report = RasterReport(
        parcels=len(near),
        without_pixels=len(near) - int(np.isin(numbers, np.unique(raster)).sum()),
        overlap_pixels=int(overlap.sum()),
        outside_pixels=int(outside.sum()),
    )
    return Rasterized(mask, raster, report)


def _check(parcels: gpd.GeoDataFrame, coverage: str, extent: tuple[float, float, float, float] | None) -> None:
    if coverage not in ("exhaustive", "sparse"):
        raise ConfigError("coverage of a subset", coverage, "use exhaustive or sparse")
    if extent is not None and not (len(extent) == 4 and extent[0] < extent[2] and extent[1] < extent[3]):
        raise ConfigError("extent of a subset", extent, "give left, bottom, right, top in degrees")
    missing = {"parcel", "label"} - set(parcels.columns)
    if missing:
        raise InputError("parcels lack columns", sorted(missing), "harmonise them first")
    if parcels.crs is None:
        raise InputError("parcels have no CRS", None, "give the parcel file a CRS (a .prj beside a shapefile)")
    numbers, labels = parcels["parcel"].to_numpy(), parcels["label"].to_numpy()
    if len(parcels) and (numbers.min() < 1 or numbers.max() > np.iinfo(np.uint32).max):
        raise InputError("parcel numbers must lie in 1 … 2³² - 1", (numbers.min(), numbers.max()), "number them from 1")
    if len(parcels) and (labels.min() < 0 or labels.max() > IGNORE):
        raise InputError("labels must lie in 0 … 255", (labels.min(), labels.max()), "harmonise the parcels again")


def _near(parcels: gpd.GeoDataFrame, grid: Grid) -> gpd.GeoDataFrame:
    """The parcels that touch the grid's rectangle, in the grid's CRS."""
    box = shapely.box(*grid.bounds)
    to_parcels = pyproj.Transformer.from_crs(grid.crs, parcels.crs, always_xy=True)
    left, bottom, right, top = to_parcels.transform_bounds(*grid.bounds)
    if not np.isfinite([left, bottom, right, top]).all():
        raise InputError(
            f"the parcels' CRS {parcels.crs.name} does not reach the ground at", grid.bounds, _OTHER_GROUND
        )
    # A sagging edge of the rectangle may reach a little further than its sampled points.
    reach = 0.01 * max(right - left, top - bottom)
    search = shapely.box(left - reach, bottom - reach, right + reach, top + reach)
    candidates = parcels.iloc[np.sort(parcels.sindex.query(search))].to_crs(grid.crs)
    inside: gpd.GeoDataFrame = candidates[candidates.intersects(box)]
    return inside


def _burn(shapes: Iterable[tuple[Any, int]], grid: Grid, dtype: Any, all_touched: bool) -> npt.NDArray[Any]:
    listed = [(shape, value) for shape, value in shapes if not shape.is_empty]
    out = np.zeros((grid.height, grid.width), dtype)
    if listed:
        rasterio.features.rasterize(listed, out=out, transform=Affine(*grid.transform), all_touched=all_touched)
    return out


def _outside(extent: tuple[float, float, float, float] | None, grid: Grid) -> npt.NDArray[np.bool_]:
    """Pixels whose centre lies outside ``extent``."""
    if extent is None:
        return np.zeros((grid.height, grid.width), bool)
    a, _, x0, _, e, y0 = grid.transform
    x = x0 + a * (np.arange(grid.width) + 0.5)
    to_degrees = pyproj.Transformer.from_crs(grid.crs, WGS84, always_xy=True)
    left, bottom, right, top = extent
    outside = np.empty((grid.height, grid.width), bool)
    for row in range(grid.height):  # row by row: the coordinates of a whole tile would fill gigabytes
        lon, lat = to_degrees.transform(x, np.full(grid.width, y0 + e * (row + 0.5)))
        outside[row] = (lon < left) | (lon > right) | (lat < bottom) | (lat > top)
    return outside
