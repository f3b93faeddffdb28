"""Windows of one product that overlap: in which of them a pixel of the ground is counted, where it is counted once.

Each pixel belongs to the window in whose interior it lies deepest, as in a map of which the middle of each window is
kept; of windows in which it lies equally deep, to the uppermost, then to the leftmost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from cropseg.core.manifest import Dataset

RULE: Final = "each ground pixel of a product once, in the window in whose interior it lies deepest"

Neighbour = tuple[int, int, bool]
"""Rows and columns that a window lies further down and right, and whether it comes first where both are as deep."""

_COLUMNS: Final = ("subset", "roi", "product", "datetime", "crs", "transform")


def neighbours(dataset: Dataset, rows: Sequence[int]) -> dict[int, list[Neighbour]]:
    """The windows that overlap each of ``rows``, by manifest row; windows that none overlaps are left out.

    Windows are compared where subset, place, product, time, CRS and pixel grid are the same, by their transform.
    """
    table = dataset.manifest.select(["id", *_COLUMNS]).take(np.asarray(rows, dtype=np.int64)).to_pylist()
    groups: dict[tuple[object, ...], list[tuple[int, int, str, int]]] = {}
    for row, one in zip(rows, table, strict=True):
        a, b, c, d, e, f = one["transform"]
        if b or d or not a or not e:  # a grid that is not north up: no importer writes one
            continue
        x, y = c / a, f / e
        col, line = round(x), round(y)
        phase = round(x - col, 3), round(y - line, 3)
        key = (*(one[name] for name in _COLUMNS[:-1]), a, e, *phase)
        groups.setdefault(key, []).append((line, col, one["id"], row))
    found: dict[int, list[Neighbour]] = {}
    size = dataset.spec.patch_size
    for members in groups.values():
        members.sort()
        spots = np.array([one[:2] for one in members])
        for i, j in cKDTree(spots).query_pairs(size - 0.5, p=np.inf, output_type="ndarray"):
            down, right = (int(step) for step in spots[j] - spots[i])
            found.setdefault(members[i][3], []).append((down, right, j < i))
            found.setdefault(members[j][3], []).append((-down, -right, i < j))
    return found


def owned(size: int, others: Sequence[Neighbour]) -> npt.NDArray[np.bool_]:
    """Pixels of a window that are its own, bool (size, size): it lies deepest there, or equally deep and first."""
    along = np.minimum(np.arange(size) + 1, size - np.arange(size))
    depth = np.minimum(along[:, None], along)
    mine = np.ones((size, size), dtype=bool)
    for down, right, first in others:
        here = tuple(slice(max(0, step), min(size, size + step)) for step in (down, right))
        there = tuple(slice(max(0, -step), min(size, size - step)) for step in (down, right))
        lost = depth[there] >= depth[here] if first else depth[there] > depth[here]
        mine[here] &= ~lost
    return mine
