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
from typing import Final

import numpy as np
import numpy.typing as npt

from cropseg.core.errors import ConfigError, InputError
from cropseg.metrics import Protocol, mean_of_known
from cropseg.redraw import LEAST_PLACES, SCORES, Drawn, Floats, Places, draw

LEAST_SEEDS: Final = 3
"""Fewer seeds a model say nothing about training again."""

FITTED_ONLY: Final = "these two fitted models only"
"""What stands beside a comparison of fewer seeds than :data:`LEAST_SEEDS`."""


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
        means: By the names of :data:`cropseg.redraw.SCORES`.
        iou: One a class, by its id. A class with truth on fewer than :data:`cropseg.redraw.LEAST_PLACES` places has no ends.
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
        score: One of :data:`cropseg.redraw.SCORES`.
        protocol: Which pixels count.
        draws: Bootstrap draws.
        level: Share of draws inside the interval.
        seed: Of the draws.

    Raises:
        InputError: Fewer than :data:`cropseg.redraw.LEAST_PLACES` places have a pixel that counts.
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
    drawn = draw(runs, protocol, draws, level, seed)
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
        ``inner`` minus ``outer``; the places counted are the fewer of both. Of the means there is one more, ``common``:
        the mean of the IoU over the classes that have truth on both sets, for the other means change their classes
        from set to set.

    Raises:
        InputError: As for :func:`intervals`, of either set, or their classes differ.
        ConfigError: As for :func:`intervals`, or the numbers of seeds differ.
    """
    if len(inner) != len(outer):
        raise ConfigError("a drop compares the same seeds on both sets", (len(inner), len(outer)), "evaluate all")
    one, other = (draw(runs, protocol, draws, level, of) for runs, of in ((inner, seed), (outer, seed + 1)))
    if len(one.with_class) != len(other.with_class):
        classes = (len(one.with_class), len(other.with_class))
        raise InputError("both sets must have the same classes", classes, "evaluate one model on both")
    with_class = np.minimum(one.with_class, other.with_class)
    found, whole = (
        {key: a[key] - b[key] for key in a} for a, b in ((one.found, other.found), (one.whole, other.whole))
    )
    for differences in (found, whole):
        differences["common"] = mean_of_known(differences["iou"][..., with_class > 0])
    difference = Drawn(found, whole, min(one.counted, other.counted), with_class)
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
    drawn = draw([run for model in models for run in model], protocol, draws, level, seed)
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


def _read(drawn: Drawn, picks: npt.NDArray[np.int64] | None, level: float) -> Intervals:
    """Put scores together over seeds and give each its ends."""
    seeds = len(drawn.whole["miou"])
    whole = {key: values.mean(axis=0) for key, values in drawn.whole.items()}
    found = {key: _over_seeds(values, picks) for key, values in drawn.found.items()}
    means = {
        key: Interval(float(whole[key]), *_ends(found[key], level), level, drawn.counted, seeds)
        for key in whole
        if key != "iou"
    }
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
