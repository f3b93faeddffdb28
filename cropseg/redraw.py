"""Places drawn with replacement, and every score of every run read off each draw at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cropseg.core.errors import ConfigError, InputError
from cropseg.core.labels import BACKGROUND
from cropseg.metrics import Confusion, Protocol, stack_scores

LEAST_PLACES: Final = 10
"""Fewer clusters give intervals that are far too narrow (Cameron et al., 2008, doi:10.1162/rest.90.3.414)."""

SCORES: Final = ("miou", "miou_present", "miou_union", "miou_foreground", "pixel_accuracy", "mean_class_accuracy")
"""The scores that are one number, keys of :func:`cropseg.metrics.scores`."""

AT_ONCE: Final = 4_000_000
"""Counts of drawn places held at a time."""

Floats = npt.NDArray[np.float64]
Places = Mapping[str, Confusion]
"""Confusion matrix of each place, (classes, classes), rows truth: all its dates and windows added up."""


@dataclass(frozen=True)
class Drawn:
    """Scores of runs on drawn places, before they are put together over seeds.

    Attributes:
        found: float64 (runs, draws) by score; ``iou`` (runs, draws, classes).
        whole: The same without draws, on all places.
        counted: Places with a pixel that counts, in the run with the fewest.
        with_class: int64 (classes,), places that hold truth of a class.
    """

    found: Mapping[str, Floats]
    whole: Mapping[str, Floats]
    counted: int
    with_class: npt.NDArray[np.int64]


def draw(runs: Sequence[Places], protocol: Protocol, draws: int, level: float, seed: int) -> Drawn:
    """Draw places and read every score of every run off each draw: all runs are given the same ground."""
    if draws < 100 or not 0 < level < 1:
        raise ConfigError("draws must be at least 100 and level between 0 and 1", (draws, level), "use 2000 and 0.95")
    stack = _stacked(runs)
    truth = stack.sum(axis=3)
    if protocol == "crop":
        truth[..., BACKGROUND] = 0
    # Where a run holds nothing of some places (a gap between two splits), the one with the fewest says how sure it is.
    counted = int(truth.any(axis=2).sum(axis=1).min())
    if counted < LEAST_PLACES:
        remedy = f"an interval needs at least {LEAST_PLACES} places; report the score without one"
        raise InputError("too few places for an interval", counted, remedy)
    keys = (*SCORES, "iou")
    found = stack_scores(_totals(stack, draws, seed), protocol)
    whole = stack_scores(stack.sum(axis=1), protocol)
    with_class = truth.any(axis=0).sum(axis=0)
    return Drawn({key: found[key] for key in keys}, {key: whole[key] for key in keys}, counted, with_class)


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
