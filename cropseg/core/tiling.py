"""Windows over a raster: the one place that knows how an area is cut into patches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cropseg.core.errors import ConfigError


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of pixels.

    Attributes:
        row: First row, 0 at the top.
        col: First column, 0 at the left.
        height: Rows.
        width: Columns.
    """

    row: int
    col: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices for indexing an array's last two axes."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)

    def shifted(self, rows: int, cols: int) -> Window:
        """The same window moved by ``rows`` and ``cols`` pixels."""
        return Window(self.row + rows, self.col + cols, self.height, self.width)


def starts(length: int, size: int, stride: int, *, border_aligned: bool = False) -> list[int]:
    """First pixels of windows along one axis.

    Args:
        length: Pixels along the axis.
        size: Window size in pixels.
        stride: Step between windows in pixels.
        border_aligned: Whether a last window that ends on the border is added where the stride leaves a rest.

    Returns:
        Ascending offsets; empty if ``length < size``.

    Raises:
        ConfigError: ``size`` or ``stride`` is not positive.
    """
    if size < 1 or stride < 1:
        raise ConfigError("window size and stride must be at least 1 pixel", (size, stride), "set both positive")
    if length < size:
        return []
    found = list(range(0, length - size + 1, stride))
    if border_aligned and found[-1] != length - size:
        found.append(length - size)
    return found


def sliding(height: int, width: int, size: int, stride: int, *, border_aligned: bool = False) -> Iterator[Window]:
    """Square windows over a raster, row by row.

    With ``border_aligned`` every pixel of a raster at least ``size`` wide and high is covered if ``stride <= size``.

    Args:
        height: Rows of the raster.
        width: Columns of the raster.
        size: Window size in pixels.
        stride: Step in pixels.
        border_aligned: See :func:`starts`.

    Yields:
        Windows that lie wholly inside the raster.
    """
    cols = starts(width, size, stride, border_aligned=border_aligned)
    for row in starts(height, size, stride, border_aligned=border_aligned):
        for col in cols:
            yield Window(row, col, size, size)
