"""Tables 9-14 in the paper's form: the scores, the paper's beside ours, and what its own class figures give again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
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
    evaluate_commands,
    made,
    not_evaluated,
    numbers,
    scored_title,
    spread,
    words,
)
from cropseg.report.tables import set_names
from cropseg.scores import PROTOCOLS, Evaluation, Protocol, format_score
from cropseg.seeds import over_seeds, scored_on, sets_of

REBUILT: Final = "paper, rebuilt"
"""Rows of scores that were computed from a confusion matrix built out of the paper's own class figures."""

QUOTED: Final = "The paper's figures are quoted: it prints none per class from which they could be computed again"

FIGURES_OF: Final = "figures of"


@dataclass(frozen=True)
class Scored:
    """A model on an evaluation set.

    Attributes:
        model: The model.
        where: What tables call the set.
        apart: The same behind a comma where another set of its name has other patches; empty where none has.
        evaluations: One a seed, all of the same patches.
    """

    model: Model
    where: str
    apart: str
    evaluations: tuple[Evaluation, ...]

    @property
    def name(self) -> str:
        """The model with its seeds and what of it was simulated."""
        return scored_title(self.model.label, self.evaluations)

    @property
    def title(self) -> str:
        """The same, and on what it was scored where that must be told."""
        return f"{self.name}{self.apart}"

    def results(self, protocol: Protocol) -> list[dict[str, Any]]:
        """All scores, of each seed."""
        return [one.scores(protocol) for one in self.evaluations]

    def cells(self, *keys: tuple[Protocol, str]) -> list[str]:
        """Mean and range over the seeds of some scores."""
        return [spread([found[key] for found in self.results(protocol)]) for protocol, key in keys]

    @property
    def patches(self) -> str:
        """Patches evaluated."""
        return f"{self.evaluations[0].patches:,}"


def _scored(shown: Shown, key: str) -> tuple[list[Scored], list[Model]]:
    """The models evaluated on ``key``, those of the same patches together, and those that were not evaluated on it.

    Models, and seeds of one, that saw other patches under that name are told apart.
    """
    found = []
    names = sets_of(shown.runs, [key])
    for on, where in names.items():
        apart = f", on {where}" if len(names) > 1 else ""
        for model in shown.models:
            found += [Scored(model, where, apart, one.evaluations) for one in over_seeds(model.runs, on)]
    return found, [model for model in shown.models if not any(key in run.evaluations for run in model.runs)]


def _apart(shown: Shown, keys: Sequence[str]) -> str:
    """That some models of a table were scored on other patches than others; empty where none were."""
    told = []
    for key in dict.fromkeys(keys):
        names = list(sets_of(shown.runs, [key]).values())
        if len(names) > 1:
            told.append(f"{', '.join(names[:-1])} and {names[-1]} are not the same patches")
    return f"{'; '.join(told)}: scores on one cannot be compared with those on another" if told else ""


def _names(models: Sequence[Model]) -> str:
    return ", ".join(model.label for model in models)


def _notes(shown: Shown, key: str) -> str:
    found = (one.note for scored in _scored(shown, key)[0] for one in scored.evaluations)
    return "; ".join(dict.fromkeys(note for note in found if note)) or "the same files in another way"


def _caveats(shown: Shown, keys: Sequence[str]) -> str:
    of_set: dict[str, list[Evaluation]] = {}
    for one in (one for key in keys for one in _scored(shown, key)[0]):
        of_set.setdefault(one.where, []).extend(one.evaluations)
    return caveats(of_set)


def sets(shown: Shown) -> PaperTable:
    """Table 9: the evaluation sets, the paper's and what else the runs were evaluated on."""
    columns = [*words("evaluation set", "category"), *numbers(f"{PAPER}: patches", "ours: patches")]
    columns += words("ours: dataset", "remark")
    rows = []
    names = [*SETS, *(name for name in set_names(shown.runs) if name not in SETS)]
    for name in names:
        _, category, *_ = ("", *paper.TABLE_9.row(name))
        first = (category if category != ABSENT else "not in the paper", paper.TABLE_9.row(name)[-1])
        of_name = sets_of(shown.runs, [name])
        for on, title in of_name.items():
            found = [one for _, one in scored_on(shown.runs, on)]
            ours = " or ".join(dict.fromkeys(f"{one.patches:,}" for one in found))
            remark = "; ".join(dict.fromkeys(text for one in found for text in (one.note, *one.caveats) if text))
            rows.append((title, *first, ours, on.dataset, remark))
        if not of_name:
            rows.append((name, *first, NOT_EVALUATED, ABSENT, ""))
    split = "The paper's training, validation and test part hold 53,888, 6,797 and 6,652 patches, split patch by patch"
    return made(paper.TABLE_9, columns, rows, split, evaluate_commands(shown, list(SETS)))


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
        again = metrics.scores(rebuild.internal())
        miou, accuracy = paper.TABLE_11.rows[-1][-2:]
        rows[MEAN_PRINTED] += [miou, paper.MEAN_CLASS_ACCURACY, NOTHING]
        means = (format_score(again[key]) for key in ("miou", "mean_class_accuracy"))
        rows[MEAN] += [*means, f"{again['pixels']:,}"]
        rows[ACCURACY_PRINTED] += [NOTHING, accuracy, NOTHING]
        rows[ACCURACY] += [NOTHING, format_score(again["pixel_accuracy"]), NOTHING]
        notes.append(_on_table_10())
    found, left = _scored(shown, "internal")
    for one in found:
        columns += numbers(f"{one.title}: IoU", f"{one.title}: class acc.")
        results = one.results("all")
        for i, name in enumerate(classes):
            rows[name] += [spread([result[key][i] for result in results]) for key in ("iou", "accuracy")]
        rows[MEAN_PRINTED] += [NOTHING, NOTHING]
        rows[MEAN] += one.cells(("all", "miou"), ("all", "mean_class_accuracy"))
        rows[ACCURACY_PRINTED] += [NOTHING, NOTHING]
        rows[ACCURACY] += [NOTHING, *one.cells(("all", "pixel_accuracy"))]
    if left:
        columns += numbers(_names(left))
        for row in rows.values():
            row.append(NOT_EVALUATED)
    supports = {one.where: one.results("all")[0] for one in reversed(found)}  # of the first model on each set
    for where, support in reversed(supports.items()):
        columns += numbers("ours: support" if len(supports) == 1 else f"ours: support, {where}")
        for i, name in enumerate(classes):
            rows[name].append(f"{support['support'][i]:,}")
        rows[MEAN].append(f"{support['pixels']:,}")
        for name in (MEAN_PRINTED, ACCURACY_PRINTED, ACCURACY):
            rows[name].append(NOTHING)
    if not shown.comparable:
        rows = {name: row for name, row in rows.items() if name not in (MEAN_PRINTED, ACCURACY_PRINTED)}
        rows[MEAN][0], rows[ACCURACY][0] = "mean, and sum of support", "pixel accuracy"
    notes += [_apart(shown, ["internal"]), _caveats(shown, ["internal"]), not_evaluated(shown, ["internal"])]
    return made(paper.TABLE_10, columns, rows.values(), *notes)


MEAN_PRINTED: Final = "mean (paper: quoted)"
MEAN: Final = "mean, and sum of support (paper: rebuilt)"
ACCURACY_PRINTED: Final = "pixel accuracy (paper: quoted)"
ACCURACY: Final = "pixel accuracy (paper: rebuilt)"


def _on_table_10() -> str:
    iou, recall, support = ([paper.value(row[i]) for row in paper.TABLE_10.rows] for i in (1, 2, 3))
    miou, mean, pixels = sum(iou) / len(iou), sum(recall) / len(recall), sum(support)
    hits = [r * s for r, s in zip(recall, support, strict=True)]
    missed = pixels - sum(hits)
    taken = sum(hit / i - s for hit, i, s in zip(hits, iou, support, strict=True))
    return (
        "Of the paper, the rows called rebuilt come from the table's own per-class figures: a confusion matrix of "
        "whole pixels whose IoU, class accuracy and support round to the printed ones. Straight from the columns, the "
        f"IoUs average to {miou:.5f}, the recalls weighted by support to {sum(hits) / pixels:.5f}, the supports add up "
        f"to {pixels:,.0f} = 6,652 · 256². The recalls average to {mean:.4f}, not to the printed "
        f"{paper.MEAN_CLASS_ACCURACY}, and no recalls that round to the printed ones do. As printed, the classes lose "
        f"{round(missed - taken, -2):,.0f} pixels more to each other than they gain, of {missed / 1e6:.1f} million "
        "wrong ones, which no matrix can; the rebuilt one differs from the printed figures within their rounding, in "
        "the recalls above all"
    )


def models(shown: Shown) -> PaperTable:
    """Table 11: the two forests and the U-Net on the internal test part."""
    columns = [*words(FIGURES_OF, "model", "feature type", "spatial context"), *numbers("mIoU all", "pixel acc.")]
    rows: list[Sequence[str]] = []
    notes = [shown.why_not, QUOTED + ", but for the U-Net, whose two are those of Table 10" if shown.comparable else ""]
    found, left = _scored(shown, "internal")
    for printed, option in zip(paper.TABLE_11.rows, ("rf_spectral", "rf_spatial", "unet4gn"), strict=True):
        features, context = printed[1:3]
        if shown.comparable:
            rows.append((PAPER, *printed))
        alike = [one for one in found if _sort(one.model) == context]
        for one in alike:
            cells = one.cells(("all", "miou"), ("all", "pixel_accuracy"))
            rows.append((one.title, one.model.first.model, features, context, *cells))
        unscored = [model for model in left if _sort(model) == context]
        rows += [(model.label, model.first.model, features, context, *_no(2)) for model in unscored]
        if not alike and not unscored:
            rows.append(("ours", option, features, context, *["no run"] * 2))
            notes.append(f"No run of the kind of {option} is shown. To make one: python train.py model={option}")
    if shown.comparable:
        notes.append(_on_the_forest())
    notes += [_apart(shown, ["internal"]), _caveats(shown, ["internal"]), not_evaluated(shown, ["internal"])]
    return made(paper.TABLE_11, columns, rows, *notes)


def _on_the_forest() -> str:
    told = ", ".join(f"{name} {iou}" for name, iou in paper.FOREST_IOU.items())
    miou = paper.TABLE_11.rows[0][3]
    known, whole = sum(map(float, paper.FOREST_IOU.values())), float(miou) * len(paper.CLASSES)
    others = " and ".join(name for name in paper.CLASSES if name not in paper.FOREST_IOU)
    n = len(paper.CLASSES)
    return (
        f"Of the spectral forest the paper's section 4.2 tells the IoU of nine classes: {told}. They sum to "
        f"{known:.4f}; its mIoU {miou} times {n} is {whole:.4f}, which leaves {whole - known:.4f} for {others} together"
    )


def _sort(model: Model) -> str:
    """Which of Table 11's kinds a model is, in its words for the spatial context."""
    return ("Handcrafted" if model.context else "No") if model.forest else "Learned"


def regions(shown: Shown) -> PaperTable:
    """Table 12: the Belgian regions, and below them what else the runs were evaluated on, in the same form."""
    columns = [*words("evaluation set", FIGURES_OF), *numbers(*paper.TABLE_12.columns[1:])]
    rows: list[Sequence[str]] = []
    belgian = ("be_vlg_2021", "be_wal_2021")
    crossed = [name for key in ("dacia5", "pastis") for name in _variants(shown, key)]
    others = [name for name in set_names(shown.runs) if name not in (*SETS, *crossed) and "+" not in name]
    for name in (*belgian, *others):
        if name in belgian and shown.comparable:
            rows.append((name, PAPER, *paper.TABLE_12.row(name)))
        found, left = _scored(shown, name)
        keys: tuple[tuple[Protocol, str], ...] = (
            ("all", "miou"),
            ("all", "pixel_accuracy"),
            ("crop", "miou_present"),
            ("crop", "pixel_accuracy"),
        )
        rows += [(name, one.title, one.patches, *one.cells(*keys)) for one in found]
        if left and name in belgian:
            rows.append((name, _names(left), ABSENT, *_no(len(keys))))
    notes = [shown.why_not, QUOTED if shown.comparable else ""]
    if others:
        notes.append(f"Not in the paper, shown in the same form: {', '.join(others)}")
    notes += [_apart(shown, (*belgian, *others)), _caveats(shown, (*belgian, *others)), not_evaluated(shown, belgian)]
    return made(paper.TABLE_12, columns, rows, *notes)


def _variants(shown: Shown, key: str) -> list[str]:
    """Sets made of the same files in another way, such as under the radiometric choice that was refused."""
    return [name for name in set_names(shown.runs) if name.startswith(f"{key}_") and "+" not in name]


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
                again = metrics.scores(rebuild.cross(key.upper()), protocol)
                rows.append((row[0], REBUILT, row[1], *(format_score(again[name]) for name in keys)))
                notes.append(_on_table_14(key.upper()))
        scored, left = _scored(shown, key)
        for one in scored:
            rows.append((row[0], one.title, one.patches, *one.cells(*((protocol, name) for name in keys))))
        if left:
            rows.append((row[0], _names(left), ABSENT, *_no(len(keys))))
        for variant in _variants(shown, key):
            for one in _scored(shown, variant)[0]:
                cells = one.cells(*((protocol, name) for name in keys))
                rows.append((f"{variant}, {PROTOCOLS[protocol]}", one.title, one.patches, *cells))
    told = {name: _notes(shown, name) for key in ("dacia5", "pastis") for name in _variants(shown, key)}
    notes += [f"{name} is not in the paper: {note}" for name, note in told.items()]
    if shown.comparable:
        notes.append("The row of all valid pixels of DACIA5 is quoted: the paper prints no class figures of it")
    keyed = ["dacia5", "pastis", *told]
    notes += [_apart(shown, keyed), _caveats(shown, keyed), not_evaluated(shown, keyed[:2])]
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
    scored = {key: _scored(shown, key)[0] for key in ("dacia5", "pastis")}
    # A row a model: the set of both columns, or several rows where one of them was scored on other patches too.
    lines = [
        pair
        for model in shown.models
        for pair in zip_longest(*([one for one in found if one.model is model] for found in scored.values()))
    ]
    for i, name in enumerate(shown.taxonomy.names):
        if i == 0:
            continue  # not counted in this protocol
        if shown.comparable:
            rows.append((name, PAPER, *paper.TABLE_14.row(name)))
        for pair in lines:
            first, second = (_class_cells([] if one is None else one.results("crop"), i) for one in pair)
            known = [one for one in pair if one is not None]
            title = known[0].name + "".join(one.apart for one in known)
            rows.append((name, title, *first[:2], *second[:2], first[2], second[2]))
    done = {one.model.label for found in scored.values() for one in found}
    if left := [model for model in shown.models if model.label not in done]:
        rows.append(("every class", _names(left), *_no(4), ABSENT, ABSENT))
    notes = [shown.why_not]
    if shown.comparable:
        notes.append("The paper's table has no row for background, which this protocol leaves out, nor for oats")
        for key, found in scored.items():
            supports = {one.where: one.results("crop")[0]["support"] for one in reversed(found)}
            notes += [_on_supports(key, where, support) for where, support in reversed(supports.items())]
    notes += [_apart(shown, list(scored)), _caveats(shown, list(scored)), not_evaluated(shown, list(scored))]
    return made(paper.TABLE_14, columns, rows, f"Protocol: {PROTOCOLS['crop']}", *notes)


def _on_supports(key: str, where: str, support: Sequence[int]) -> str:
    """Whether our labels are the paper's, which supports tell without any prediction."""
    column = {"dacia5": 4, "pastis": 5}[key]
    printed = {name: paper.TABLE_14.row(name)[column] for name in paper.CLASSES[1:]}
    theirs = [0 if cell == ABSENT else int(paper.value(cell)) for cell in printed.values()]
    other = [name for name, a, b in zip(printed, theirs, support[1:], strict=True) if a != b]
    told = (
        f"other than the paper's for {', '.join(other)}: its labels, files or windows are" if other else "the paper's"
    )
    return f"Supports depend on labels alone; those of {where} are {told}{' others' if other else ', pixel for pixel'}"


def _class_cells(results: Sequence[Mapping[str, Any]], i: int) -> tuple[str, str, str]:
    """IoU, class accuracy and support of class ``i``; dashes where it has no truth pixel, as in the paper."""
    if not results:
        return NOT_EVALUATED, NOT_EVALUATED, ABSENT
    if not results[0]["support"][i]:
        return ABSENT, ABSENT, ABSENT
    iou, accuracy = (spread([one[key][i] for one in results]) for key in ("iou", "accuracy"))
    return iou, accuracy, f"{results[0]['support'][i]:,}"


def _no(count: int) -> list[str]:
    return [NOT_EVALUATED] * count
