"""Tables 9-14 in the paper's form: the scores, the paper's beside ours, and what its own class figures give again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from cropseg import metrics
from cropseg.report import paper, rebuild
from cropseg.report.paper import ABSENT
from cropseg.report.paper_form import (
    NOT_EVALUATED,
    NOTHING,
    PAPER,
    SETS,
    Model,
    PaperTable,
    Shown,
    caveats,
    made,
    missing_note,
    numbers,
    spread,
    words,
)
from cropseg.report.tables import set_names
from cropseg.scores import PROTOCOLS, Evaluation, Protocol, format_score
from cropseg.seeds import SeedScores, over_seeds

REBUILT: Final = "paper, rebuilt"
"""Rows of scores that were computed from a confusion matrix built out of the paper's own class figures."""

QUOTED: Final = "The paper's figures are quoted: it prints none per class from which they could be computed again"

FIGURES_OF: Final = "figures of"


def sets(shown: Shown) -> PaperTable:
    """Table 9: the evaluation sets, the paper's and what else the runs were evaluated on."""
    columns = [*words("evaluation set", "category"), *numbers(f"{PAPER}: patches", "ours: patches")]
    columns += words("ours: dataset", "remark")
    rows = []
    names = [*SETS, *(name for name in set_names(shown.runs) if name not in SETS)]
    for name in names:
        found = [run.evaluations[name] for run in shown.runs if name in run.evaluations]
        _, category, *_ = ("", *paper.TABLE_9.row(name))
        printed = paper.TABLE_9.row(name)[-1]
        ours = " or ".join(dict.fromkeys(f"{one.patches:,}" for one in found)) or NOT_EVALUATED
        remark = "; ".join(dict.fromkeys(text for one in found for text in (one.note, *one.caveats) if text))
        where = " or ".join(dict.fromkeys(one.dataset for one in found)) or ABSENT
        rows.append((name, category if category != ABSENT else "not in the paper", printed, ours, where, remark))
    split = "The paper's training, validation and test part hold 53,888, 6,797 and 6,652 patches, drawn one by one"
    return made(paper.TABLE_9, columns, rows, split, *(missing_note(shown, name) for name in SETS))


def internal(shown: Shown) -> PaperTable:
    """Table 10: scores per class on the internal test part, and the means that follow from them."""
    columns = words("class")
    classes = shown.taxonomy.names
    rows = {name: [name] for name in (*classes, MEAN_PRINTED, MEAN, ACCURACY_PRINTED, ACCURACY)}
    notes = [shown.why_not]
    if shown.comparable:
        columns += numbers(f"{PAPER}: IoU", f"{PAPER}: class acc.", f"{PAPER}: support")
        for name in classes:
            rows[name] += paper.TABLE_10.row(name)
        found = metrics.scores(rebuild.internal())
        _, unet_iou, unet_accuracy = ("", *paper.TABLE_11.rows[-1][-2:])
        rows[MEAN_PRINTED] += [unet_iou, paper.MEAN_CLASS_ACCURACY, NOTHING]
        rows[MEAN] += [*_means([found]), f"{found['pixels']:,}"]
        rows[ACCURACY_PRINTED] += [NOTHING, unet_accuracy, NOTHING]
        rows[ACCURACY] += [NOTHING, format_score(found["pixel_accuracy"]), NOTHING]
        notes.append(_on_table_10())
    for model, scored in _by_model(shown, "internal"):
        columns += numbers(f"{model.title}: IoU", f"{model.title}: class acc.")
        results = [one.scores("all") for one in scored]
        for i, name in enumerate(classes):
            rows[name] += (
                [spread([one[key][i] for one in results]) for key in ("iou", "accuracy")] if results else _no(2)
            )
        for name, cells in (
            (MEAN_PRINTED, [NOTHING, NOTHING]),
            (MEAN, _means(results)),
            (ACCURACY_PRINTED, [NOTHING, NOTHING]),
            (ACCURACY, [NOTHING, spread([one["pixel_accuracy"] for one in results]) if results else NOT_EVALUATED]),
        ):
            rows[name] += cells
    support = [one.scores("all") for _, scored in _by_model(shown, "internal") for one in scored[:1]][:1]
    columns += numbers("ours: support")
    for i, name in enumerate(classes):
        rows[name].append(f"{support[0]['support'][i]:,}" if support else NOT_EVALUATED)
    rows[MEAN].append(f"{support[0]['pixels']:,}" if support else NOT_EVALUATED)
    for name in (MEAN_PRINTED, ACCURACY_PRINTED, ACCURACY):
        rows[name].append(NOTHING)
    kept = [row for name, row in rows.items() if shown.comparable or name not in (MEAN_PRINTED, ACCURACY_PRINTED)]
    notes += [caveats(shown, ["internal"]), missing_note(shown, "internal")]
    return made(paper.TABLE_10, columns, kept, *notes)


MEAN_PRINTED: Final = "mean, as printed"
MEAN: Final = "mean and sum of the classes"
ACCURACY_PRINTED: Final = "pixel accuracy, as printed"
ACCURACY: Final = "pixel accuracy from the classes"


def _on_table_10() -> str:
    iou, recall, support = ([paper.value(row[i]) for row in paper.TABLE_10.rows] for i in (1, 2, 3))
    miou, mean, pixels = sum(iou) / len(iou), sum(recall) / len(recall), sum(support)
    accuracy = sum(r * s for r, s in zip(recall, support, strict=True)) / pixels
    return (
        "The paper's rows from the classes are rebuilt from the table's own per-class figures: a confusion matrix of "
        "whole pixels whose IoU, class accuracy and support round to the printed ones. Straight from the columns, the "
        f"IoUs average to {miou:.5f}, the recalls weighted by support to {accuracy:.5f}, the supports add up to "
        f"{pixels:,.0f} = 6,652 · 256². The recalls average to {mean:.4f}, not to the printed "
        f"{paper.MEAN_CLASS_ACCURACY}, and no figures that round to them can."
    )


def models(shown: Shown) -> PaperTable:
    """Table 11: the two forests and the U-Net on the internal test part."""
    columns = [*words(FIGURES_OF, "model", "feature type", "spatial context"), *numbers("mIoU all", "pixel acc.")]
    rows: list[Sequence[str]] = []
    notes = [shown.why_not, QUOTED + ", but for the U-Net, whose two are those of Table 10" if shown.comparable else ""]
    for printed, option in zip(paper.TABLE_11.rows, ("rf_spectral", "rf_spatial", "unet4gn"), strict=True):
        features, context = printed[1:3]
        if shown.comparable:
            rows.append((PAPER, *printed))
        alike = [one for one in _by_model(shown, "internal") if _sort(one[0]) == context]
        for model, scored in alike:
            results = [one.scores("all") for one in scored]
            cells = [spread([one[key] for one in results]) for key in ("miou", "pixel_accuracy")] if results else _no(2)
            rows.append((model.title, model.first.model, features, context, *cells))
        if not alike:
            rows.append(("ours", option, features, context, *_no(2)))
            notes.append(f"No run of the kind of {option} is shown: python train.py model={option}")
    notes += [caveats(shown, ["internal"]), missing_note(shown, "internal")]
    return made(paper.TABLE_11, columns, rows, *notes)


def _sort(model: Model) -> str:
    """Which of Table 11's kinds a model is, in its words for the spatial context."""
    return ("Handcrafted" if model.context else "No") if model.forest else "Learned"


def regions(shown: Shown) -> PaperTable:
    """Table 12: the Belgian regions, and below them what else the runs were evaluated on, in the same form."""
    columns = [*words("evaluation set", FIGURES_OF), *numbers(*paper.TABLE_12.columns[1:])]
    rows: list[Sequence[str]] = []
    belgian = ("be_vlg_2021", "be_wal_2021")
    others = [name for name in set_names(shown.runs) if name not in SETS and "+" not in name]
    for name in (*belgian, *others):
        if name in belgian and shown.comparable:
            rows.append((name, PAPER, *paper.TABLE_12.row(name)))
        for model, scored in _by_model(shown, name):
            if not scored and name in others:
                continue
            keys: tuple[tuple[Protocol, str], ...] = (
                ("all", "miou"),
                ("all", "pixel_accuracy"),
                ("crop", "miou_present"),
                ("crop", "pixel_accuracy"),
            )
            cells = [spread([one.scores(how)[key] for one in scored]) for how, key in keys] if scored else _no(4)
            rows.append((name, model.title, f"{scored[0].patches:,}" if scored else ABSENT, *cells))
    notes = [shown.why_not, QUOTED if shown.comparable else "", caveats(shown, (*belgian, *others))]
    if others:
        notes.append(f"Not in the paper, shown in the same form: {', '.join(others)}")
    return made(paper.TABLE_12, columns, rows, *notes, *(missing_note(shown, name) for name in belgian))


def cross(shown: Shown) -> PaperTable:
    """Table 13: DACIA5 and PASTIS; the paper's rows on crop pixels are rebuilt from its Table 14."""
    columns = [*words("protocol", FIGURES_OF), *numbers(*paper.TABLE_13.columns[1:])]
    keys = ("miou", "miou_present", "pixel_accuracy")
    rows: list[Sequence[str]] = []
    notes = [shown.why_not]
    for row, (key, protocol) in zip(paper.TABLE_13.rows, CROSS, strict=True):
        if shown.comparable:
            rows.append((row[0], PAPER, *row[1:]))
            if protocol == "crop":
                found = metrics.scores(rebuild.cross(key.upper()), protocol)
                rows.append((row[0], REBUILT, row[1], *(format_score(found[name]) for name in keys)))
                notes.append(_on_table_14(key.upper()))
        for model, scored in _by_model(shown, key):
            cells = [spread([one.scores(protocol)[name] for one in scored]) for name in keys] if scored else _no(3)
            rows.append((row[0], model.title, f"{scored[0].patches:,}" if scored else ABSENT, *cells))
    if shown.comparable:
        notes.append("The row of all valid pixels of DACIA5 is quoted: the paper prints no class figures of it")
    notes += [caveats(shown, ["dacia5", "pastis"]), *(missing_note(shown, key) for key in ("dacia5", "pastis"))]
    return made(paper.TABLE_13, columns, rows, *notes)


CROSS: Final[tuple[tuple[str, Protocol], ...]] = (("dacia5", "all"), ("dacia5", "crop"), ("pastis", "crop"))
"""Sets and protocols of Table 13's rows."""


def _on_table_14(dataset: str) -> str:
    first = {"DACIA5": 1, "PASTIS": 3}[dataset]
    iou = [paper.value(row[first]) for row in paper.TABLE_14.rows if row[first] != ABSENT]
    n, every = len(iou), len(paper.CLASSES)
    return (
        f"Rebuilt from the per-class figures of Table 14: {dataset}'s {n} IoUs sum to {sum(iou):.4f}; "
        f"divided by {n} present classes {sum(iou) / n:.4f}, by all {every} {sum(iou) / every:.4f}"
    )


def cross_classes(shown: Shown) -> PaperTable:
    """Table 14: DACIA5 and PASTIS per class on labelled crop pixels, a row of the paper's and one of each model."""
    columns = [*words("class", FIGURES_OF), *numbers(*paper.TABLE_14.columns[1:])]
    rows: list[Sequence[str]] = []
    results = {
        key: {model.label: [one.scores("crop") for one in found] for model, found in _by_model(shown, key)}
        for key in ("dacia5", "pastis")
    }
    for i, name in enumerate(shown.taxonomy.names):
        if i == 0:
            continue  # not counted in this protocol
        if shown.comparable:
            rows.append((name, PAPER, *paper.TABLE_14.row(name)))
        for model in shown.models:
            found = [results[key][model.label] for key in ("dacia5", "pastis")]
            cells = [_class_cells(one, i) for one in found]
            rows.append((name, model.title, *cells[0][:2], *cells[1][:2], cells[0][2], cells[1][2]))
    notes = [shown.why_not]
    if shown.comparable:
        notes.append(
            "Supports depend on labels alone: on the real files, where ours differ from the paper's, the rules of an "
            "importer do. The paper's table has no row for background, which this protocol leaves out, nor for oats"
        )
    notes += [caveats(shown, ["dacia5", "pastis"]), *(missing_note(shown, key) for key in ("dacia5", "pastis"))]
    return made(paper.TABLE_14, columns, rows, f"Protocol: {PROTOCOLS['crop']}", *notes)


def _class_cells(results: Sequence[Mapping[str, Any]], i: int) -> tuple[str, str, str]:
    """IoU, class accuracy and support of class ``i``; dashes where it has no truth pixel, as in the paper."""
    if not results:
        return NOT_EVALUATED, NOT_EVALUATED, ABSENT
    if not results[0]["support"][i]:
        return ABSENT, ABSENT, ABSENT
    iou, accuracy = (spread([one[key][i] for one in results]) for key in ("iou", "accuracy"))
    return iou, accuracy, f"{results[0]['support'][i]:,}"


def _by_model(shown: Shown, key: str) -> list[tuple[Model, tuple[Evaluation, ...]]]:
    """The evaluations of each model on ``key``, one a seed: of the same patches, if seeds saw different ones."""
    found = []
    for model in shown.models:
        alike: Sequence[SeedScores] = over_seeds(model.runs, key)
        found.append((model, alike[0].evaluations if alike else ()))
    return found


def _means(results: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = ("miou", "mean_class_accuracy")
    return [spread([one[key] for one in results]) for key in keys] if results else _no(2)


def _no(count: int) -> list[str]:
    return [NOT_EVALUATED] * count
