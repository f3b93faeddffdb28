"""Vector files of parcels as national agencies and EuroCrops publish them, with the defects that real ones have."""

from __future__ import annotations

import csv
import io
import logging
import shutil
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyogrio
import shapely

from cropseg.core.storage import storage_errors, write_bytes
from data_prep.simulate.noise import generator
from data_prep.simulate.places import CropName, Place

TABLE_COLUMNS = ("original_code", "original_name", "translated_name", "HCAT3_name", "HCAT3_code")


def frame(
    place: Place, shapes: npt.NDArray[np.object_], crop: npt.NDArray[np.intp], seed: int
) -> geopandas.GeoDataFrame:
    """The parcel file of a place, in its national CRS, defects included.

    Args:
        place: The region.
        shapes: Polygons of n parcels in its UTM zone.
        crop: Index into ``place.crops`` of each.
        seed: Of the simulation.
    """
    random = generator(seed, place.name, "parcel file")
    names = _names(place, crop, random)
    shapes, names = _with_defects(place, shapes, names, random)
    in_utm = geopandas.GeoSeries(shapes, crs=f"EPSG:{place.epsg}")
    area = shapely.area(shapes)
    geometry = in_utm.to_crs(place.national_crs).set_precision(0.001, mode="pointwise")
    columns = {"AT": _austrian, "FR": _french, "SK": _slovak}[place.country](place, names, area, random)
    return geopandas.GeoDataFrame(columns, geometry=geometry, crs=place.national_crs)


def write(table: geopandas.GeoDataFrame, place: Place, folder: Path, file: str) -> None:
    """Write a parcel file, and the country's name table where the file has no English names, byte for byte the same.

    Raises:
        StorageError: The disk refuses.
    """
    part = folder / f".{file}.part"
    with storage_errors(folder / file):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        # It reports every file as a line of log, which is no news to a user.
        logging.getLogger("pyogrio").setLevel(logging.WARNING)
        stamp = f"{place.year + 1}-01-15"
        # Both formats store the day of writing, which is no part of the content.
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": f"{stamp}T00:00:00.000Z"})
        options = {"DBF_DATE_LAST_UPDATE": stamp, "ENCODING": "UTF-8"} if file.endswith(".shp") else {}
        driver = "ESRI Shapefile" if file.endswith(".shp") else "GPKG"
        pyogrio.write_dataframe(
            table, part / file, layer=Path(file).stem, driver=driver, geometry_type="Polygon", layer_options=options
        )
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
        for written in sorted(part.iterdir()):
            written.replace(folder / written.name)
        part.rmdir()


def write_table(place: Place, path: Path) -> None:
    """Write the names of a place as EuroCrops' country tables hold them, CRLF; names no table has are left out."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\r\n")
    rows.writerow(TABLE_COLUMNS)
    for crop in place.crops:
        for name in crop.names:
            if name.english:
                rows.writerow((name.code, name.name, name.english, name.hcat_name, name.hcat_code))
    write_bytes(path, text.getvalue().encode())


def sparse(table: geopandas.GeoDataFrame, share: float, place: Place, seed: int) -> geopandas.GeoDataFrame:
    """Some of a file's parcels, as a survey would know them."""
    random = generator(seed, place.name, "sparse")
    kept: geopandas.GeoDataFrame = table[random.random(len(table)) < share].reset_index(drop=True)
    return kept


def _names(place: Place, crop: npt.NDArray[np.intp], random: np.random.Generator) -> list[CropName]:
    draw = random.random(len(crop))
    found = []
    for number, value in zip(crop, draw, strict=True):
        names = place.crops[int(number)].names
        steps = np.cumsum([name.weight for name in names])
        found.append(names[int(np.searchsorted(steps, value * steps[-1], side="right").clip(0, len(names) - 1))])
    return found


def _with_defects(
    place: Place, shapes: npt.NDArray[np.object_], names: list[CropName], random: np.random.Generator
) -> tuple[npt.NDArray[np.object_], list[CropName]]:
    """Add duplicates, overlaps, self-crossing rings and specks: about one row in two hundred, at least two of each."""
    n = len(shapes)
    each = max(2, n // 800)
    large = np.flatnonzero(shapely.area(shapes) > 3000)
    chosen = random.choice(large, size=4 * each, replace=len(large) < 4 * each)
    every = [name for crop in place.crops for name in crop.names]
    added, added_names = [], []
    crossing = shapes.copy()
    for number, index in enumerate(chosen):
        shape, name = shapes[index], names[index]
        if number < each:
            added.append(shape)  # the same parcel twice
        elif number < 2 * each:
            # claimed by two farmers: it reaches over its neighbour, with another crop
            added.append(shapely.transform(shape, lambda points: points + random.uniform(8, 25, 2)))
            name = every[int(random.integers(len(every)))]
        elif number < 3 * each:
            added.append(shapely.centroid(shape).buffer(random.uniform(1.5, 4.0), quad_segs=2))  # a speck
        else:
            crossing[index] = _bow_tie(shape)
            continue
        added_names.append(name)
    return np.concatenate([crossing, np.array(added, dtype=object)]), names + added_names


def _bow_tie(shape: shapely.Polygon) -> shapely.Polygon:
    """The ring with two neighbouring corners in the wrong order, which crosses itself."""
    points = np.array(shape.exterior.coords[:-1])
    half = len(points) // 2
    points[[half - 1, half]] = points[[half, half - 1]]
    return shapely.Polygon(points)


def _eurocrops(place: Place, names: list[CropName], random: np.random.Generator) -> dict[str, Any]:
    """EuroCrops' own columns; the NUTS3 code is wrong for some parcels, as near real borders."""
    return {
        "EC_NUTS3": np.where(random.random(len(names)) < 0.01, place.nuts3[1], place.nuts3[0]),
        "EC_trans_n": [name.english for name in names],
        "EC_hcat_n": [name.hcat_name for name in names],
        "EC_hcat_c": [name.hcat_code for name in names],
    }


def _austrian(
    place: Place, names: list[CropName], area: npt.NDArray[np.float64], random: np.random.Generator
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "FS_KENNUNG": 115_000_000 + np.arange(len(names)),
            "SNAR_BEZEICHNUNG": [name.name for name in names],
            "SL_FLAECHE_BRUTTO_HA": np.round(area / 1e4, 8),
            "SNAR_CODE": [name.code for name in names],
            "GEO_TYPE": "POLYGON",
        }
    )


def _french(
    place: Place, names: list[CropName], area: npt.NDArray[np.float64], random: np.random.Generator
) -> pd.DataFrame:
    national = {
        "ID_PARCEL": [str(number) for number in 1 + np.arange(len(names))],
        "SURF_PARC": np.round(area / 1e4, 2),
        "CODE_CULTU": [name.code for name in names],
        "CODE_GROUP": "",
        "CULTURE_D1": "",
        "CULTURE_D2": "",
    }
    return pd.DataFrame({**national, **_eurocrops(place, names, random)})


def _slovak(
    place: Place, names: list[CropName], area: npt.NDArray[np.float64], random: np.random.Generator
) -> pd.DataFrame:
    garbled = random.random(len(names)) < 0.02
    national = {
        "KODKD": [f"5{number:08d}/1" for number in np.arange(len(names))],
        "VYMERA": np.round(area / 1e4, 2),
        "KULTURA_NA": "Orná pôda",
        "PLODINA": [_garble(name.name) if bad else name.name for name, bad in zip(names, garbled, strict=True)],
    }
    return pd.DataFrame({**national, **_eurocrops(place, names, random)})


def _garble(text: str) -> str:
    """Letters outside Latin-1 as question marks, as the real Slovak file has them."""
    return text.encode("latin-1", errors="replace").decode("latin-1")
