"""From national crop names to classes: each parcel gets a class, or the reason why it has none."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from cropseg.core.errors import ConfigError
from cropseg.core.labels import BACKGROUND, IGNORE
from cropseg.core.progress import say, table
from cropseg.core.storage import atomic_path, write_json
from cropseg.core.taxonomy import Taxonomy
from data_prep import hcat, parcels
from data_prep.crop_tables import CropTable, read_table
from data_prep.subsets import Subset

Unmapped = Literal["ignore", "background"]
Ambiguous = Literal["ignore", "lowest"]

EQUAL_AREA = "EPSG:3035"
"""ETRS89 LAEA Europe: areas are measured in it, whatever CRS the parcels come in."""

AUDIT_COLUMNS = (
    "subset", "name", "code", "english", "class_id", "class_name", "rule", "rows", "area_ha", "hcat", "hcat_class",
)  # fmt: skip
"""``class_name`` is ``ignored`` for 255 and ``rejected`` for parcels whose geometry cannot be used."""


@dataclass(frozen=True)
class Harmonized:
    """The parcels of a subset with their labels.

    Attributes:
        subset: Whose they are.
        parcels: ``parcel`` (int64, the feature's number in the file from 1), ``label`` (uint8; 255 ignored), ``name``,
            ``english``, ``rule``, ``geometry`` (valid polygons in the file's CRS). Empty for a table alone.
        rejected: ``parcel``, ``name``, ``english``, ``reason``: what cannot be burnt, or is there twice.
        audit: :data:`AUDIT_COLUMNS`, a row for each name, code and rule; ``rows`` counts parcels (rows of the table
            where there are no parcels) and adds up to all of them; ``area_ha`` in hectares in :data:`EQUAL_AREA`.
    """

    subset: Subset
    parcels: gpd.GeoDataFrame
    rejected: pd.DataFrame
    audit: pd.DataFrame

    @property
    def agreement(self) -> hcat.Agreement:
        """Keyword rules against HCAT codes, over the audited rows that have a code and are not rejected."""
        rows = self.audit[(self.audit["hcat"] != "") & (self.audit["class_name"] != "rejected")]
        return hcat.agreement(
            (_target(name), other, count)
            for name, other, count in zip(rows["class_name"], rows["hcat_class"], rows["rows"].tolist(), strict=True)
        )


class Rules:
    """A taxonomy's keywords, with what to do where they say nothing or too much.

    Args:
        taxonomy: Its classes and keywords.
        unmapped: Label of names that no class takes: ``ignore`` (255) or ``background`` (0, the paper's).
        ambiguous: Label of names that several classes take: ``ignore`` (255) or the ``lowest`` id (the paper's).
        separator: Text between crops in names that list several; None where a name is one crop.
    """

    def __init__(
        self,
        taxonomy: Taxonomy,
        unmapped: Unmapped = "ignore",
        ambiguous: Ambiguous = "ignore",
        separator: str | None = None,
    ) -> None:
        if unmapped not in ("ignore", "background"):
            raise ConfigError("what to do with unmapped names", unmapped, "use ignore or background")
        if ambiguous not in ("ignore", "lowest"):
            raise ConfigError("what to do with names of several classes", ambiguous, "use ignore or lowest")
        self.taxonomy = taxonomy
        self.unmapped = unmapped
        self.ambiguous = ambiguous
        self.separator = separator
        # The same keywords without exclusions, and the exclusions as keywords: to say why a name was left out.
        self._included = replace(taxonomy, classes=tuple(replace(c, exclude=()) for c in taxonomy.classes))
        self._excluded = replace(
            taxonomy,
            classes=tuple(
                replace(c, include=c.exclude if c.id != BACKGROUND else (), exclude=()) for c in taxonomy.classes
            ),
        )

    def decide(self, english: str) -> tuple[int, str]:
        """The label of an English name, and the rule that decided it."""
        crops = [english] if self.separator is None else [part for part in english.split(self.separator) if part]
        if len(crops) < 2 or self.ambiguous == "lowest":  # the paper reads a list of crops as one name
            return self._decide_crop(english)
        decisions = [self._decide_crop(crop) for crop in crops]
        if len({label for label, _ in decisions}) == 1:
            return decisions[0]
        # A parcel half maize, half kale is not a field of maize: where its crops differ, nobody knows which lies where.
        names = [
            f"no class ({crop})" if label in (IGNORE, BACKGROUND) else self.taxonomy.names[label]
            for crop, (label, _) in zip(crops, decisions, strict=True)
        ]
        return IGNORE, f"several crops: {', '.join(dict.fromkeys(names))} -> ignored"

    def _decide_crop(self, english: str) -> tuple[int, str]:
        matches = self.taxonomy.matches(english)
        if len(matches) == 1:
            return matches[0].class_id, f"{self.taxonomy.name}: keyword '{matches[0].keyword}'"
        if matches:
            names = ", ".join(self.taxonomy.names[match.class_id] for match in matches)
            if self.ambiguous == "lowest":
                return matches[0].class_id, f"several classes: {names} -> lowest id"
            return IGNORE, f"several classes: {names} -> ignored"
        excluding = {match.class_id: match.keyword for match in self._excluded.matches(english)}
        for match in self._included.matches(english):
            if match.class_id in excluding:
                return self.none(f"excluded by '{excluding[match.class_id]}'")
        return self.none("no keyword" if english else "no name")

    def none(self, reason: str) -> tuple[int, str]:
        """The label of what no class takes, and the reason with what became of it."""
        if self.unmapped == "background":
            return BACKGROUND, f"{reason} -> background"
        return IGNORE, f"{reason} -> ignored"


def harmonize(
    subset: Subset, taxonomy: Taxonomy, *, unmapped: Unmapped = "ignore", ambiguous: Ambiguous = "ignore"
) -> Harmonized:
    """Give each parcel of a subset a class or a reason.

    Args:
        subset: Its parcels, or its table alone where it has none.
        taxonomy: Classes and keywords.
        unmapped: See :class:`Rules`.
        ambiguous: See :class:`Rules`.

    Raises:
        InputError: A file is missing or not what it should be (see :func:`data_prep.parcels.read`).
        ConfigError: National names without a table to translate them, or an option with an unknown value.
    """
    rules = Rules(taxonomy, unmapped, ambiguous, subset.separator)
    crop_table = None if subset.table is None else read_table(subset.table)
    if subset.parcels is None:
        return _harmonize_table(subset, rules, crop_table)
    raw = parcels.read(subset)
    if crop_table is None and not (raw["english"] != "").any():
        raise ConfigError(
            f"subset {subset.name} has national crop names and no table that translates them",
            None,
            "set its table to the EuroCrops table of the country, or english_column to a column with English names",
        )
    raw.insert(0, "parcel", np.arange(1, len(raw) + 1, dtype=np.int64))
    decided = _decide(raw, rules, crop_table)
    geometry, reason = parcels.polygons(raw.geometry.to_numpy())
    with np.errstate(invalid="ignore"):  # what lies outside its CRS has no area in another
        area = shapely.area(gpd.GeoSeries(geometry, crs=raw.crs).to_crs(EQUAL_AREA).to_numpy()) / 1e4
    reason[(reason == "") & ~np.isfinite(area)] = "outside the area of its CRS"
    reason = _mark_duplicates(geometry, decided, reason)
    good = reason == ""
    decided["area_ha"] = np.where(np.isfinite(area), area, 0.0)
    audit = decided.assign(
        class_id=decided["label"].where(good, IGNORE),
        rule=decided["rule"].where(good, "rejected: " + pd.Series(reason)),
    )
    audit["rejected"] = ~good
    columns = ["parcel", "label", "name", "english", "rule"]
    kept = gpd.GeoDataFrame(decided.loc[good, columns].reset_index(drop=True), geometry=geometry[good], crs=raw.crs)
    rejected = decided[["parcel", "name", "english"]].assign(reason=reason)[~good].reset_index(drop=True)
    return Harmonized(subset, kept, rejected, _audit(subset, audit, taxonomy))


def run(
    subsets: Iterable[Subset],
    taxonomy: Taxonomy,
    out_dir: Path | str,
    unmapped: Unmapped = "ignore",
    ambiguous: Ambiguous = "ignore",
    show: int = 30,
) -> dict[str, Any]:
    """Harmonise every subset and write the audit: the stage behind ``prepare.py stage=harmonize``.

    Writes ``audit.csv`` (all subsets), ``audit/<subset>.csv`` and, last, ``harmonize.json`` (the summary).

    Args:
        subsets: What to harmonise, in this order.
        taxonomy: Classes and keywords.
        out_dir: Folder of the audit.
        unmapped: See :class:`Rules`.
        ambiguous: See :class:`Rules`.
        show: Rows of each subset's audit that the screen shows, largest first; 0 shows all.

    Returns:
        The summary: per subset its rows, area and rows per class, rejected ones by reason, and agreement with HCAT;
        the last also for all subsets together.
    """
    out = Path(out_dir)
    audits: list[pd.DataFrame] = []
    agreed = hcat.agreement([])
    summary: dict[str, Any] = {"taxonomy": taxonomy.name, "unmapped": unmapped, "ambiguous": ambiguous, "subsets": {}}
    for subset in subsets:
        result = harmonize(subset, taxonomy, unmapped=unmapped, ambiguous=ambiguous)
        _write_csv(out / "audit" / f"{subset.name}.csv", result.audit)
        _show(result, show)
        audits.append(result.audit)
        summary["subsets"][subset.name] = summarise(result)
        agreed = agreed + result.agreement
    if not audits:
        raise ConfigError("there are no subsets to harmonise", None, "choose a region that lists some")
    summary["hcat"] = asdict(agreed)
    _write_csv(out / "audit.csv", pd.concat(audits, ignore_index=True))
    write_json(out / "harmonize.json", summary)
    _say_agreement("all subsets", agreed)
    say(f"audit of {len(audits)} subsets: {out / 'audit.csv'}")
    return summary


def summarise(result: Harmonized) -> dict[str, Any]:
    """Counts of a harmonised subset as plain data."""
    audit = result.audit
    return {
        "rows": int(audit["rows"].sum()),
        "classes": {str(k): int(v) for k, v in audit.groupby("class_name", sort=True)["rows"].sum().items()},
        "area_ha": {str(k): round(float(v), 4) for k, v in audit.groupby("class_name")["area_ha"].sum().items()},
        "rejected": {str(k): int(v) for k, v in result.rejected["reason"].value_counts().sort_index().items()},
        "hcat": asdict(result.agreement),
    }


def _harmonize_table(subset: Subset, rules: Rules, crop_table: CropTable | None) -> Harmonized:
    """Audit a table alone: each of its rows counts as one parcel without area."""
    if crop_table is None:
        raise ConfigError(f"subset {subset.name} has neither parcels nor a table", None, "set one of them")
    decided = pd.DataFrame(
        [(crop.name, crop.code, crop.english, crop.hcat, *rules.decide(crop.english)) for crop in crop_table.crops],
        columns=["name", "code", "english", "hcat", "class_id", "rule"],
    ).assign(area_ha=0.0, rejected=False)
    empty = {"parcel": np.int64, "label": np.uint8, "name": object, "english": object, "rule": object}
    none = pd.DataFrame({column: pd.Series(dtype=kind) for column, kind in empty.items()})
    rejected = none[["parcel", "name", "english"]].assign(reason=pd.Series(dtype=object))
    return Harmonized(
        subset, gpd.GeoDataFrame(none, geometry=[], crs=EQUAL_AREA), rejected, _audit(subset, decided, rules.taxonomy)
    )


def _decide(raw: pd.DataFrame, rules: Rules, crop_table: CropTable | None) -> pd.DataFrame:
    """Label, rule, English name and HCAT code of each row; each distinct crop is looked up once."""
    keys = ["name", "code", "english", "hcat"]
    group = raw.groupby(keys, sort=False).ngroup().to_numpy()
    distinct = raw[keys].drop_duplicates().itertuples(index=False, name=None)
    answers = pd.DataFrame(
        [_decide_one(name, code, english, hcat_code, rules, crop_table) for name, code, english, hcat_code in distinct],
        columns=["label", "rule", "english", "hcat"],
    ).astype({"label": np.uint8})
    rows = answers.iloc[group].reset_index(drop=True)
    return pd.concat([raw[["parcel", "name", "code"]].reset_index(drop=True), rows], axis=1)


def _decide_one(
    name: str, code: str, english: str, hcat_code: str, rules: Rules, crop_table: CropTable | None
) -> tuple[int, str, str, str]:
    if english:  # EuroCrops' own translation, or a file in English
        return *rules.decide(english), english, hcat_code
    if crop_table is None:
        return *rules.none("no name"), "", hcat_code
    found = crop_table.find(name, code)
    if not found.crops:
        return *rules.none(found.how), "", hcat_code
    decisions = [rules.decide(crop.english) for crop in found.crops]
    names = " | ".join(crop.english for crop in found.crops)
    codes = {crop.hcat for crop in found.crops}
    label, rule = decisions[0]
    if len({decision[0] for decision in decisions}) > 1:
        label, rule = IGNORE, f"table {crop_table.name} gives several names -> ignored"
        if rules.ambiguous == "lowest":
            label = min(decision[0] for decision in decisions if decision[0] not in (IGNORE, BACKGROUND))
            rule = f"table {crop_table.name} gives several names -> lowest id"
    how = "" if found.how == "name" else f" (by {found.how})"
    return label, rule + how, names, codes.pop() if len(codes) == 1 else ""


def _mark_duplicates(geometry: Any, decided: pd.DataFrame, reason: Any) -> Any:
    """Reject all but the first of parcels with the same outline and the same crop, whatever vertex they start at."""
    good = np.flatnonzero(reason == "")
    keys = decided.iloc[good][["name", "code", "english"]].reset_index(drop=True)
    for number, bound in enumerate(shapely.bounds(geometry[good]).T):
        keys[number] = bound
    # Outlines are compared where bounds agree, since a canonical form of each of a million costs time.
    suspects = np.flatnonzero(keys.duplicated(keep=False).to_numpy())
    outlines = shapely.to_wkb(shapely.normalize(geometry[good[suspects]]))
    keys = keys.iloc[suspects].assign(outline=[hashlib.sha256(outline).digest() for outline in outlines])
    first = (
        decided.iloc[good[suspects]]["parcel"]
        .groupby([keys[c].to_numpy() for c in keys], sort=False)
        .transform("first")
    )
    for row, original in zip(good[suspects], first, strict=True):
        if decided["parcel"].iloc[row] != original:
            reason[row] = f"duplicate of parcel {original}"
    return reason


def _audit(subset: Subset, rows: pd.DataFrame, taxonomy: Taxonomy) -> pd.DataFrame:
    """Count rows and area by crop and rule, classes first, largest first."""
    keys = ["name", "code", "english", "class_id", "rejected", "rule", "hcat"]
    # A duplicate's original has its number in the reason; the audit counts duplicates together.
    rows = rows.assign(rule=rows["rule"].str.replace(r"(duplicate) of parcel \d+", r"\1", regex=True))
    counted = rows.groupby(keys, sort=True).agg(rows=("rule", "size"), area_ha=("area_ha", "sum")).reset_index()
    counted["class_name"] = [
        "rejected" if rejected else "ignored" if label == IGNORE else taxonomy.names[label]
        for label, rejected in zip(counted["class_id"], counted["rejected"], strict=True)
    ]
    counted["hcat_class"] = [hcat.class_of(code, taxonomy) for code in counted["hcat"]]
    counted["subset"] = subset.name
    counted["area_ha"] = counted["area_ha"].round(4)
    order = ["rejected", "class_id", "area_ha", "rows", "name", "code", "english", "rule"]
    counted = counted.sort_values(order, ascending=[True, True, False, False, True, True, True, True])
    return counted[list(AUDIT_COLUMNS)].astype({"class_id": np.uint8, "rows": np.int64}).reset_index(drop=True)


def _target(class_name: str) -> str:
    return "" if class_name in ("ignored", "rejected", "background") else class_name


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")


def _show(result: Harmonized, limit: int) -> None:
    audit = result.audit.sort_values(["area_ha", "rows"], ascending=False, kind="stable")
    shown = audit if limit == 0 else audit.head(limit)
    rest = f", the largest {len(shown)} of {len(audit)} names" if len(shown) < len(audit) else ""
    table(
        f"{result.subset.name}: {int(audit['rows'].sum())} rows{rest}",
        ("name", "code", "english", "class", "rule", "rows", "area ha"),
        (
            (row.name_, row.code, row.english, row.class_name, row.rule, row.rows, f"{row.area_ha:.2f}")
            for row in shown.rename(columns={"name": "name_"}).itertuples()
        ),
    )
    _say_agreement(result.subset.name, result.agreement)


def _say_agreement(whose: str, agreed: hcat.Agreement) -> None:
    if agreed.rows:
        say(
            f"{whose}: keywords and HCAT codes agree on {agreed.share:.1%} of {agreed.rows} rows, "
            f"and on {agreed.target_share:.1%} of the {agreed.target_rows} where either names a class"
        )
