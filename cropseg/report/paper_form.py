"""What the tables in the paper's form share: the table itself, the models shown, and words for what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from cropseg.core.errors import InputError
from cropseg.core.manifest import Dataset, open_dataset
from cropseg.core.taxonomy import Taxonomy
from cropseg.report.paper import ABSENT, CLASSES, Printed
from cropseg.report.tables import Column, Table
from cropseg.runs import Run, seed_groups
from cropseg.scores import Evaluation
from cropseg.seeds import Spread, group_labels

PAPER: Final = "paper"
"""Whose figures a column or row holds."""

NOT_EVALUATED: Final = "not evaluated"
NOT_RECORDED: Final = "not recorded"
NOTHING: Final = ""
"""A cell that has no meaning, such as the learning rate of a forest."""

SETS: Final = {
    "internal": "",
    "be_vlg_2021": "python prepare.py region=be_vlg_2021",
    "be_wal_2021": "python prepare.py region=be_wal_2021",
    "dacia5": "python prepare.py importer=dacia5 importer.source=<folder of DACIA5>",
    "pastis": "python prepare.py importer=pastis importer.source=<folder of PASTIS>",
}
"""The paper's evaluation sets, and what makes their datasets."""


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables, with our figures beside the paper's.

    Attributes:
        number: Its number in the paper.
        caption: What it shows.
        table: Its content; its title is number and caption.
    """

    number: int
    caption: str
    table: Table

    @property
    def note(self) -> str:
        """What stands below."""
        return self.table.note


@dataclass(frozen=True)
class Model:
    """A model that is shown, over its seeds.

    Attributes:
        label: What tables call it.
        runs: Its runs, which differ in their seed alone.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """The run that stands for all in what does not depend on the seed."""
        return self.runs[0]

    @property
    def title(self) -> str:
        """Label, number of seeds, and whether its pixels were simulated."""
        seeds = "one seed" if len(self.runs) == 1 else f"{len(self.runs)} seeds"
        return f"{self.label}, {seeds}{' (simulated)' if self.first.spec.simulated else ''}"

    @property
    def forest(self) -> bool:
        """Whether it is a Random Forest."""
        return "net" not in self.first.spec.model and self.first.loader.endswith("forest.load")

    @property
    def context(self) -> bool:
        """Whether a forest sees a pixel's surroundings."""
        return bool(self.first.spec.model.get("context"))


@dataclass(frozen=True)
class Composition:
    """A training dataset: opened, or the reason why not.

    Attributes:
        name: Its name, and whether its pixels are simulated.
        dataset: None where it is gone or was made again.
        reason: Why.
    """

    name: str
    dataset: Dataset | None
    reason: str = ""


@dataclass(frozen=True)
class Shown:
    """The runs that the tables are about."""

    runs: tuple[Run, ...]

    @cached_property
    def models(self) -> tuple[Model, ...]:
        """The runs, seeds of one model together."""
        groups = seed_groups(self.runs)
        return tuple(Model(label, tuple(group)) for label, group in zip(group_labels(groups), groups, strict=True))

    @property
    def taxonomy(self) -> Taxonomy:
        """Classes of the first run; all runs of a report have the same ids and names."""
        return self.runs[0].spec.taxonomy

    @property
    def comparable(self) -> bool:
        """Whether the runs have the paper's classes."""
        return self.taxonomy.names == CLASSES

    @property
    def why_not(self) -> str:
        """Why the paper's figures are left out; empty where they are not."""
        if self.comparable:
            return ""
        return (
            f"The paper's figures are left out: the runs have the {len(self.taxonomy)} classes of taxonomy "
            f"{self.taxonomy.name}, the paper has others."
        )

    @cached_property
    def datasets(self) -> tuple[Composition, ...]:
        """The training datasets."""
        found: dict[str, Composition] = {}
        for run in self.runs:
            spec = run.spec
            if spec.manifest_digest not in found:
                taken = any(
                    one.name.startswith(f"{spec.dataset} ") or one.name == spec.dataset for one in found.values()
                )
                version = f" {spec.manifest_digest[:8]}" if taken else ""  # of the same name, prepared again
                name = f"{spec.dataset}{version}{' (simulated)' if spec.simulated else ''}"
                found[spec.manifest_digest] = Composition(name, *_opened(run))
        return tuple(found.values())


def _opened(run: Run) -> tuple[Dataset | None, str]:
    try:
        if run.dataset_root is None:
            raise InputError("the run's config does not tell where its dataset lies")
        dataset = open_dataset(run.dataset_root)
    except InputError as error:
        return None, str(error)
    if dataset.digest != run.spec.manifest_digest:
        return None, f"the dataset at {dataset.root} was prepared again since the run was trained"
    return dataset, ""


def made(source: Printed, columns: Sequence[Column], rows: Iterable[Sequence[str]], *notes: str) -> PaperTable:
    """The table of ``source``'s number and caption."""
    # Commands stand last: what follows one could be taken for a part of it.
    told = sorted(dict.fromkeys(note for note in notes if note), key=lambda note: "python " in note)
    note = " ".join(_sentence(one) for one in told)
    body = Table(f"Table {source.number}. {source.caption}", tuple(columns), tuple(tuple(row) for row in rows), note)
    return PaperTable(source.number, source.caption, body)


def words(*titles: str) -> list[Column]:
    """Columns of words."""
    return [Column(title, text=True) for title in titles]


def numbers(*titles: str) -> list[Column]:
    """Columns of numbers."""
    return [Column(title) for title in titles]


def spread(values: Sequence[float]) -> str:
    """Mean and range of scores; a dash for none."""
    found = str(Spread.of(values))
    return ABSENT if found == "n/a" else found


def scored_title(label: str, evaluations: Sequence[Evaluation]) -> str:
    """A model with the number of its seeds that were scored, and what of it was simulated."""
    seeds = "one seed" if len(evaluations) == 1 else f"{len(evaluations)} seeds"
    first = evaluations[0]
    made_up = " (simulated)" if first.simulated else " (trained on simulated)" if first.trained_on_simulated else ""
    return f"{label}, {seeds}{made_up}"


def evaluate_commands(shown: Shown, keys: Sequence[str]) -> str:
    """What would evaluate the models on those of the paper's sets that they lack; empty where they lack none."""
    told = []
    for models, names in _lacking(shown, keys).items():
        runs = [run for model in shown.models if model.label in models for run in model.runs]
        makes = "".join(f"{SETS[name]}; " for name in names if SETS[name])
        sets = f"[{','.join(names)}]" if len(names) > 1 else names[0]
        told.append(
            f"{_who_lacks(shown, models)} evaluated on {', '.join(names)}. To do so: {makes}"
            f"python evaluate.py run={_folders(runs)} evaluation={sets}"
        )
    return " ".join(told)


def not_evaluated(shown: Shown, keys: Sequence[str]) -> str:
    """Which models lack which of the paper's sets; the commands stand once, in Table 9."""
    told = [
        f"{_who_lacks(shown, models)} evaluated on {', '.join(names)}; Table 9 tells how to."
        for models, names in _lacking(shown, keys).items()
    ]
    return " ".join(told)


def _lacking(shown: Shown, keys: Sequence[str]) -> dict[tuple[str, ...], list[str]]:
    """Sets by the labels of the models that lack them."""
    lacking: dict[tuple[str, ...], list[str]] = {}
    for key in keys:
        left = tuple(model.label for model in shown.models if not any(key in run.evaluations for run in model.runs))
        if left:
            lacking.setdefault(left, []).append(key)
    return lacking


def _who_lacks(shown: Shown, models: Sequence[str]) -> str:
    if len(models) == len(shown.models):
        return "No model was"
    return f"Of the models, {', '.join(models)} {'were' if len(models) > 1 else 'was'} not"


def _folders(runs: Sequence[Run]) -> str:
    """Value of the option ``run``: sweeps stand for their jobs."""
    sweeps = [run.path.parent if (run.path.parent / "multirun.yaml").is_file() else run.path for run in runs]
    paths = list(dict.fromkeys(map(str, sweeps)))
    return f"[{','.join(paths)}]" if len(paths) > 1 else paths[0]


def caveats(evaluations: Mapping[str, Sequence[Evaluation]]) -> str:
    """What must stand beside the scores of these sets, each with the sets that it holds for."""
    told: dict[str, list[str]] = {}
    for key, found in evaluations.items():
        for text in (text for one in found for text in one.caveats):
            told.setdefault(text, []).append(key)
    return " ".join(
        f"{text[:1].upper()}{text[1:]} ({', '.join(dict.fromkeys(names))})." for text, names in told.items()
    )


def _sentence(text: str) -> str:
    """With a full stop, but behind a command, which it would become part of."""
    return text if text.endswith(".") or "python " in text else f"{text}."
