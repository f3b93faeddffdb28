"""What one model scores over several seeds: mean, lowest and highest, read off the stored evaluations of its runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol as Shape

import numpy as np

from cropseg.runs import Run, seed_groups
from cropseg.scores import MEANS, PROTOCOLS, Evaluation, Protocol, Scope, format_score, titles


@dataclass(frozen=True)
class Spread:
    """A score over seeds; all NaN where no run has it."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Mean and range of the values that are numbers."""
        known = [float(value) for value in values if not math.isnan(value)]
        return cls(float(np.mean(known)), min(known), max(known)) if known else cls(math.nan, math.nan, math.nan)

    def __str__(self) -> str:
        """``mean (lowest … highest)``; the mean alone where there is no range."""
        if self.low == self.high or math.isnan(self.mean):
            return format_score(self.mean)
        return f"{format_score(self.mean)} ({format_score(self.low)} … {format_score(self.high)})"


@dataclass(frozen=True)
class SeedScores:
    """The scores of one model on one evaluation set over its seeds.

    Attributes:
        model: What tables call it.
        seeds: Seeds of the runs, as they were given; None where a run's config tells none.
        evaluations: One a seed, all of the same patches.
        runs: One a seed.
    """

    model: str
    seeds: tuple[int | None, ...]
    evaluations: tuple[Evaluation, ...]
    runs: tuple[Run, ...] = ()

    @property
    def n(self) -> str:
        """How many seeds, in words."""
        return "one seed" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"

    def score(self, key: str, protocol: Protocol) -> Spread:
        """A score of :data:`cropseg.scores.MEANS` over the seeds."""
        return Spread.of([one.scores(protocol)[key] for one in self.evaluations])


class Named(Shape):
    """What has a model's name and a folder's."""

    @property
    def name(self) -> str:
        """Of its folder."""

    @property
    def model(self) -> str:
        """What was trained."""


def group_labels(groups: Sequence[Sequence[Named]]) -> list[str]:
    """What a table calls each group: its model, with the names of its runs where another group has the same model."""
    models = [group[0].model for group in groups]
    labels = []
    for group, model in zip(groups, models, strict=True):
        places = list(dict.fromkeys(run.name.split("/")[0] for run in group))
        labels.append(model if models.count(model) == 1 else f"{model} ({', '.join(places)})")
    if len(set(labels)) == len(labels):
        return labels
    return [f"{model} ({', '.join(run.name for run in group)})" for group, model in zip(groups, models, strict=True)]


def sets_of(runs: Sequence[Run], keys: Sequence[str] | None = None) -> dict[Scope, str]:
    """What the runs were scored on, and what tables call it.

    Args:
        runs: The runs.
        keys: Names of the sets, in the order to show; None for all, ``internal`` first.

    Returns:
        Names of tables by scope: sets of one name with other patches are told apart.
    """
    every = {scope_of(run, key) for run in runs for key in run.evaluations}
    found = sorted((one for one in every if one is not None), key=lambda one: one.order)
    named = dict(zip(found, titles(found), strict=True))
    if keys is None:
        return named
    return {one: name for key in keys for one, name in named.items() if one.key == key}


def scope_of(run: Run, key: str) -> Scope | None:
    """What a run was scored on under the name ``key``; None where it was not."""
    return Scope.of(run.evaluations[key], key=key) if key in run.evaluations else None


def scored_on(runs: Sequence[Run], on: Scope) -> list[tuple[Run, Evaluation]]:
    """The runs that were scored on these very patches."""
    return [(run, run.evaluations[on.key]) for run in runs if scope_of(run, on.key) == on]


def over_seeds(runs: Sequence[Run], on: Scope | str) -> list[SeedScores]:
    """The models that were scored on a set, each over its seeds; a model with one seed is among them.

    Evaluations of other patches than those of a group's first evaluated run are not averaged with it: they stand alone.

    Args:
        runs: The runs.
        on: What was scored; a name stands for every set of that name.
    """
    key = on if isinstance(on, str) else on.key
    groups = seed_groups(runs)
    found = []
    for group, label in zip(groups, group_labels(groups), strict=True):
        alike: dict[Scope, list[Run]] = {}
        for run in group:
            if (scope := scope_of(run, key)) is not None:
                alike.setdefault(scope, []).append(run)
        for scope, same in alike.items():
            if on not in (key, scope):
                continue
            scored = tuple(run.evaluations[key] for run in same)
            named = label if len(alike) == 1 else f"{label} ({', '.join(run.name for run in same)})"
            found.append(SeedScores(named, tuple(run.seed for run in same), scored, tuple(same)))
    return found


SEED_COLUMNS = ("evaluation set", "protocol", "model", "seeds", *(title for title, _ in MEANS.values()), "note")
"""Columns of :func:`seed_rows`."""


def seed_rows(runs: Sequence[Run], keys: Sequence[str] | None, *, brief: bool = False) -> list[tuple[str, ...]]:
    """Rows of the table over seeds: set × protocol × model; empty if no model has two seeds on any set.

    The protocol that a set is meant for stands first. ``brief`` notes are a word or two, for a narrow terminal.
    """
    rows = []
    several = False
    for on, title in sets_of(runs, keys).items():
        scored = over_seeds(runs, on)
        several |= any(len(one.seeds) > 1 for one in scored)
        for protocol in sorted(PROTOCOLS, key=lambda name: name != on.protocol):
            for one in scored:
                means = (str(one.score(name, protocol)) for name in MEANS)
                note = "; ".join(
                    dict.fromkeys(mark if brief else text for e in one.evaluations for mark, text in e.marks)
                )
                seeds = ", ".join("?" if seed is None else str(seed) for seed in one.seeds)
                rows.append((title, PROTOCOLS[protocol], one.model, f"{len(one.seeds)} ({seeds})", *means, note))
    return rows if several else []
