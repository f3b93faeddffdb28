"""Tables 1-4, 7 and 8 in the paper's form: taxonomy, composition, weights and the labels of foreign sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from omegaconf import OmegaConf

from cropseg.core import storage
from cropseg.core.labels import BACKGROUND, IGNORE
from cropseg.core.taxonomy import CropClass, Taxonomy
from cropseg.report import paper, tables
from cropseg.report.paper import ABSENT
from cropseg.report.paper_form import PAPER, Composition, PaperTable, Shown, made, numbers, words
from cropseg.report.tables import format_share

CONF: Final = Path(__file__).resolve().parents[2] / "conf"
"""The configs beside the package, where it runs from its repository."""

COUNTRIES: Final = {
    "AT": "Austria",
    "BE": "Belgium",
    "CZ": "Czech Republic",
    "DE": "Germany",
    "DK": "Denmark",
    "ES": "Spain",
    "FR": "France",
    "IE": "Ireland",
    "NL": "Netherlands",
    "RO": "Romania",
    "SK": "Slovakia",
}
"""Country codes that the paper spells out, and some others."""


def taxonomy(shown: Shown) -> PaperTable:
    """Table 1: the paper's keywords and ours, and where they part."""
    found = list(dict.fromkeys(run.spec.taxonomy for run in shown.runs))
    columns = [*words("class"), *numbers("id")]
    rows = [[crop.name, str(crop.id)] for crop in shown.taxonomy.classes]
    if shown.comparable:
        columns += words(f"{PAPER}: included", f"{PAPER}: excluded")
        for row in rows:
            row += paper.TABLE_1.row(row[0])
    for one in found:
        if shown.comparable:
            columns += words(f"{one.name} differs by")
        else:
            columns += words(f"{one.name}: included", f"{one.name}: excluded")
        for row, crop in zip(rows, one.classes, strict=True):
            mine = [", ".join(crop.include) or ABSENT, ", ".join(crop.exclude) or ABSENT]
            row += [_difference(crop, *row[2:4])] if shown.comparable else mine
    notes = [*(_matching(one) for one in found), *(_unmapped(one) for one in shown.datasets)]
    return made(paper.TABLE_1, columns, rows, shown.why_not, *notes)


def _matching(one: Taxonomy) -> str:
    how = (
        "anywhere in a name, as in the paper" if one.matching == "substring" else "as whole words; the paper's anywhere"
    )
    return f"Keywords of {one.name} are found {how}"


def _unmapped(one: Composition) -> str:
    """What became of crops that no class takes, or several; empty where the dataset does not tell."""
    config = one.dataset.spec.provenance.get("config", {}) if one.dataset else {}
    labels = config.get("labels") if isinstance(config, Mapping) else None
    if not isinstance(labels, Mapping) or not {"unmapped", "ambiguous"} <= set(labels):
        return ""
    unmapped, several = (str(labels[key]).replace("ignore", "unknown (255)") for key in ("unmapped", "ambiguous"))
    return (
        f"A crop that matches no keyword is background in the paper; in {one.name} it is {unmapped}, and one that "
        f"matches several classes {several}"
    )


def _difference(crop: CropClass, include: str, exclude: str) -> str:
    """How a class's keywords part from those that the paper prints."""
    told = []
    for more_by, less_by, mine, printed in (
        ("also", "without", crop.include, include),
        ("also excludes", "does not exclude", crop.exclude, exclude),
    ):
        theirs = [] if printed == ABSENT or crop.id == BACKGROUND else printed.split(", ")
        if more := [word for word in mine if word not in theirs]:
            told.append(f"{more_by} {', '.join(more)}")
        if less := [word for word in theirs if word not in mine]:
            told.append(f"{less_by} {', '.join(less)}")
    return "; ".join(told) or "nothing"


def countries(shown: Shown) -> PaperTable:
    """Table 2: patches per country."""
    columns, cells, notes = [*words("country"), *numbers(f"{PAPER}: patches", f"{PAPER}: share")], [], []
    for one in shown.datasets:
        counts: dict[str, int] = {}
        if one.dataset is None:
            notes.append(_gone(one.name, one.reason))
        else:
            codes, found = np.unique(one.dataset.manifest["country"].to_pylist(), return_counts=True)
            counts = {COUNTRIES.get(code, code): int(n) for code, n in zip(codes.tolist(), found.tolist(), strict=True)}
        columns += numbers(f"{one.name}: patches", f"{one.name}: share")
        cells.append((one.dataset, counts))
    printed = [row[0] for row in paper.TABLE_2.rows if row[0] != "Total"]
    ours = sorted({name for _, counts in cells for name in counts} - set(printed))
    rows = []
    for name in (*printed, *ours, "Total"):
        row = [name, *paper.TABLE_2.row(name)]
        for dataset, counts in cells:
            whole = sum(counts.values())
            part = whole if name == "Total" else counts.get(name, 0)
            shown_cells = (f"{part:,}", format_share(part, whole)) if part else (ABSENT, ABSENT)
            row += shown_cells if dataset is not None else ("not available",) * 2
        rows.append(row)
    return made(paper.TABLE_2, columns, rows, *notes)


def composition(shown: Shown) -> PaperTable:
    """Table 3: pixels of each class, and patches that hold it."""
    heads = ("pixels", "of pixels", "patches", "of patches")
    columns = [*words("class"), *(numbers(*(f"{PAPER}: {head}" for head in heads)) if shown.comparable else [])]
    rows = [[name, *(paper.TABLE_3.row(name) if shown.comparable else ())] for name in shown.taxonomy.names]
    total = ["Total", *((paper.LABELLED_PIXELS, "100.000%", "67,337", "100.000%") if shown.comparable else ())]
    notes = [shown.why_not]
    for one in shown.datasets:
        columns += numbers(*(f"{one.name}: {head}" for head in heads))
        if one.dataset is None:
            notes.append(_gone(one.name, one.reason))
            for row in (*rows, total):
                row += ["not available"] * len(heads)
            continue
        counts = np.array(one.dataset.manifest["counts"].to_pylist(), dtype=np.int64).reshape(len(one.dataset), -1)
        pixels, patches, whole = counts.sum(axis=0), (counts > 0).sum(axis=0), len(one.dataset)
        for i, row in enumerate(rows):
            row += [f"{pixels[i]:,}", format_share(pixels[i], pixels.sum())]
            row += [f"{patches[i]:,}", format_share(patches[i], whole)]
        total += [f"{pixels.sum():,}", "100.000%", f"{whole:,}", "100.000%"]
        ignored = int(np.sum(one.dataset.manifest["ignored"].to_pylist()))
        notes.append(f"{one.name}: {ignored:,} more pixels are unknown (255) and count nowhere")
    return made(paper.TABLE_3, columns, [*rows, total], *notes)


def class_weights(shown: Shown) -> PaperTable:
    """Table 4: weights of the classes in the loss."""
    columns = [*words("class"), *(numbers(PAPER) if shown.comparable else [])]
    rows = [[name, *(paper.TABLE_4.row(name) if shown.comparable else ())] for name in shown.taxonomy.names]
    notes = [shown.why_not]
    for model in shown.models:
        found = tables.class_values(model.first, len(rows))
        if model.forest:
            notes.append(f"{model.label} has no loss: it draws its pixels class by class")
            continue
        columns += numbers(model.title)
        for i, row in enumerate(rows):
            row.append("none" if found is None else f"{found[i]:.2f}")
        if found is None:
            notes.append(f"{model.label}: the loss weighs no class, or its config is gone")
        elif shown.comparable:
            same = all(f"{value:.2f}" == row[1] for value, row in zip(found, rows, strict=True))
            notes.append(f"{model.label}: {'the weights of the paper' if same else 'other weights than the paper'}")
    return made(paper.TABLE_4, columns, rows, *notes)


def dacia5(shown: Shown) -> PaperTable:
    """Table 7: which class each DACIA5 label becomes."""
    zero = (
        "Unlabelled ground (0) stays background: the paper's Table 7 does not name it, but its row of all valid pixels "
        "divides by nine present classes (0.1505 · 11 / 0.1839)"
    )
    return _labels(shown, paper.TABLE_7, "dacia5", paper.DACIA5_LEGEND, paper.DACIA5_CODES, zero)


def pastis(shown: Shown) -> PaperTable:
    """Table 8: which class each PASTIS label becomes."""
    legend = {int(row[0]): row[1] for row in paper.TABLE_8.rows}
    return _labels(shown, paper.TABLE_8, "pastis", legend, {int(row[0]): row[2] for row in paper.TABLE_8.rows})


def _labels(
    shown: Shown, source: paper.Printed, key: str, legend: Mapping[int, str], theirs: Mapping[int, str], *notes: str
) -> PaperTable:
    """A foreign set's codes with the class that the paper gives them, and the class that ours get."""
    mine, where = _importer_labels(shown, key)
    ids = {**{name: str(i) for i, name in enumerate(paper.CLASSES)}, "ignored": str(IGNORE)}
    columns = [*numbers("code"), *words("label")]
    columns += [*words(f"{PAPER}: class"), *numbers(f"{PAPER}: id")]
    columns += [*words("ours: class"), *numbers("ours: id"), *words("against the paper")]
    own = {**{name: str(i) for i, name in enumerate(shown.taxonomy.names)}, "ignored": str(IGNORE)}
    rows = []
    for code in sorted({*legend, *mine}):
        printed, ours = theirs.get(code, ABSENT), mine.get(code, "unknown: an error" if mine else "not available")
        verdict = "same" if printed == ours else "differs" if mine else ""
        if printed == ABSENT and code == 0:
            verdict = "not in the paper's table"
        row = (legend.get(code, ABSENT), printed, ids.get(printed, ABSENT), ours, own.get(ours, ABSENT), verdict)
        rows.append((str(code), *row))
    return made(source, columns, rows, where, *notes)


def _importer_labels(shown: Shown, key: str) -> tuple[dict[int, str], str]:
    """Class name or ``ignored`` by code, and where that was read: the evaluated dataset, or the importer's config."""
    for run in shown.runs:
        path = Path(run.evaluations[key].root) / "dataset.json" if key in run.evaluations else None
        if path is not None and path.is_file():
            found = storage.read_json(path).get("provenance", {}).get("rules", {}).get("labels")
            if isinstance(found, Mapping):
                return _named(
                    found, shown.taxonomy.names
                ), f"Ours: as the evaluated dataset {run.evaluations[key].dataset} was imported"
    path = CONF / "importer" / f"{key}.yaml"
    if not path.is_file():
        return {}, f"Ours: conf/importer/{key}.yaml does not lie beside this installation"
    config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    labels = config.get("labels") if isinstance(config, Mapping) else None
    return _named(
        labels or {}, shown.taxonomy.names
    ), f"Ours: conf/importer/{key}.yaml as it stands; no run was evaluated on {key}"


def _named(labels: Mapping[object, object], names: Sequence[str]) -> dict[int, str]:
    """Labels by code, which datasets keep as names or as ids, and configs as names or 255."""

    def name(label: object) -> str:
        text = str(label)
        if text == str(IGNORE) or text.startswith("ignored"):
            return "ignored"
        return names[int(text)] if text.isdigit() and int(text) < len(names) else text

    return {int(str(code)): name(label) for code, label in labels.items() if str(code).isdigit()}


def _gone(name: str, reason: str) -> str:
    return f"{name} is not shown: {reason}"
