"""Regions of interest: where to look. Square cells on a UTM grid, chosen by the crops that lie in them."""

from __future__ import annotations

from dataclasses import dataclass

from cropseg.core.errors import ConfigError

SNAP_M = 20
"""Cells lie on multiples of this, so that 10 m and 20 m pixels of every Sentinel-2 tile fall on their edges."""


@dataclass(frozen=True)
class Roi:
    """A square of ground in a UTM zone.

    Attributes:
        name: Made of its place, so that it stays the same whatever else is chosen; also the name of a folder.
        subset: Name of the subset whose parcels chose it.
        crs: ``EPSG:326zz`` (north) or ``EPSG:327zz`` (south), the zone of the parcels that it was laid around.
        bounds: Left, bottom, right, top in metres, multiples of the cell size (grid) or of 20 m (hot cell).
        score: Hectares of any crop (grid) or of the target class (hot cell) inside.
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
