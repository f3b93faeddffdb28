"""What is stored beside a confusion matrix, so that a finer question needs no model again.

- ``<key>.patches.parquet``: a row a patch, :data:`PATCHES`; its matrices add up to that of ``<key>.json``.
- ``<key>.clusters.parquet``: the same pixels by what intervals are drawn over, ``cluster`` and ``confusion``.
- ``<key>.detail.json``: by distance to the parcel edge, by parcel, by confidence; and why a part is missing.

Every matrix has rows truth, columns prediction, and is stored row by row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cropseg.calibration import Reliability
from cropseg.core import storage
from cropseg.core.errors import InputError, MismatchError
from cropseg.core.labels import BACKGROUND
from cropseg.core.manifest import read_table
from cropseg.core.progress import warn
from cropseg.metrics import Confusion, Protocol

PATCHES: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("subset", pa.string(), nullable=False),
        pa.field("country", pa.string(), nullable=False),
        pa.field("roi", pa.string(), nullable=False),
        pa.field("product", pa.string(), nullable=False),
        pa.field("year", pa.int32(), nullable=False),
        pa.field("month", pa.int32(), nullable=False),
        pa.field("place", pa.string(), nullable=False),  # patches whose ground overlaps, over all dates, share it
        pa.field("cloud", pa.float32(), nullable=False),  # scl_invalid_fraction of the manifest; NaN where not known
        pa.field("nodata", pa.float32(), nullable=False),  # of all pixels, any band without data
        pa.field("pixels", pa.int64(), nullable=False),  # counted, under protocol all
        pa.field("correct", pa.int64(), nullable=False),  # of these
        pa.field("confusion", pa.list_(pa.int64()), nullable=False),
    ]
)
"""Columns of ``<key>.patches.parquet``, sorted by id."""

CLUSTERS: Final = pa.schema(
    [pa.field("cluster", pa.string(), nullable=False), pa.field("confusion", pa.list_(pa.int64()), nullable=False)]
)
"""Columns of ``<key>.clusters.parquet``, sorted by cluster."""

SUFFIXES: Final = (".patches.parquet", ".clusters.parquet", ".detail.json")
"""What the files beside ``<key>.json`` end in."""


@dataclass(frozen=True)
class Band:
    """Pixels by their distance to the nearest edge.

    Attributes:
        from_px: Least distance in pixels; 0 is a pixel that touches an edge.
        to_px: First distance beyond; infinite for the last band.
        confusion: Its pixels.
    """

    from_px: float
    to_px: float
    confusion: Confusion


@dataclass(frozen=True)
class AreaBand:
    """Parcels by their size.

    Attributes:
        from_ha: Least area in hectares.
        to_ha: First area beyond; infinite for the last band.
        parcels: Parcels with a counted pixel, one a parcel and product.
        confusion: Their pixels.
    """

    from_ha: float
    to_ha: float
    parcels: int
    confusion: Confusion


@dataclass(frozen=True)
class Details:
    """What is stored of an evaluation beside its confusion matrix.

    Attributes:
        patches: A row a patch, :data:`PATCHES`.
        clusters: Confusion matrix of each cluster that intervals are drawn over.
        clusters_are: What these are: ``place`` or ``parcel and year``.
        boundary: By distance to the nearest edge, from near to far; empty where it is not known.
        boundary_from: What the edges are: ``parcel raster``, ``class changes of the truth``, or how many of each.
        parcel_majority: Parcels by the class that most of their truth pixels and most of their mapped pixels have, one
            a parcel and product; None without a parcel raster.
        parcel_areas: By parcel size, from small to large; empty without a parcel raster.
        outside_parcels: Pixels outside parcels: with those of ``parcel_areas`` they make the whole matrix.
        reliability: Histogram of the confidence under each protocol; empty if the model gives none.
        once: Where windows overlap, each ground pixel of a product counted in one of them; None where they do not.
        without: Why a part is missing, by ``boundary``, ``parcels``, ``reliability``, ``recalibration``.
    """

    patches: pa.Table
    clusters: Mapping[str, Confusion]
    clusters_are: str
    boundary: tuple[Band, ...] = ()
    boundary_from: str = ""
    parcel_majority: Confusion | None = None
    parcel_areas: tuple[AreaBand, ...] = ()
    outside_parcels: Confusion | None = None
    reliability: Mapping[Protocol, Reliability] = field(default_factory=dict)
    once: Confusion | None = None
    without: Mapping[str, str] = field(default_factory=dict)

    @property
    def confusion(self) -> Confusion:
        """All pixels: the sum over the patches."""
        found: Confusion = matrices(self.patches).sum(axis=0)
        return found

    def check(self, confusion: Confusion) -> None:
        """Refuse parts that do not add up to ``confusion``.

        Raises:
            MismatchError: The first that does not.
        """
        sums = {"patches": self.confusion, "clusters": _sum(self.clusters.values(), confusion)}
        if self.boundary:
            sums["boundary"] = _sum((band.confusion for band in self.boundary), confusion)
        if self.outside_parcels is not None:
            sums["parcels"] = self.outside_parcels + _sum((band.confusion for band in self.parcel_areas), confusion)
        for what, found in sums.items():
            if not np.array_equal(found, confusion):
                raise MismatchError(f"{what} do not add up to the confusion matrix", int(found.sum()), "report this")
        for protocol, one in self.reliability.items():
            counted = confusion if protocol == "all" else np.delete(confusion, BACKGROUND, axis=0)
            if one.total != counted.sum():
                raise MismatchError(f"reliability ({protocol}) has other pixels than the matrix", one.total)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``<key>.detail.json``: all but the two tables."""
        content: dict[str, Any] = {"clusters_are": self.clusters_are, "without": dict(self.without)}
        if self.boundary:
            content["boundary"] = [
                {"from_px": one.from_px, "to_px": _number(one.to_px), "confusion": one.confusion.tolist()}
                for one in self.boundary
            ]
            content["boundary_from"] = self.boundary_from
        if self.parcel_majority is not None and self.outside_parcels is not None:
            content["parcels"] = {
                "confusion": self.parcel_majority.tolist(),
                "by_area": [
                    {
                        "from_ha": one.from_ha,
                        "to_ha": _number(one.to_ha),
                        "parcels": one.parcels,
                        "confusion": one.confusion.tolist(),
                    }
                    for one in self.parcel_areas
                ],
                "outside": self.outside_parcels.tolist(),
            }
        if self.reliability:
            content["reliability"] = {protocol: one.to_dict() for protocol, one in self.reliability.items()}
        if self.once is not None:
            content["once"] = {"confusion": self.once.tolist()}
        return content


def matrices(patches: pa.Table) -> Confusion:
    """Confusion matrix of each row of a table, int64 (rows, classes, classes)."""
    lists = patches["confusion"].combine_chunks()
    rows = len(lists)
    flat = np.asarray(lists.flatten().to_numpy(zero_copy_only=False), dtype=np.int64)
    classes = math.isqrt(len(flat) // rows) if rows else 0
    return flat.reshape(rows, classes, classes)


def write(results: Path, key: str, details: Details, confusion: Confusion) -> None:
    """Write the files of ``key`` beside where its ``.json`` will stand, each atomically.

    The one without which :func:`read` finds nothing is removed first and written last: tables of two evaluations are
    never read as one, wherever this is interrupted.

    Raises:
        MismatchError: The parts do not add up to ``confusion``.
    """
    details.check(confusion)
    (results / f"{key}{SUFFIXES[2]}").unlink(missing_ok=True)
    names = sorted(details.clusters)
    stack = np.array([details.clusters[name] for name in names], np.int64).reshape(-1, *confusion.shape)
    clusters = pa.table({"cluster": names, "confusion": lists(stack)}, schema=CLUSTERS)
    for suffix, table in ((SUFFIXES[0], details.patches), (SUFFIXES[1], clusters)):
        with storage.atomic_path(results / f"{key}{suffix}") as path:
            pq.write_table(table, path, compression="zstd")
    storage.write_json(results / f"{key}{SUFFIXES[2]}", details.to_dict())


def remove(results: Path, key: str) -> None:
    """Remove the files of ``key``, so that they do not stand beside another matrix."""
    for suffix in reversed(SUFFIXES):
        (results / f"{key}{suffix}").unlink(missing_ok=True)


def read(results: Path, key: str) -> Details | None:
    """Read what :func:`write` left.

    Returns:
        None where there is none: the evaluation is older; or a table is lost or the matrix beside is of another one,
        which is told.

    Raises:
        InputError: A file is broken.
    """
    path = results / f"{key}{SUFFIXES[2]}"
    if not path.is_file():
        return None
    files = [results / f"{key}{suffix}" for suffix in SUFFIXES[:2]]
    if lost := [file.name for file in files if not file.is_file()]:
        _warn_once(f"{results} has no {' and no '.join(lost)}: details of {key} are left out; evaluate again")
        return None
    content = storage.read_json(path)
    try:
        patches, table = (read_table(file) for file in files)
    except InputError as error:
        raise InputError(error.what, error.value, f"evaluate {key} again") from error
    try:
        found = _parsed(content, patches, table)
        stored = np.array(storage.read_json(results / f"{key}.json")["confusion"], dtype=np.int64)
        found.check(stored)
    except MismatchError as error:
        _warn_once(f"{path} is of another evaluation than {key}.json ({error.what}): it is left out; evaluate again")
        return None
    except (KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:
        raise InputError(f"{path} and the tables beside it cannot be read", str(error), "evaluate again") from error
    return found


@functools.cache
def _warn_once(message: str) -> None:
    """A report reads the same files for several tables."""
    warn(message)


def lists(stack: Confusion) -> pa.Array:
    """Matrices (rows, classes, classes) as an Arrow column of lists."""
    width = int(np.prod(stack.shape[1:]))
    offsets = pa.array(np.arange(len(stack) + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(stack.reshape(-1), pa.int64()))


def _parsed(content: Mapping[str, Any], patches: pa.Table, table: pa.Table) -> Details:
    parcels = content.get("parcels")
    once = content.get("once")
    return Details(
        patches=patches.select(PATCHES.names),
        clusters=dict(zip(table["cluster"].to_pylist(), matrices(table), strict=True)),
        clusters_are=str(content["clusters_are"]),
        boundary=tuple(
            Band(float(one["from_px"]), _float(one["to_px"]), _matrix(one["confusion"]))
            for one in content.get("boundary", ())
        ),
        boundary_from=str(content.get("boundary_from", "")),
        parcel_majority=None if parcels is None else _matrix(parcels["confusion"]),
        parcel_areas=tuple(
            AreaBand(float(one["from_ha"]), _float(one["to_ha"]), int(one["parcels"]), _matrix(one["confusion"]))
            for one in (parcels or {}).get("by_area", ())
        ),
        outside_parcels=None if parcels is None else _matrix(parcels["outside"]),
        reliability={key: Reliability.from_dict(one) for key, one in content.get("reliability", {}).items()},
        once=None if once is None else _matrix(once["confusion"]),
        without={str(key): str(value) for key, value in content["without"].items()},
    )


def _sum(parts: Iterable[Confusion], like: Confusion) -> Confusion:
    """``parts`` added up; zeros of the shape of ``like`` if there are none."""
    return sum(parts, start=np.zeros_like(like))


def _matrix(data: Any) -> Confusion:
    return np.array(data, dtype=np.int64)


def _number(value: float) -> float | None:
    """JSON has no infinity."""
    return None if math.isinf(value) else value


def _float(value: float | None) -> float:
    return math.inf if value is None else float(value)
