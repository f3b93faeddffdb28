"""Regions of interest: where to look. Square cells on a UTM grid, chosen by the crops that lie in them.

Cells of one UTM zone never overlap. Where a subset reaches over a zone's border, each parcel counts in the zone of its
centre, and of two cells of different zones that overlap on the ground the better one is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import shapely
from pyproj import Transformer

from cropseg.core.errors import ConfigError
from cropseg.core.labels import BACKGROUND, IGNORE
from cropseg.core.taxonomy import Taxonomy

SNAP_M = 20
"""Cells lie on multiples of this, so that 10 m and 20 m pixels of every Sentinel-2 tile fall on their edges."""

_HECTARE = 10_000.0
_MOST_STEPS = 100_000_000  # cells of the finer grid: about 4 GB while hot cells are sought


@dataclass(frozen=True)
class Roi:
    """A square of ground in a UTM zone.

    Attributes:
        name: Made of its place, so that it stays the same whatever else is chosen; also the name of a folder.
        subset: Name of the subset whose parcels chose it.
        crs: ``EPSG:326zz`` (north) or ``EPSG:327zz`` (south), the zone of the parcels that it was laid around.
        bounds: Left, bottom, right, top in metres, multiples of the cell size (grid) or of 20 m (hot cell).
        score: Hectares of any crop (grid) or of the target class (hot cell) inside; overlapping parcels count each.
    """

    name: str
    subset: str
    crs: str
    bounds: tuple[int, int, int, int]
    score: float

    def __post_init__(self) -> None:
        """Check that the cell is a cell."""
        left, bottom, right, top = self.bounds
        if right - left <= 0 or right - left != top - bottom or any(value % SNAP_M for value in self.bounds):
            raise ConfigError(f"bounds of region {self.name}", self.bounds, f"give a square on multiples of {SNAP_M} m")


@dataclass(frozen=True)
class _Cells:
    """Cells of one zone that hold any crop: columns and rows counted from the zone's origin, and hectares inside."""

    col: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    area_ha: npt.NDArray[np.float64]


def grid(
    parcels: gpd.GeoDataFrame,
    taxonomy: Taxonomy,
    *,
    subset: str,
    cell_m: int,
    limit: int | None = None,
    min_crop_share: float = 0.0,
) -> list[Roi]:
    """Cells of a regular grid, those with most crop first.

    Args:
        parcels: Harmonised parcels: ``label`` and ``geometry`` in any CRS.
        taxonomy: Its classes from 1 on are crops.
        subset: Name of the subset, for the regions' attribute.
        cell_m: Side of a cell in metres, a multiple of 20; cells lie on multiples of it.
        limit: How many cells at most; None for all.
        min_crop_share: Least share of a cell's area that crops must cover, 0 to 1.

    Returns:
        By descending area of crop, ties by zone, row from the south and column. Without a limit or a least share they
        cover every crop parcel (but at zone borders, see above). Empty if there is no crop.

    Raises:
        ConfigError: A value is impossible.
    """
    _check(cell_m, limit)
    if not 0.0 <= min_crop_share <= 1.0:
        raise ConfigError("min_crop_share", min_crop_share, "give a share between 0 and 1")
    labels = parcels["label"].to_numpy()
    crops = parcels[(labels != BACKGROUND) & (labels != IGNORE) & (labels < len(taxonomy))]
    found = []
    for crs, geometry in _by_zone(crops):
        cells = _areas(geometry, cell_m)
        enough = cells.area_ha * _HECTARE >= min_crop_share * cell_m**2
        for col, row, area in zip(cells.col[enough], cells.row[enough], cells.area_ha[enough], strict=True):
            found.append(_roi("grid", subset, crs, int(col) * cell_m, int(row) * cell_m, cell_m, float(area)))
    return _best(found, limit)


def hot_cell(
    parcels: gpd.GeoDataFrame,
    taxonomy: Taxonomy,
    *,
    subset: str,
    cell_m: int,
    target: str,
    limit: int | None = None,
    min_area_ha: float = 1.0,
    step_m: int | None = None,
) -> list[Roi]:
    """Cells laid around concentrations of one class, the richest first.

    The class's area is summed on a grid of ``step_m``; of all squares of ``cell_m`` that start on it, the one with
    most of the class is taken, then the next that does not overlap it, and so on. Of squares that hold the same area
    the one is taken in whose middle it lies best.

    Args:
        parcels: Harmonised parcels: ``label`` and ``geometry`` in any CRS.
        taxonomy: Holds the target class.
        subset: Name of the subset, for the regions' attribute.
        cell_m: Side of a cell in metres, a multiple of ``step_m``.
        target: Name of the class.
        limit: How many cells at most; None for all.
        min_area_ha: Least area of the class in a cell, in hectares, above 0.
        step_m: Side of the finer grid in metres, a multiple of 20; None for about an eighth of ``cell_m``.

    Returns:
        By descending area of the class, ties by zone, row from the south and column. Empty if there is none.

    Raises:
        ConfigError: The class does not exist, or a value is impossible.
    """
    _check(cell_m, limit)
    step = _default_step(cell_m) if step_m is None else step_m
    if step < SNAP_M or step % SNAP_M or cell_m % step:
        raise ConfigError("step_m", step, f"give a multiple of {SNAP_M} that divides cell_m={cell_m}")
    if not min_area_ha > 0:
        raise ConfigError("min_area_ha", min_area_ha, "give an area above 0 hectares")
    wanted = parcels[parcels["label"].to_numpy() == taxonomy.id_of(target)]
    found = []
    for crs, geometry in _by_zone(wanted):
        for col, row, area in _peaks(_areas(geometry, step), cell_m // step, min_area_ha, limit):
            found.append(_roi("hot", subset, crs, col * step, row * step, cell_m, area))
    return _best(found, limit)


def _check(cell_m: int, limit: int | None) -> None:
    if not isinstance(cell_m, int) or cell_m < SNAP_M or cell_m % SNAP_M:
        raise ConfigError("cell_m", cell_m, f"give a multiple of {SNAP_M} m, so that pixels fall on the cell's edges")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ConfigError("limit of regions", limit, "give at least 1, or null for all")


def _default_step(cell_m: int) -> int:
    """The divisor of the cell that is a multiple of 20 m and closest to an eighth of it."""
    steps = [step for step in range(SNAP_M, cell_m + 1, SNAP_M) if cell_m % step == 0]
    return min(steps, key=lambda step: (abs(step - cell_m / 8), step))


def _roi(kind: str, subset: str, crs: str, left: int, bottom: int, cell_m: int, area_ha: float) -> Roi:
    name = f"{kind}_{crs.removeprefix('EPSG:')}_{left}_{bottom}"
    return Roi(name, subset, crs, (left, bottom, left + cell_m, bottom + cell_m), round(area_ha, 6))


def _by_zone(parcels: gpd.GeoDataFrame) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """The parcels' geometries in the UTM zone of their centres, zone by zone."""
    if len(parcels) == 0:
        return
    left, bottom, right, top = shapely.bounds(parcels.geometry.to_numpy()).T
    to_degrees = Transformer.from_crs(parcels.crs, "EPSG:4326", always_xy=True)
    lon, lat = to_degrees.transform((left + right) / 2, (bottom + top) / 2)
    zone = np.clip((lon + 180) // 6, 0, 59).astype(np.int64) + 1
    zone[(lat >= 56) & (lat < 64) & (lon >= 3) & (lon < 12)] = 32  # the military grid's, whose tiles are looked for
    epsg = np.where(lat >= 0, 32600, 32700) + zone
    for code in np.unique(epsg):
        moved = parcels.geometry[epsg == code].to_crs(int(code)).to_numpy()
        broken = np.flatnonzero(~shapely.is_valid(moved))
        moved[broken] = shapely.buffer(moved[broken], 0)  # reprojection can fold a sliver
        yield f"EPSG:{code}", moved


def _areas(geometry: npt.NDArray[Any], cell_m: int) -> _Cells:
    """Area of polygons in each cell, exactly: a polygon over several cells is cut at their edges."""
    first_col, first_row, last_col, last_row = np.floor(shapely.bounds(geometry) / cell_m).astype(np.int64).T
    whole = (first_col == last_col) & (first_row == last_row)
    crossing = np.flatnonzero(~whole)
    wide = (last_col - first_col + 1)[crossing]
    count = wide * (last_row - first_row + 1)[crossing]
    owner = np.repeat(crossing, count)
    nth = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    col = first_col[owner] + nth % np.repeat(wide, count)
    row = first_row[owner] + nth // np.repeat(wide, count)
    boxes = shapely.box(col * cell_m, row * cell_m, (col + 1) * cell_m, (row + 1) * cell_m)
    pieces = shapely.area(shapely.intersection(geometry[owner], boxes))
    cols = np.concatenate([first_col[whole], col])
    rows = np.concatenate([first_row[whole], row])
    areas = np.concatenate([shapely.area(geometry[whole]), pieces])
    used = areas > 0
    cells, where = np.unique(np.stack([rows[used], cols[used]], axis=1), axis=0, return_inverse=True)
    total = np.bincount(where.ravel(), weights=areas[used], minlength=len(cells))
    return _Cells(cells[:, 1], cells[:, 0], total / _HECTARE)


def _peaks(cells: _Cells, side: int, min_area_ha: float, limit: int | None) -> Iterator[tuple[int, int, float]]:
    """Squares of ``side`` x ``side`` cells with most area that do not overlap: first column, first row, hectares."""
    if len(cells.col) == 0:
        return
    # A margin of side - 1 empty cells lets squares begin before the first cell. Areas are summed as whole square
    # decimetres, so that sums are exact and equal squares are seen to be equal.
    col0, row0 = int(cells.col.min()) - side + 1, int(cells.row.min()) - side + 1
    shape = (int(cells.row.max()) - row0 + side, int(cells.col.max()) - col0 + side)
    if shape[0] * shape[1] > _MOST_STEPS:
        raise ConfigError(
            "hot cells: the finer grid has too many cells", shape, "set a larger step_m, or split the subset"
        )
    area = np.zeros(shape, dtype=np.int64)
    at = (cells.row - row0, cells.col - col0)
    area[at] = np.round(cells.area_ha * _HECTARE * 100).astype(np.int64)
    total = _square_sums(area, side)
    rows, cols = np.nonzero(total >= max(1, round(min_area_ha * _HECTARE * 100)))
    # Distance of the square's middle from the area's centre of gravity, in cells: exact sums of area times position.
    position = np.arange(max(shape), dtype=np.int64)
    sums = total[rows, cols]
    off_row = _square_sums(area * position[: shape[0], None], side)[rows, cols] / sums - (rows + (side - 1) / 2)
    off_col = _square_sums(area * position[: shape[1]], side)[rows, cols] / sums - (cols + (side - 1) / 2)
    order = np.lexsort((cols, rows, np.round(off_row**2 + off_col**2, 6), -sums))
    free = np.ones(total.shape, dtype=bool)
    taken = 0
    for row, col, found in zip(rows[order].tolist(), cols[order].tolist(), sums[order].tolist(), strict=True):
        if free[row, col]:
            yield col + col0, row + row0, found / 100 / _HECTARE
            free[max(0, row - side + 1) : row + side, max(0, col - side + 1) : col + side] = False
            taken += 1
            if taken == limit:
                return


def _square_sums(values: npt.NDArray[np.int64], side: int) -> npt.NDArray[np.int64]:
    """Sums over all squares of ``side`` cells, by their first row and column."""
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1), dtype=np.int64)
    sums[1:, 1:] = values.cumsum(axis=0).cumsum(axis=1)
    return sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]


def _best(found: list[Roi], limit: int | None) -> list[Roi]:
    """The best regions first, without those that overlap a better one of another zone, up to the limit."""
    ranked = sorted(found, key=lambda roi: (-roi.score, roi.crs, roi.bounds[1], roi.bounds[0]))
    if len({roi.crs for roi in ranked}) > 1:
        ranked = _without_overlaps(ranked)
    return ranked[:limit]


def _without_overlaps(ranked: list[Roi]) -> list[Roi]:
    # Edges get points in between, since a straight edge in one zone is bent in another.
    squares = [shapely.segmentize(shapely.box(*roi.bounds), (roi.bounds[2] - roi.bounds[0]) / 8) for roi in ranked]
    crs = np.array([roi.crs for roi in ranked])
    ground = np.empty(len(ranked), dtype=object)
    for code in np.unique(crs):
        here = np.flatnonzero(crs == code)
        ground[here] = gpd.GeoSeries([squares[i] for i in here], crs=str(code)).to_crs("EPSG:4326").to_numpy()
    worse, better = shapely.STRtree(ground).query(ground, predicate="intersects")
    rivals: dict[int, list[int]] = {}
    for one, other in zip(worse.tolist(), better.tolist(), strict=True):
        if other < one and crs[one] != crs[other]:
            rivals.setdefault(one, []).append(other)
    kept: set[int] = set()
    for number in range(len(ranked)):
        if not any(other in kept for other in rivals.get(number, [])):
            kept.add(number)
    return [roi for number, roi in enumerate(ranked) if number in kept]
