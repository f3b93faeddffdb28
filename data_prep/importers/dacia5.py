"""DACIA5 (Zenodo 14283243; fields near Braşov, 2020-2024) -> an evaluation set of ours, by the paper's rules (§3.5.2).

    <source>/[Dataset/]Images_Sentinel2_GeoTIFF/Sentinel2_<Y>/Sentinel2_L2A_<YYYYMMDD>.tif    12 bands, uint16
    <source>/[Dataset/]Masks_and_legend/Sentinel2_<Y>/Labels_mask_<Y>.png (or .mat, key mask)  uint8, 0 unlabelled

- Windows start at the scene's upper left corner; a last one is aligned to the border where the stride leaves a rest, so
  windows overlap there: 4 × 2 = 8 windows of 256 in a scene of 800 × 450.
- A window is kept with at least ``min_crop`` pixels of a crop of the taxonomy. Then the season is applied.
- Labels by a table; code 0 (unlabelled) stays background, peas are 255. A code that the table lacks is an error.
- The set counts each window, as the paper does. ``<name>_once`` beside it holds the same windows with every pixel
  labelled in one of them only: that in which it lies deepest. Its images are those of the first folder, its parcel
  rasters the same.
- Parcels are 8-connected components of equal codes of a year's mask, and numbered through all years.
- Band order and BOA offset: :mod:`data_prep.importers.radiometry`, per scene, into ``audit.csv``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cropseg.core import taxonomy
from cropseg.core.bands import NODATA, PAPER_BANDS, SATURATED, check_bands
from cropseg.core.errors import InputError
from cropseg.core.labels import BACKGROUND, IGNORE
from cropseg.core.manifest import DatasetSpec
from cropseg.core.progress import say, track, warn
from cropseg.core.scene import Grid, UInt8Array
from cropseg.core.tiling import Window, sliding
from data_prep.importers.options import (
    BANDS,
    FOLDER_NAME,
    PATH,
    SEASON,
    SWITCH,
    WORD,
    check_options,
    check_paper,
    made_as,
    whole_number,
)
from data_prep.importers.radiometry import Decision, RadiometryRule, audit_columns, look, settle
from data_prep.importers.rasters import check_finite, read_mask, read_raster, shape_of
from data_prep.importers.samples import (
    Sample,
    UInt32Array,
    Writer,
    against_paper,
    apply_labels,
    day_in_season,
    label_table,
    midnight,
    show_paper,
    to_image,
    write_csv,
)
from data_prep.importers.worldcereal_parts import find_parcels

IMAGES: Final = "Images_Sentinel2_GeoTIFF"
MASKS: Final = "Masks_and_legend"
RESOLUTION: Final = 10.0


@dataclass(frozen=True)
class Year:
    """The labels of one year.

    Attributes:
        path: The mask file.
        mask: uint8 (height, width), class ids and 255.
        parcels: uint32 (height, width), numbers unlike those of any other year, 0 = none.
    """

    path: Path
    mask: UInt8Array
    parcels: UInt32Array


@dataclass(frozen=True)
class Scene:
    """One image file and what of it is taken.

    Attributes:
        path: The file.
        day: Day of acquisition.
        windows: Windows considered.
        kept: Those with enough crop pixels.
    """

    path: Path
    day: date
    windows: int
    kept: tuple[Window, ...]


def import_dacia5(
    source: str | Path,
    out: str | Path,
    taxonomy_name: str,
    labels: Mapping[int, str | int],
    rule: RadiometryRule,
    *,
    name: str = "dacia5",
    bands: Sequence[str] = PAPER_BANDS,
    season: Sequence[str] = ("04-01", "09-30"),
    size: int = 256,
    stride: int = 256,
    min_crop: int = 1000,
    paper: Mapping[str, Any] | None = None,
    others: bool = False,
) -> dict[str, Any]:
    """Import the scenes of a season as ``<out>/<name>`` and ``<out>/<name>_once``.

    Under another choice of band order or offset than the pixels tell, both names get the suffix of that choice.

    Args:
        source: Folder that holds ``Dataset``, or that folder itself.
        out: Folder that gets the datasets.
        taxonomy_name: Name or path of the taxonomy.
        labels: Class name or 255 by DACIA5 code.
        rule: How band order and offset are told.
        name: Name of the set.
        bands: Channel order of the images.
        season: First and last day, MM-DD, in every year.
        size: Window size in pixels.
        stride: Step between windows in pixels.
        min_crop: Least number of crop pixels of a window.
        paper: The paper's ``scenes``, ``windows``, ``kept``, ``season`` and ``support`` (pixels by class name).
        others: Whether the refused order and the refused offset are imported too, each as a set beside.

    Returns:
        The summary, also in ``dataset.json``: counts, what differs from the paper, radiometric choices.

    Raises:
        ConfigError: An option has an impossible value.
        InputError: A file is missing, broken, of another shape, or holds a code that ``labels`` does not name.
    """
    check_options(
        "importer",
        {
            "source": (source, PATH), "out": (out, PATH), "taxonomy_name": (taxonomy_name, WORD),
            "rule": (rule, made_as(RadiometryRule)), "name": (name, FOLDER_NAME), "bands": (bands, BANDS),
            "season": (season, SEASON), "size": (size, whole_number(1)), "stride": (stride, whole_number(1)),
            "min_crop": (min_crop, whole_number(0)), "others": (others, SWITCH),
        },
    )  # fmt: skip
    check_paper(paper)
    day_in_season(date(2020, 1, 1), season)  # two days in order, told before the files are read
    bands, classes = check_bands(bands), taxonomy.load(taxonomy_name)
    name, paper, out = name + rule.suffix, paper or {}, Path(out)
    table = label_table(labels, classes, "importer.labels")
    root = _root(Path(source))
    paths = _scene_files(root)
    years = _years(root, sorted({day.year for day in paths}), table)
    scenes = [_scene(path, day, years[day.year], rule, size, stride, min_crop) for day, path in paths.items()]
    taken = [scene for scene in scenes if day_in_season(scene.day, season) and scene.kept]
    if not taken:
        raise InputError(f"{root} has no window of the season {list(season)}", None, "widen importer.season")
    decisions, audit = _radiometry(scenes, taken, years, rule)
    write_csv(out / name / "audit.csv", audit)
    rules = {
        "season": list(season), "size": size, "stride": stride, "min_crop": min_crop, "windows": "border-aligned",
        "labels": {str(code): _named(label, classes.names) for code, label in table.items()},
        "offset": rule.value, "background": "unlabelled ground, which may carry crops",
    }  # fmt: skip
    provenance: dict[str, Any] = {
        "source": "DACIA5, Zenodo 14283243", "label_source": ["DACIA5"], "rules": rules, "audit": "audit.csv",
        "masks": {str(year): labelled.path.name for year, labelled in years.items()},
        "choices": _tally(decisions.values()),
    }  # fmt: skip
    spec = DatasetSpec(name, bands, classes, RESOLUTION, size, False, "crop", provenance)
    every, once = Writer(out / name, spec), Writer(out / f"{name}_once", replace(spec, name=f"{name}_once"))
    for scene in track(taken, "windows of DACIA5"):
        _write(scene, years[scene.day.year], decisions[scene.path], rule, every, once)
    whole = every.counts()
    provenance["against_paper"] = against_paper(
        {
            "scenes": (paper.get("scenes"), len(scenes)),
            "windows": (paper.get("windows"), sum(scene.windows for scene in scenes)),
            "windows kept": (paper.get("kept"), sum(len(scene.kept) for scene in scenes)),
            "windows of the season": (paper.get("season"), len(every.rows)),
        },
        paper.get("support"), whole, classes,
    )  # fmt: skip
    single = once.counts()
    provenance["crop_pixels"] = {"each_window": int(whole[1:].sum()), "once": int(single[1:].sum())}
    every.finish()
    once.finish()
    show_paper(provenance["against_paper"], name)
    say(f"{name}: {len(every.rows)} windows of {len(taken)} scenes in {out / name}")
    say(f"{name}, scenes by choice: {', '.join(f'{key} {count}' for key, count in provenance['choices'].items())}")
    say(f"{name}_once: the same windows, each pixel labelled once ({int(single[1:].sum())} crop pixels)")
    for other in rule.others if others else ():
        import_dacia5(
            source, out, taxonomy_name, labels, other, name=name, bands=bands, season=season, size=size, stride=stride,
            min_crop=min_crop,
        )  # fmt: skip
    return provenance


def _root(source: Path) -> Path:
    for root in (source / "Dataset", source):
        if (root / IMAGES).is_dir():
            return root
    raise InputError(f"{source} holds no Dataset/{IMAGES}", None, "unpack DACIA5 and set importer.source")


def _scene_files(root: Path) -> dict[date, Path]:
    """Image files by day."""
    found: dict[date, Path] = {}
    for path in sorted((root / IMAGES).glob("Sentinel2_*/*.tif")):
        told = re.fullmatch(r"Sentinel2_L2A_(\d{8})", path.stem)
        try:
            day = datetime.strptime(told[1], "%Y%m%d").date() if told else None
        except ValueError:
            day = None
        if day is None or path.parent.name != f"Sentinel2_{day.year}":
            remedy = f"name it {IMAGES}/Sentinel2_<year>/Sentinel2_L2A_<YYYYMMDD>.tif"
            raise InputError(f"{path} does not tell its day", path.name, remedy)
        found[day] = path
    if not found:
        raise InputError(f"{root / IMAGES} holds no Sentinel2_<year>/Sentinel2_L2A_<YYYYMMDD>.tif", None)
    return found


def _years(root: Path, years: Sequence[int], table: Mapping[int, int]) -> dict[int, Year]:
    """Read and map the masks; all of them, before anything is written."""
    found: dict[int, Year] = {}
    numbered = 0
    for year in years:
        folder = root / MASKS / f"Sentinel2_{year}"
        files = [folder / f"Labels_mask_{year}{suffix}" for suffix in (".png", ".mat")]
        there = [file for file in files if file.is_file()]
        if not there:
            remedy = "the year has images: get its mask too"
            raise InputError(f"{folder} holds no Labels_mask_{year}.png or .mat", None, remedy)
        path = there[0]
        codes = read_mask(path)
        if len(there) > 1:
            _compare(path, codes, there[1])
        if unknown := sorted(set(np.unique(codes).tolist()) - set(table)):
            remedy = "look it up in the legend and name it in importer.labels (a class, or 255)"
            raise InputError(f"{path} holds codes that importer.labels does not name", unknown, remedy)
        raster, parcels = find_parcels(codes, {code: label for code, label in table.items()})
        raster = np.where(raster > 0, raster + np.uint32(numbered), 0).astype(np.uint32)
        numbered += len(parcels)
        found[year] = Year(path, apply_labels(codes, table), raster)
    return found


def _compare(path: Path, codes: npt.NDArray[np.int64], other: Path) -> None:
    """Say so if a year's two masks differ."""
    try:
        if not np.array_equal(codes, read_mask(other)):
            warn(f"{path} is used; {other.name} beside it holds other labels")
    except InputError as error:
        warn(f"{path} is used; {error}")


def _scene(path: Path, day: date, year: Year, rule: RadiometryRule, size: int, stride: int, min_crop: int) -> Scene:
    channels, height, width = shape_of(path)
    if channels != rule.channels:
        remedy = "get the file again, or name the orders of such files in importer.rule.orders"
        raise InputError(f"{path} must have {rule.channels} bands, not", channels, remedy)
    if (height, width) != year.mask.shape:
        raise InputError(
            f"{path} and its mask {year.path} differ in height and width",
            ((height, width), year.mask.shape),
            "get both again; a mask with its axes swapped must be turned first",
        )
    windows = list(sliding(height, width, size, stride, border_aligned=True))
    if not windows:
        raise InputError(f"{path} is smaller than a window of {size} pixels", (height, width), "lower importer.size")
    crop = (year.mask != BACKGROUND) & (year.mask != IGNORE)
    # A window without any crop pixel is never kept: it holds only ignored or only background.
    kept = tuple(window for window in windows if crop[window.slices].sum() >= max(1, min_crop))
    return Scene(path, day, len(windows), kept)


def _radiometry(
    scenes: Sequence[Scene], taken: Sequence[Scene], years: Mapping[int, Year], rule: RadiometryRule
) -> tuple[dict[Path, Decision], list[dict[str, Any]]]:
    evidence, grids = [], set()
    for scene in track(taken, "band order and offset"):
        values, grid = _read(scene.path)
        grids.add(grid)
        evidence.append(look(values, ((values != NODATA) & (values != SATURATED)).all(axis=0), rule))
    settled = settle(evidence, [f"Sentinel2_{scene.day.year}" for scene in taken], rule)
    decisions = {scene.path: decision for scene, decision in zip(taken, settled, strict=True)}
    told = {
        scene.path: audit_columns(seen, decision, rule)
        for scene, seen, decision in zip(taken, evidence, settled, strict=True)
    }
    blank = dict.fromkeys(next(iter(told.values())), "")
    audit = []
    for scene in scenes:
        used = "used" if scene in taken else "out of season" if scene.kept else "no window with enough crop pixels"
        row = {"scene": scene.path.name, "day": scene.day.isoformat(), "use": used}
        row |= {"windows": str(scene.windows), "kept": str(len(scene.kept)), "mask": years[scene.day.year].path.name}
        audit.append({**row, **told.get(scene.path, blank)})
    if len(grids) > 1:
        warn(f"the scenes lie on {len(grids)} grids, while a year has one mask: it may be shifted on some of them")
    wrong = [decision for decision in settled if decision.order != rule.expected]
    if wrong:
        warn(f"{len(wrong)} of {len(taken)} scenes are read in another band order than {rule.expected}: see audit.csv")
    if doubtful := [scene.path.name for scene, one in zip(taken, settled, strict=True) if "unlike" in one.offset_by]:
        warn(f"BOA offset unlike that of most scenes of the year, see audit.csv: {', '.join(doubtful)}")
    return decisions, audit


def _write(scene: Scene, year: Year, decision: Decision, rule: RadiometryRule, every: Writer, once: Writer) -> None:
    raw, grid = _read(scene.path)
    order = list(rule.orders[decision.order])
    values = raw[[order.index(band) for band in every.spec.bands]]
    valid = (values != NODATA) & (values != SATURATED)
    offset = rule.value if decision.offset == "present" else 0
    owner = _owners(grid, scene.kept)
    for number, window in enumerate(scene.kept):
        rows, cols = window.slices
        image, clamped = to_image(values[:, rows, cols].astype(np.int64) - offset, valid[:, rows, cols])
        sample = Sample(
            f"dacia5_{scene.day.year}", "RO", "brasov", scene.path.stem, f"{window.row}_{window.col}",
            midnight(scene.day), "unknown", grid.window(window), image, year.mask[rows, cols],
            year.parcels[rows, cols], clamped,
        )  # fmt: skip
        row = every.add(sample)
        # The parcels stay whole: the border of what is labelled here is no edge between parcels.
        single = replace(sample, mask=np.where(owner[rows, cols] == number, sample.mask, np.uint8(IGNORE)))
        once.add(single, f"../{every.root.name}/{row['image']}")


def _read(path: Path) -> tuple[npt.NDArray[np.integer], Grid]:
    """Digital numbers and grid of a scene."""
    raster = read_raster(path)
    check_finite(raster.values, path)
    if raster.values.dtype.kind not in "iu":
        raise InputError(f"{path} must hold whole numbers, not", str(raster.values.dtype), "get the file again")
    if raster.grid is None:
        raise InputError(f"{path} does not say where it lies", None, "get the file again")
    if raster.grid.resolution != RESOLUTION:
        raise InputError(f"{path} must have pixels of 10 m, not", raster.grid.resolution, "get the file again")
    return raster.values, raster.grid


def _owners(grid: Grid, windows: Sequence[Window]) -> UInt32Array:
    """Number of the window in which each pixel lies deepest; of equally deep ones the first. Elsewhere: their count."""
    deepest = np.zeros((grid.height, grid.width), np.int64)
    owner = np.full(deepest.shape, len(windows), np.uint32)
    for number, window in enumerate(windows):
        down, across = (np.minimum(np.arange(n) + 1, n - np.arange(n)) for n in (window.height, window.width))
        depth = np.minimum(down[:, None], across[None])
        here = depth > deepest[window.slices]
        deepest[window.slices][here] = depth[here]
        owner[window.slices][here] = number
    return owner


def _tally(decisions: Any) -> dict[str, int]:
    tally: dict[str, int] = {}
    for one in decisions:
        for key in (f"order {one.order} ({one.order_by})", f"offset {one.offset} ({one.offset_by})"):
            tally[key] = tally.get(key, 0) + 1
    return dict(sorted(tally.items()))


def _named(label: int, names: Sequence[str]) -> str:
    return "ignored (255)" if label == IGNORE else names[label]
