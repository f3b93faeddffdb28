"""What the runs of a report may claim, and what a reader may not take their scores for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cropseg.intervals import LEAST_SEEDS
from cropseg.redraw import LEAST_PLACES
from cropseg.report import tables
from cropseg.report.tables import Column, Table
from cropseg.runs import Run
from cropseg.scores import SIMULATED_NOTE
from cropseg.seeds import SeedScores, over_seeds, sets_of

SPLITS: Final = {
    "location": "Split location: training, validation and test patches lie on different ground",
    "block": "Split block: training, validation and test patches lie in different blocks of land",
    "country": "Split country: whole countries were kept for testing",
    "product": "Split product: test patches come from other satellite products, which may show the same ground",
}
"""What the splits that data_prep makes mean; others are named as they are."""


def simulated(runs: Sequence[Run]) -> bool:
    """Whether any run learned from simulated pixels or was scored on them."""
    return any(run.spec.simulated or any(one.simulated for one in run.evaluations.values()) for run in runs)


def claims(runs: Sequence[Run]) -> list[str]:
    """What a reader may and may not conclude, a sentence or two each."""
    found = []
    if simulated(runs):
        found.append(
            f"What is marked simulated {SIMULATED_NOTE.partition(': ')[2]}: it says nothing about real fields."
        )
    for split in sorted({run.spec.split for run in runs}):
        if split == "random":
            found.append(
                "Split random: patches were drawn one by one, so neighbours and other dates of a test patch "
                "may have been trained on. Internal scores are optimistic."
            )
        else:
            found.append(f"{SPLITS.get(split, f'Split {split}: parts as prepared under that name')}.")
    if tables.single(runs):
        found.append(
            "A row marked one seed is one trained model without a range: what a difference between two such rows "
            "says holds for these two fitted models only."
        )
    if tables.seeds(runs) is not None:
        found.append(
            "Ranges run from the lowest to the highest seed on the same patches. They show how training scatters, "
            "not how scores would differ on other ground."
        )
    found.append("The test part of a run's own split was used neither for training nor for choosing a checkpoint.")
    found += _on_ground(runs)
    for run in runs:
        for one in run.evaluations.values():
            if one.part != "test":
                found.append(
                    f"Set {one.set} scores part {one.part}: what a model was trained on, or its checkpoint chosen by."
                )
            if one.dataset == run.spec.dataset and one.manifest_digest != run.spec.manifest_digest:
                found.append(
                    f"Dataset {one.dataset} was prepared again between the training of {run.name} and its evaluation "
                    f"on {one.set}: whether it was trained on these patches cannot be told."
                )
        if not run.evaluations:
            found.append(f"Run {run.name} has not been evaluated: python evaluate.py run={run.path}")
    found += _on_training(runs)
    return list(dict.fromkeys(found))


def _on_ground(runs: Sequence[Run]) -> list[str]:
    """What each set shares with what was trained on; runs that share as much are named together."""
    names: dict[tuple[str, float | None], list[str]] = {}
    for run in runs:
        for one in run.evaluations.values():
            names.setdefault((one.set, one.shared_ground), []).append(run.name)
    found = []
    for (name, share), told in names.items():
        who = ", ".join(dict.fromkeys(told))
        if share is None:
            found.append(f"Whether set {name} shares ground with what was trained on is not known for {who}.")
        elif share > 0:
            found.append(
                f"Of set {name}, {share:.1%} of the patches lie on ground that was trained on (other dates, other "
                f"parcels or overlapping windows) by {who}: its scores are optimistic."
            )
    return found


def _on_training(runs: Sequence[Run]) -> list[str]:
    """Runs that saw few of the labels, or did not start afresh."""
    found = []
    for run in runs:
        if (seen := labels(run)) != "all":
            found.append(f"Run {run.name} saw few of the training labels: {seen}.")
        if run.spec.init_from:
            found.append(f"Run {run.name} did not start afresh: {started(run)}.")
    return found


def labels(run: Run) -> str:
    """How much of the training labels a run saw."""
    known = run.spec.labels
    if float(known.get("fraction", 1.0)) >= 1:
        return "all"
    counts = {key: known.get(key) for key in ("parcels", "all_parcels", "patches", "all_patches")}
    told = ""
    if None not in counts.values():
        told = ": {parcels:,} of {all_parcels:,} parcels, in {patches:,} of {all_patches:,} patches".format(**counts)
    return f"{known['fraction']:.3g} of the parcels{told}"


def started(run: Run) -> str:
    """What the weights of a run started from."""
    known = run.spec.init_from
    if not known:
        return "random weights"
    before = ", ".join(str(one.get("dataset", "?")) for one in known.get("trained_on", ()))
    frozen = f", frozen: {known['frozen']}" if known.get("frozen") else ""
    return f"run {known.get('run', '?')}" + (f", trained on {before}" if before else "") + frozen


def table(runs: Sequence[Run]) -> Table | None:
    """Each model on each set: on what ground it stands, over how many seeds, and what may be said of it."""
    rows: list[tuple[str, ...]] = []
    for on, name in sets_of(runs).items():
        for one in over_seeds(runs, on):
            scored = one.runs
            first = one.evaluations[0]
            seeds = ", ".join("?" if seed is None else str(seed) for seed in one.seeds)
            split = f"split {first.split}, part {first.part}"
            if first.dataset == scored[0].spec.dataset and first.split == scored[0].spec.split:
                split = f"its own {split}"
            rows.append(
                (
                    name,
                    one.model,
                    f"{len(one.seeds)} ({seeds})",
                    f"{first.dataset}: {split}",
                    _shared(one),
                    "; ".join([may_claim(one), *_few_places(scored[0], on.key)]),
                    "; ".join(dict.fromkeys(labels(run) for run in scored)),
                    "; ".join(dict.fromkeys(started(run) for run in scored)),
                )
            )
    if not rows:
        return None
    rule = "of the set's patches, those whose ground was trained on at any date"
    columns = [
        *(Column(head, text=True) for head in ("evaluation set", "model", "seeds", "dataset and split")),
        Column("ground shared", rule, text=True),
        Column("what may be said", text=True),
    ]
    note = "Every model saw all labels of its training part and started from random weights."
    if {row[-2:] for row in rows} == {("all", "random weights")}:
        rows = [row[:-2] for row in rows]
    else:
        columns += [Column("labels seen", text=True), Column("started from", text=True)]
        note = ""
    return Table("What each model may claim on each set", tuple(columns), tuple(rows), note)


def _shared(one: SeedScores) -> str:
    shares = list(dict.fromkeys(each.shared_ground for each in one.evaluations))
    return ", ".join("not known" if share is None else f"{share:.1%}" for share in shares)


def _few_places(run: Run, key: str) -> list[str]:
    """That a set lies on too few places for an interval, where what is stored tells."""
    beside = run.details(key)
    if beside is None or len(beside.clusters) >= LEAST_PLACES:
        return []
    n = len(beside.clusters)
    return [f"{n} {'place' if n == 1 else 'places'} only: nothing tells how it would be on others"]


def may_claim(one: SeedScores) -> str:
    """What a model's scores on a set stand for, the gravest reservation first."""
    said = []
    first = one.evaluations[0]
    if first.simulated:
        said.append("that the software works; nothing about real fields")
    elif first.trained_on_simulated:
        said.append("how a model of simulated pixels meets real ones")
    if first.part != "test":
        said.append("fit to what it was trained on or chosen by, not skill")
    shares = [each.shared_ground for each in one.evaluations]
    if any(share for share in shares):
        said.append("an upper bound: some of the ground was trained on")
    elif None in shares:
        said.append("an upper bound: whether the ground was trained on is not known")
    n = len(one.seeds)
    held = "this way of training" if n >= LEAST_SEEDS else "this one trained model" if n == 1 else f"these {n} runs"
    said.append(f"holds for {held}")
    return "; ".join(said)
