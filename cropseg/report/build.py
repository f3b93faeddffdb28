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
from cropseg.pictures import choose_patches
from cropseg.report import figures, tables
from cropseg.report.tables import Table
from cropseg.runs import Run, label, seed_groups
from cropseg.scores import MEANS, PROTOCOLS, SIMULATED_NOTE, format_score
from cropseg.seeds import group_labels, over_seeds
from cropseg.tta import augmented


@dataclass(frozen=True)
class Bar:
    """One bar of the summary: a model's score on a set, with its range where it has several seeds."""

    model: str
    value: float
    text: str
    low: float
    high: float


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
    """Write the report, and its score tables as CSV and Markdown beside it.

    Runs that differ in their seed alone are shown together: means with ranges, curves with bands.

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
    if not isinstance(panels, int) or panels < 0:
        raise ConfigError("panels must be 0 or more", panels, "give the number of patches to show of each set")
    if len({run.spec.taxonomy.digest for run in runs}) != 1:
        raise ConfigError(
            "one report shows runs with the same classes", [run.name for run in runs], "report them one by one"
        )
    names = tables.set_names(runs)
    taxonomy = runs[0].spec.taxonomy
    score_table, seed_table = tables.scores(runs), tables.seeds(runs)
    found = seed_groups(runs)
    groups = list(zip(group_labels(found), found, strict=True))
    galleries = [_gallery(runs, name, panels) for name in track(names, "drawing panels")] if panels else []
    page = _template().render(
        title=title,
        runs=runs,
        simulated=_simulated(runs),
        simulated_note=SIMULATED_NOTE,
        claims=_claims(runs),
        glances=[_glance(runs, name) for name in names],
        seeds=tables.seeds(runs, brief=True),
        groups=groups,
        score_groups=[_score_group(runs, name) for name in names],
        classes=[tables.classes(runs, name) for name in names],
        facts=[_facts(group) for _, group in groups],
        configs=[(run.name, OmegaConf.to_yaml(run.config)) for run in runs if run.config],
        curves=[(_with_n(name, group), _curves(group)) for name, group in groups],
        confusions=_confusions(runs),
        galleries=galleries,
        legend=[(crop.name, f"#{crop.color}") for crop in taxonomy.classes],
        unknown=f"rgb{figures.UNKNOWN}",
        datasets=_datasets(runs),
        weights=[one for name, group in groups if (one := tables.weights(group[0], taxonomy.names, name)) is not None],
        importances=[one for name, group in groups if (one := _importances(name, group)) is not None],
        means=MEANS,
    )
    for what, written in (("scores", score_table), ("seeds", seed_table)):
        if written is not None:
            storage.write_bytes(out.with_name(f"{out.stem}_{what}.csv"), written.to_csv().encode())
            storage.write_bytes(out.with_name(f"{out.stem}_{what}.md"), written.to_markdown().encode())
    storage.write_bytes(out, page.encode())
    say(f"report: {out}")
    return out


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
    if tables.single(runs):
        claims.append(
            "A row marked one seed is one trained model without a range: what a difference between two such rows "
            "says holds for these two fitted models only."
        )
    if tables.seeds(runs) is not None:
        claims.append(
            "Ranges run from the lowest to the highest seed on the same patches. They show how training scatters, "
            "not how scores would differ on other ground."
        )
    claims.append("Part test of a run's own split was used neither for training nor for choosing a checkpoint.")
    claims += _claims_on_ground(runs)
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


def _claims_on_ground(runs: Sequence[Run]) -> list[str]:
    """What each set shares with what was trained on; runs that share as much are named together."""
    names: dict[tuple[str, float | None], list[str]] = {}
    for run in runs:
        for one in run.evaluations.values():
            names.setdefault((one.set, one.shared_ground), []).append(run.name)
    claims = []
    for (name, share), told in names.items():
        who = ", ".join(dict.fromkeys(told))
        if share is None:
            claims.append(f"Whether set {name} shares ground with what was trained on is not known for {who}.")
        elif share > 0:
            claims.append(
                f"Of set {name}, {share:.1%} of the patches lie on ground that was trained on (other dates, other "
                f"parcels or overlapping windows) by {who}: its scores are optimistic."
            )
    return claims


def _glance(runs: Sequence[Run], name: str) -> Glance:
    shown = over_seeds(runs, name)
    first = shown[0].evaluations[0]
    bars = []
    for one in shown:
        spread = one.score("miou_present", first.protocol)
        numbers = [0.0 if np.isnan(value) else value for value in (spread.mean, spread.low, spread.high)]
        bars.append(Bar(f"{one.model}, {one.n}", numbers[0], str(spread), numbers[1], numbers[2]))
    note = "; ".join([*([first.note] if first.note else []), *first.caveats])
    return Glance(name, note, PROTOCOLS[first.protocol], tuple(bars))


def _score_group(runs: Sequence[Run], name: str) -> ScoreGroup:
    alone = tables.single(runs)
    scored = [run for run in runs if name in run.evaluations]
    shown = [(label(run, runs), run.evaluations[name]) for run in scored]
    rows = []
    for protocol, told in PROTOCOLS.items():
        for run, (model, one) in zip(scored, shown, strict=True):
            marks = one.marks
            if str(run.path) in alone:
                marks = (*marks, ("one seed", "one trained model, no range over seeds"))
            found = one.scores(protocol)
            rows.append(ScoreRow(model, told, marks, tuple(format_score(found[key]) for key in MEANS)))
    patches = " or ".join(sorted({f"{one.patches:,} patches" for _, one in shown}))
    caveats = dict.fromkeys(text for _, one in shown for text in (one.note, *one.caveats) if text)
    return ScoreGroup(name, "; ".join((patches, *caveats)), tuple(rows))


def _with_n(name: str, group: Sequence[Run]) -> str:
    return name if len(group) == 1 else f"{name}, {len(group)} seeds: mean and range"


def _curves(group: Sequence[Run]) -> list[Picture]:
    return [Picture(*one) for one in figures.curves([run.history for run in group])]


def _facts(group: Sequence[Run]) -> Table:
    facts = tables.facts(group)
    rows = list(facts.rows)
    for name in ("weights.pt", "forest.skops"):
        if (group[0].path / name).is_file():
            rows.insert(2, ("weights on disk", f"{(group[0].path / name).stat().st_size / 1e6:.2f} MB ({name})"))
    return Table(facts.title, facts.columns, tuple(rows), facts.note)


def _confusions(runs: Sequence[Run]) -> list[Picture]:
    """One matrix for each model and set, the seeds of a model added up."""
    found = []
    for name in tables.set_names(runs):
        for one in over_seeds(runs, name):
            first = one.evaluations[0]
            total = np.sum([evaluation.confusion for evaluation in one.evaluations], axis=0)
            added = [f"{one.n} added up"] if len(one.seeds) > 1 else []
            note = "; ".join([*added, *first.caveats])
            found.append(Picture(f"{one.model} on {name}", figures.confusion(total, first.classes), note))
    return found


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
    """Panels of one set, by the first seed of each model; a dataset or a model that is gone is a reason, no failure."""
    shown = [run for run in (group[0] for group in seed_groups(runs)) if name in run.evaluations]
    evaluation = shown[0].evaluations[name]
    try:
        dataset = open_dataset(evaluation.root)
        if dataset.digest != evaluation.manifest_digest:
            raise InputError("the dataset was prepared again since the evaluation", None, "evaluate again")
        rows = dataset.parts(evaluation.split)[evaluation.part]  # type: ignore[index]
        chosen = choose_patches(dataset, rows.tolist(), count)
        return Gallery(name, tuple(_panel(dataset, row, name, shown, runs) for row in chosen))
    except CropsegError as error:
        return Gallery(name, reason=str(error))


def _panel(dataset: Dataset, row: int, name: str, shown: Sequence[Run], runs: Sequence[Run]) -> Panel:
    image, mask = dataset.image(row), dataset.mask(row)
    taxonomy = dataset.spec.taxonomy
    pictures = [
        ("image", figures.embed(figures.true_color(image, dataset.spec.bands))),
        ("truth", figures.embed(figures.paint(mask, taxonomy))),
    ]
    for run in shown:
        predicted = augmented(run.predictor, run.evaluations[name].tta).labels(image[None])[0]
        predicted[(image == 0).any(axis=0)] = 255
        pictures.append((label(run, runs), figures.embed(figures.paint(predicted, taxonomy))))
    country, day = dataset.manifest["country"][row].as_py(), dataset.manifest["datetime"][row].as_py()
    place = dataset.manifest["roi"][row].as_py()
    caption = f"{country}, {place}, {day:%Y-%m-%d}" + (" (simulated)" if dataset.spec.simulated else "")
    return Panel(caption, tuple(pictures))
