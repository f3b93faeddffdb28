"""Writing a Sentinel-2 L2A product: a true SAFE folder that GDAL's own SENTINEL2 driver opens, and its zip.

The STAC item of a product is made by :func:`data_prep.simulate.catalogue.item`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyproj
import rasterio
import shapely
from affine import Affine

from cropseg.core.bands import PAPER_BANDS, S2_BANDS, SceneClass
from cropseg.core.errors import InputError
from cropseg.core.storage import atomic_path, storage_errors
from data_prep.simulate import safe_xml

UInt16Array = npt.NDArray[np.uint16]
UInt8Array = npt.NDArray[np.uint8]

BOA_OFFSET: Final = -1000
"""What ``BOA_ADD_OFFSET`` holds in products since processing baseline 04.00 (Sentinel-2 PSD 14.9)."""

BLOCK: Final = 1024
"""Tile size of a product's JPEG 2000 files in pixels, as delivered by ESA."""

_PATTERNS: Final = {"tile": r"\d{2}[C-X][A-Z]{2}", "baseline": r"\d{2}\.\d{2}", "platform": r"S2[A-D]"}
_SEGMENT_M: Final = 20_000.0
# At mid latitudes a straight UTM line of 20 km and its chord in degrees part by less than 10 m.


@dataclass(frozen=True)
class ProductMeta:
    """What is known of one product besides its pixels.

    Attributes:
        tile: MGRS tile without T, such as ``33UXP``.
        epsg: EPSG code of the tile's UTM zone, such as 32633.
        ulx: Easting of the upper left corner in metres.
        uly: Northing of the upper left corner in metres.
        size: Pixels per side at 10 m; even.
        acquired: Sensing start, UTC.
        baseline: Processing baseline, such as ``02.14`` or ``05.10``; since ``04.00`` DN carry the BOA offset.
        platform: ``S2A`` to ``S2D``.
        relative_orbit: 1 to 143.
        absolute_orbit: Orbits since launch.
        cloud_cover: Percent of valid pixels under cloud, as the catalogue tells it.
        nodata_percentage: Percent of the tile without data.
        generated: When the product was processed, UTC.
        place: Where the scene lies, in words for people.

    Raises:
        InputError: A value that no product can have.
    """

    tile: str
    epsg: int
    ulx: int
    uly: int
    size: int
    acquired: datetime
    baseline: str
    platform: str
    relative_orbit: int
    absolute_orbit: int
    cloud_cover: float
    nodata_percentage: float
    generated: datetime
    place: str = ""

    def __post_init__(self) -> None:
        for field, pattern in _PATTERNS.items():
            if not re.fullmatch(pattern, getattr(self, field)):
                raise InputError(f"{field} of a product must match {pattern}", getattr(self, field), "correct it")
        if not 32601 <= self.epsg <= 32760 or not 1 <= self.epsg % 100 <= 60:
            raise InputError("the EPSG code of a product must be a WGS 84 UTM zone", self.epsg, "use 326zz or 327zz")
        if self.size < 2 or self.size % 2:
            raise InputError("size of a product must be an even number of 10 m pixels", self.size, "make it even")
        if not 1 <= self.relative_orbit <= 143:
            raise InputError("relative_orbit must lie in 1 ... 143", self.relative_orbit, "correct it")
        for field in ("cloud_cover", "nodata_percentage"):
            if not 0 <= getattr(self, field) <= 100:
                raise InputError(f"{field} must lie in 0 ... 100 percent", getattr(self, field), "correct it")
        for field in ("acquired", "generated"):
            if getattr(self, field).utcoffset() is None:
                raise InputError(f"{field} of a product has no time zone", getattr(self, field), "give it in UTC")

    @property
    def has_offset(self) -> bool:
        """Whether DN carry the BOA offset: since baseline 04.00."""
        return self.baseline >= "04.00"

    @property
    def offset(self) -> int:
        """What is to be added to a DN before dividing by the quantification value."""
        return BOA_OFFSET if self.has_offset else 0

    @property
    def name(self) -> str:
        """ESA's name of the product, without ``.SAFE``."""
        return (
            f"{self.platform}_MSIL2A_{stamp(self.acquired)}_N{self.baseline.replace('.', '')}"
            f"_R{self.relative_orbit:03d}_T{self.tile}_{stamp(self.generated)}"
        )

    @property
    def granule(self) -> str:
        """Name of the one folder below ``GRANULE``."""
        return f"L2A_T{self.tile}_A{self.absolute_orbit:06d}_{stamp(self.acquired)}"

    @property
    def crs(self) -> str:
        """Such as ``EPSG:32633``."""
        return f"EPSG:{self.epsg}"

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """(left, bottom, right, top) in the CRS."""
        side = self.size * 10
        return self.ulx, self.uly - side, self.ulx + side, self.uly

    def transform(self, resolution: int) -> Affine:
        """From (column, row) to (easting, northing) at ``resolution`` metres."""
        return Affine(resolution, 0, self.ulx, 0, -resolution, self.uly)

    def image(self, layer: str, resolution: int) -> str:
        """Path of an image inside the product without suffix; ``layer`` is a band or ``SCL``."""
        return (
            f"GRANULE/{self.granule}/IMG_DATA/R{resolution}m/T{self.tile}_{stamp(self.acquired)}_{layer}_{resolution}m"
        )

    @property
    def images(self) -> dict[tuple[str, int], str]:
        """Every image that is written: (layer, resolution) to its path in the product without suffix."""
        layers = [(band, S2_BANDS[band].resolution) for band in PAPER_BANDS] + [("SCL", 20)]
        layers.sort(
            key=lambda layer: (layer[1], layer[0] == "SCL", S2_BANDS[layer[0]].boa_id if layer[0] != "SCL" else 0)
        )
        return {layer: self.image(*layer) for layer in layers}


def stamp(when: datetime) -> str:
    """A time as ESA's names have it, such as ``20220612T100601``."""
    return when.astimezone(UTC).strftime("%Y%m%dT%H%M%S")


def write_product(meta: ProductMeta, bands: Mapping[str, UInt16Array], scl: UInt8Array, folder: Path) -> Path:
    """Write a product as a SAFE folder; the same input gives the same bytes.

    Args:
        meta: What is known of it.
        bands: The ten bands at their native resolution, uint16 DN as delivered (BOA offset already in them where the
            baseline has one), 0 = no data: (size, size) at 10 m, (size/2, size/2) at 20 m.
        scl: Scene classes at 20 m, uint8 (size/2, size/2).
        folder: Where the ``.SAFE`` folder is to stand; one of the same name is replaced.

    Returns:
        The ``.SAFE`` folder.

    Raises:
        InputError: A band is missing, or an array has another shape or type, or there is no valid pixel.
        StorageError: The disk is full or not ours; nothing half-written is left.
    """
    layers: dict[str, npt.NDArray[Any]] = {**bands, "SCL": scl}
    _check_layers(meta, layers)
    outline = footprint(meta, scl)
    statistics = scene_statistics(scl)
    target = folder / f"{meta.name}.SAFE"
    temporary = folder / f".{meta.name}.{os.getpid()}.part"
    with storage_errors(target):
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            for (layer, resolution), path in meta.images.items():
                _write_jp2(temporary / f"{path}.jp2", layers[layer], meta, resolution)
            _write_text(temporary / "MTD_MSIL2A.xml", safe_xml.product(meta, outline, statistics))
            _write_text(temporary / "GRANULE" / meta.granule / "MTD_TL.xml", safe_xml.tile(meta, statistics))
            _write_text(temporary / "manifest.safe", safe_xml.manifest(meta, outline, _files(temporary)))
            if target.exists():
                shutil.rmtree(target)
            temporary.replace(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def pack(safe: Path, folder: Path | None = None) -> Path:
    """Zip a SAFE folder as CDSE does: ``<name>.zip`` holding ``<name>.SAFE/…``; the same input gives the same bytes.

    Args:
        safe: The ``.SAFE`` folder.
        folder: Where the zip is to stand; beside the product if None.

    Returns:
        Path of the zip. Members are stored, not compressed: JPEG 2000 does not shrink, and ranges can be served.

    Raises:
        InputError: There is no such folder.
        StorageError: The disk is full or not ours.
    """
    if not safe.is_dir() or safe.suffix != ".SAFE":
        raise InputError("not a .SAFE folder", str(safe), "give the folder that write_product returned")
    path = (folder or safe.parent) / f"{safe.stem}.zip"
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(item for item in safe.rglob("*") if item.is_file()):
            # A fixed time and fixed rights: the bytes may depend on the content alone.
            member = zipfile.ZipInfo(f"{safe.name}/{file.relative_to(safe).as_posix()}", (1980, 1, 1, 0, 0, 0))
            member.create_system = 3
            member.external_attr = 0o644 << 16
            member.file_size = file.stat().st_size
            with file.open("rb") as source, archive.open(member, "w") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    return path


def footprint(meta: ProductMeta, scl: UInt8Array) -> shapely.Polygon:
    """The ground that holds data, in WGS 84 (longitude, latitude): the convex hull of the valid 20 m pixels.

    A swath edge is straight, so the hull is the valid ground to within a pixel. Long edges are divided, because a
    straight line of the UTM zone is a curve in degrees.

    Raises:
        InputError: No pixel is valid.
    """
    valid = np.asarray(scl) != SceneClass.NO_DATA
    rows = np.flatnonzero(valid.any(axis=1))
    if not rows.size:
        raise InputError(f"{meta.name} has no valid pixel", None, "leave out a date on which the swath misses the tile")
    first = valid.argmax(axis=1)[rows]
    last = valid.shape[1] - valid[:, ::-1].argmax(axis=1)[rows]
    corners = [np.stack([cols, rows + below], axis=1) for cols in (first, last) for below in (0, 1)]
    points = np.concatenate(corners) * (20.0, -20.0) + (meta.ulx, meta.uly)
    hull = shapely.convex_hull(shapely.multipoints(points))
    to_wgs84 = pyproj.Transformer.from_crs(meta.epsg, 4326, always_xy=True)
    outline = shapely.transform(shapely.segmentize(hull, _SEGMENT_M), to_wgs84.transform, interleaved=False)
    return shapely.geometry.polygon.orient(outline)


def scene_statistics(scl: UInt8Array) -> dict[SceneClass, float]:
    """Percent of pixels of each scene class: no data of all pixels, the others of the valid ones, as ESA counts."""
    counts = np.bincount(np.asarray(scl).ravel(), minlength=len(SceneClass)).astype(float)
    valid = max(counts[1:].sum(), 1.0)
    shares = {kind: round(100.0 * counts[kind] / valid, 6) for kind in SceneClass}
    shares[SceneClass.NO_DATA] = round(100.0 * counts[0] / counts.sum(), 6)
    return shares


def _check_layers(meta: ProductMeta, layers: Mapping[str, npt.NDArray[Any]]) -> None:
    for layer, resolution in meta.images:
        if layer not in layers:
            raise InputError(f"{meta.name} lacks a band", layer, f"give {', '.join(PAPER_BANDS)}")
        array, side = layers[layer], meta.size * 10 // resolution
        dtype: Literal["uint8", "uint16"] = "uint8" if layer == "SCL" else "uint16"
        if array.shape != (side, side) or array.dtype != dtype:
            raise InputError(f"{layer} must be {dtype} ({side}, {side})", f"{array.dtype} {array.shape}", "correct it")
    if int(layers["SCL"].max()) > max(SceneClass):
        raise InputError("unknown scene class", int(layers["SCL"].max()), f"use 0 ... {max(SceneClass)}")


def _write_jp2(path: Path, array: npt.NDArray[Any], meta: ProductMeta, resolution: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="JP2OpenJPEG",
        height=array.shape[0],
        width=array.shape[1],
        count=1,
        dtype=array.dtype,
        crs=meta.crs,
        transform=meta.transform(resolution),
        QUALITY="100",
        REVERSIBLE="YES",
        BLOCKXSIZE=BLOCK,
        BLOCKYSIZE=BLOCK,
        GMLJP2="YES",
        GEOJP2="NO",
    ) as dataset:
        dataset.write(array, 1)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def _files(folder: Path) -> list[tuple[str, int, str]]:
    """(path, size, MD5) of every file in ``folder``, sorted."""
    rows = []
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        rows.append((path.relative_to(folder).as_posix(), path.stat().st_size, digest))
    return rows
