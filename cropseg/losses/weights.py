"""Class weights from the pixels of the training part, by formulas with a name.

A formula takes the labelled pixels of each patch and class, int64 (patches, classes), of the classes that have any, and
gives a weight above 0 for each. A class without a pixel in training gets weight 0: the formulas have no value for
it, nothing teaches it, and its pixels in the validation part would push the loss that steers the schedule and the
checkpoint up the surer the network gets of what it did learn. (The scores count those pixels all the same.)

The losses divide by the sum of the weights, so only their ratios matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from cropseg.core.checks import finite
from cropseg.core.errors import ConfigError, InputError

Counts = npt.NDArray[np.int64]
Formula = Callable[[Counts], npt.NDArray[np.float64]]


def inverse_frequency(counts: Counts) -> npt.NDArray[np.float64]:
    """N / (C · n): every class has the same total weight; scikit-learn's ``class_weight="balanced"``.

    With n pixels of a class, N = Σ n and C classes (King & Zeng, Logistic Regression in Rare Events Data, 2001).
    """
    n = counts.sum(axis=0)
    return np.asarray(n.sum() / (len(n) * n), np.float64)


def inverse_sqrt_frequency(counts: Counts) -> npt.NDArray[np.float64]:
    """√(N / (C · n)), the square root of :func:`inverse_frequency`: halfway to no weights, in logarithms.

    The square root of frequencies as a mild balance: Mahajan et al., Exploring the Limits of Weakly Supervised
    Pretraining, 2018 (there for drawing samples).
    """
    return np.sqrt(inverse_frequency(counts))


def median_frequency(counts: Counts) -> npt.NDArray[np.float64]:
    """median(f) / f, where f = pixels of the class / labelled pixels of all patches that hold it.

    Eigen & Fergus, Predicting Depth, Surface Normals and Semantic Labels…, 2015, section 6.3.2.
    """
    frequency = counts.sum(axis=0) / ((counts > 0) * counts.sum(axis=1, keepdims=True)).sum(axis=0)
    return np.asarray(np.median(frequency) / frequency, np.float64)


def effective_number(counts: Counts, beta: float = 0.999999) -> npt.NDArray[np.float64]:
    """(1 - β) / (1 - βⁿ), scaled to sum to the number of classes.

    Cui et al., Class-Balanced Loss Based on Effective Number of Samples, 2019. From β = 0 (no weights) to β → 1
    (:func:`inverse_frequency`); a class with far more than 1 / (1 - β) pixels gains nothing by more of them. The
    paper's β of up to 0.9999 are for images: n counts pixels here, so the default stands at a million.

    Raises:
        ConfigError: ``beta`` is not in [0, 1).
    """
    if not finite(beta) or not 0 <= beta < 1:
        raise ConfigError("beta of effective_number must be a number of at least 0 and below 1", beta, "use 0.999999")
    n = counts.sum(axis=0)
    found = np.ones(len(n)) if beta == 0 else (1 - beta) / -np.expm1(n * np.log(beta))
    return np.asarray(found * (len(n) / found.sum()), np.float64)


FORMULAS: Final[Mapping[str, Formula]] = {
    "inverse_frequency": inverse_frequency,
    "inverse_sqrt_frequency": inverse_sqrt_frequency,
    "median_frequency": median_frequency,
    "effective_number": effective_number,
}
"""Formulas that a loss's ``weights`` may name."""


def name_of(formula: Formula) -> str:
    """A formula's name, with the options bound to it."""
    if isinstance(formula, partial):
        options = ", ".join(f"{key}={value}" for key, value in formula.keywords.items())
        return f"{name_of(formula.func)}({options})"
    return str(getattr(formula, "__name__", type(formula).__name__))


def compute(formula: Formula, counts: npt.ArrayLike) -> list[float]:
    """The weight of each class by a formula; 0 for classes without a pixel.

    Args:
        formula: One of the functions above, or another of its kind.
        counts: As for :meth:`cropseg.losses.Loss.resolve`.

    Raises:
        InputError: No class has a pixel.
        ConfigError: The formula gives something that is no weight.
    """
    table = np.atleast_2d(np.asarray(counts, np.int64))
    present = table.sum(axis=0) > 0
    if not present.any():
        raise InputError("the training part has no labelled pixel to weigh classes by", None, "check the split")
    weights = np.zeros(table.shape[1])
    weights[present] = formula(table[:, present])
    if not (np.isfinite(weights[present]) & (weights[present] > 0)).all():
        raise ConfigError(f"class weights by {name_of(formula)} must be above 0", weights.tolist(), "see its options")
    return [float(weight) for weight in weights]
