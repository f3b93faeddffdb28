"""A plain folder of image and mask pairs, GeoTIFF or .npy -> an evaluation set of ours, for any other benchmark.

- A pair is an image and a mask of one stem (after ``image_suffix`` and ``mask_suffix`` are taken off).
- Reflectance × 10000 is ``value * scale + offset``. Values named by ``nodata``, and the one that a GeoTIFF declares
  itself, become no data first. NaN that neither names is an error.
- Labels by a table of values; a value in any mask that it does not name is an error, told with all of its kind before
  anything is written.
- Images larger than ``size`` are cut into windows, a last one aligned to the border.
- ``.npy`` has no georeference: such an image gets a placeholder (pixels of 10 m in the Southern Ocean, a square of its
  own each), which is said, stored as tile ``placeholder`` and must not be mapped.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cropseg.core import taxonomy
from cropseg.core.bands import PAPER_BANDS, check_bands
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.labels import IGNORE
from cropseg.core.manifest import DatasetSpec
from cropseg.core.progress import say, table, track, warn
from cropseg.core.scene import Grid
from cropseg.core.tiling import sliding
from data_prep.importers.options import (
    ABOVE_0,
    BANDS,
    COUNTRY,
    FOLDER_NAME,
    NODATA,
    NUMBER,
    PATH,
    SOURCES,
    SWITCH,
    TEXT,
    WORD,
    check_options,
    choice,
    made_as,
    whole_number,
)
from data_prep.importers.rasters import check_finite, read_mask, read_npy, read_raster, without_data
from data_prep.importers.samples import Sample, Writer, apply_labels, label_table, midnight, to_image, write_csv

IMAGES: Final = (".tif", ".tiff", ".npy")
MASKS: Final = (*IMAGES, ".png", ".mat")
PLACEHOLDER: Final = "placeholder"


@dataclass(frozen=True)
class Values:
    """What the numbers of an image file mean.

    Attributes:
        bands: Band names in the order of the file.
        scale: Reflectance × 10000 = value × scale + offset; 10000 for reflectance from 0 to 1.
        offset: See ``scale``; -1000 for products of baseline 04.00 on as delivered.
        nodata: File values without data, NaN among them if it is one; compared as the file's type holds them.
    """

    bands: Sequence[str]
    scale: float = 1.0
    offset: float = 0.0
    nodata: Sequence[float] = (0,)

    def __post_init__(self) -> None:
        """Check the figures and the bands."""
        check_options(
            "importer.values",
            {
                "bands": (self.bands, BANDS), "scale": (self.scale, ABOVE_0), "offset": (self.offset, NUMBER),
                "nodata": (self.nodata, NODATA),
            },
        )  # fmt: skip
        check_bands(self.bands)


def import_folder(
    images: str | Path,
    masks: str | Path,
    out: str | Path,
    taxonomy_name: str,
    labels: Mapping[int, str | int],
    values: Values,
    *,
    name: str = "folder",
    bands: Sequence[str] = PAPER_BANDS,
    image_suffix: str = "",
    mask_suffix: str = "",
    size: int = 256,
    stride: int = 256,
    resolution: float = 10.0,
    day: str | None = None,
    country: str = "XX",
    protocol: str = "all",
    min_crop: int = 0,
    simulated: bool = False,
    label_source: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Import a folder of pairs as ``<out>/<name>``, every window in part ``test`` of split ``test``.

    Args:
        images: Folder of images, (bands, height, width).
        masks: Folder of masks, (height, width); may be the same if the suffixes differ.
        out: Folder that gets the dataset.
        taxonomy_name: Name or path of the taxonomy.
        labels: Class name or 255 by mask value.
        values: What the numbers of the images mean.
        name: Name of the set.
        bands: Channel order of the dataset.
        image_suffix: End of the images' stems, such as ``_image``.
        mask_suffix: End of the masks' stems, such as ``_mask``.
        size: Window size in pixels.
        stride: Step between windows in pixels.
        resolution: Pixel size in metres; of GeoTIFF it is checked, of .npy it is believed.
        day: Day of acquisition, YYYY-MM-DD; None: the first eight digits in a stem that are a date.
        country: ISO 3166 alpha-2; XX where it is unknown.
        protocol: ``all`` where unlabelled ground is background, ``crop`` where only labelled crop pixels are known.
        min_crop: Least number of crop pixels of a window.
        simulated: Whether the pixels come from a simulation.
        label_source: Who told the labels; None if not known.

    Returns:
        The summary, also in ``dataset.json``; the labels of each file stand in ``audit.csv``.

    Raises:
        ConfigError: An option has an impossible value.
        InputError: A pair is incomplete or broken, its parts do not fit, or a label is not mapped.
    """
    check_options(
        "importer",
        {
            "images": (images, PATH), "masks": (masks, PATH), "out": (out, PATH),
            "taxonomy_name": (taxonomy_name, WORD), "values": (values, made_as(Values)),
            "name": (name, FOLDER_NAME), "bands": (bands, BANDS),
            "image_suffix": (image_suffix, TEXT), "mask_suffix": (mask_suffix, TEXT), "size": (size, whole_number(1)),
            "stride": (stride, whole_number(1)), "resolution": (resolution, ABOVE_0), "country": (country, COUNTRY),
            "protocol": (protocol, choice("all", "crop")), "min_crop": (min_crop, whole_number(0)),
            "simulated": (simulated, SWITCH), "label_source": (label_source, SOURCES),
        },
    )  # fmt: skip
    bands, classes = check_bands(bands), taxonomy.load(taxonomy_name)
    if missing := [band for band in bands if band not in values.bands]:
        raise ConfigError("importer.values.bands lacks bands of the dataset", missing, "name the order of the files")
    table_of = label_table(labels, classes, "importer.labels")
    image_paths, mask_paths = _files(Path(images), IMAGES, image_suffix), _files(Path(masks), MASKS, mask_suffix)
    if alone := sorted(set(image_paths) ^ set(mask_paths)):
        whose = "mask" if alone[0] in image_paths else "image"
        raise InputError(f"{len(alone)} files of {images} and {masks} have no partner; no {whose} for", alone[0])
    if not image_paths:
        raise InputError(f"{images} holds no pair of image and mask", None, "set importer.images and importer.masks")
    days = {stem: _day(stem, day) for stem in image_paths}
    audit = _labels(mask_paths, table_of, classes.names)
    provenance: dict[str, Any] = {
        "source": "a folder of pairs",
        "label_source": None if label_source is None else list(label_source),
        "rules": {
            "bands_of_files": list(values.bands), "scale": values.scale, "offset": values.offset,
            "nodata": [str(value) for value in values.nodata], "size": size, "stride": stride, "min_crop": min_crop,
            "labels": {str(value): label for value, label in table_of.items()},
        },
        "audit": "audit.csv",
    }  # fmt: skip
    spec = DatasetSpec(name, bands, classes, resolution, size, simulated, protocol, provenance)  # type: ignore[arg-type]
    writer = Writer(Path(out) / name, spec)
    write_csv(writer.root / "audit.csv", audit)
    placed: list[str] = []
    for number, (stem, path) in enumerate(track(sorted(image_paths.items()), "pairs")):
        image, valid, grid = _image(path, values, bands)
        mask_path = mask_paths[stem]
        mask = _mask(mask_path, path, image.shape[1:], grid, table_of)
        if grid is None:
            placed.append(stem)
            grid = _placeholder(name, number, image.shape[1], image.shape[2], resolution)
        elif abs(grid.resolution - resolution) > 1e-6 * resolution:
            raise InputError(f"{path} has pixels of another size than {resolution} m", grid.resolution, "resample it")
        tile = PLACEHOLDER if stem in placed else "unknown"
        windows = list(sliding(mask.shape[0], mask.shape[1], size, stride, border_aligned=True))
        if not windows:
            remedy = "lower importer.size, or leave it out"
            raise InputError(f"{path} is smaller than a window of {size} pixels", mask.shape, remedy)
        for window in windows:
            rows, cols = window.slices
            labelled = mask[rows, cols]
            if ((labelled > 0) & (labelled != IGNORE)).sum() < min_crop:
                continue
            pixels, clamped = to_image(image[:, rows, cols], valid[:, rows, cols])
            writer.add(
                Sample(
                    name, country, stem, stem, f"{window.row}_{window.col}", midnight(days[stem]), tile,
                    grid.window(window), pixels, labelled, None, clamped,
                )
            )  # fmt: skip
    if not writer.rows:
        raise InputError(f"no window of {images} has {min_crop} crop pixels", None, "lower importer.min_crop")
    provenance["placeholder_georeference"] = placed
    writer.finish()
    _show(audit, writer, placed)
    return provenance


def _show(audit: Sequence[Mapping[str, Any]], writer: Writer, placed: Sequence[str]) -> None:
    pixels: dict[tuple[Any, Any], int] = {}
    for row in audit:
        pixels[row["value"], row["class"]] = pixels.get((row["value"], row["class"]), 0) + row["pixels"]
    table("labels", ("value", "class", "pixels"), [(*key, count) for key, count in sorted(pixels.items())])
    if placed:
        warn(
            f"{len(placed)} images say nothing of where they lie: their places are placeholders, and whether a model "
            "was trained on the same ground cannot be told"
        )
    say(f"{writer.spec.name}: {len(writer.rows)} windows of {writer.spec.patch_size} pixels in {writer.root}")


def _files(folder: Path, suffixes: Sequence[str], end: str) -> dict[str, Path]:
    """Files by stem, without ``end``."""
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}", None, "set importer.images and importer.masks")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or not path.stem.endswith(end):
            continue
        stem = path.stem.removesuffix(end)
        if stem in found:
            raise InputError(f"{folder} holds two files of one stem", [found[stem].name, path.name], "keep one")
        found[stem] = path
    return found


def _day(stem: str, day: str | None) -> date:
    try:
        if day is not None:
            return date.fromisoformat(day)
    except (TypeError, ValueError) as error:
        raise ConfigError("importer.day", day, "give YYYY-MM-DD") from error
    for digits in re.findall(r"(?<!\d)\d{8}(?!\d)", stem):
        try:
            return datetime.strptime(digits, "%Y%m%d").date()
        except ValueError:
            continue
    raise InputError("no day of acquisition in the name of pair", stem, "set importer.day=YYYY-MM-DD")


def _labels(paths: Mapping[str, Path], table_of: Mapping[int, int], names: Sequence[str]) -> list[dict[str, Any]]:
    """Pixels of each value in each mask; every value must be mapped."""
    rows: list[dict[str, Any]] = []
    unmapped: dict[int, Path] = {}
    for path in paths.values():
        values, pixels = np.unique(read_mask(path), return_counts=True)
        for value, count in zip(values.tolist(), pixels.tolist(), strict=True):
            label = table_of.get(value)
            if label is None:
                unmapped.setdefault(value, path)
                continue
            rows.append(
                {
                    "file": path.name,
                    "value": value,
                    "class": "ignored (255)" if label == IGNORE else names[label],
                    "pixels": count,
                }
            )
    if unmapped:
        value, path = min(unmapped.items())
        raise InputError(
            f"{path} and perhaps others hold labels that importer.labels does not name",
            sorted(unmapped),
            f"map them to classes, or to 255; the first is {value}",
        )
    return rows


def _image(path: Path, meaning: Values, bands: Sequence[str]) -> tuple[npt.NDArray[Any], npt.NDArray[Any], Grid | None]:
    """Reflectance × 10000 (float64) and where it is a measurement, in the dataset's band order."""
    if path.suffix.lower() == ".npy":
        stored, grid, own = read_npy(path), None, None
    else:
        raster = read_raster(path)
        stored, grid, own = raster.values, raster.grid, raster.nodata
    if stored.ndim != 3 or stored.shape[0] != len(meaning.bands) or stored.dtype.kind not in "iuf":
        what = f"{path} must be numbers ({len(meaning.bands)} bands, height, width), not"
        raise InputError(what, f"{stored.dtype} {stored.shape}", "name the file's bands in importer.values.bands")
    stored = stored[[list(meaning.bands).index(band) for band in bands]]
    empty = without_data(stored, [*meaning.nodata, *([] if own is None else [own])])
    known = np.where(empty, 0.0, stored.astype(np.float64))
    for band, pixels in zip(bands, known, strict=True):
        check_finite(pixels, path, f", band {band},")
    values = known * meaning.scale + meaning.offset
    if not empty.all() and not 20 <= (middle := float(np.median(values[~empty]))) <= 30_000:
        raise InputError(
            f"{path} does not look like reflectance x 10000; median",
            round(middle, 4),
            "set importer.values.scale (10000 for reflectance from 0 to 1) and offset",
        )
    return values, ~empty, grid


def _mask(
    path: Path, image: Path, shape: tuple[int, ...], grid: Grid | None, table_of: Mapping[int, int]
) -> npt.NDArray[np.uint8]:
    found = read_mask(path)
    if found.shape != shape:
        raise InputError(f"mask {path} has another shape than its image {image.name}", (found.shape, shape))
    own = read_raster(path).grid if path.suffix.lower() in (".tif", ".tiff") else None
    if own is not None and grid is not None and own != grid:
        raise InputError(f"mask {path} lies elsewhere than its image {image.name}", (own.bounds, grid.bounds))
    return apply_labels(found, table_of)


def _placeholder(name: str, number: int, height: int, width: int, resolution: float) -> Grid:
    """A square of its own in the Southern Ocean, 20 km from the next, from a zone on that the dataset's name draws."""
    zones, place = divmod(number, 500)
    zone = (int(hashlib.sha256(name.encode()).hexdigest(), 16) + zones) % 60 + 1
    row, col = divmod(place, 20)
    left, top = 300_000.0 + col * 20_000.0, 3_200_000.0 + row * 20_000.0
    return Grid(f"EPSG:327{zone:02d}", (resolution, 0.0, left, 0.0, -resolution, top), height, width)
