"""Reads the points of a probability sample whose reference was filled in, and holds them against those drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cropseg.area import Sample
from cropseg.core.errors import ConfigError, InputError, MismatchError

DESIGN: Final = "design"
"""Layer of the GeoPackage that lists all classes; points may be of classes that the map never gives."""

DRAWN: Final = "drawn"
"""Layer of the GeoPackage that lists the points as they were drawn; older files have none."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def read_sample(path: str | Path) -> Sample:
    """Read the points that ``sample.py`` drew, after somebody filled in the column ``reference``.

    A sample from elsewhere needs the columns ``stratum``, ``map_class``, ``inclusion``, ``reference`` and ``pixel_m2``,
    and ``cluster`` where points were drawn in clusters.

    Raises:
        MismatchError: No known inclusion probabilities: the file is no probability sample of the mapped area.
        InputError: The file cannot be read, a point has no reference or an unknown class, or the points are not those
            that were drawn.
    """
    import geopandas as gpd
    from pyogrio.errors import DataSourceError

    path = Path(path)
    _refuse_convenience(path)
    try:
        layers = gpd.list_layers(path)
        # QGIS keeps styles in a layer of their own, without geometry as the design.
        placed = layers.loc[layers["geometry_type"].notna(), "name"].tolist()
        if len(placed) != 1:
            raise InputError(f"{path} must hold one layer of points, not", placed, "give what sample.py wrote")
        points = gpd.read_file(path, layer=placed[0])
        design = gpd.read_file(path, layer=DESIGN) if DESIGN in set(layers["name"]) else None
        drawn = gpd.read_file(path, layer=DRAWN) if DRAWN in set(layers["name"]) else None
    except DataSourceError as error:
        raise InputError(f"{path} is no file of points", str(error), "give what sample.py wrote") from error
    missing = sorted({"stratum", "map_class", "inclusion", "reference", "pixel_m2"} - set(points.columns))
    if "inclusion" in missing or "stratum" in missing:
        raise MismatchError(f"{path} has no known inclusion probabilities (columns missing)", missing, _WHY)
    if missing:
        raise InputError(f"{path} lacks columns", missing, "restore the file that sample.py wrote")
    reference = points["reference"].fillna("").astype(str).str.strip()
    if empty := int((reference == "").sum()):
        remedy = "fill in every point: leaving out the hard ones would make the rest look easy"
        raise InputError(f"{path}: points without a reference", f"{empty} of {len(points)}", remedy)
    mapped = points["map_class"].astype(str)
    if design is not None and (strange := sorted({*mapped} - {*design["name"].astype(str)})):
        raise InputError(f"{path}: map classes that the layer {DESIGN} does not list", strange, _RESTORE)
    found = dict.fromkeys(design["name"].astype(str)) if design is not None else dict.fromkeys(sorted({*mapped}))
    unknown = sorted(set(reference) - set(found))
    if unknown and design is not None:
        raise InputError(f"{path}: reference classes that the map does not know", unknown, f"use {', '.join(found)}")
    classes = (*found, *unknown)
    number = {name: i for i, name in enumerate(classes)}
    strata = points["stratum"].astype(str)
    inclusion = points["inclusion"].to_numpy(dtype=np.float64)
    if "stratum_pixels" in points.columns:
        _check_single(path, points)
        _check_whole(path, strata.to_numpy(), inclusion, points["stratum_pixels"].to_numpy(dtype=np.float64))
        _check_drawn(path, points, drawn)
    pixel = np.unique(points["pixel_m2"].to_numpy(dtype=np.float64))
    if len(pixel) != 1 or not pixel[0] > 0:
        raise InputError(f"{path}: pixel_m2 must be one area for all points", pixel.tolist(), "restore the file")
    return Sample(
        classes=classes,
        stratum=np.unique(strata, return_inverse=True)[1].astype(np.int64),
        mapped=mapped.map(number).to_numpy(dtype=np.int64),
        reference=reference.map(number).to_numpy(dtype=np.int64),
        inclusion=inclusion,
        pixel_ha=float(pixel[0]) / 1e4,
        cluster=np.unique(points["cluster"].astype(str), return_inverse=True)[1].astype(np.int64)
        if "cluster" in points.columns
        else None,
        counted=_counted(path, design, classes),
    )


_WHY: Final = (
    "Accuracy and areas of a map can only be estimated from points drawn at random with known probability over the "
    "mapped area; draw them with python sample.py map=<GeoTIFF>"
)


_RESTORE: Final = "restore the file as sample.py wrote it, with its column reference filled in, or draw anew"


def as_path(option: str, value: object, remedy: str) -> Path:
    """The value of an option as a path.

    Raises:
        ConfigError: It is none, such as a number or a list.
    """
    if not isinstance(value, str | Path):
        raise ConfigError(f"{option} must be a path", value, remedy)
    return Path(value)


def _refuse_convenience(path: Path) -> None:
    """Refuse evaluation sets: they were put together for convenience."""
    if (path / "manifest.parquet").is_file() or path.suffix.lower() in (".json", ".parquet"):
        reason = (
            "is an evaluation set: its patches were chosen by parcels, clouds and classes, so the probability with "
            "which ground came into it is not known"
        )
        raise MismatchError(f"{path} {reason}", None, _WHY)
    if not path.is_file():
        raise InputError(f"no such file: {path}", None, "give the GeoPackage that sample.py wrote")


def _counted(path: Path, design: Any, classes: Sequence[str]) -> Ints | None:
    """Pixels of each class on the map, as ``sample.py`` counted them; None in a sample from elsewhere."""
    if design is None or "pixels" not in design.columns:
        return None
    pixels = design["pixels"].fillna(0).to_numpy()
    if not np.issubdtype(pixels.dtype, np.number) or (pixels < 0).any():
        raise InputError(f"{path}: pixels in the layer {DESIGN} are counts, not", pixels.tolist(), _RESTORE)
    count = dict(zip(design["name"].astype(str), pixels.tolist(), strict=True))
    return np.array([count[name] for name in classes], dtype=np.int64)


def _check_whole(path: Path, strata: npt.NDArray[Any], inclusion: Floats, pixels: Floats) -> None:
    """Refuse a sample to which points were added, or that lost some: then the probabilities are wrong."""
    for name in np.unique(strata):
        here = strata == name
        expected, got = float(pixels[here][0]), float((1 / inclusion[here]).sum())
        if abs(got - expected) > 1e-6 * expected:
            drawn = round(expected * float(inclusion[here][0]))
            what = f"{path}: stratum {name} was drawn with {drawn} points and holds"
            raise InputError(what, int(here.sum()), "restore the points as they were drawn, or draw anew")


_PIXEL: Final = ["pixel_row", "pixel_col"]


def _check_single(path: Path, points: Any) -> None:
    """Refuse points that stand in a file of ``sample.py`` more than once: it draws without replacement."""
    for columns in (["point"], _PIXEL):
        if set(columns) <= set(points.columns):
            again = points[points.duplicated(columns, keep=False)]
            if len(again):
                what = f"{path}: points that are there more than once, by {' and '.join(columns)}"
                named = again["point"].tolist() if "point" in again else again[columns].to_numpy().tolist()
                raise InputError(what, _some(named), _RESTORE)


def _check_drawn(path: Path, points: Any, drawn: Any) -> None:
    """Refuse points other than those that ``sample.py`` drew, once none is there twice and none too many.

    Args:
        path: The file.
        points: Its points.
        drawn: Number, pixel, stratum, map class and place of the points as they were drawn; None in older files, whose
            points are known by their numbers alone, which run from 1.
    """
    if drawn is not None and (missing := sorted({"point", *_PIXEL} - set(points.columns))):
        raise InputError(f"{path} lacks columns", missing, _RESTORE)
    if "point" not in points.columns:
        return
    numbers = np.arange(1, len(points) + 1) if drawn is None else drawn["point"].to_numpy()
    if len(strange := points.loc[~points["point"].isin(numbers), "point"]):
        raise InputError(f"{path}: points that were not drawn", _some(strange.tolist()), _RESTORE)
    if drawn is None:
        return
    own = drawn.set_index("point").loc[points["point"]]
    for column in (*_PIXEL, "stratum", "map_class"):
        other = points[column].to_numpy() != own[column].to_numpy()
        if other.any():
            what = f"{path}: points whose {column} is not the one that was drawn"
            raise InputError(what, _some(points["point"][other].tolist()), _RESTORE)
    moved = _moved(path, points, own)
    if moved.any():
        what = f"{path}: points that lie in another place than where they were drawn"
        raise InputError(what, _some(points["point"][moved].tolist()), _RESTORE)


def _moved(path: Path, points: Any, own: Any) -> npt.NDArray[np.bool_]:
    """Which points lie farther than half a pixel from where they were drawn, in whatever CRS they are kept."""
    import geopandas as gpd
    import pyogrio

    about = pyogrio.read_info(path, layer=DRAWN)["layer_metadata"] or {}
    if not {"crs", "pixel"} <= set(about):
        raise InputError(f"{path}: the layer {DRAWN} lost its metadata crs and pixel", None, _RESTORE)
    here = points.geometry.to_crs(about["crs"]) if points.crs is not None else points.geometry
    there = gpd.GeoSeries.from_xy(own["x"], own["y"], index=here.index, crs=here.crs)
    distance = here.distance(there, align=False).to_numpy()
    return np.asarray(~(distance <= float(about["pixel"]) / 2))  # a point without a place has none that is near


def _some(values: Sequence[Any]) -> list[Any]:
    """The first of many, whole numbers as such: a table with an empty cell has floats."""
    return [int(one) if isinstance(one, float) and one.is_integer() else one for one in values[:10]]
