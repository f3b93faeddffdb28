"""What labels are worth: score against number of labelled parcels, read off finished runs; no model is run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from omegaconf import OmegaConf

from cropseg import metrics
from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError, MismatchError
from cropseg.core.progress import say, table
from cropseg.runs import NOT_OF_A_MODEL, Run, seed_groups
from cropseg.scores import MEANS, SIMULATED_NOTE
from cropseg.seeds import Spread

VALIDATION: Final = "validation"
COLORS: Final = ("#1f6f4a", "#c9822b", "#4a6fa5", "#8c3b5e", "#6b6b6b", "#b0a030", "#3a9c9c", "#222222")
COLUMNS: Final = (
    "line",
    "set",
    "fraction",
    "seeds",
    "parcels",
    "parcels_lowest",
    "parcels_highest",
    "score",
    "score_lowest",
    "score_highest",
)
"""Columns of the CSV file."""


@dataclass(frozen=True)
class Point:
    """One place of a line: runs that differ in their seed alone.

    Attributes:
        line: Name of the line: the model, and where its weights started.
        set: ``validation``, or the evaluation set.
        fraction: Share of the parcels whose labels were used.
        seeds: Number of runs.
        parcels: Labelled parcels; how many a fraction gives depends on the seed.
        score: Over the seeds.
    """

    line: str
    set: str
    fraction: float
    seeds: int
    parcels: Spread
    score: Spread


def points(runs: Sequence[Run], score: str = "miou_present") -> list[Point]:
    """All points of all lines, by line and set, ascending in parcels.

    Args:
        runs: Finished runs, trained with ``dataset.fraction=``.
        score: Key of :data:`cropseg.scores.MEANS`.

    Raises:
        ConfigError: There is no such score.
        InputError: A run does not know its number of labelled parcels, or has no validation.
        MismatchError: The runs were validated on different patches.
    """
    if score not in MEANS:
        raise ConfigError("no such score", score, f"choose from {', '.join(MEANS)}")
    for run in runs:
        if "parcels" not in run.spec.labels:
            remedy = "train it with dataset.fraction=1, which uses all labels and counts their parcels"
            raise InputError(f"run {run.name} does not know its number of labelled parcels", str(run.path), remedy)
        if "confusion" not in run.validation:
            raise InputError(f"{run.path} holds no validation.json", None, "copy the run again")
    bases = {(run.spec.manifest_digest, run.spec.split): run for run in runs}
    if len(bases) > 1:
        bases_of = [run.name for run in bases.values()]
        raise MismatchError("the runs were validated on different datasets or splits", bases_of, "draw them one by one")
    names = _names(runs)
    found = []
    for group in seed_groups(runs):
        parcels = Spread.of([run.spec.labels["parcels"] for run in group])
        for which in dict.fromkeys([VALIDATION, *(key for run in group for key in run.evaluations)]):
            scores = [value for run in group if (value := _score(run, which, score)) is not None]
            fraction = float(group[0].spec.labels["fraction"])
            found.append(Point(names[group[0].path], which, fraction, len(scores), parcels, Spread.of(scores)))
    return sorted(found, key=lambda one: (one.set != VALIDATION, one.set, one.line, one.parcels.mean))


def _score(run: Run, which: str, score: str) -> float | None:
    if which == VALIDATION:
        confusion = np.array(run.validation["confusion"], dtype=np.int64)
        return float(metrics.scores(confusion, run.validation.get("protocol", "all"))[score])
    evaluation = run.evaluations.get(which)
    return None if evaluation is None else float(evaluation.scores(evaluation.protocol)[score])


def _names(runs: Sequence[Run]) -> dict[Path, str]:
    """Name of each run's line; runs of one line differ in fraction and seed alone."""
    lines: dict[str, list[Run]] = {}
    for run in runs:
        config = OmegaConf.to_container(run.config, resolve=False)
        rest = {str(k): v for k, v in config.items() if k not in NOT_OF_A_MODEL} if isinstance(config, dict) else {}
        if isinstance(rest.get("dataset"), dict):
            rest["dataset"].pop("fraction", None)
        lines.setdefault(json.dumps([run.model, rest], sort_keys=True), []).append(run)
    plain = [_name(members[0]) for members in lines.values()]
    return {
        run.path: name if plain.count(name) == 1 else f"{name} ({members[0].name})"
        for name, members in zip(plain, lines.values(), strict=True)
        for run in members
    }


def _name(run: Run) -> str:
    begun = run.spec.init_from
    if not begun:
        return run.model
    return f"{run.model} from {begun['run']}" + (", encoder frozen" if begun.get("frozen") else "")


def draw(runs: Sequence[Run], out: Path, score: str = "miou_present") -> tuple[Path, Path]:
    """Draw the curves, write their points, and show them.

    Args:
        runs: Finished runs; see :func:`points`.
        out: Path of picture and table, without suffix.
        score: Key of :data:`cropseg.scores.MEANS`.

    Returns:
        The PNG and the CSV file.
    """
    found = points(runs, score)
    sets = list(dict.fromkeys(one.set for one in found))
    picture, file = (Path(out).with_name(f"{Path(out).name}{suffix}") for suffix in (".png", ".csv"))
    title = MEANS[score][0]

    # Imported here: it takes a second, and nothing above needs it.
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure = Figure(figsize=(max(6.4, 5.0 * len(sets)), 4.4), layout="constrained")
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    lines = list(dict.fromkeys(one.line for one in found))
    for axes, which in zip(panels, sets, strict=True):
        for line, color in zip(lines, COLORS * len(lines), strict=False):
            chosen = [one for one in found if (one.set, one.line) == (which, line)]
            x = [one.parcels.mean for one in chosen]
            low, middle, high = ([getattr(one.score, key) for one in chosen] for key in ("low", "mean", "high"))
            axes.plot(x, middle, "o-", color=color, lw=1.7, ms=4, label=line)
            axes.vlines(x, low, high, color=color, lw=1.2)
            axes.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(which, loc="left", fontsize=11)
        axes.set_xlabel("labelled parcels in training")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(title)
    panels[0].legend(frameon=False, fontsize=8)
    notes = [SIMULATED_NOTE] if any(run.spec.simulated for run in runs) else []
    notes += ["mean, lowest and highest over seeds"] if any(one.seeds > 1 for one in found) else []
    if notes:
        figure.supxlabel("; ".join(notes), fontsize=9)
    with storage.atomic_path(picture) as temporary:
        figure.savefig(temporary, dpi=150, metadata={"Software": None})  # the same runs give the same bytes
    storage.write_bytes(file, _csv(found).encode())

    rows = [(one.line, one.set, f"{one.fraction:g}", one.seeds, _range(one.parcels), str(one.score)) for one in found]
    table(f"{title} by labelled parcels", ("model", "set", "fraction", "seeds", "parcels", title), rows)
    say(f"learning curve of {len(runs)} runs: {picture}, {file}")
    return picture, file


def _range(parcels: Spread) -> str:
    ends = f" ({parcels.low:.0f} … {parcels.high:.0f})" if parcels.low != parcels.high else ""
    return f"{parcels.mean:.0f}{ends}"


def _csv(found: Sequence[Point]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in found:
        parcels = (one.parcels.mean, one.parcels.low, one.parcels.high)
        scores = (one.score.mean, one.score.low, one.score.high)
        writer.writerow([one.line, one.set, one.fraction, one.seeds, *(f"{n:g}" for n in parcels), *scores])
    return text.getvalue()
