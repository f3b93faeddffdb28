"""PASTIS (Zenodo 5012942; 2433 time series in France, 2018-09 … 2019-11) -> our single dates (§3.5.3, Table 8).

    <source>/[PASTIS/]metadata.geojson              ID_PATCH, Fold, TILE, dates-S2, footprint in EPSG:2154
    <source>/[PASTIS/]DATA_S2/S2_<id>.npy           int16 (dates, 10, 128, 128), bands B02 … B08 B8A B11 B12
    <source>/[PASTIS/]ANNOTATIONS/TARGET_<id>.npy   uint8 (3, 128, 128), channel 0 the class

- One date a patch, by the primary rule of :mod:`data_prep.importers.pastis_dates`. Series begin in the season before
  that of their labels, so the year is fixed too.
- The no-data code becomes no data first; then the offset, should there be one; then valid samples are clipped.
- Labels by a table; a value that it does not name is an error.
- The footprint in the tile's UTM zone is the pixels' grid. Band order and offset as for every importer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from shapely.geometry import shape

from cropseg.core import storage, taxonomy
from cropseg.core.bands import PAPER_BANDS, check_bands
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.manifest import DatasetSpec
from cropseg.core.progress import say, table, track
from cropseg.core.scene import Grid
from data_prep.importers.options import (
    BANDS,
    FOLDER_NAME,
    PATH,
    SWITCH,
    WORD,
    check_options,
    check_paper,
    choice,
    list_of,
    made_as,
    whole_number,
)
from data_prep.importers.pastis_dates import RULES, DateLimits, Look, choose, look_at, rule_table, way_table
from data_prep.importers.radiometry import Decision, RadiometryRule, audit_columns, look, settle
from data_prep.importers.rasters import check_finite, read_npy
from data_prep.importers.samples import (
    BRIGHTEST,
    Sample,
    Writer,
    against_paper,
    apply_labels,
    label_table,
    midnight,
    show_paper,
    to_image,
    write_csv,
)

RESOLUTION: Final = 10.0
LABEL_SOURCE: Final = ("PASTIS", "parcel declarations of FR")
"""The benchmark, and the French parcel register that its labels come from."""


@dataclass(frozen=True)
class Series:
    """One patch as ``metadata.geojson`` names it.

    Attributes:
        id: ID_PATCH.
        fold: Fold of the benchmark.
        tile: MGRS tile, such as 30UXV.
        days: Day of each date, in the order of the file.
        grid: Pixels, in the tile's UTM zone.
        images: ``S2_<id>.npy``.
        target: ``TARGET_<id>.npy``.
    """

    id: int
    fold: int
    tile: str
    days: tuple[date, ...]
    grid: Grid
    images: Path
    target: Path


def import_pastis(
    source: str | Path,
    out: str | Path,
    taxonomy_name: str,
    labels: Mapping[int, str | int],
    rule: RadiometryRule,
    limits: DateLimits,
    *,
    name: str = "pastis",
    bands: Sequence[str] = PAPER_BANDS,
    primary: str = "clearest",
    dates: str | None = None,
    folds: Sequence[int] | None = None,
    size: int = 128,
    nodata: Sequence[int] = (-10_000,),
    clip: Sequence[int] = (1, 10_000),
    paper: Mapping[str, Any] | None = None,
    others: bool = False,
) -> dict[str, Any]:
    """Import one date a patch as ``<out>/<name>``, with every patch in part ``test`` of split ``test``.

    Under another date rule than the primary one, or another band order or offset than the pixels tell, the name gets
    the suffix of that choice.

    Args:
        source: Folder that holds ``metadata.geojson``, or its parent.
        out: Folder that gets the dataset.
        taxonomy_name: Name or path of the taxonomy.
        labels: Class name or 255 by PASTIS class.
        rule: How band order and offset are told.
        limits: Which dates may be chosen.
        name: Name of the set.
        bands: Channel order of the images.
        primary: The rule by which a date is chosen.
        dates: Another rule, to compare with; None for the primary one.
        folds: Folds to import; None for all.
        size: Pixels a side.
        nodata: Values that stand for no data.
        clip: Least and largest reflectance × 10000 of a valid sample: the training range.
        paper: The paper's ``patches``, ``samples`` and ``support`` (pixels by class name).
        others: Whether the refused order and the refused offset are imported too, each as a set beside.

    Returns:
        The summary, also in ``dataset.json``.

    Raises:
        ConfigError: An option has an impossible value.
        InputError: A file is missing, broken, of another shape, or holds a class that ``labels`` does not name.
    """
    check_options(
        "importer",
        {
            "source": (source, PATH), "out": (out, PATH), "taxonomy_name": (taxonomy_name, WORD),
            "rule": (rule, made_as(RadiometryRule)), "limits": (limits, made_as(DateLimits)),
            "name": (name, FOLDER_NAME), "bands": (bands, BANDS), "primary": (primary, choice(*RULES)),
            "dates": (dates, choice(*RULES).or_null()), "folds": (folds, list_of(whole_number(0), "[1, 2]").or_null()),
            "size": (size, whole_number(1)),
            "nodata": (nodata, list_of(whole_number(-(2**31), 2**31 - 1), "[-10000], of whole numbers")),
            "clip": (clip, list_of(whole_number(1, BRIGHTEST), f"[1, 10000], two of 1 to {BRIGHTEST}", 2)),
            "others": (others, SWITCH),
        },
    )  # fmt: skip
    check_paper(paper)
    chosen_by, (low, high) = dates or primary, clip
    if low >= high:
        raise ConfigError("importer.clip", list(clip), "give the lower bound first")
    bands, classes, paper = check_bands(bands), taxonomy.load(taxonomy_name), paper or {}
    label_ids = label_table(labels, classes, "importer.labels")
    set_name, name = name, name + ("" if chosen_by == primary else f"_{chosen_by}") + rule.suffix
    every = [one for one in _metadata(_root(Path(source)), size) if folds is None or one.fold in folds]
    if not every:
        raise InputError(f"{source} lists no patch of the folds", list(folds or ()), "widen importer.folds")
    masks, looks = [], []
    for series in track(every, "dates of PASTIS"):
        masks.append(_mask(series, label_ids, size))
        looks.append(_looks(series, rule, limits, nodata, size))
    counts = [np.bincount(mask.ravel(), minlength=256)[: len(classes)] for mask in masks]
    picks = [choose(seen, limits, chosen_by) for seen in looks]
    taken = [(number, pick) for number, pick in enumerate(picks) if pick is not None]
    if not taken:
        remedy = "check importer.limits"
        raise InputError(f"no patch of {source} has a date that the limits allow", list(limits.season), remedy)
    evidence = []
    for number, pick in taken:
        values = _values(every[number], pick)
        evidence.append(look(values, np.asarray((~np.isin(values, list(nodata))).all(axis=0)), rule))
    settled = settle(evidence, [f"tile {every[number].tile}" for number, _ in taken], rule)
    rules = {
        "dates": chosen_by, "primary": primary, "limits": asdict(limits), "nodata": list(nodata), "clip": list(clip),
        "folds": list(folds) if folds is not None else None, "offset": rule.value,
        "labels": {str(code): int(label) for code, label in label_ids.items()},
    }  # fmt: skip
    provenance: dict[str, Any] = {
        "source": "PASTIS, Zenodo 5012942", "label_source": list(LABEL_SOURCE), "rules": rules, "audit": "audit.csv",
    }  # fmt: skip
    support = np.zeros(len(classes), np.int64)
    for crop, pixels in (paper.get("support") or {}).items():
        support[classes.id_of(crop)] = pixels
    provenance["date_rules"] = rule_table(looks, limits, primary)
    provenance["other_ways"] = way_table(looks, counts, limits, paper.get("samples"), support)
    writer = Writer(Path(out) / name, DatasetSpec(name, bands, classes, RESOLUTION, size, False, "all", provenance))
    told: dict[int, dict[str, Any]] = {}
    for (number, pick), seen, decision in zip(taken, evidence, settled, strict=True):
        audit = _write(every[number], pick, masks[number], decision, rule, nodata, clip, writer)
        told[number] = {**audit, **audit_columns(seen, decision, rule)}
    write_csv(writer.root / "audit.csv", _audit(every, looks, picks, told, limits))
    provenance["against_paper"] = against_paper(
        {"patches": (paper.get("patches"), len(every)), "samples": (paper.get("samples"), len(taken))},
        paper.get("support"),
        writer.counts(),
        classes,
    )
    zeros = float(np.mean([told[number]["zero_share"] for number, _ in taken]))
    provenance["zero_share"] = zeros
    writer.finish()
    _show(provenance, name, zeros, len(every))
    for other in rule.others if others else ():
        import_pastis(
            source, out, taxonomy_name, labels, other, limits, name=set_name, bands=bands, primary=primary, dates=dates,
            folds=folds, size=size, nodata=nodata, clip=clip,
        )  # fmt: skip
    return provenance


def _show(provenance: Mapping[str, Any], name: str, zeros: float, patches: int) -> None:
    for title, rows in (("date rules", provenance["date_rules"]), ("other ways", provenance["other_ways"])):
        table(f"{name}: {title}", list(rows[0]), [list(row.values()) for row in rows])
    show_paper(provenance["against_paper"], name)
    say(f"{name}: {provenance['date_rules'][0]['samples']} of {patches} patches have a date that the limits allow")
    say(f"{name}: {zeros:.3%} of the samples are 0, read as dark ground; importer.nodata=[-10000,0] makes them no data")


def _root(source: Path) -> Path:
    for root in (source, source / "PASTIS"):
        if (root / "metadata.geojson").is_file():
            return root
    raise InputError(f"{source} holds no metadata.geojson", None, "unpack PASTIS and set importer.source")


def _metadata(root: Path, size: int) -> list[Series]:
    """Every patch of ``metadata.geojson``, by id."""
    path = root / "metadata.geojson"
    content = storage.read_json(path)
    try:
        told = re.search(r"EPSG:+(\d+)$", content["crs"]["properties"]["name"])
        features = content["features"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} lacks", str(error), "get the file again") from error
    if told is None:
        raise InputError(f"{path} names no EPSG code", content["crs"]["properties"]["name"], "get the file again")
    found = []
    for count, feature in enumerate(features):
        try:
            facts = feature["properties"]
            number, tile = int(facts["ID_PATCH"]), str(facts["TILE"]).upper().removeprefix("T")
            stamps = sorted(facts["dates-S2"].items(), key=lambda item: int(item[0]))
            days = tuple(_day(str(stamp)) for _, stamp in stamps)
            outline = shape(feature["geometry"])
            fold = int(facts["Fold"])
        except (KeyError, TypeError, ValueError, AttributeError, shapely.errors.ShapelyError) as error:
            what = f"{path}: feature {count} lacks a property or has a broken one"
            raise InputError(what, f"{type(error).__name__}: {error}", "get the file again") from error
        images, target = root / "DATA_S2" / f"S2_{number}.npy", root / "ANNOTATIONS" / f"TARGET_{number}.npy"
        grid = _grid(path, number, tile, outline, f"EPSG:{told[1]}", size)
        found.append(Series(number, fold, tile, days, grid, images, target))
    return sorted(found, key=lambda series: series.id)


def _day(stamp: str) -> date:
    try:
        return datetime.strptime(stamp, "%Y%m%d").date()
    except ValueError as error:
        raise ValueError(f"{stamp} is no day YYYYMMDD") from error


def _grid(path: Path, number: int, tile: str, outline: Any, crs: str, size: int) -> Grid:
    """The patch's pixels: its footprint is a square along the axes of the tile's UTM zone."""
    if not re.fullmatch(r"\d\d[C-X][A-Z]{2}", tile):
        raise InputError(f"{path}: tile of patch {number}", tile, "it must be an MGRS tile, such as t30uxv")
    utm = f"EPSG:{'326' if tile[2] >= 'N' else '327'}{tile[:2]}"
    moved = shapely.transform(
        outline, pyproj.Transformer.from_crs(crs, utm, always_xy=True).transform, interleaved=False
    )
    left, bottom, right, top = moved.bounds
    side = size * RESOLUTION
    square = moved.area / side**2
    if max(abs(right - left - side), abs(top - bottom - side)) > 1 or not 0.999 < square < 1.001:
        raise InputError(
            f"{path}: footprint of patch {number} is no square of {side:.0f} m in {utm}",
            (round(right - left, 1), round(top - bottom, 1)),
            "get the file again, or set importer.size",
        )
    return Grid(utm, (RESOLUTION, 0.0, round(left, 3), 0.0, -RESOLUTION, round(top, 3)), size, size)


def _mask(series: Series, labels: Mapping[int, int], size: int) -> npt.NDArray[np.uint8]:
    target = read_npy(series.target)
    if target.ndim != 3 or target.shape[1:] != (size, size) or target.dtype.kind not in "iu":
        remedy = "get the file again"
        raise InputError(f"{series.target} must be whole numbers (3, {size}, {size}), not", _said(target), remedy)
    if unknown := sorted(set(np.unique(target[0]).tolist()) - set(labels)):
        remedy = "name it in importer.labels (a class, or 255)"
        raise InputError(f"{series.target} holds classes that importer.labels does not name", unknown, remedy)
    return apply_labels(target[0].astype(np.int64), labels)


def _looks(series: Series, rule: RadiometryRule, limits: DateLimits, nodata: Sequence[int], size: int) -> list[Look]:
    """What the dates of the season show; the file is checked on the way."""
    images = read_npy(series.images, mapped=True)
    wanted = (len(series.days), rule.channels, size, size)
    if images.shape != wanted or images.dtype.kind not in "iuf":
        what = f"{series.images} must have the shape that metadata.geojson tells, {wanted}, not"
        raise InputError(what, _said(images), "get the file again")
    order = rule.orders[rule.expected]
    found = []
    for index, day in enumerate(series.days):
        if limits.in_season(day):
            check_finite(images[index], series.images, f", date {index},")
            found.append(look_at(images[index], index, day, order, nodata, limits.bright_reflectance))
    return found


def _values(series: Series, pick: Look) -> npt.NDArray[Any]:
    return np.array(read_npy(series.images, mapped=True)[pick.index])


def _write(
    series: Series,
    pick: Look,
    mask: npt.NDArray[np.uint8],
    decision: Decision,
    rule: RadiometryRule,
    nodata: Sequence[int],
    clip: Sequence[int],
    writer: Writer,
) -> dict[str, Any]:
    """Write one patch; returns what is said of its pixels in the audit."""
    order = list(rule.orders[decision.order])
    channels = [order.index(band) for band in writer.spec.bands]
    values = _values(series, pick)[channels].astype(np.float64)
    valid = ~np.isin(values, list(nodata))
    shifted = values - (rule.value if decision.offset == "present" else 0)
    image, raised = to_image(shifted, valid, *clip)
    writer.add(
        Sample(
            f"pastis_{pick.day.year}", "FR", str(series.id), f"S2_{series.id}_{pick.day:%Y%m%d}", "0_0",
            midnight(pick.day), series.tile, series.grid, image, mask, None, raised,
        )
    )  # fmt: skip
    return {
        "nodata_share": round(1 - float(valid.mean()), 5),
        "zero_share": round(float((valid & (values == 0)).mean()), 5),
        "raised_share": round(raised, 5),
        "lowered_share": round(float((valid & (shifted > clip[1])).sum()) / max(1, int(valid.sum())), 5),
    }


def _audit(
    every: Sequence[Series],
    looks: Sequence[Sequence[Look]],
    picks: Sequence[Look | None],
    told: Mapping[int, Mapping[str, Any]],
    limits: DateLimits,
) -> list[dict[str, Any]]:
    """A row a patch: its date, why it has none, and what the other rules would have chosen."""
    blank = dict.fromkeys(next(iter(told.values())), "")
    rows = []
    for number, (series, seen, pick) in enumerate(zip(every, looks, picks, strict=True)):
        allowed = sum(limits.allow(one) for one in seen)
        why = "used" if pick else "no date in the season" if not seen else "no date clear enough"
        row: dict[str, Any] = {"patch": series.id, "fold": series.fold, "tile": series.tile, "use": why}
        row |= {"dates_in_season": len(seen), "dates_allowed": allowed}
        row |= {"date": pick.day.isoformat() if pick else "", "bright_share": round(pick.bright, 5) if pick else ""}
        for rule in RULES:
            other = choose(seen, limits, rule)
            row[f"date_{rule}"] = other.day.isoformat() if other else ""
        rows.append({**row, **told.get(number, blank)})
    return rows


def _said(array: npt.NDArray[Any]) -> str:
    return f"{array.dtype} {array.shape}"
