"""How far a score would move on other ground: bootstrap over places, and two models compared on the same places.

Pixels of one place are no independent draws, nor are its dates and overlapping windows. So whole places are drawn with
replacement (the cluster bootstrap; Field and Welsh, 2007, doi:10.1111/j.1467-9868.2007.00593.x), each with the sum of
its confusion matrices, and the score is read off the sum of what was drawn. A class that a draw does not hold follows
the rule of the score itself (:func:`cropseg.metrics.scores`).

A model with :data:`LEAST_SEEDS` seeds or more has its seeds drawn with replacement too. So few of them scatter less
when drawn from themselves than when trained anew, by the factor (n - 1) / n of the variance, which is made up for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cropseg.core.errors import ConfigError, InputError
from cropseg.metrics import Confusion, Protocol, stack_scores

LEAST_PLACES: Final = 10
"""Fewer clusters give intervals that are far too narrow (Cameron et al., 2008, doi:10.1162/rest.90.3.414)."""

LEAST_SEEDS: Final = 3
"""Fewer seeds a model say nothing about training again."""

FITTED_ONLY: Final = "these two fitted models only"
"""What stands beside a comparison of fewer seeds than :data:`LEAST_SEEDS`."""

SCORES: Final = ("miou", "miou_present", "miou_union", "miou_foreground", "pixel_accuracy", "mean_class_accuracy")
"""The scores that are one number, keys of :func:`cropseg.metrics.scores`."""

AT_ONCE: Final = 4_000_000
"""Counts of drawn places held at a time."""

Floats = npt.NDArray[np.float64]
Places = Mapping[str, Confusion]
"""Confusion matrix of each place, (classes, classes), rows truth: all its dates and windows added up."""


@dataclass(frozen=True)
class Interval:
    """A score, or a difference of two, with its bootstrap percentile interval.

    Attributes:
        value: The score on all places; the mean over seeds where there are several.
        low: Lower end; NaN where there is none.
        high: Upper end.
        level: Share of draws inside, 0 … 1.
        clusters: Places with a pixel that counts, out of which it was drawn.
        seeds: Runs that ``value`` is the mean of.
    """

    value: float
    low: float
    high: float
    level: float
    clusters: int
    seeds: int = 1


@dataclass(frozen=True)
class Intervals:
    """Every mean, and the IoU of every class.

    Attributes:
        means: By the names of :data:`SCORES`.
        iou: One a class, by its id. A class with truth on fewer than :data:`LEAST_PLACES` places has no ends.
    """

    means: Mapping[str, Interval]
    iou: tuple[Interval, ...]


@dataclass(frozen=True)
class Comparison:
    """The difference of two models on the same places.

    Attributes:
        difference: Mean score over the seeds of the first, minus that of the second.
        low: Lower end of its interval.
        high: Upper end.
        level: Share of draws inside, 0 … 1.
        p: Two-sided: twice the smaller share of draws on one side of 0, at most 1; never 0.
        clusters: Places drawn from.
        seeds: Seeds of the first and of the second.
        label: What may be said of it: about the two ways of training, or :data:`FITTED_ONLY`.
    """

    difference: float
    low: float
    high: float
    level: float
    p: float
    clusters: int
    seeds: tuple[int, int]
    label: str


def bootstrap(
    places: Places,
    score: str = "miou_present",
    protocol: Protocol = "all",
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A score of one run and its interval over places.

    Args:
        places: Confusion matrix of each place.
        score: One of :data:`SCORES`.
        protocol: Which pixels count.
        draws: Bootstrap draws.
        level: Share of draws inside the interval.
        seed: Of the draws.

    Raises:
        InputError: Fewer than :data:`LEAST_PLACES` places have a pixel that counts.
        ConfigError: An impossible number of draws, level or score.
    """
    _known(score)
    return intervals([places], protocol, draws=draws, level=level, seed=seed).means[score]


def intervals(
    runs: Sequence[Places], protocol: Protocol = "all", *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> Intervals:
    """All scores of a model over its seeds, with their intervals; with one run, of that fitted model.

    Args:
        runs: Places of each seed, the same in all.
        protocol: Which pixels count.
        draws: Bootstrap draws.
        level: Share of draws inside an interval.
        seed: Of the draws.

    Raises:
        InputError: The places differ between seeds, or too few have a pixel that counts.
        ConfigError: An impossible number of draws or level.
    """
    drawn = _drawn(runs, protocol, draws, level, seed)
    return _read(drawn, _picks(len(runs), draws, np.random.default_rng([seed, 1])), level)


def drop(
    inner: Sequence[Places],
    outer: Sequence[Places],
    protocol: Protocol = "all",
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """How much lower a model scores on one set than on another: each drawn by itself, for they share no place.

    Args:
        inner: Places of the set that it is measured from, of each seed.
        outer: Places of the other set, of the same seeds in the same order.
        protocol: Which pixels count, on both.
        draws: Bootstrap draws.
        level: Share of draws inside an interval.
        seed: Of the draws.

    Returns:
        ``inner`` minus ``outer``; the places counted are the fewer of both.

    Raises:
        InputError: As for :func:`intervals`, of either set, or their classes differ.
        ConfigError: As for :func:`intervals`, or the numbers of seeds differ.
    """
    if len(inner) != len(outer):
        raise ConfigError("a drop compares the same seeds on both sets", (len(inner), len(outer)), "evaluate all")
    one, other = (_drawn(runs, protocol, draws, level, of) for runs, of in ((inner, seed), (outer, seed + 1)))
    if len(one.with_class) != len(other.with_class):
        classes = (len(one.with_class), len(other.with_class))
        raise InputError("both sets must have the same classes", classes, "evaluate one model on both")
    difference = _Drawn(
        found={name: one.found[name] - other.found[name] for name in one.found},
        whole={name: one.whole[name] - other.whole[name] for name in one.whole},
        counted=min(one.counted, other.counted),
        with_class=np.minimum(one.with_class, other.with_class),
    )
    return _read(difference, _picks(len(inner), draws, np.random.default_rng([seed, 1])), level)


def compare(
    first: Sequence[Places],
    second: Sequence[Places],
    score: str = "miou_present",
    protocol: Protocol = "all",
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """The difference of two models, paired by place: each draw gives both the same ground.

    With at least :data:`LEAST_SEEDS` seeds each, seeds are drawn with replacement too, and the result speaks of the two
    ways of training. With fewer it speaks of the fitted models alone, and its label says so.

    Args:
        first: Places of each seed of one model.
        second: Places of each seed of the other.
        score: As for :func:`bootstrap`.
        protocol: Which pixels count.
        draws: Bootstrap draws.
        level: Share of draws inside the interval.
        seed: Of the draws.

    Raises:
        InputError: The places differ, or are too few.
        ConfigError: As for :func:`bootstrap`, or a model without a seed.
    """
    return compare_all([first, second], score, protocol, draws=draws, level=level, seed=seed)[0, 1]


def compare_all(
    models: Sequence[Sequence[Places]],
    score: str = "miou_present",
    protocol: Protocol = "all",
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[tuple[int, int], Comparison]:
    """:func:`compare` of every two models, on the same draws; p-values are yet to be corrected (:func:`holm`).

    Returns:
        By the numbers of both models, the earlier first.

    Raises:
        InputError: As for :func:`compare`.
        ConfigError: As for :func:`compare`.
    """
    _known(score)
    if not all(models):
        raise ConfigError("a comparison needs at least one run of each model", [len(m) for m in models], "give both")
    drawn = _drawn([run for model in models for run in model], protocol, draws, level, seed)
    ends = np.cumsum([0, *(len(model) for model in models)])
    parts = [slice(low, high) for low, high in pairwise(ends.tolist())]
    found = {}
    for i, j in combinations(range(len(models)), 2):
        sides = [drawn.found[score][parts[side]] for side in (i, j)]
        many = min(len(side) for side in sides) >= LEAST_SEEDS
        random = np.random.default_rng([seed, 1])
        picks = [_picks(len(side), draws, random) if many else None for side in sides]
        above, below = (_over_seeds(side, pick) for side, pick in zip(sides, picks, strict=True))
        whole = [drawn.whole[score][parts[side]].mean() for side in (i, j)]
        low, high = _ends(above - below, level)
        found[i, j] = Comparison(
            difference=float(whole[0] - whole[1]),
            low=low,
            high=high,
            level=level,
            p=_p_value(above - below),
            clusters=drawn.counted,
            seeds=(len(sides[0]), len(sides[1])),
            label="two ways of training, over seeds and places" if many else FITTED_ONLY,
        )
    return found


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for the number of comparisons (Holm, 1979), by the same names.

    Raises:
        ConfigError: One does not lie in 0 … 1.
    """
    wrong = {name: p for name, p in p_values.items() if not 0 <= p <= 1}
    if wrong:
        raise ConfigError("p-values must lie in 0 … 1", wrong, "give those of compare()")
    corrected: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = highest
    return {name: corrected[name] for name in p_values}


@dataclass(frozen=True)
class _Drawn:
    """Scores of runs on drawn places, before they are put together over seeds.

    Attributes:
        found: float64 (runs, draws) by score; ``iou`` (runs, draws, classes).
        whole: The same without draws, on all places.
        counted: Places with a pixel that counts in one of the runs.
        with_class: int64 (classes,), places that hold truth of a class.
    """

    found: Mapping[str, Floats]
    whole: Mapping[str, Floats]
    counted: int
    with_class: npt.NDArray[np.int64]


def _drawn(runs: Sequence[Places], protocol: Protocol, draws: int, level: float, seed: int) -> _Drawn:
    """Draw places and read every score of every run off each draw: all runs are given the same ground."""
    if draws < 100 or not 0 < level < 1:
        raise ConfigError("draws must be at least 100 and level between 0 and 1", (draws, level), "use 2000 and 0.95")
    stack = _stacked(runs)
    truth = stack.sum(axis=(0, 3))
    counted = int((truth[:, 1:] if protocol == "crop" else truth).any(axis=1).sum())
    if counted < LEAST_PLACES:
        remedy = f"an interval needs at least {LEAST_PLACES} places; report the score without one"
        raise InputError("too few places for an interval", counted, remedy)
    keys = (*SCORES, "iou")
    found = stack_scores(_totals(stack, draws, seed), protocol)
    whole = stack_scores(stack.sum(axis=1), protocol)
    with_class = (truth > 0).sum(axis=0)
    return _Drawn({key: found[key] for key in keys}, {key: whole[key] for key in keys}, counted, with_class)


def _stacked(runs: Sequence[Places]) -> npt.NDArray[np.int64]:
    """The runs' matrices in the order of the names of the places, (runs, places, classes, classes)."""
    if not runs:
        raise ConfigError("an interval needs at least one run", 0, "give its places")
    names = sorted(runs[0])
    for run in runs[1:]:
        if differing := set(run) ^ set(names):
            remedy = "evaluate both on the same set"
            raise InputError("the runs were not scored on the same places", sorted(differing)[:3], remedy)
    if not names:
        raise InputError("too few places for an interval", 0, "evaluate the run on a set with patches")
    return np.stack([np.stack([np.asarray(run[name], dtype=np.int64) for name in names]) for run in runs])


def _totals(stack: npt.NDArray[np.int64], draws: int, seed: int) -> npt.NDArray[Any]:
    """Confusion matrices of each draw, whole numbers, (runs, draws, classes, classes)."""
    runs, places, classes = stack.shape[:3]
    flat: npt.NDArray[Any] = stack.transpose(1, 0, 2, 3).reshape(places, -1)
    # Products of floats are many times faster, and exact as long as no total reaches 2^53.
    exact = float(stack.max(initial=0)) * places < 2**53
    kind = np.float64 if exact else np.int64
    flat = flat.astype(kind)
    random = np.random.default_rng(seed)
    found = np.empty((draws, flat.shape[1]), dtype=kind)
    step = max(1, AT_ONCE // places)
    for start in range(0, draws, step):
        size = min(step, draws - start)
        found[start : start + size] = random.multinomial(places, np.full(places, 1 / places), size=size) @ flat
    return found.reshape(draws, runs, classes, classes).swapaxes(0, 1)


def _picks(seeds: int, draws: int, random: np.random.Generator) -> npt.NDArray[np.int64] | None:
    """Which seeds are drawn, (seeds, draws); None for too few to be drawn from."""
    return random.integers(0, seeds, (seeds, draws)) if seeds >= LEAST_SEEDS else None


def _over_seeds(found: Floats, picks: npt.NDArray[np.int64] | None) -> Floats:
    """Mean over the seeds of ``found``, (seeds, draws, …) -> (draws, …); over drawn seeds where they are picked."""
    mean: Floats = found.mean(axis=0)
    if picks is None:
        return mean
    seeds = len(found)
    drawn: Floats = found[picks, np.arange(found.shape[1])].mean(axis=0)
    return mean + math.sqrt(seeds / (seeds - 1)) * (drawn - mean)


def _read(drawn: _Drawn, picks: npt.NDArray[np.int64] | None, level: float) -> Intervals:
    """Put scores together over seeds and give each its ends."""
    seeds = len(drawn.whole["miou"])
    whole = {key: values.mean(axis=0) for key, values in drawn.whole.items()}
    found = {key: _over_seeds(values, picks) for key, values in drawn.found.items()}
    means = {}
    for key in SCORES:
        means[key] = Interval(float(whole[key]), *_ends(found[key], level), level, drawn.counted, seeds)
    iou = []
    for i, places in enumerate(drawn.with_class.tolist()):
        ends = _ends(found["iou"][:, i], level) if places >= LEAST_PLACES else (math.nan, math.nan)
        iou.append(Interval(float(whole["iou"][i]), *ends, level, places, seeds))
    return Intervals(means, tuple(iou))


def _known(score: str) -> None:
    if score not in SCORES:
        raise ConfigError("no such score", score, f"choose from {', '.join(SCORES)}")


def _p_value(found: Floats) -> float:
    known = found[~np.isnan(found)]
    tail = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(known) + 1))


def _ends(found: Floats, level: float) -> tuple[float, float]:
    """Percentile interval; draws in which the score does not exist are left out."""
    known = found[~np.isnan(found)]
    if not known.size:
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
