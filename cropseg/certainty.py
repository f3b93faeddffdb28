"""What stands below evaluate.py's table of scores: how far they can be trusted, read off what was stored.

Intervals over places, models compared on the same places, scores with each ground pixel counted once, and what the
models' confidence is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from cropseg.calibration import recalibrated
from cropseg.core.errors import ConfigError, InputError
from cropseg.counting import PARCEL_YEAR, PLACE
from cropseg.intervals import LEAST_SEEDS, Interval, compare_all, holm, intervals
from cropseg.overlaps import RULE
from cropseg.runs import Run, label, seed_groups
from cropseg.scores import MEANS, PROTOCOLS, Evaluation, format_score
from cropseg.seeds import group_labels

SCORES: Final = ("miou_present", "pixel_accuracy")
"""The scores that get an interval."""

COVERAGE: Final = 0.8
"""Share of the pixels kept in the table of confidence."""

DRAWN_OVER: Final = {PLACE: "places", PARCEL_YEAR: "parcels and years"}
"""What clusters are, in the plural."""

EARLIER: Final = "evaluated by an earlier version"

Row = tuple[str, ...]

INTERVAL_COLUMNS: Final = ("model", "set", "protocol", *(MEANS[key][0] for key in SCORES), "drawn over", "of")
COMPARISON_COLUMNS: Final = ("set", "protocol", "first - second", "score", "difference", "p", "p (Holm)", "of")
CONFIDENCE_COLUMNS: Final = (
    "model", "set", "protocol", "ECE", "recalibrated", "accuracy", f"of the surest {COVERAGE:.0%}", "note"
)  # fmt: skip


def interval_rows(runs: Sequence[Run], keys: Sequence[str]) -> list[Row]:
    """Scores under the set's protocol with 95 % intervals, or why there are none.

    A row a run and set; and one for the way of training, where runs differ in their seed and are three or more.
    """
    rows: list[Row] = []
    groups = seed_groups(runs)
    for run in runs:
        rows += [_interval_row(label(run, runs), [run], key) for key in keys if key in run.evaluations]
    for group, name in zip(groups, group_labels(groups), strict=True):
        for key in keys:
            scored = [run for run in group if key in run.evaluations]
            if len(scored) >= LEAST_SEEDS and len({_patches(run.evaluations[key]) for run in scored}) == 1:
                rows.append(_interval_row(name, scored, key))
    return rows


def _interval_row(name: str, runs: Sequence[Run], key: str) -> Row:
    evaluation = runs[0].evaluations[key]
    protocol = evaluation.protocol
    head = (name, key, PROTOCOLS[protocol])
    of = "this fitted model" if len(runs) == 1 else f"training anew, {len(runs)} seeds"
    stored = [run.details(key) for run in runs]
    found = [one for one in stored if one is not None]
    values = [np.mean([run.evaluations[key].scores(protocol)[score] for run in runs]) for score in SCORES]
    plain = tuple(format_score(float(value)) for value in values)
    if len(found) < len(stored):
        return (*head, *plain, EARLIER, of)
    try:
        means = intervals([one.clusters for one in found], protocol).means
    except InputError as error:
        return (*head, *plain, _reason(error), of)
    over = f"{means[SCORES[0]].clusters} {DRAWN_OVER[found[0].clusters_are]}"
    return (*head, *(format_interval(means[score]) for score in SCORES), over, of)


def comparison_rows(runs: Sequence[Run], keys: Sequence[str]) -> list[Row]:
    """A row a set, pair of models and score: the difference on the same places; p corrected over the whole table.

    Runs that differ in their seed alone are one model. A set on which two models were not scored on the same patches
    is left out, and so is one without details.
    """
    groups = seed_groups(runs)
    names = group_labels(groups)
    rows: list[list[str]] = []
    raw: dict[str, float] = {}
    for key in keys:
        models = [
            [(run.evaluations[key], found) for run in group if key in run.evaluations and (found := run.details(key))]
            for group in groups
        ]
        known = [number for number, model in enumerate(models) if model]
        patches = {_patches(evaluation) for number in known for evaluation, _ in models[number]}
        if len(known) < 2 or len(patches) != 1:
            continue
        protocol = models[known[0]][0][0].protocol
        for score in SCORES:
            try:
                pairs = compare_all([[one.clusters for _, one in models[i]] for i in known], score, protocol)
            except (InputError, ConfigError) as error:
                rows.append([key, PROTOCOLS[protocol], "", MEANS[score][0], _reason(error), "", "", ""])
                continue
            for (i, j), one in pairs.items():
                raw[str(len(rows))] = one.p
                what = f"{names[known[i]]} - {names[known[j]]}"
                size = f"{one.difference:+.4f} ({one.low:+.4f} … {one.high:+.4f})"
                seeds = " and ".join(f"{n} seed{'s' * (n > 1)}" for n in one.seeds)
                of = f"{one.label}: {seeds}, {one.clusters} {DRAWN_OVER[models[known[0]][0][1].clusters_are]}"
                rows.append([key, PROTOCOLS[protocol], what, MEANS[score][0], size, _p(one.p), "", of])
    for at, corrected in holm(raw).items():
        rows[int(at)][6] = _p(corrected)
    return [tuple(row) for row in rows]


def once_rows(runs: Sequence[Run], keys: Sequence[str]) -> list[tuple[str, Evaluation]]:
    """Where windows overlap: what tables call the run, and its evaluation with each ground pixel counted once."""
    rows = []
    for run in runs:
        for key in (one for one in keys if one in run.evaluations):
            found = run.details(key)
            if found is not None and found.once is not None:
                rows.append((label(run, runs), replace(run.evaluations[key], confusion=found.once)))
    return rows


ONCE_TITLE: Final = f"Windows overlap here: {RULE}"


def confidence_rows(runs: Sequence[Run], keys: Sequence[str]) -> list[Row]:
    """A row a run and set, under the set's protocol: calibration error, and accuracy where the model is sure."""
    rows: list[Row] = []
    for run in runs:
        for key in (one for one in keys if one in run.evaluations):
            evaluation, found = run.evaluations[key], run.details(key)
            if found is None:
                continue
            head = (label(run, runs), key, PROTOCOLS[evaluation.protocol])
            if not found.reliability:
                rows.append((*head, "n/a", "n/a", "n/a", "n/a", found.without.get("reliability", "")))
                continue
            test = found.reliability[evaluation.protocol]
            fitted, why = run.validated(evaluation.tta), found.without.get("recalibration", "")
            validation = None if fitted is None or why else fitted.get(evaluation.protocol)
            mended = "n/a" if validation is None else format_score(recalibrated(test, validation).ece())
            numbers = (format_score(one) for one in (test.accuracy, test.accuracy_at(COVERAGE)))
            rows.append((*head, format_score(test.ece()), mended, *numbers, why))
    return rows


def format_interval(one: Interval) -> str:
    """``score (low … high)``."""
    return f"{format_score(one.value)} ({format_score(one.low)} … {format_score(one.high)})"


def _patches(evaluation: Evaluation) -> tuple[str, str, str]:
    return evaluation.manifest_digest, evaluation.split, evaluation.part


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"


def _reason(error: InputError | ConfigError) -> str:
    return error.what if error.value is None else f"{error.what}: {error.value}"
