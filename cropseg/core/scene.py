"""A georeferenced pixel grid, and what an image of a whole scene is to those who read windows of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from cropseg.core.tiling import Window

UInt16Array = npt.NDArray[np.uint16]
UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Grid:
    """A north-up raster grid.

    Attributes:
        crs: Coordinate reference system, such as ``EPSG:32633``.
        transform: Affine coefficients (a, b, c, d, e, f) in the order of the affine package: x = a·col + b·row + c.
        height: Rows.
        width: Columns.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]
    height: int
    width: int

    @property
    def resolution(self) -> float:
        """Pixel size in units of the CRS."""
        return self.transform[0]

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) in the CRS, for a grid whose b and d are zero."""
        a, _, left, _, e, top = self.transform
        return left, top + e * self.height, left + a * self.width, top

    def window(self, window: Window) -> Grid:
        """The grid of ``window``; it may reach beyond this grid."""
        a, b, c, d, e, f = self.transform
        left = a * window.col + b * window.row + c
        top = d * window.col + e * window.row + f
        return Grid(self.crs, (a, b, left, d, e, top), window.height, window.width)


class SceneReader(Protocol):
    """An image of a whole scene, readable by windows: what prediction needs to know of a product.

    Images are uint16 (bands, height, width), surface reflectance × 10000 without BOA offset, 0 = no data.
    """

    @property
    def name(self) -> str:
        """The product's name."""
        ...

    @property
    def bands(self) -> tuple[str, ...]:
        """Channel order of what :meth:`read` returns."""
        ...

    @property
    def grid(self) -> Grid:
        """The full grid."""
        ...

    @property
    def acquired(self) -> datetime:
        """Sensing start, UTC."""
        ...

    def read(self, window: Window) -> UInt16Array:
        """The pixels of ``window``, which lies inside the grid."""
        ...


@runtime_checkable
class ClassifiedScene(SceneReader, Protocol):
    """A scene with Sentinel-2's scene classification (SCL) of its pixels."""

    def scl(self, window: Window) -> UInt8Array:
        """Scene classes of ``window``, uint8 (height, width), 0 to 11."""
        ...
