"""What the report's tables hold, as plain strings: scores, classes, and the parts of a dataset."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol as Shape

import numpy as np
from omegaconf import OmegaConf

from cropseg.core.manifest import PARTS, Dataset
from cropseg.report import latex
from cropseg.runs import Run, label, seed_groups
from cropseg.scores import MEANS, PROTOCOLS, Evaluation, Scope, format_score
from cropseg.seeds import SEED_COLUMNS, Spread, over_seeds, scored_on, seed_rows, sets_of


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: Its heading.
        rule: Small print under the heading, such as what a mean does with absent classes.
        text: Whether cells are words (set left) rather than numbers (set right).
    """

    title: str
    rule: str = ""
    text: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the report.

    Attributes:
        title: Stands above it.
        columns: Its columns.
        rows: Cells, formatted.
        note: Stands below it.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def to_csv(self) -> str:
        """Comma-separated, with a heading."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([column.title for column in self.columns])
        writer.writerows(self.rows)
        return buffer.getvalue()

    def to_markdown(self) -> str:
        """A Markdown table, with its title, the rules of its columns and its note."""
        lines = [
            f"**{self.title}**",
            "",
            _line(column.title for column in self.columns),
            _line("---" if column.text else "---:" for column in self.columns),
            *(_line(row) for row in self.rows),
            "",
            *(f"- {column.title}: {column.rule}" for column in self.columns if column.rule),
        ]
        return "\n".join([*lines, *(["", self.note] if self.note else [])]) + "\n"

    def to_latex(self, label: str = "") -> str:
        r"""A LaTeX table; it needs the packages :data:`cropseg.report.latex.PACKAGES`.

        Args:
            label: What ``\ref`` finds it by; empty for none.
        """
        return latex.table(
            self.title,
            [(column.title, column.text) for column in self.columns],
            self.rows,
            [*(f"{column.title}: {column.rule}" for column in self.columns if column.rule), self.note],
            label,
        )


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split("\n")).replace("|", r"\|") for cell in cells) + " |"


def scores(runs: Sequence[Run]) -> Table:
    """Runs × evaluation sets × both protocols; the protocol that a set is meant for stands first."""
    rows = []
    alone = single(runs)
    for on, name in sets_of(runs).items():
        for protocol in ("all", "crop"):
            for run, one in scored_on(runs, on):
                found = one.scores(protocol)
                means = (format_score(found[key]) for key in MEANS)
                remark = "; ".join([*one.caveats, *(["one seed"] if str(run.path) in alone else [])])
                rows.append((name, PROTOCOLS[protocol], label(run, runs), f"{one.patches:,}", *means, remark))
    columns = (
        Column("evaluation set", text=True),
        Column("protocol", text=True),
        Column("model", text=True),
        Column("patches"),
        *(Column(title, rule) for title, rule in MEANS.values()),
        Column("remark", text=True),
    )
    return Table("Scores of every run on every evaluation set", columns, tuple(rows))


def single(runs: Sequence[Run]) -> set[str]:
    """Paths of the runs that have no other seed beside them."""
    return {str(group[0].path) for group in seed_groups(runs) if len(group) == 1}


def seeds(runs: Sequence[Run], *, brief: bool = False) -> Table | None:
    """Mean and range over the seeds of each model, on each set; None where no model has two seeds.

    ``brief`` notes are a word or two, where their full text stands elsewhere.
    """
    rows = seed_rows(runs, None, brief=brief)
    if not rows:
        return None
    texts = ("evaluation set", "protocol", "model", "seeds", "note")
    rules = {title: rule for title, rule in MEANS.values()}
    columns = tuple(Column(title, rules.get(title, ""), text=title in texts) for title in SEED_COLUMNS)
    note = (
        "Mean (lowest … highest) over runs that differ in nothing but their seed, which are named in brackets. A range "
        "over a few seeds is no confidence interval: it shows how far training itself scatters, on the same patches."
    )
    return Table("Scores over seeds", columns, tuple(rows), note)


def classes(runs: Sequence[Run], on: Scope, name: str) -> Table:
    """IoU, class accuracy and support per class on one evaluation set, under the protocol that it is meant for.

    Models with several seeds have mean and range in a cell.

    Args:
        runs: The runs.
        on: The set.
        name: What the title calls it.
    """
    shown = over_seeds(runs, on)
    first = shown[0].evaluations[0]
    results = [[e.scores(first.protocol) for e in one.evaluations] for one in shown]
    rows = tuple(
        (
            crop,
            f"{results[0][0]['support'][i]:,}",
            *(str(Spread.of([one[key][i] for one in found])) for found in results for key in ("iou", "accuracy")),
        )
        for i, crop in enumerate(first.classes)
    )
    heads = [Column(f"{one.model}, {one.n}: {what}") for one in shown for what in ("IoU", "class acc.")]
    note = (
        f"{PROTOCOLS[first.protocol].capitalize()}, {first.patches:,} patches. "
        "n/a: no pixel of the class in truth (accuracy) or in truth and prediction (IoU)."
    )
    if first.without_data or first.without_label:
        note += f" Left out: {first.without_label:,} pixels without label, {first.without_data:,} without image data."
    told = (f"{text[:1].upper()}{text[1:]}." for text in caveats(shown))
    title = f"Classes on {name}"
    columns = (Column("class", text=True), Column("support, pixels"), *heads)
    return Table(title, columns, rows, " ".join([note, *told]))


class OnSet(Shape):
    """A model on a set, over its seeds."""

    @property
    def model(self) -> str:
        """What tables call it."""

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """One a seed."""


def caveats(shown: Sequence[OnSet]) -> list[str]:
    """What must stand beside the scores of models on a set; what holds for some of them alone names them."""
    of_text: dict[str, dict[str, None]] = {}
    for one in shown:
        for text in (text for evaluation in one.evaluations for text in evaluation.caveats):
            of_text.setdefault(text, {})[one.model] = None
    return [text if len(models) == len(shown) else f"{text} ({', '.join(models)})" for text, models in of_text.items()]


def parts(dataset: Dataset, split: str) -> Table:
    """Patches and places of each part of a split."""
    rows_of = dataset.parts(split)
    rois = np.array(dataset.manifest["roi"].to_pylist(), dtype=object)
    rows = tuple(
        (
            part,
            f"{len(rows_of[part]):,}",
            format_share(len(rows_of[part]), len(dataset)),
            f"{len(set(rois[rows_of[part]]))}",
        )
        for part in PARTS
    )
    unused = len(dataset) - sum(len(rows_of[part]) for part in PARTS)
    columns = (Column("part", text=True), Column("patches"), Column("share"), Column("regions of interest"))
    note = f"{unused:,} patches belong to no part, such as those between parts." if unused else ""
    return Table(f"Parts of split {split}", columns, rows, note)


def class_values(run: Run, count: int) -> list[float] | None:
    """The first list of ``count`` numbers under a key that speaks of weights.

    It is looked for in the loss that the run keeps (computed weights too), then in its config.
    """

    def search(node: object, key: str) -> list[float] | None:
        if isinstance(node, Mapping):
            hits = (search(value, str(name)) for name, value in node.items())
            return next((hit for hit in hits if hit is not None), None)
        if isinstance(node, list) and "weight" in key and len(node) == count:
            return [float(value) for value in node] if all(isinstance(v, int | float) for v in node) else None
        return None

    plain = OmegaConf.to_container(run.config, resolve=False)
    groups = plain if isinstance(plain, Mapping) else {}
    places = (run.spec.model.get("loss"), groups.get("loss"), groups.get("model"))
    return next((hit for place in places if (hit := search(place, "")) is not None), None)


def importances(model: str, kind: str, ranked: Mapping[str, Sequence[float]]) -> Table:
    """What a forest's decisions rest on, over its seeds."""
    spreads = sorted(((name, Spread.of(values)) for name, values in ranked.items()), key=lambda item: -item[1].mean)
    rows = tuple((name, str(spread)) for name, spread in spreads)
    note = f"{kind.capitalize()}, summing to 1. Correlated bands share what either would have alone."
    columns = (Column("feature", text=True), Column("importance"))
    return Table(f"Feature importances, {model}", columns, rows, note)


def facts(runs: Sequence[Run]) -> Table:
    """What the runs of one model are, which differ in their seed at most: the first stands for all."""
    run = runs[0]
    spec = run.spec
    history = run.history.get("epoch")
    rows = [
        ("run", ", ".join(one.name for one in runs)),
        ("model", run.model),
        ("training data", f"{spec.dataset}, split {spec.split}"),
        ("manifest SHA-256", spec.manifest_digest),
        ("bands", " ".join(spec.bands)),
        ("classes", f"{len(spec.taxonomy)} ({spec.taxonomy.name})"),
        ("window", f"{spec.patch_size} × {spec.patch_size} px at {spec.resolution:g} m"),
        ("pixels", "simulated" if spec.simulated else "measured"),
    ]
    scores = [one.validation.get("miou_present") for one in runs]
    if known := [score for score in scores if isinstance(score, int | float)]:
        epochs = [one.validation.get("epoch") for one in runs]
        numbers = ", ".join(str(epoch + 1) for epoch in epochs if isinstance(epoch, int))
        chosen = f", epoch {numbers}" if numbers and history is not None and len(history) > 1 else ""
        rows.append(("validation mIoU, present", f"{Spread.of(known)}{chosen}"))
    if history is not None and len(history) > 1:
        rows.append(("epochs", f"{len(history)}"))
    for key, title in (("seed", "seed"), ("loss._target_", "loss"), ("optimizer._target_", "optimiser")):
        values = [OmegaConf.select(one.config, key, default=None) for one in runs]
        if told := dict.fromkeys(str(value).removeprefix("cropseg.") for value in values if value is not None):
            rows.append((title, ", ".join(told)))
    rows.extend((name, str(version)) for name, version in spec.versions.items())
    title = f"Run {run.name}" if len(runs) == 1 else f"{run.model}, {len(runs)} seeds"
    return Table(title, (Column("", text=True), Column("", text=True)), tuple(rows))


def set_names(runs: Sequence[Run]) -> list[str]:
    """Names of the evaluation sets of any of the runs, each once; ``internal`` first, the rest by name."""
    return list(dict.fromkeys(on.key for on in sets_of(runs)))


def format_share(part: int, whole: int) -> str:
    """A share with three decimals, as the paper prints it; ``n/a`` of nothing."""
    return f"{part / whole:.3%}" if whole else "n/a"
