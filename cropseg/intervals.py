"""How far a score would move on other ground: bootstrap over places, and two models compared on the same places.

Pixels of one place are no independent draws, nor are its dates and overlapping windows. So whole places are drawn with
replacement (the cluster bootstrap; Field and Welsh, 2007, doi:10.1111/j.1467-9868.2007.00593.x), each with the sum of
its confusion matrices, and the score is read off the sum of what was drawn. A class that a draw does not hold follows
the rule of the score itself (:func:`cropseg.metrics.scores`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cropseg.core.errors import ConfigError, InputError
from cropseg.metrics import Confusion, Protocol, scores

LEAST_PLACES: Final = 10
"""Fewer clusters give intervals that are far too narrow (Cameron et al., 2008, doi:10.1162/rest.90.3.414)."""

LEAST_SEEDS: Final = 3
"""Fewer seeds a model say nothing about training again."""

FITTED_ONLY: Final = "these two fitted models only"
"""What stands beside a comparison of fewer seeds than :data:`LEAST_SEEDS`."""

Floats = npt.NDArray[np.float64]
Places = Mapping[str, Confusion]
"""Confusion matrix of each place, (classes, classes), rows truth: all its dates and windows added up."""


@dataclass(frozen=True)
class Interval:
    """A score with its bootstrap percentile interval.

    Attributes:
        value: The score on all places.
        low: Lower end.
        high: Upper end.
        level: Share of draws inside, 0 … 1.
        clusters: Places drawn from.
    """

    value: float
    low: float
    high: float
    level: float
    clusters: int


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
    """A score and its interval over places.

    Args:
        places: Confusion matrix of each place.
        score: A single-number key of :func:`cropseg.metrics.scores`.
        protocol: Which pixels count.
        draws: Bootstrap draws.
        level: Share of draws inside the interval.
        seed: Of the draws.

    Raises:
        InputError: There are fewer than :data:`LEAST_PLACES` places.
        ConfigError: An impossible number of draws, level or score.
    """
    names, (stack,) = _stacked([places])
    weights = _weights(len(names), draws, level, seed)
    read = _reader(score, protocol)
    found = np.array([read(total) for total in _totals(weights, stack)])
    low, high = _ends(found, level)
    return Interval(read(stack.sum(axis=0)), low, high, level, len(names))


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
    if not first or not second:
        raise ConfigError("a comparison needs at least one run of each model", (len(first), len(second)), "give both")
    names, stacks = _stacked([*first, *second])
    weights = _weights(len(names), draws, level, seed)
    read = _reader(score, protocol)
    # (runs, draws): the score of each run on the ground of each draw.
    table = np.array([[read(total) for total in _totals(weights, stack)] for stack in stacks])
    above, below = table[: len(first)], table[len(first) :]
    many = min(len(first), len(second)) >= LEAST_SEEDS
    if many:
        random = np.random.default_rng([seed, 1])
        above, below = (side[random.integers(0, len(side), side.shape), np.arange(draws)] for side in (above, below))
    found = above.mean(axis=0) - below.mean(axis=0)
    whole = [read(stack.sum(axis=0)) for stack in stacks]
    low, high = _ends(found, level)
    known = found[~np.isnan(found)]
    tail = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return Comparison(
        difference=float(np.mean(whole[: len(first)]) - np.mean(whole[len(first) :])),
        low=low,
        high=high,
        level=level,
        p=min(1.0, 2 * (tail + 1) / (len(known) + 1)),
        clusters=len(names),
        seeds=(len(first), len(second)),
        label="two ways of training, over seeds and places" if many else FITTED_ONLY,
    )


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


def _stacked(runs: Sequence[Places]) -> tuple[list[str], list[npt.NDArray[np.int64]]]:
    """Names of the places in order, and each run's matrices, (places, classes, classes)."""
    names = sorted(runs[0])
    for run in runs[1:]:
        if differing := set(run) ^ set(names):
            remedy = "evaluate both on the same set"
            raise InputError("the runs were not scored on the same places", sorted(differing)[:3], remedy)
    if len(names) < LEAST_PLACES:
        remedy = f"an interval needs at least {LEAST_PLACES} places; report the score without one"
        raise InputError("too few places for an interval", len(names), remedy)
    return names, [np.stack([np.asarray(run[name], dtype=np.int64) for name in names]) for run in runs]


def _weights(places: int, draws: int, level: float, seed: int) -> npt.NDArray[np.int64]:
    """How often each place was drawn, (draws, places)."""
    if draws < 100 or not 0 < level < 1:
        raise ConfigError("draws must be at least 100 and level between 0 and 1", (draws, level), "use 2000 and 0.95")
    return np.random.default_rng(seed).multinomial(places, np.full(places, 1 / places), size=draws)


def _totals(weights: npt.NDArray[np.int64], stack: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Confusion matrix of each draw, (draws, classes, classes)."""
    found: npt.NDArray[np.int64] = (weights @ stack.reshape(len(stack), -1)).reshape(len(weights), *stack.shape[1:])
    return found


def _reader(score: str, protocol: Protocol) -> Callable[[Confusion], float]:
    known = scores(np.eye(2, dtype=np.int64), protocol)
    if not isinstance(known.get(score), float):
        remedy = f"choose from {', '.join(key for key, value in known.items() if isinstance(value, float))}"
        raise ConfigError("no such score", score, remedy)
    return lambda confusion: float(scores(confusion, protocol)[score])


def _ends(found: Floats, level: float) -> tuple[float, float]:
    """Percentile interval; draws in which the score does not exist are left out."""
    known = found[~np.isnan(found)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
