"""Any number of runs and evaluation sets in one table, from stored confusion matrices: nothing is loaded or run."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.progress import say, table, track, warn
from cropseg.redraw import SCORES
from cropseg.report.tables import Column, Table
from cropseg.scores import MEANS, PROTOCOLS, SIMULATED_NOTE, Evaluation, Protocol, Scope, titles
from cropseg.seeds import Spread, group_labels
from cropseg.stored import Entry, find, group, read

OF_A_CLASS: Final = {"iou": "IoU", "accuracy": "class acc."}
"""Scores that need a class behind a colon, and their headings."""

ONE_SEED: Final = "one seed"


@dataclass(frozen=True)
class Cell:
    """A model on a set: its score over seeds, and what must stand beside it."""

    spread: Spread
    seeds: int
    marks: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A model over its seeds, or a single run."""

    label: str
    entries: tuple[Entry, ...]
    cells: Mapping[Scope, Cell]


def rank(
    entries: Sequence[Entry],
    score: str = "miou_present",
    protocol: Protocol | None = None,
    *,
    seeds: bool = True,
    sort: str | None = None,
    sets: Sequence[str] | None = None,
) -> tuple[list[Scope], list[Row]]:
    """Columns and rows of the leaderboard.

    Args:
        entries: What :func:`cropseg.stored.read` gave.
        score: One of :data:`cropseg.redraw.SCORES`, ``iou:<class>`` or ``accuracy:<class>``.
        protocol: Which pixels count; None for what each set is meant for.
        seeds: Whether runs that differ in their seed alone are one row.
        sort: A set's name: best first on it; ``name``: by name; None for the first column.
        sets: Names of the sets to show; None for all.

    Raises:
        ConfigError: An unknown score, class, protocol or set.
    """
    check_score(score)
    if protocol is not None and protocol not in PROTOCOLS:
        raise ConfigError("unknown protocol", protocol, f"choose from {', '.join(PROTOCOLS)}, or null")
    classes = dict.fromkeys(name for entry in entries for one in entry.evaluations for name in one.classes)
    kind, _, name = score.partition(":")
    if kind in OF_A_CLASS and name not in classes:
        raise ConfigError("no run was scored on the class", name, f"choose from {', '.join(classes)}")
    groups = group(entries) if seeds else [[entry] for entry in entries]
    labels = group_labels(groups)
    known = sorted({one.key for entry in entries for one in entry.evaluations})
    for name in [*(sets or ()), *([sort] if sort not in (None, "name") else [])]:
        if name not in known or (sets is not None and name not in sets):
            raise ConfigError("no run was scored on the set", name, f"choose from {', '.join(known) or 'none'}")
    wanted = set(known if sets is None else sets)
    alone = {str(one[0].path) for one in group(entries) if len(one) == 1}
    rows = []
    for label, members in zip(labels, groups, strict=True):
        scored: dict[Scope, list[tuple[Entry, Evaluation]]] = {}
        for entry in members:
            for one in entry.evaluations:
                if one.key in wanted:
                    scored.setdefault(Scope.of(one, protocol), []).append((entry, one))
        cells = {place: _cell(found, place.protocol, score, len(members), alone) for place, found in scored.items()}
        rows.append(Row(label, tuple(members), cells))
    places = sorted({place for row in rows for place in row.cells}, key=lambda one: one.order)
    if sort == "name":
        return places, sorted(rows, key=lambda row: row.label)
    first = [place for place in places if sort is None or place.key == sort]
    return places, sorted(rows, key=lambda row: _order(row, first))


def check_score(score: str) -> None:
    """Refuse a score that does not exist.

    Raises:
        ConfigError: Naming those that do.
    """
    kind, colon, name = score.partition(":")
    if score not in SCORES and not (kind in OF_A_CLASS and colon and name):
        raise ConfigError("no such score", score, f"choose from {', '.join(SCORES)}, iou:<class>, accuracy:<class>")


def _cell(
    scored: Sequence[tuple[Entry, Evaluation]], protocol: Protocol, score: str, seeds: int, alone: set[str]
) -> Cell:
    spread = Spread.of([value(one, protocol, score) for _, one in scored])
    marks = dict.fromkeys(mark for _, one in scored for mark in _marks(one, protocol))
    if len(scored) < seeds:
        marks[f"{len(scored)} of {seeds} seeds"] = None
    elif any(str(entry.path) in alone for entry, _ in scored):
        marks[ONE_SEED] = None
    return Cell(spread, len(scored), tuple(marks))


def _marks(one: Evaluation, protocol: Protocol) -> list[str]:
    """What must stand beside a score, in a few words."""
    found = [text if short.startswith(("window", "ground")) else short for short, text in one.marks]
    if one.shared_ground is None:
        found.append("leakage not known")
    if one.protocol == "crop" and protocol == "all":
        found.append("unlabelled ground counted as background")
    return found


def value(one: Evaluation, protocol: Protocol, score: str) -> float:
    """A score of a stored evaluation; NaN for a class that it does not have."""
    kind, _, name = score.partition(":")
    found = one.scores(protocol)[kind]
    if kind not in OF_A_CLASS:
        return float(found)
    return float(found[one.classes.index(name)]) if name in one.classes else math.nan


def _order(row: Row, places: Sequence[Scope]) -> list[tuple[bool, float]]:
    """Best first in the first column, then in the next; what was not scored last."""
    means = [row.cells[place].spread.mean if place in row.cells else math.nan for place in places]
    return [(math.isnan(mean), -mean if not math.isnan(mean) else 0.0) for mean in means]


def as_table(places: Sequence[Scope], rows: Sequence[Row], score: str) -> Table:
    """The leaderboard as the report's kind of table: rows models or runs, columns sets, and what stands beside."""
    names = titles(places)
    common = {place: _common(place, rows) for place in places}
    columns = (
        Column("model", text=True),
        Column("seeds"),
        *(
            Column(name, "; ".join([PROTOCOLS[place.protocol], _where(place), *common[place]]))
            for name, place in zip(names, places, strict=True)
        ),
        Column("beside", text=True),
    )
    told = dict(zip(places, names, strict=True))
    cells = tuple(
        (
            row.label,
            _seeds(row),
            *(str(row.cells[place].spread) if place in row.cells else "" for place in places),
            _beside(row, told, common),
        )
        for row in rows
    )
    kind, _, name = score.partition(":")
    heading, rule = MEANS.get(score, (f"{OF_A_CLASS.get(kind, kind)} of {name}", "n/a where the class does not occur"))
    note = (
        f"{heading}: {rule}. Over several seeds: mean (lowest … highest). The order of rows is no test: compare models "
        "by place and over seeds (docs/statistics.md)."
    )
    return Table(f"Leaderboard: {heading}", columns, cells, note)


def _seeds(row: Row) -> str:
    return ", ".join("?" if entry.seed is None else str(entry.seed) for entry in row.entries)


def _where(place: Scope) -> str:
    found = " ".join(dict.fromkeys(part for part in (place.dataset, place.split, place.part) if part))
    return f"{found}, manifest {place.digest[:8]}" if place.digest else found


def _common(place: Scope, rows: Sequence[Row]) -> list[str]:
    """Marks of every score in a column: they stand under it, not in each row."""
    found = [row.cells[place].marks for row in rows if place in row.cells]
    return [mark for mark in found[0] if mark != ONE_SEED and all(mark in marks for marks in found)]


def _beside(row: Row, names: Mapping[Scope, str], common: Mapping[Scope, Sequence[str]]) -> str:
    """The marks of a row that its columns do not have; one that holds for some of its sets alone names them."""
    of_mark: dict[str, list[str]] = {}
    for place, cell in row.cells.items():
        for mark in cell.marks:
            if mark not in common[place]:
                of_mark.setdefault(mark, []).append(names[place])
    return "; ".join(mark if len(on) == len(row.cells) else f"{', '.join(on)}: {mark}" for mark, on in of_mark.items())


def to_csv(places: Sequence[Scope], rows: Sequence[Row], score: str) -> str:
    """A line a model and set, with figures as they are: for a spreadsheet or a script."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ("model", "runs", "seeds", "set", "dataset", "split", "part", "manifest", "protocol", "score")
    writer.writerow([*head, "mean", "lowest", "highest", "n", "beside"])
    for row in rows:
        for place in places:
            if (cell := row.cells.get(place)) is None:
                continue
            numbers = ("" if np.isnan(v) else repr(v) for v in (cell.spread.mean, cell.spread.low, cell.spread.high))
            runs = " ".join(entry.name for entry in row.entries)
            where = (place.key, place.dataset, place.split, place.part, place.digest, place.protocol)
            writer.writerow([row.label, runs, _seeds(row), *where, score, *numbers, cell.seeds, "; ".join(cell.marks)])
    return text.getvalue()


def show(
    paths: Sequence[str | Path],
    score: str = "miou_present",
    protocol: Protocol | None = None,
    *,
    seeds: bool = True,
    sort: str | None = None,
    sets: Sequence[str] | None = None,
    out: str | Path | None = None,
    runs: str | Path = ".",
) -> Table:
    """Print the leaderboard, and write it where ``out`` says.

    Args:
        paths: As for :func:`cropseg.stored.find`.
        score: As for :func:`rank`, like the next four.
        protocol: Which pixels count.
        seeds: Whether seeds are put together.
        sort: What to sort by.
        sets: Which sets to show.
        out: Path without suffix: ``<out>.md`` is the table, ``<out>.csv`` has a line a model and set. None for neither.
        runs: Where ``latest`` is looked for.

    Returns:
        The table that was printed.

    Raises:
        InputError: A folder holds nothing, or a file is broken.
        ConfigError: As for :func:`rank`, or an option of another kind.
    """
    check_score(score)
    if not isinstance(seeds, bool):
        raise ConfigError("seeds", seeds, "choose true or false")
    for option, given in (("run", paths), ("sets", sets)):
        if given is not None and not given:
            raise ConfigError(f"{option} names nothing", list(given), f"leave {option}= out for all")
    entries = [read(path) for path in track(find(paths, runs), "reading evaluations")]
    if empty := [entry.name for entry in entries if not entry.evaluations]:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        warn(f"{len(empty)} runs have not been evaluated and are left out: {', '.join(empty[:5])}{more}")
    entries = [entry for entry in entries if entry.evaluations]
    if not entries:
        raise InputError("no run has a stored evaluation", [str(p) for p in paths], "python evaluate.py run=<folder>")
    places, rows = rank(entries, score, protocol, seeds=seeds, sort=sort, sets=sets)
    rows = [row for row in rows if row.cells]
    found = as_table(places, rows, score)
    table(found.title, [column.title for column in found.columns], found.rows)
    say(found.note)
    for column in found.columns:
        if column.rule:
            say(f"{column.title}: {column.rule}")
    if any(SIMULATED_NOTE.startswith(mark) for row in rows for cell in row.cells.values() for mark in cell.marks):
        warn(SIMULATED_NOTE)
    if out is not None:
        stem = Path(out)
        stem = stem.with_suffix("") if stem.suffix.lower() in (".md", ".csv") else stem
        for suffix, text in ((".md", found.to_markdown()), (".csv", to_csv(places, rows, score))):
            storage.write_bytes(Path(f"{stem}{suffix}"), text.encode())
            say(f"wrote {stem}{suffix}")
    return found
