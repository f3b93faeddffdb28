"""Where patches lie on the ground: footprints in one CRS, and the places that a split must not tear apart."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyproj
import shapely

from cropseg.core.errors import InputError

GROUND_CRS: Final = "EPSG:3035"
"""ETRS89 / LAEA Europe, in which ground distances are measured; its scale is true to about 1 % within Europe."""

HALF_PIXEL_M2: Final = 50.0
"""Less shared ground than this is no shared pixel, but the curvature of an edge from one projection to the other."""


@dataclass(frozen=True)
class Patches:
    """What a split needs to know of a manifest, in order of id, whatever the order of the rows.

    Attributes:
        ids: Patch ids.
        product: Product of each.
        country: Country of each.
        date: ISO day of each.
        counts: (n, classes) pixels.
        ground: Footprints in EPSG:3035.
    """

    ids: npt.NDArray[np.str_]
    product: npt.NDArray[np.str_]
    country: npt.NDArray[np.str_]
    date: npt.NDArray[np.str_]
    counts: npt.NDArray[np.int64]
    ground: npt.NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, chosen: npt.NDArray[np.bool_]) -> Patches:
        """Those of the patches that are ``chosen``, (n,)."""
        return Patches(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @classmethod
    def read(cls, manifest: pa.Table) -> Patches:
        """Take the columns out of a manifest.

        Raises:
            InputError: It is empty, or an id stands twice.
        """
        ids = np.array(manifest["id"].to_pylist(), dtype=np.str_)
        if len(ids) == 0:
            raise InputError("there are no patches to split", None, "see the summary: loosen quality, season or region")
        order = np.argsort(ids, kind="stable")
        if len(np.unique(ids)) != len(ids):
            raise InputError("a patch id stands twice in the manifest", None, "prepare the dataset again")

        def column(name: str) -> npt.NDArray[np.str_]:
            return np.array(manifest[name].to_pylist(), dtype=np.str_)[order]

        days = np.array([moment.date().isoformat() for moment in manifest["datetime"].to_pylist()])[order]
        counts = np.array(manifest["counts"].to_pylist(), dtype=np.int64)[order]
        return cls(ids[order], column("product"), column("country"), days, counts, ground(manifest)[order])


def places(patches: Patches, cell_m: float) -> npt.NDArray[np.str_]:
    """Group of each patch: its ground cell, joined with every cell whose patches overlap its own.

    Returns:
        (n,) names: the least cell of the group as ``<x>_<y>`` in units of ``cell_m``.
    """
    centres = shapely.get_coordinates(shapely.centroid(patches.ground))
    keys, cell = np.unique(np.floor(centres / cell_m).astype(np.int64), axis=0, return_inverse=True)
    cell = cell.ravel()
    parent = list(range(len(keys)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    # Windows on the same pixels share their centre, and so their cell: one of them speaks for all dates.
    distinct = first_of_each(patches.ground)
    for one, other in zip(*(distinct[side] for side in overlaps(patches.ground[distinct])), strict=True):
        low, high = sorted((root(int(cell[one])), root(int(cell[other]))))
        parent[high] = low
    return np.array(["{}_{}".format(*keys[root(int(c))]) for c in cell], dtype=np.str_)


def overlaps(shapes: npt.NDArray[np.object_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Index pairs (i < j) of shapes that share at least half a 10 m pixel of ground; an edge in common is none."""
    tree = shapely.STRtree(shapes)
    one, other = tree.query(shapes, predicate="intersects")
    one, other = one[one < other], other[one < other]
    shared = shapely.area(shapely.intersection(shapes[one], shapes[other])) >= HALF_PIXEL_M2
    return one[shared], other[shared]


def first_of_each(shapes: npt.NDArray[np.object_]) -> npt.NDArray[np.int64]:
    """Index of the first of each distinct shape, ascending."""
    _, first = np.unique(shapely.to_wkb(shapes, hex=True), return_index=True)
    return np.sort(first)


def ground(manifest: pa.Table) -> npt.NDArray[np.object_]:
    """Footprints of all patches in EPSG:3035, as the quadrilaterals of their transformed corners."""
    shapes = np.empty(manifest.num_rows, dtype=object)
    by_crs: dict[str, list[int]] = defaultdict(list)
    for row, crs in enumerate(manifest["crs"].to_pylist()):
        by_crs[crs].append(row)
    transform = np.array(manifest["transform"].to_pylist(), dtype=np.float64)
    height = np.array(manifest["height"].to_pylist(), dtype=np.float64)
    width = np.array(manifest["width"].to_pylist(), dtype=np.float64)
    for crs, rows in by_crs.items():
        a, b, c, d, e, f = transform[rows].T
        corners = np.stack(
            [
                np.stack([a * w + b * h + c, d * w + e * h + f], axis=-1)
                for w, h in ((0 * width[rows], 0 * height[rows]), (width[rows], 0 * height[rows]),
                             (width[rows], height[rows]), (0 * width[rows], height[rows]))
            ],
            axis=1,
        )  # fmt: skip
        x, y = _to_ground(crs).transform(corners[..., 0], corners[..., 1])
        shapes[rows] = shapely.polygons(np.stack([x, y], axis=-1))
    return shapes


@lru_cache(maxsize=32)
def _to_ground(crs: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(crs, GROUND_CRS, always_xy=True)


def uniform(seed: int, key: str) -> float:
    """A number in [0, 1) that hangs on seed and key alone."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
