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
    squared = squared_edge_distance(labels)
    found = np.zeros(labels.shape, np.uint8)
    for start in BANDS_PX[1:]:
        found += squared >= start**2
    return found


def squared_edge_distance(labels: npt.NDArray[Any]) -> UInt8Array:
    """Square of the distance in pixels to the nearest pixel that touches an edge, at most :data:`REACH`².

    An edge lies between two pixels that share a side and differ. The border of the patch is none.

    Distances along the rows come first, then the least sum of squares along the columns (Saito and Toriwaki, 1994,
    doi:10.1016/0031-3203(94)90133-3), no further than is asked for. Rows stand one after the other with gaps of as many
    pixels, so that each step goes once through memory; a distance along a row is a sum of steps of 1, 2 and 4.

    Args:
        labels: Parcel numbers or classes, (height, width).
    """
    height, width = labels.shape
    along = np.full((height, width + REACH), REACH, np.uint8)
    near = np.zeros(labels.shape, dtype=bool)
    down, across = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    near[1:] |= down
    near[:-1] |= down
    near[:, 1:] |= across
    near[:, :-1] |= across
    along[:, :width][near] = 0
    line, further = along.reshape(-1), np.empty(along.size, np.uint8)
    for step in (1, 2, 4):
        np.add(line, np.uint8(step), out=further)
        np.minimum(line[step:], further[:-step], out=line[step:])
        np.minimum(line[:-step], further[step:], out=line[:-step])
    np.minimum(line, REACH, out=line)
    line *= line
    best = along.copy()
    for step in range(1, min(REACH, height)):
        beyond = along + np.uint8(step * step)  # at most 8² + 7²
        np.minimum(best[step:], beyond[:-step], out=best[step:])
        np.minimum(best[:-step], beyond[step:], out=best[:-step])
    return np.minimum(best[:, :width], REACH * REACH)
