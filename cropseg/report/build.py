"""One self-contained HTML page about finished runs: what they are, what they score, and what that may be taken for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from omegaconf import OmegaConf

from cropseg.core import storage
from cropseg.core.errors import ConfigError, CropsegError, InputError
from cropseg.core.manifest import Dataset, open_dataset
from cropseg.core.progress import say, track
from cropseg.report import figures, tables
from cropseg.report.tables import Table
from cropseg.runs import Run, label
from cropseg.scores import MEANS, PROTOCOLS, SIMULATED_NOTE, format_score


@dataclass(frozen=True)
class Bar:
    """One bar of the summary: a model's score on a set."""

    model: str
    value: float
    text: str


@dataclass(frozen=True)
class Glance:
    """The summary of one evaluation set."""

    name: str
    note: str
    protocol: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class ScoreRow:
    """One row of the score table; ``marks`` are its caveats in a word or two, with their full text."""

    model: str
    protocol: str
    marks: tuple[tuple[str, str], ...]
    values: tuple[str, ...]


@dataclass(frozen=True)
class ScoreGroup:
    """The rows of one evaluation set."""

    name: str
    note: str
    rows: tuple[ScoreRow, ...]


@dataclass(frozen=True)
class Panel:
    """One patch: its image, its truth and what each run makes of it, as pictures with a caption each."""

    patch: str
    pictures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Gallery:
    """Panels of one evaluation set, or the reason why there are none."""

    name: str
    panels: tuple[Panel, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure with its caption."""

    title: str
    address: str
    note: str = ""


def build_report(
    runs: Sequence[Run], out: str | Path, *, title: str = "Crop segmentation report", panels: int = 4
) -> Path:
    """Write the report, and its score table as CSV and Markdown beside it.

    Args:
        runs: The runs; their stored evaluations are shown, and none is computed anew.
        out: Path of the page, ``.html``.
        title: Its heading.
        panels: Patches shown of each evaluation set; 0 for none, which spares loading the models.

    Returns:
        ``out``.

    Raises:
        ConfigError: ``out`` is no HTML file, or the runs' classes differ.
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError("a report is an HTML page", str(out), "let out= end in .html")
    if panels < 0:
        raise ConfigError("panels must be 0 or more", panels, "give the number of patches to show of each set")
    if len({run.spec.taxonomy.digest for run in runs}) != 1:
        raise ConfigError(
            "one report shows runs with the same classes", [run.name for run in runs], "report them one by one"
        )
    names = tables.set_names(runs)
    taxonomy = runs[0].spec.taxonomy
    score_table = tables.scores(runs)
    galleries = [_gallery(runs, name, panels) for name in track(names, "drawing panels")] if panels else []
    page = _template().render(
        title=title,
        runs=runs,
        simulated=_simulated(runs),
        simulated_note=SIMULATED_NOTE,
        claims=_claims(runs),
        glances=[_glance(runs, name) for name in names],
        score_groups=[_score_group(runs, name) for name in names],
        classes=[tables.classes(runs, name) for name in names],
        facts=[_facts(run) for run in runs],
        configs=[(run.name, OmegaConf.to_yaml(run.config)) for run in runs if run.config],
        curves=[(label(run, runs), [Picture(*one) for one in figures.curves(run.history)]) for run in runs],
        confusions=_confusions(runs),
        galleries=galleries,
        legend=[(crop.name, f"#{crop.color}") for crop in taxonomy.classes],
        unknown=f"rgb{figures.UNKNOWN}",
        datasets=_datasets(runs),
        weights=[one for run in runs if (one := tables.weights(run, taxonomy.names, label(run, runs))) is not None],
        importances=_importances(runs),
        means=MEANS,
    )
    storage.write_bytes(out.with_name(f"{out.stem}_scores.csv"), score_table.to_csv().encode())
    storage.write_bytes(out.with_name(f"{out.stem}_scores.md"), score_table.to_markdown().encode())
    storage.write_bytes(out, page.encode())
    say(f"report: {out}")
    return out


def choose_patches(dataset: Dataset, rows: Sequence[int], count: int) -> list[int]:
    """Patches to show: those with most classes, no two of one place before every place had its turn.

    The choice depends on labels alone, never on a prediction, so it flatters no model.
    """
    counts = np.array(dataset.manifest["counts"].to_pylist(), dtype=np.int64).reshape(len(dataset), -1)
    rois = dataset.manifest["roi"].to_pylist()
    ranked = sorted(rows, key=lambda row: (-int((counts[row] > 0).sum()), row))
    turn: dict[str, int] = {}
    order: list[tuple[int, int, int]] = []
    for row in ranked:
        turn[rois[row]] = turn.get(rois[row], 0) + 1
        order.append((turn[rois[row]], len(order), row))
    return [row for _, _, row in sorted(order)[:count]]


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cropseg.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html")


def _simulated(runs: Sequence[Run]) -> bool:
    return any(run.spec.simulated or any(one.simulated for one in run.evaluations.values()) for run in runs)


def _claims(runs: Sequence[Run]) -> list[str]:
    """What a reader may and may not conclude."""
    claims = []
    if _simulated(runs):
        claims.append(f"{SIMULATED_NOTE[0].upper()}{SIMULATED_NOTE[1:]}. Rows so marked say nothing about real fields.")
    for split in sorted({run.spec.split for run in runs}):
        if split == "random":
            claims.append(
                "Split random: patches were drawn one by one, so neighbours and other dates of a test patch "
                "may have been trained on. Internal scores are optimistic."
            )
        else:
            claims.append(f"Split {split}: parts as prepared under that name; their sizes stand below.")
    claims.append(
        "One trained model a row, no interval: a difference between two rows speaks of these two fitted models only."
    )
    claims.append(
        "Part test of a run's own split was used neither for training nor for choosing a checkpoint. "
        "Whether another evaluation set shares ground with the training part is not checked."
    )
    for run in runs:
        for one in run.evaluations.values():
            if one.part != "test":
                claims.append(
                    f"Set {one.set} scores part {one.part}: what a model was trained on, or its checkpoint chosen by."
                )
            if one.dataset == run.spec.dataset and one.manifest_digest != run.spec.manifest_digest:
                claims.append(
                    f"Dataset {one.dataset} was prepared again between the training of {run.name} and its evaluation "
                    f"on {one.set}: whether it was trained on these patches cannot be told."
                )
        if not run.evaluations:
            claims.append(f"Run {run.name} has not been evaluated: python evaluate.py run={run.path}")
    return list(dict.fromkeys(claims))


def _glance(runs: Sequence[Run], name: str) -> Glance:
    shown = [(run, run.evaluations[name]) for run in runs if name in run.evaluations]
    first = shown[0][1]
    bars = []
    for run, one in shown:
        value = float(one.scores(one.protocol)["miou_present"])
        bars.append(Bar(label(run, runs), 0.0 if np.isnan(value) else value, format_score(value)))
    note = "; ".join([*([first.note] if first.note else []), *first.caveats])
    return Glance(name, note, PROTOCOLS[first.protocol], tuple(bars))


def _score_group(runs: Sequence[Run], name: str) -> ScoreGroup:
    shown = [(label(run, runs), run.evaluations[name]) for run in runs if name in run.evaluations]
    rows = []
    for protocol, told in PROTOCOLS.items():
        for model, one in shown:
            marks = tuple((text.split(":")[0].split(",")[0], text) for text in one.caveats)
            found = one.scores(protocol)
            rows.append(ScoreRow(model, told, marks, tuple(format_score(found[key]) for key in MEANS)))
    patches = " or ".join(sorted({f"{one.patches:,} patches" for _, one in shown}))
    caveats = dict.fromkeys(text for _, one in shown for text in (one.note, *one.caveats) if text)
    return ScoreGroup(name, "; ".join((patches, *caveats)), tuple(rows))


def _facts(run: Run) -> Table:
    facts = tables.facts(run)
    rows = list(facts.rows)
    for name in ("weights.pt", "forest.skops"):
        if (run.path / name).is_file():
            rows.insert(2, ("weights on disk", f"{(run.path / name).stat().st_size / 1e6:.2f} MB ({name})"))
    return Table(facts.title, facts.columns, tuple(rows), facts.note)


def _confusions(runs: Sequence[Run]) -> list[Picture]:
    found = []
    for name in tables.set_names(runs):
        for run in runs:
            if name in run.evaluations:
                one = run.evaluations[name]
                picture = figures.confusion(one.confusion, one.classes)
                found.append(Picture(f"{label(run, runs)} on {name}", picture, "; ".join(one.caveats)))
    return found


def _importances(runs: Sequence[Run]) -> list[Table]:
    found = []
    for run in runs:
        path = run.path / "importances.json"
        if path.is_file():
            content = storage.read_json(path)
            try:
                ranked = {str(one["name"]): float(one["importance"]) for one in content["features"]}
                found.append(tables.importances(label(run, runs), str(content["kind"]), ranked))
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(f"{path} holds no feature importances", str(error), "train the run again") from error
    return found


def _datasets(runs: Sequence[Run]) -> list[tuple[str, str, list[Table]]]:
    """Name, remark and tables of each training dataset that is still on disk."""
    found: dict[tuple[str, str], tuple[str, str, list[Table]]] = {}
    for run in runs:
        key = (run.spec.manifest_digest, run.spec.split)
        if key in found:
            continue
        try:
            if run.dataset_root is None:
                raise InputError("the run's config does not tell where its dataset lies")
            dataset = open_dataset(run.dataset_root)
            shown = [tables.countries(dataset), tables.composition(dataset), tables.parts(dataset, run.spec.split)]
        except InputError as error:
            found[key] = (run.spec.dataset, f"Not shown: {error}", [])
            continue
        remark = f"Manifest SHA-256 {dataset.digest}"
        if dataset.digest != run.spec.manifest_digest:
            remark += f". The dataset was prepared again since {run.name} was trained: these are not its tables"
        found[key] = (dataset.spec.name, remark, shown)
    return list(found.values())


def _gallery(runs: Sequence[Run], name: str, count: int) -> Gallery:
    """Panels of one set; a dataset or a model that is gone is a reason, not a failure."""
    shown = [run for run in runs if name in run.evaluations]
    evaluation = shown[0].evaluations[name]
    try:
        dataset = open_dataset(evaluation.root)
        if dataset.digest != evaluation.manifest_digest:
            raise InputError("the dataset was prepared again since the evaluation", None, "evaluate again")
        rows = dataset.parts(evaluation.split)[evaluation.part]  # type: ignore[index]
        chosen = choose_patches(dataset, [int(row) for row in rows], count)
        return Gallery(name, tuple(_panel(dataset, row, shown, runs) for row in chosen))
    except CropsegError as error:
        return Gallery(name, reason=str(error))


def _panel(dataset: Dataset, row: int, shown: Sequence[Run], runs: Sequence[Run]) -> Panel:
    image, mask = dataset.image(row), dataset.mask(row)
    taxonomy = dataset.spec.taxonomy
    pictures = [
        ("image", figures.embed(figures.true_color(image, dataset.spec.bands))),
        ("truth", figures.embed(figures.paint(mask, taxonomy))),
    ]
    for run in shown:
        predicted = run.predictor.labels(image[None])[0]
        predicted[(image == 0).any(axis=0)] = 255
        pictures.append((label(run, runs), figures.embed(figures.paint(predicted, taxonomy))))
    country, day = dataset.manifest["country"][row].as_py(), dataset.manifest["datetime"][row].as_py()
    place = dataset.manifest["roi"][row].as_py()
    caption = f"{country}, {place}, {day:%Y-%m-%d}" + (" (simulated)" if dataset.spec.simulated else "")
    return Panel(caption, tuple(pictures))
