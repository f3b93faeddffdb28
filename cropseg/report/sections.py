"""The chapters of a report, from the stored evaluations of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from omegaconf import OmegaConf

from cropseg import evidence
from cropseg.core import storage
from cropseg.core.errors import InputError
from cropseg.core.manifest import open_dataset
from cropseg.report import claims, figures, tables
from cropseg.report.content import (
    Bar,
    Bars,
    Block,
    Bullets,
    Figure,
    Fold,
    Glance,
    Grid,
    Group,
    Grouped,
    Heading,
    Legend,
    Listing,
    Matrix,
    Missing,
    Section,
    Words,
)
from cropseg.report.tables import Column, Table
from cropseg.runs import Run, label, seed_groups
from cropseg.scores import INTERNAL, MEANS, PROTOCOLS, Protocol, Scope, format_score
from cropseg.seeds import SeedScores, group_labels, over_seeds, scored_on, sets_of

PRESENT = MEANS["miou_present"][0]

READING = (
    "Scores below are mean IoU: the overlap of mapped and true ground of a class, 0 for none and 1 for a perfect map, "
    "averaged over the classes that occur (mIoU present), so that a rare crop counts as much as a common one. All "
    "valid pixels counts background as a class, labelled crop pixels leaves it out. Behind a mean over seeds, which is "
    "the same training repeated with other random numbers, stand the lowest and the highest of them."
)

TOGGLES = (
    "A class can be switched off in the legend: it goes from the maps, where the image shows through, and from the "
    "rows and columns of the tables and matrices that have it. No number changes by that: means are over all classes."
)


def groups(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """The models of a report with their runs, one a seed."""
    found = seed_groups(runs)
    return list(zip(group_labels(found), found, strict=True))


def summary(runs: Sequence[Run]) -> Section:
    """Each set at a glance, and what the numbers may be taken for."""
    names = sets_of(runs)
    blocks: list[Block] = []
    if names:
        blocks += [Words(READING), Bullets(tuple(_sentences(runs, names)))]
        bars = tuple(_glance(name, over_seeds(runs, on)) for on, name in names.items())
        blocks.append(Bars(bars, _glances(runs, names)))
    else:
        blocks.append(Words("No run has been evaluated yet, so there are no scores to show."))
    blocks += [Heading("What these numbers may be taken for", "claims"), Bullets(tuple(claims.claims(runs)))]
    if (may := claims.table(runs)) is not None:
        blocks.append(Grid(may, "may-claim", style="prose"))
    return Section("summary", "Summary", tuple(blocks))


def _sentences(runs: Sequence[Run], names: Mapping[Scope, str]) -> list[str]:
    """The highest score on each set, in words, and how far it falls from the internal one."""
    found = []
    for on, name in names.items():
        ranked = sorted(
            ((one.score("miou_present", on.protocol), one.model) for one in over_seeds(runs, on)),
            key=lambda pair: (np.isnan(pair[0].mean), -pair[0].mean),
        )
        (best, model), rest = ranked[0], ranked[1:]
        if np.isnan(best.mean):
            continue
        where = f"{name} ({PROTOCOLS[on.protocol]})"
        text = f"{where}: {model} scores {best.mean:.2f}"
        if rest:
            others = ", ".join(f"{who} {'n/a' if np.isnan(one.mean) else f'{one.mean:.2f}'}" for one, who in rest)
            text = f"{where}: {model} scores highest with {best.mean:.2f}, then {others}"
        away = on.key.partition("+")[0] != INTERNAL
        drop = next((one for one in evidence.drops(runs, on) if one.model == model), None) if away else None
        if drop is not None and not np.isnan(drop.of("miou_present")):
            text += f". {_against_home(drop, names[drop.inner.on], on.protocol)}"
        found.append(text + ".")
    return found


def _against_home(drop: evidence.Drop, home: str, protocol: Protocol) -> str:
    """How a model's score compares with its own on the internal set, as far as two digits tell."""
    lower = drop.of("miou_present")
    size = f"{abs(lower):.2f}"
    step = "equal to" if float(size) == 0 else f"{size} {'below' if lower > 0 else 'above'}"
    seeds = "" if len(drop.inner.runs) == 1 else "the same seeds, "
    counted = "counted in the same way" if drop.protocol == protocol else f"both over {PROTOCOLS[drop.protocol]}"
    return f"{drop.model} is {step} its own score on {home}, {seeds}{counted}"


def _glance(name: str, shown: Sequence[SeedScores]) -> Glance:
    first = shown[0].evaluations[0]
    bars = []
    for one in shown:
        spread = one.score("miou_present", first.protocol)
        numbers = [0.0 if np.isnan(value) else value for value in (spread.mean, spread.low, spread.high)]
        bars.append(Bar(one.model, one.n, numbers[0], str(spread), numbers[1], numbers[2]))
    note = "; ".join([*([first.note] if first.note else []), *tables.caveats(shown)])
    return Glance(name, note, f"{PRESENT}, {PROTOCOLS[first.protocol]}", tuple(bars))


def _glances(runs: Sequence[Run], names: Mapping[Scope, str]) -> Table:
    heads = ("evaluation set", "protocol", "model", "seeds", PRESENT, "remark")
    columns = tuple(Column(head, text=head != PRESENT) for head in heads)
    rows = []
    for on, name in names.items():
        for one in over_seeds(runs, on):
            first = one.evaluations[0]
            score = str(one.score("miou_present", first.protocol))
            rows.append((name, PROTOCOLS[first.protocol], one.model, one.n, score, "; ".join(first.caveats)))
    return Table("Every set at a glance", columns, tuple(rows))


def scores(runs: Sequence[Run]) -> Section:
    """All means under both protocols, over seeds and run by run."""
    blocks: list[Block] = [
        Words(
            "Both protocols are read off one stored confusion matrix of each run and set. All valid pixels counts "
            "background as a class; labelled crop pixels leaves out ground whose truth is background, while a crop "
            "taken for background stays an error of that crop."
        )
    ]
    seeds = tables.seeds(runs, brief=True)
    if seeds is not None:
        blocks.append(Grid(seeds, "seeds", style="seeds"))
    names = sets_of(runs)
    if names:
        by_run = Grouped(tables.scores(runs), tuple(_group(runs, on, name) for on, name in names.items()))
        blocks.append(by_run if seeds is None else Fold("Run by run", (by_run,)))
    else:
        blocks.append(Words("Nothing evaluated."))
    return Section("scores", "Scores", tuple(blocks))


def _group(runs: Sequence[Run], on: Scope, name: str) -> Group:
    alone = tables.single(runs)
    scored = scored_on(runs, on)
    rows = []
    for protocol, told in PROTOCOLS.items():
        for run, one in scored:
            marks = one.marks
            if str(run.path) in alone:
                marks = (*marks, ("one seed", "one trained model, no range over seeds"))
            found = one.scores(protocol)
            cells = [(label(run, runs), marks), (told, ())]
            rows.append((*cells, *((format_score(found[key]), ()) for key in MEANS)))
    shown = [one for _, one in scored]
    patches = " or ".join(sorted({f"{one.patches:,} patches" for one in shown}))
    caveats = dict.fromkeys(text for one in shown for text in (one.note, *one.caveats) if text)
    return Group(name, "; ".join((patches, *caveats)), tuple(rows))


def classes(runs: Sequence[Run]) -> Section:
    """IoU, accuracy and support of each class on each set."""
    names = sets_of(runs)
    if not names:
        return Section("classes", "Class by class", (Words("Nothing evaluated."),))
    shown = (Grid(tables.classes(runs, on, name), by_class=True) for on, name in names.items())
    return Section("classes", "Class by class", (Words(TOGGLES, quiet=True), Legend(), *shown))


def confusion(runs: Sequence[Run]) -> Section:
    """One matrix for each model and set, the seeds of a model added up."""
    found: list[Block] = []
    for on, name in sets_of(runs).items():
        for one in over_seeds(runs, on):
            first = one.evaluations[0]
            total = np.sum([evaluation.confusion for evaluation in one.evaluations], axis=0)
            added = [f"{one.n} added up"] if len(one.seeds) > 1 else []
            note = "; ".join([*added, *first.caveats])
            number = "Figure 4. Confusion of " if on.key == INTERNAL else ""
            anchor = "figure-4" if number and not any(isinstance(b, Matrix) and b.anchor for b in found) else ""
            found.append(Matrix(f"{number}{one.model} on {name}", first.classes, total, note, anchor))
    if not found:
        return Section("confusion", "Confusion matrices", (Words("Nothing evaluated."),))
    text = (
        "Which class is taken for which: of the pixels of each true class (row), the percentage mapped as each class "
        "(column); the diagonal is right. All valid pixels; shares below 0.5 % are not written; rows of classes that "
        "do not occur are empty."
    )
    return Section("confusion", "Confusion matrices", (Words(text), Legend(), *found))


def training(runs: Sequence[Run]) -> Section:
    """Curves and importances."""
    blocks: list[Block] = []
    anchored = False
    for name, group in groups(runs):
        chosen = [one.validation.get("epoch") for one in group]
        epochs = sorted({epoch + 1 for epoch in chosen if isinstance(epoch, int)})
        pictures = tuple(figures.curves([run.history for run in group], epochs))
        title = name if len(group) == 1 else f"{name}, {len(group)} seeds: mean and range"
        if not pictures:
            blocks += [
                Heading(title),
                Words("No curves: this model is not trained by epochs, or stopped after the first.", quiet=True),
            ]
            continue
        note = f"Dashed: the chosen epoch, {', '.join(map(str, epochs))}." if epochs else ""
        anchor = "" if anchored else "figure-3"
        anchored = True
        blocks += [Heading(title), Figure(f"Figure 3. Training dynamics of {name}", pictures, note, anchor)]
    for name, group in groups(runs):
        if (one := _importances(name, group)) is not None:
            blocks.append(Grid(one, style="narrow"))
    blocks.append(Words("Class weights of the loss stand in Table 4, the configuration in Table 5.", quiet=True))
    return Section("training", "Training", tuple(blocks))


def _importances(name: str, group: Sequence[Run]) -> Table | None:
    """Mean and range of a forest's feature importances over its seeds; None where no run has any."""
    ranked: dict[str, list[float]] = {}
    kind = ""
    for run in group:
        path = run.path / "importances.json"
        if path.is_file():
            content = storage.read_json(path)
            try:
                for one in content["features"]:
                    ranked.setdefault(str(one["name"]), []).append(float(one["importance"]))
                kind = str(content["kind"])
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(f"{path} holds no feature importances", str(error), "train the run again") from error
    return tables.importances(name, kind, ranked) if ranked else None


def data(runs: Sequence[Run]) -> Section:
    """Parts of each training dataset that is still on disk; its composition stands in Tables 2 and 3."""
    found: dict[tuple[str, str], list[Block]] = {}
    for run in runs:
        key = (run.spec.manifest_digest, run.spec.split)
        if key in found:
            continue
        try:
            if run.dataset_root is None:
                raise InputError("the run's config does not tell where its dataset lies")
            dataset = open_dataset(run.dataset_root)
            if dataset.digest != run.spec.manifest_digest:
                raise InputError(f"the dataset at {dataset.root} was prepared again since {run.name} was trained")
            parts = tables.parts(dataset, run.spec.split)
        except InputError as error:
            found[key] = [Heading(run.spec.dataset), Missing(f"Not shown: {error}")]
            continue
        remark = f"Manifest SHA-256 {dataset.digest}"
        name = f"{dataset.spec.name}{' (simulated)' if dataset.spec.simulated else ''}"
        found[key] = [Heading(name), Grid(parts), Words(remark, quiet=True)]
    lead = Words("Patches per country stand in Table 2, pixels and patches per class in Table 3.")
    return Section("data", "Training data", (lead, *(block for blocks in found.values() for block in blocks)))


def described(runs: Sequence[Run]) -> Section:
    """What each run is, and its whole configuration."""
    blocks: list[Block] = []
    for _, group in groups(runs):
        facts = tables.facts(group)
        rows = list(facts.rows)
        for name in ("weights.pt", "forest.skops"):
            if (group[0].path / name).is_file():
                rows.insert(2, ("weights on disk", f"{(group[0].path / name).stat().st_size / 1e6:.2f} MB ({name})"))
        rows += [("labels seen", claims.labels(group[0])), ("started from", claims.started(group[0]))]
        blocks.append(Grid(Table(facts.title, facts.columns, tuple(rows), facts.note), style="facts"))
    for run in runs:
        if run.config:
            blocks.append(Listing(f"Configuration of {run.name}", OmegaConf.to_yaml(run.config)))
    return Section("runs", "Runs", tuple(blocks))
