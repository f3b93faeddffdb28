"""How far a score would move on other ground: bootstrap over places, and two models compared on the same places.

Pixels of one place are no independent draws, nor are its dates and overlapping windows. So whole places are drawn with
replacement (the cluster bootstrap; Field and Welsh, 2007, doi:10.1111/j.1467-9868.2007.00593.x), each with the sum of
its confusion matrices, and the score is read off the sum of what was drawn. A class that a draw does not hold follows
the rule of the score itself (:func:`cropseg.metrics.scores`).

With n places and k seeds, the interval is the score ± t · se, where se² = Vp · n / (n - 1) + Vs:

- Vp is the variance of the score (its mean over the seeds) over the draws; draws from n places scatter less than new
  places by (n - 1) / n, which is made up for;
- Vs is the variance of the seeds' scores divided by k, where there are :data:`LEAST_SEEDS` or more; else 0, and the
  interval is that of the fitted models;
- t is Student's, with n - 1 degrees of freedom for Vp and k - 1 for Vs, put together by Satterthwaite's rule (1946,
  doi:10.2307/3002019).

Percentiles of the draws are narrower, and hold the truth less often where places are few (benchmarks/coverage.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Final

import numpy as np
import scipy.special

from cropseg.core.errors import ConfigError, InputError
from cropseg.metrics import Protocol, mean_of_known
from cropseg.redraw import LEAST_PLACES, SCORES, Drawn, Floats, Places, draw

LEAST_SEEDS: Final = 3
"""Fewer seeds a model say nothing about training again."""

FITTED_ONLY: Final = "these two fitted models only"
"""What stands beside a comparison of fewer seeds than :data:`LEAST_SEEDS`."""


@dataclass(frozen=True)
class Interval:
    """A score, or a difference of two, with its interval.

    Attributes:
        value: The score on all places; the mean over seeds where there are several.
        low: Lower end; NaN where there is none.
        high: Upper end.
        level: How often such an interval is to hold the truth, 0 … 1.
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
        iou: One a class, by its id. Without ends where fewer than :data:`cropseg.redraw.LEAST_PLACES` places hold its
            truth; ``clusters`` says how many do.
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
        level: How often such an interval is to hold the truth, 0 … 1.
        p: Two-sided, of the t-test that belongs to the interval.
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
        level: How often the interval is to hold the truth.
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
        level: How often an interval is to hold the truth.
        seed: Of the draws.

    Raises:
        InputError: The places differ between seeds, or too few have a pixel that counts.
        ConfigError: An impossible number of draws or level.
    """
    return _read(draw(runs, protocol, draws, level, seed), level, (0.0, 1.0))


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
        level: How often an interval is to hold the truth.
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
    return _read(difference, level, (-1.0, 1.0))


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

    With at least :data:`LEAST_SEEDS` seeds each, the scatter of the seeds is added, and the result speaks of the two
    ways of training. With fewer it speaks of the fitted models alone, and its label says so.

    Args:
        first: Places of each seed of one model.
        second: Places of each seed of the other.
        score: As for :func:`bootstrap`.
        protocol: Which pixels count.
        draws: Bootstrap draws.
        level: How often the interval is to hold the truth.
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
        whole = [drawn.whole[score][parts[side]] for side in (i, j)]
        many = min(len(side) for side in whole) >= LEAST_SEEDS
        difference = float(whole[0].mean() - whole[1].mean())
        spread = _spread(sides[0].mean(axis=0) - sides[1].mean(axis=0), drawn.counted, whole if many else [])
        low, high = spread.ends(difference, level, (-1.0, 1.0))
        found[i, j] = Comparison(
            difference=difference,
            low=low,
            high=high,
            level=level,
            p=spread.p_value(difference),
            clusters=drawn.counted,
            seeds=(len(whole[0]), len(whole[1])),
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
class _Spread:
    """Standard error of a score, and its degrees of freedom; NaN where the score does not exist."""

    error: float
    freedom: float

    def ends(self, value: float, level: float, within: tuple[float, float]) -> tuple[float, float]:
        """The interval around ``value``, cut off where no score can lie."""
        reach = float(scipy.special.stdtrit(self.freedom, (1 + level) / 2)) * self.error
        if math.isnan(value + reach):
            return math.nan, math.nan
        return max(value - reach, within[0]), min(value + reach, within[1])

    def p_value(self, difference: float) -> float:
        """Two-sided, for no difference; 1 where there is none or none is known."""
        if difference == 0 or math.isnan(difference + self.error):
            return 1.0
        return 2 * float(scipy.special.stdtr(self.freedom, -abs(difference) / self.error)) if self.error else 0.0


def _spread(found: Floats, places: int, seeds: Sequence[Floats]) -> _Spread:
    """Put the scatter over places and that over seeds together.

    Args:
        found: Score of each draw, the mean over the seeds; draws in which it does not exist are left out.
        places: How many were drawn from.
        seeds: Scores of the seeds on all places, of each model whose scatter counts.
    """
    known = found[~np.isnan(found)]
    if len(known) < 2 or places < 2:
        return _Spread(math.nan, math.nan)
    parts = [(float(known.var(ddof=1)) * places / (places - 1), places - 1)]
    parts += [(float(one.var(ddof=1)) / len(one), len(one) - 1) for one in seeds]
    variance = sum(part for part, _ in parts)
    shares = sum((part / variance) ** 2 / freedom for part, freedom in parts) if variance > 0 else 1 / (places - 1)
    return _Spread(math.sqrt(variance), 1 / shares)


def _read(drawn: Drawn, level: float, within: tuple[float, float]) -> Intervals:
    """Put scores together over seeds and give each its ends."""
    seeds = len(drawn.whole["miou"])

    def interval(found: Floats, whole: Floats, places: int) -> Interval:
        value = float(whole.mean())
        if places < LEAST_PLACES:
            return Interval(value, math.nan, math.nan, level, places, seeds)
        spread = _spread(found.mean(axis=0), places, [whole] if seeds >= LEAST_SEEDS else [])
        return Interval(value, *spread.ends(value, level, within), level, places, seeds)

    keys = [key for key in drawn.whole if key != "iou"]
    iou, of_draws = drawn.whole["iou"], drawn.found["iou"]
    return Intervals(
        means={key: interval(drawn.found[key], drawn.whole[key], drawn.counted) for key in keys},
        iou=tuple(interval(of_draws[..., i], iou[:, i], n) for i, n in enumerate(drawn.with_class.tolist())),
    )


def _known(score: str) -> None:
    if score not in SCORES:
        raise ConfigError("no such score", score, f"choose from {', '.join(SCORES)}")
