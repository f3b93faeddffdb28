"""Reading parcels: any vector file of a national provider becomes one plain table of crop names and polygons."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, GeometryError

from cropseg.core.errors import ConfigError, InputError
from cropseg.core.progress import warn
from data_prep.subsets import Subset

INSIDE_ZIP = (".shp", ".gpkg", ".gml", ".geojson", ".fgb")

_FAR = 1e9  # metres or degrees: no projected CRS reaches a million kilometres


@dataclass(frozen=True)
class Columns:
    """Which columns of a file say what grows on a parcel; None where the file does not say.

    Attributes:
        name: National crop name.
        code: National crop code.
        english: English crop name.
        hcat: HCAT code of ten digits.
    """

    name: str | None = None
    code: str | None = None
    english: str | None = None
    hcat: str | None = None


# What national providers call their columns, upper case. A format is recognised if all its columns are there; the
# first one that fits is taken. Sources: the EuroCrops wiki, and the providers' own files of the years 2018 to 2025.
NATIONAL_FORMATS = (
    Columns(name="SNAR_BEZEICHNUNG", code="SNAR_CODE"),  # AT
    Columns(name="SNAR_BEZEI", code="SNAR_CODE"),  # AT as a shapefile, whose names end after ten characters
    Columns(name="GWSNAM_H", code="GWSCOD_H"),  # BE_VLG: the main crop, not the one before (_V) or after (_N)
    Columns(name="CULT_NOM", code="CULT_COD"),  # BE_WAL
    Columns(code="CODE_CULTU"),  # FR
    Columns(name="PLOD_NAZE", code="PLODINA_ID"),  # CZ
    Columns(name="PLODINA"),  # SK
    Columns(name="CODE_BEZ", code="CODE"),  # DE_BB
    Columns(name="NUTZ_TXT", code="NUTZ_CODE"),  # DE_NRW
    Columns(name="CODE_TXT", code="CODE"),  # DE_NRW, older years
    Columns(code="KULTURCODE"),  # DE_LS
    Columns(code="KC_FESTG"),  # DE_LS, other years
    Columns(name="LC_CLASS_N", code="LC_MAPCODE"),  # RO
    Columns(english="CROP_NAME"),  # IE: its names are English
)
EUROCROPS = Columns(english="EC_TRANS_N", hcat="EC_HCAT_C")


def read(subset: Subset) -> gpd.GeoDataFrame:
    """Read the parcels of a subset.

    Formats: GeoPackage, shapefile, GML, GeoJSON, FlatGeobuf, each plain or in a zip; GeoParquet. A dataset in a zip
    that holds several is addressed as ``file.zip!inner/path.shp``.

    Args:
        subset: Its ``parcels`` must not be None.

    Returns:
        A row a feature in file order, columns ``name``, ``code``, ``english``, ``hcat`` (text, empty if unknown) and
        ``geometry`` as delivered, in the file's CRS.

    Raises:
        InputError: The file is missing, corrupt, empty, has no geometry or no CRS, or its crop column is not there.
        ConfigError: The layer does not exist, or there are several and none is chosen.
    """
    if subset.parcels is None:
        raise ConfigError(f"subset {subset.name} has no parcels", None, f"set parcels= of {subset.name} to a file")
    source = _Parquet(subset) if subset.parcels.lower().endswith((".parquet", ".geoparquet")) else _Ogr(subset)
    columns = recognise(source.fields, subset)
    frame = source.read(sorted({column for column in vars(columns).values() if column is not None}))
    if len(frame) == 0:
        raise InputError(f"{subset.parcels} holds no parcels", None, "check the layer, or download the file again")
    if frame.crs is None:
        raise InputError(
            f"{subset.parcels} does not say its CRS",
            None,
            "assign it: ogr2ogr -a_srs EPSG:<code> with_crs.gpkg <file> (a shapefile needs its .prj beside it)",
        )
    table = {field: _text(frame, column) for field, column in vars(columns).items()}
    return gpd.GeoDataFrame(table, geometry=frame.geometry.to_numpy(), crs=frame.crs)


def recognise(fields: Sequence[str], subset: Subset) -> Columns:
    """Find the columns that name the crop.

    Columns named in the subset come first, then EuroCrops' own, then the national formats. With a table and a named
    column the table decides, also where EuroCrops' columns are there.

    Args:
        fields: Columns of the file.
        subset: May name columns.

    Raises:
        InputError: A named column is not there, or none is recognised; the message lists those that are.
    """
    by_upper = {field.upper(): field for field in reversed(fields)}
    listed = f"the columns are: {', '.join(fields)}"
    chosen = {}
    for role in ("name", "code", "english"):
        wanted = getattr(subset, f"{role}_column")
        if wanted is None:
            continue
        found = wanted if wanted in fields else by_upper.get(wanted.upper())
        if found is None:
            raise InputError(f"{subset.parcels} has no column", wanted, listed)
        chosen[role] = found
    eurocrops = {
        role: by_upper[column] for role, column in vars(EUROCROPS).items() if column is not None and column in by_upper
    }
    national: dict[str, str] = {}
    for known in NATIONAL_FORMATS:
        wanted_columns = {role: column for role, column in vars(known).items() if column is not None}
        if all(column in by_upper for column in wanted_columns.values()):
            national = {role: by_upper[column] for role, column in wanted_columns.items()}
            break
    if "english" not in chosen and chosen and subset.table is not None:
        eurocrops = {}
    columns = Columns(**(chosen if chosen and "english" not in eurocrops else {**national, **eurocrops, **chosen}))
    if columns.name is None and columns.code is None and columns.english is None:
        raise InputError(
            f"{subset.parcels}: no column that names the crop was recognised",
            None,
            f"set name_column, code_column or english_column of subset {subset.name}; {listed}",
        )
    return columns


def polygons(geometry: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Keep what can be burnt: valid polygons with an area.

    Invalid ones are mended (``make_valid``) and keep their polygon parts; heights are dropped.

    Args:
        geometry: Shapely geometries, None among them.

    Returns:
        The geometries (None where rejected), and the reason of each rejection (empty where kept).
    """
    reason = np.full(len(geometry), "", dtype=object)
    kept = shapely.force_2d(geometry)
    missing = shapely.is_missing(kept)
    reason[missing] = "no geometry"
    reason[~missing & shapely.is_empty(kept)] = "empty geometry"
    dimension = shapely.get_dimensions(kept)
    reason[(reason == "") & (dimension < 2)] = "not a polygon"
    bounds = shapely.bounds(kept)
    reason[(reason == "") & ~(np.abs(bounds) < _FAR).all(axis=1)] = "coordinates beyond any CRS"
    with np.errstate(all="ignore"):  # damaged files hold numbers that overflow; their area tells
        broken = np.flatnonzero((reason == "") & (~shapely.is_valid(kept) | (shapely.get_type_id(kept) == 7)))
        kept[broken] = [_polygon_parts(shape) for shape in shapely.make_valid(kept[broken])]
        area = shapely.area(kept)
    reason[(reason == "") & ~np.isfinite(area)] = "coordinates that are not numbers"
    reason[(reason == "") & (shapely.is_empty(kept) | (area == 0))] = "no area"
    kept[reason != ""] = None
    return kept, reason


def _polygon_parts(shape: Any) -> Any:
    parts = shapely.get_parts(shapely.get_parts(shape))
    parts = parts[shapely.get_dimensions(parts) == 2]
    return parts[0] if len(parts) == 1 else shapely.union_all(parts)


def _text(frame: pd.DataFrame, column: str | None) -> pd.Series[str]:
    """A column as stripped text; whole numbers lose their ``.0``, what is missing becomes empty."""
    if column is None:
        return pd.Series([""] * len(frame), dtype=object)
    codes, values = pd.factorize(frame[column])
    texts = np.array(
        [*(_as_text(value) for value in values), ""], dtype=object
    )  # factorize gives -1 to what is missing
    return pd.Series(texts[codes], dtype=object)


def _as_text(value: object) -> str:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return " ".join(str(value).split())


class _Ogr:
    """A layer that GDAL reads."""

    def __init__(self, subset: Subset) -> None:
        self.shown = str(subset.parcels)
        self.path = _gdal_path(self.shown)
        # GDAL would leave a .gfs file beside a GML that it reads.
        self.options: dict[str, Any] = {"WRITE_GFS": "NO"} if self.path.lower().endswith(".gml") else {}
        self.layer = self._layer(subset)
        self.fields = [str(field) for field in self._call(pyogrio.read_info)["fields"]]

    def read(self, columns: list[str]) -> gpd.GeoDataFrame:
        frame = self._call(pyogrio.read_dataframe, columns=columns)
        if not isinstance(frame, gpd.GeoDataFrame):
            raise InputError(f"{self.shown} has no geometry", None, "give a vector file, not a table")
        return frame

    def _layer(self, subset: Subset) -> str:
        try:
            layers = [str(name) for name, kind in pyogrio.list_layers(self.path) if kind is not None]
        except (DataSourceError, DataLayerError) as error:
            raise self._unreadable(error) from error
        if not layers:
            raise InputError(f"{self.shown} has no layer with geometry", None, "give a vector file, not a table")
        if subset.layer is None and len(layers) > 1:
            raise ConfigError(
                f"{self.shown} has several layers", layers, f"choose one: set layer of subset {subset.name}"
            )
        if subset.layer is not None and subset.layer not in layers:
            raise ConfigError(f"{self.shown} has no layer", subset.layer, f"choose from {', '.join(layers)}")
        return subset.layer or layers[0]

    def _call(self, function: Any, **arguments: Any) -> Any:
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                result = function(self.path, layer=self.layer, **arguments, **self.options)
        except (DataSourceError, DataLayerError, FeatureError, GeometryError, shapely.errors.GEOSException) as error:
            raise self._unreadable(error) from error
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self.shown} holds text in another encoding than it states",
                error.object[:40],
                "for a shapefile write the true one, such as ISO-8859-1, into a .cpg file beside it; or convert it",
            ) from error
        for message in sorted({str(entry.message) for entry in caught if entry.category is RuntimeWarning})[:3]:
            warn(f"{self.shown}: {message}")
        return result

    def _unreadable(self, error: Exception) -> InputError:
        return InputError(
            f"{self.shown} cannot be read as a vector file", str(error), "download it again, or convert it"
        )


class _Parquet:
    """A GeoParquet file."""

    def __init__(self, subset: Subset) -> None:
        self.shown = str(subset.parcels)
        if subset.layer is not None:
            raise ConfigError(f"{self.shown} is GeoParquet, which has no layers", subset.layer, "leave layer out")
        if not Path(self.shown).is_file():
            raise _missing(self.shown)
        try:
            self.fields = list(pq.read_schema(self.shown).names)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def read(self, columns: list[str]) -> gpd.GeoDataFrame:
        try:
            return gpd.read_parquet(self.shown, columns=[*columns, *self._geometry()])
        except (pa.ArrowException, OSError, ValueError, shapely.errors.GEOSException) as error:
            raise self._unreadable(error) from error

    def _geometry(self) -> list[str]:
        metadata = pq.read_schema(self.shown).metadata or {}
        if b"geo" not in metadata:
            raise InputError(f"{self.shown} is Parquet without GeoParquet's metadata", None, "write it with geopandas")
        columns = json.loads(metadata[b"geo"])
        return [str(columns["primary_column"])]

    def _unreadable(self, error: Exception) -> InputError:
        return InputError(f"{self.shown} cannot be read as GeoParquet", str(error), "download it again, or convert it")


def _missing(path: str) -> InputError:
    return InputError(f"no such file: {path}", None, "check the path of the parcels")


def _gdal_path(path: str) -> str:
    """The path by which GDAL opens a file, a file in a zip, or a folder such as a .gdb."""
    outer, _, inner = path.partition("!")
    if not Path(outer).exists():
        raise _missing(outer)
    if not outer.lower().endswith(".zip"):
        return outer
    try:
        with zipfile.ZipFile(outer) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{outer} is not a readable zip", str(error), "download it again") from error
    inner = inner or _only_dataset(outer, names)
    if inner not in names:
        raise InputError(f"{outer} does not hold", inner, f"it holds: {', '.join(names[:20])}")
    return f"/vsizip/{{{Path(outer).resolve()}}}/{inner}"


def _only_dataset(outer: str, names: Iterable[str]) -> str:
    found = [name for name in names if name.lower().endswith(INSIDE_ZIP) and not name.startswith("__MACOSX/")]
    if not found:
        raise InputError(f"{outer} holds no vector file", None, f"looked for {', '.join(INSIDE_ZIP)}")
    if len(found) > 1:
        raise ConfigError(f"{outer} holds several vector files", found, f"choose one, such as {outer}!{found[0]}")
    return found[0]
