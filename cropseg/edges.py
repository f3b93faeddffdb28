"""How far pixels lie from the nearest edge between parcels or classes, in bands of pixels."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cropseg.core.scene import UInt8Array

BANDS_PX: Final = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Where bands of distance to the edge begin, in pixels; a pixel that touches an edge has distance 0."""

REACH: Final = int(BANDS_PX[-1])
"""Distance in pixels beyond which all is one band."""


def edge_bands(labels: npt.NDArray[Any]) -> UInt8Array:
    """Which band of distance to the nearest edge each pixel lies in, see :data:`BANDS_PX`; the last without an edge.

    Args:
        labels: Parcel numbers or classes, (height, width).
    """
    squared = _squared(labels)
    found = np.zeros(squared.shape, np.uint8)
    for start in BANDS_PX[1:]:
        found += (squared >= np.uint8(start**2)).view(np.uint8)
    return found[:, : labels.shape[1]]


def squared_edge_distance(labels: npt.NDArray[Any]) -> UInt8Array:
    """Square of the distance in pixels to the nearest pixel that touches an edge, at most :data:`REACH`².

    An edge lies between two pixels that share a side and differ. The border of the patch is none.

    Distances along the rows come first, then the least sum of squares along the columns (Saito and Toriwaki, 1994,
    doi:10.1016/0031-3203(94)90133-3), no further than is asked for. Rows stand one after the other with gaps of as many
    pixels, so that each step goes once through memory; a distance along a row is a sum of steps of 1, 2 and 4.

    Args:
        labels: Parcel numbers or classes, (height, width).
    """
    return np.minimum(_squared(labels)[:, : labels.shape[1]], REACH * REACH)


def _squared(labels: npt.NDArray[Any]) -> UInt8Array:
    """Squared distances with the gaps behind the rows, (height, width + REACH); :data:`REACH`² and above is far."""
    height, width = labels.shape
    along = np.full((height, width + REACH), REACH, np.uint8)
    # True is 1: one less is 0 at an edge, and all bits elsewhere.
    along[:, :width] = (_touching(labels).view(np.uint8) - np.uint8(1)) & np.uint8(REACH)
    line, further = along.reshape(-1), np.empty(along.size, np.uint8)
    for step in (1, 2, 4):
        np.add(line, np.uint8(step), out=further)
        np.minimum(line[step:], further[:-step], out=line[step:])
        np.minimum(line[:-step], further[step:], out=line[:-step])
    np.minimum(line, REACH, out=line)
    line *= line
    best, beyond = along.copy(), np.empty_like(along)
    for step in range(1, min(REACH, height)):
        np.add(along, np.uint8(step * step), out=beyond)  # at most 8² + 7²
        np.minimum(best[step:], beyond[:-step], out=best[step:])
        np.minimum(best[:-step], beyond[step:], out=best[:-step])
    return best


def _touching(labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Pixels that touch an edge, (height, width)."""
    width, line = labels.shape[1], labels.reshape(-1)
    found = np.zeros(labels.shape, dtype=bool)
    near = found.reshape(-1)
    across = line[1:] != line[:-1]
    across[width - 1 :: max(width, 1)] = False  # the last of a row and the first of the next
    near[1:] |= across
    near[:-1] |= across
    down = line[width:] != line[:-width]
    near[width:] |= down
    near[:-width] |= down
    return found
