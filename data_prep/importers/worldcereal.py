"""One WorldCereal place (netCDF) -> datasets of ours: a real place to evaluate on, and parts of it to train on.

A place is a folder with ``S2_L2A_10m_*.nc`` and ``S2_L2A_20m_*.nc`` (every acquisition of a season and more) and
``OUTPUT_*.nc`` (variable CT: the crop of each pixel, from the national parcels); ``wc2eurocrops_map.csv`` beside the
folder holds the names of the codes.

Rules:

- A date is taken if it lies in the season, every band of every pixel has data, and the share of clear pixels in the
  scene classification is at least ``min_clear``. Each refused date is reported with its reason.
- 20 m bands come onto the 10 m grid as those of any product do (:func:`data_prep.align.bilinear_upsample`). What lies
  beyond the place is not in the file, so at its edge the pixels inside weigh all.
- Digital numbers are reflectance × 10000 as they stand: the files were made from Earth Engine's collection of products
  as delivered in 2019, before baseline 04.00 brought the offset of 1000, and declare ``scale_factor`` 0.0001 without an
  ``add_offset``. The pixels are held to it: under an offset vegetation could not be as dark in red as it is.
- A parcel is an 8-connected component of equal crop codes: fields of one crop that touch count as one, so that parts
  disjoint by parcel are never less disjoint than they claim.
- Codes that the table does not name are 255, code 0 (unknown) among them. There is no background: protocol ``crop``.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import shapely

from cropseg.core import storage, taxonomy
from cropseg.core.bands import PAPER_BANDS, check_bands
from cropseg.core.errors import InputError
from cropseg.core.labels import IGNORE
from cropseg.core.manifest import DatasetSpec, Part, write_dataset
from cropseg.core.progress import say, table
from cropseg.core.scene import UInt8Array
from cropseg.core.taxonomy import Taxonomy
from data_prep.importers.options import (
    BANDS,
    FOLDER_NAME,
    PATH,
    SEASON,
    SHARE,
    SOURCES,
    WORD,
    check_options,
    choice,
    whole_number,
)
from data_prep.importers.samples import label_table
from data_prep.importers.worldcereal_files import CLEAR, Acquisition, PlaceFiles, check_radiometry, choose_dates
from data_prep.importers.worldcereal_parts import (
    Masks,
    Parcel,
    UInt32Array,
    by_parcel,
    by_pixel,
    find_parcels,
    label_mask,
)
from data_prep.quality import Thresholds, measure
from data_prep.search import to_wgs84

SUBSET: Final = "be_vlg"


def import_place(
    source: str | Path,
    out: str | Path,
    taxonomy_name: str,
    codes: Mapping[int, str],
    *,
    name: str = "flanders",
    year: int = 2019,
    season: Sequence[str] = ("04-01", "09-30"),
    bands: Sequence[str] = PAPER_BANDS,
    resampling: Literal["bilinear", "nearest"] = "bilinear",
    min_clear: float = 0.95,
    buffer: int = 3,
    min_parcel: int = 25,
    seed: int = 0,
    label_source: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Import a place as five datasets in ``out``.

    ``<name>`` has every labelled pixel in part ``test`` of split ``test``. ``<name>_train`` (split ``parcels``: train,
    val) and ``<name>_test`` (split ``test``) share no parcel. ``<name>_pixel_leak_train`` (split ``pixels``) and
    ``<name>_pixel_leak_test`` hold as many pixels of each class, drawn pixel by pixel: the leak to compare with.

    Args:
        source: Folder that holds one folder a place, and the table of names.
        out: Folder that gets the datasets.
        taxonomy_name: Name or path of the taxonomy.
        codes: Class name by WorldCereal code; every other code is 255.
        name: Name of the evaluation set, and what the others' begin with.
        year: Year of the season.
        season: First and last day, MM-DD.
        bands: Channel order.
        resampling: How 20 m bands come onto the 10 m grid.
        min_clear: Least share of clear pixels, 0 to 1.
        buffer: Pixels between the parts disjoint by parcel.
        min_parcel: Smaller parcels, in pixels, are in no part of the disjoint ones.
        seed: Seed of the parts.
        label_source: Who told the labels; None if not known.

    Returns:
        The summary, also in each ``dataset.json``: dates taken and refused with the reason, pixels and parcels per
        code, and what fell into each part.

    Raises:
        ConfigError: An option has an impossible value.
        InputError: A file is missing, broken or of another radiometry, or no date was taken.
    """
    check_options(
        "importer",
        {
            "source": (source, PATH), "out": (out, PATH), "taxonomy_name": (taxonomy_name, WORD),
            "name": (name, FOLDER_NAME), "year": (year, whole_number(1)),
            "season": (season, SEASON), "bands": (bands, BANDS),
            "resampling": (resampling, choice("bilinear", "nearest")), "min_clear": (min_clear, SHARE),
            "buffer": (buffer, whole_number(0)), "min_parcel": (min_parcel, whole_number(1)),
            "seed": (seed, whole_number(0)), "label_source": (label_source, SOURCES),
        },
    )  # fmt: skip
    season, bands = tuple(season), check_bands(bands)
    source, out, classes = Path(source), Path(out), taxonomy.load(taxonomy_name)
    table_of = label_table(codes, classes, "importer.codes")
    labels = {code: label for code, label in table_of.items() if label != IGNORE}
    names = _names(source / "wc2eurocrops_map.csv")
    with PlaceFiles(_place_in(source)) as files:
        taken, refused = choose_dates(files, year, season, bands, resampling, min_clear)
        if not taken:
            raise InputError(f"{files.folder} has no clear date in the season", year, "lower importer.min_clear")
        check_radiometry(files, taken)
        raster, parcels = find_parcels(files.crops(), labels)
        parts, part_of = by_parcel(raster, parcels, seed=seed, buffer=buffer, min_parcel=min_parcel)
        summary: dict[str, Any] = {
            "source": {path.name: storage.sha256(path) for path in files.paths.values()},
            "label_source": None if label_source is None else list(label_source),
            "rules": {
                "season": [f"{year}-{day}" for day in season],
                "min_clear": min_clear,
                "clear_scene_classes": [int(c) for c in CLEAR],
                "resampling": resampling,
                "boa_offset": "none: products as delivered in 2019, before baseline 04.00",
                "parcels": "8-connected components of equal crop codes",
                "buffer": buffer,
                "min_parcel": min_parcel,
                "seed": seed,
            },
            "dates": [a.acquired.isoformat() for a in taken],
            "refused": [{"date": r.acquired.isoformat(), "reason": r.reason} for r in refused],
            "codes": _audit(files.crops(), labels, names, classes, parcels),
            "parcels": [{**asdict(parcel), "part": part_of.get(parcel.number)} for parcel in parcels],
            "parts": _sides(parts, raster, parcels, classes),
        }
        whole: Masks = {"test": label_mask(raster, parcels)}
        leak = [by_pixel(parts, raster, parcels, part_of, seed=seed, date=date) for date in range(len(taken))]
        every = [parts] * len(taken)
        learn: tuple[Part, ...] = ("train", "val")
        for dataset, split, masks, wanted in (
            (name, "test", [whole] * len(taken), ("test",)),
            (f"{name}_train", "parcels", every, learn),
            (f"{name}_test", "test", every, ("test",)),
            (f"{name}_pixel_leak_train", "pixels", leak, learn),
            (f"{name}_pixel_leak_test", "test", leak, ("test",)),
        ):
            spec = DatasetSpec(dataset, bands, classes, 10.0, files.grid.height, False, "crop", summary)
            rows = [
                (part, acquisition, date_masks[part])
                for acquisition, date_masks in zip(taken, masks, strict=True)
                for part in wanted
            ]
            _write(out / dataset, spec, split, files, raster, rows)
    _show(summary, out, name)
    return summary


def _write(
    root: Path,
    spec: DatasetSpec,
    split: str,
    files: PlaceFiles,
    raster: UInt32Array,
    patches: Sequence[tuple[Part, Acquisition, UInt8Array]],
) -> None:
    """Write one dataset folder; a patch is one date with the mask of one part."""
    outline = to_wgs84(shapely.box(*files.grid.bounds), files.grid.crs)
    rows, parts = [], []
    for part, acquisition, mask in patches:
        subset, roi = f"{SUBSET}_{acquisition.acquired.year}", f"{files.name}-{part}"
        product = f"S2_L2A_T{files.tile}_{acquisition.acquired:%Y%m%dT%H%M%S}"
        patch = f"{subset}/{roi}/{product}/0_0"
        arrays: dict[str, npt.NDArray[Any]] = {
            "image": acquisition.image,
            "mask": mask,
            "parcels": np.where(mask == IGNORE, 0, raster),
        }
        paths = {kind: f"shards/{patch}.{kind}.npy" for kind in arrays}
        for kind, array in arrays.items():
            storage.write_array(root / paths[kind], array)
        figures = measure(
            acquisition.image, mask, acquisition.scl, _thresholds(spec.bands), spec.taxonomy, bands=spec.bands
        )
        rows.append(
            {
                "id": patch,
                **paths,
                "image_sha256": storage.sha256(root / paths["image"]),
                "mask_sha256": storage.sha256(root / paths["mask"]),
                "subset": subset,
                "country": "BE",
                "roi": roi,
                "product": product,
                "datetime": acquisition.acquired,
                "tile": files.tile,
                "crs": files.grid.crs,
                "transform": list(files.grid.transform),
                "height": mask.shape[0],
                "width": mask.shape[1],
                "geometry": outline.wkb,
                **asdict(figures),
            }
        )
        parts.append({"id": patch, "part": part, "group": roi})
    write_dataset(root, spec, rows, {split: parts})


def _thresholds(bands: Sequence[str]) -> Thresholds:
    """What the figures of the manifest are measured by; nothing is refused on them here."""
    visible = [band for band in ("B02", "B03", "B04") if band in bands]
    return Thresholds(bright_bands=visible or bands)


def _place_in(source: Path) -> Path:
    """The one folder in ``source`` that holds a place."""
    found = sorted({path.parent for path in source.glob("*/S2_L2A_10m_*.nc")})
    if len(found) != 1:
        raise InputError(
            f"{source} must hold one place (a folder with S2_L2A_10m_*.nc), not", len(found), "set importer.source"
        )
    return found[0]


def _names(path: Path) -> dict[int, str]:
    """Names of the codes."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {int(row["croptype"]): row["name"] for row in csv.DictReader(file)}
    except FileNotFoundError as error:
        raise InputError(f"no such file: {path}", None, "it holds the names of the crop codes") from error
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} needs the columns name and croptype", str(error), "get the file again") from error


def _audit(
    crops: npt.NDArray[np.uint16],
    labels: Mapping[int, int],
    names: Mapping[int, str],
    classes: Taxonomy,
    parcels: Sequence[Parcel],
) -> list[dict[str, Any]]:
    """What each code of the place became, and how much of it there is."""
    return [
        {
            "code": code,
            "name": names.get(code, "not in the table of names"),
            "class": classes.names[labels[code]] if code in labels else "ignored (255)",
            "pixels": int((crops == code).sum()),
            "parcels": sum(parcel.code == code for parcel in parcels),
        }
        for code in np.unique(crops).tolist()
    ]


def _sides(
    parts: Masks, raster: UInt32Array, parcels: Sequence[Parcel], classes: Taxonomy
) -> dict[str, dict[str, dict[str, int]]]:
    """Pixels and parcels of each class in each part; the pixel-wise parts have the same number of pixels."""
    return {
        classes.names[label]: {
            part: {"pixels": int((mask == label).sum()), "parcels": len(np.unique(raster[mask == label]))}
            for part, mask in parts.items()
        }
        for label in sorted({parcel.label for parcel in parcels} - {IGNORE})
    }


def _show(summary: Mapping[str, Any], out: Path, name: str) -> None:
    table("dates refused", ("date", "reason"), [(r["date"], r["reason"]) for r in summary["refused"]])
    columns = ("code", "name", "class", "pixels", "parcels")
    table("crop codes", columns, [[row[c] for c in columns] for row in summary["codes"]])
    rows = [
        (label, *(f"{side['pixels']} ({side['parcels']})" for side in sides.values()))
        for label, sides in summary["parts"].items()
    ]
    first: dict[str, Any] = next(iter(summary["parts"].values()), {})
    table("pixels a date (parcels) in the parts disjoint by parcel", ("class", *first), rows)
    say(f"{len(summary['dates'])} dates taken; datasets {name}, {name}_train, {name}_test and two by pixel in {out}")
