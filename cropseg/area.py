"""Accuracy and class areas of a map from a probability sample, with standard errors.

The estimators are those of Olofsson et al. (2014), Good practices for estimating area and assessing accuracy of land
change, Remote Sensing of Environment 148, 42-57, equations 1 to 11, written as ratios (Stehman 2014, International
Journal of Remote Sensing 35, 4923-4939), so that strata need not be the map's classes. With W_h the share of stratum h,
n_h its points and e the residual y - R x of the ratio R = Y / X:

    accuracy or area share R = Σ_h W_h mean_h(y) / Σ_h W_h mean_h(x)      Var(R) = Σ_h W_h² s²_h(e) / n_h / X²

y and x are indicators: for the user's accuracy of a class, x is "mapped so" and y "mapped so and so in truth"; for the
producer's, x is "so in truth"; for an area, x is 1 and y "so in truth". As in the paper, there is no correction for
finite populations, which errs on the safe side.

Where points were drawn in clusters, the weighted residuals of a cluster are added up first, and it is the spread of the
clusters that counts (ultimate clusters: Cochran 1977, Sampling techniques, chapter 11).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy.stats

from cropseg.core.errors import ConfigError, InputError

LEVEL: Final = 0.95
FEWEST_CLUSTERS: Final = 10
"""Below, the spread of clusters says too little, and no interval is given."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """Points of a probability sample with the map's class and the true one.

    Attributes:
        classes: Names, by the number used in ``mapped`` and ``reference``.
        stratum: int64 (points,), number of the stratum that each was drawn in, from 0.
        mapped: int64 (points,), the map's class.
        reference: int64 (points,), the true class.
        inclusion: float64 (points,), probability of being drawn, in (0, 1].
        pixel_ha: Area that one unit of the population stands for, hectares.
        cluster: int64 (points,), number of the cluster that each was drawn in; None where points were drawn singly.
        counted: int64 (classes,), units of the population that the map gives each class; None where nobody counted.
    """

    classes: tuple[str, ...]
    stratum: Ints
    mapped: Ints
    reference: Ints
    inclusion: Floats
    pixel_ha: float
    cluster: Ints | None = None
    counted: Ints | None = None

    def __post_init__(self) -> None:
        """Check what the estimators rely on."""
        if not len(self.stratum):
            raise InputError("the sample has no points", None, "draw one: python sample.py map=<GeoTIFF>")
        if not ((self.inclusion > 0) & (self.inclusion <= 1)).all():
            wrong = self.inclusion[~((self.inclusion > 0) & (self.inclusion <= 1))][0]
            raise InputError("inclusion probabilities lie above 0 and up to 1", float(wrong), "restore the sample")
        # A stratum of a single pixel that was drawn is known, so that its point needs no second.
        alone = (np.bincount(self.stratum)[self.stratum] == 1) & (self.inclusion < 1)
        if self.cluster is None and alone.any():
            remedy = "draw at least two points in each: per_class=2 or more"
            name = self.classes[int(self.mapped[alone][0])]
            raise InputError("a stratum with a single point has no variance; it is mapped as", name, remedy)


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty.

    Attributes:
        value: The estimate.
        se: Its standard error.
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    value: float
    se: float
    low: float
    high: float


@dataclass(frozen=True)
class AreaReport:
    """What a sample says of a map.

    Attributes:
        classes: Class names.
        counts: Points, (classes, classes), rows map, columns reference: the paper's order, not that of our confusion
            matrices.
        shares: Estimated shares of the area, same shape, summing to 1 (equation 4).
        overall: Overall accuracy.
        users: User's accuracy of each class (of what is mapped so, the share that is so); None where nothing is mapped.
        producers: Producer's accuracy of each class (of what is so, the share mapped so); None where no point is so.
        area_ha: Area of each class in truth, hectares.
        mapped_ha: Area of each class on the map, hectares: counted, or where the sample does not hold the counts, as
            its points have it, which is the same where the strata are the map's classes.
        points: Points.
        clusters: Clusters; None where points were drawn singly.
    """

    classes: tuple[str, ...]
    counts: Ints
    shares: Floats
    overall: Estimate
    users: tuple[Estimate | None, ...]
    producers: tuple[Estimate | None, ...]
    area_ha: tuple[Estimate, ...]
    mapped_ha: tuple[float, ...]
    points: int
    clusters: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = asdict(self)
        return {**plain, "counts": self.counts.tolist(), "shares": self.shares.tolist(), "level": LEVEL}


def estimate(sample: Sample) -> AreaReport:
    """Area-adjusted accuracy and class areas of a sample.

    Raises:
        InputError: Too few clusters for an interval.
    """
    n = len(sample.classes)
    weight = 1 / sample.inclusion
    spread = _Spread(sample, weight)
    one = np.ones(len(weight))
    mapped, true = np.eye(n)[sample.mapped], np.eye(n)[sample.reference]
    both = mapped * true
    hectares = float(weight.sum()) * sample.pixel_ha
    areas = [spread.ratio(true[:, i], one) for i in range(n)]
    counts = np.zeros((n, n), dtype=np.int64)
    np.add.at(counts, (sample.mapped, sample.reference), 1)
    shares = np.zeros((n, n))
    np.add.at(shares, (sample.mapped, sample.reference), weight / weight.sum())
    on_map = shares.sum(axis=1) * hectares if sample.counted is None else sample.counted * sample.pixel_ha
    return AreaReport(
        classes=sample.classes,
        counts=counts,
        shares=shares,
        overall=spread.ratio(both.sum(axis=1), one),
        users=tuple(spread.ratio(both[:, i], mapped[:, i]) if mapped[:, i].any() else None for i in range(n)),
        producers=tuple(spread.ratio(both[:, i], true[:, i]) if true[:, i].any() else None for i in range(n)),
        area_ha=tuple(Estimate(*(float(v) * hectares for v in (a.value, a.se, a.low, a.high))) for a in areas),
        mapped_ha=tuple(on_map.tolist()),
        points=len(weight),
        clusters=spread.clusters,
    )


class _Spread:
    """Ratios of weighted sums over one sample, with their standard errors.

    Args:
        sample: The points.
        weight: float64 (points,), one over the inclusion probability.
    """

    def __init__(self, sample: Sample, weight: Floats) -> None:
        self._weight = weight
        self._stratum: Ints = np.unique(sample.stratum, return_inverse=True)[1].astype(np.int64)
        self._size = np.bincount(self._stratum, weight)
        self.clusters: int | None = None
        self._unit: Ints
        self._group: Ints
        self._quantile = float(scipy.stats.norm.ppf((1 + LEVEL) / 2))
        if sample.cluster is None:
            self._unit, self._group = np.arange(len(weight)), self._stratum
            return
        names, unit = np.unique(sample.cluster, return_inverse=True)
        self._unit = unit.astype(np.int64)
        self.clusters = len(names)
        if self.clusters < FEWEST_CLUSTERS:
            raise InputError("too few clusters for a standard error", self.clusters, f"draw {FEWEST_CLUSTERS} or more")
        lowest, highest = np.full(len(names), len(weight)), np.zeros(len(names), dtype=np.int64)
        np.minimum.at(lowest, self._unit, self._stratum)
        np.maximum.at(highest, self._unit, self._stratum)
        # Clusters that lie in one stratum each are its units; where they cross strata, they are the units of the whole.
        nested = bool((lowest == highest).all())
        self._group = lowest if nested else np.zeros(len(names), dtype=np.int64)
        per_group = np.bincount(self._group)
        if (per_group == 1).any():
            remedy = "draw at least two clusters in each stratum"
            raise InputError("a stratum with a single cluster has no variance", None, remedy)
        freedom = self.clusters - int((per_group > 0).sum())
        self._quantile = float(scipy.stats.t.ppf((1 + LEVEL) / 2, freedom))

    def ratio(self, y: Floats, x: Floats) -> Estimate:
        """The ratio of the population's sums of ``y`` and ``x``, float64 (points,) each; x is not 0 everywhere."""
        whole = float((self._weight * x).sum())
        value = float((self._weight * y).sum()) / whole
        residual = y - value * x
        # Strata have known sizes, so only what a point differs from its stratum's mean counts.
        inner = residual - (np.bincount(self._stratum, self._weight * residual) / self._size)[self._stratum]
        sums = np.bincount(self._unit, self._weight * inner)
        units = np.bincount(self._group)
        factor = units / np.maximum(units - 1, 1)
        se = float(np.sqrt((factor[self._group] * sums**2).sum())) / whole
        return Estimate(value, se, value - self._quantile * se, value + self._quantile * se)


def sample_size(shares: Sequence[float], accuracy: Sequence[float], target_se: float) -> int:
    """Points for a wanted standard error of the overall accuracy (equation 13, large populations).

    Args:
        shares: Of each stratum, its share of the area.
        accuracy: Of each stratum, the user's accuracy that is expected, 0 to 1.
        target_se: The standard error wanted, such as 0.01.
    """
    if not 0 < target_se < 1 or not all(0 <= one <= 1 for one in accuracy):
        raise ConfigError("target_se and expected accuracies are shares", (target_se, list(accuracy)), "such as 0.01")
    expected = np.asarray(accuracy, dtype=np.float64)
    deviation = float((np.asarray(shares) * np.sqrt(expected * (1 - expected))).sum())
    ratio = min(deviation / target_se, 1e9)  # more points than any map has pixels
    return int(np.ceil(ratio**2 - 1e-9))


def allocate(pixels: Sequence[int], total: int, per_class: int) -> list[int]:
    """Points of each stratum: rare ones get ``per_class``, the rest is shared by area (Olofsson 2014, section 5.1.2).

    Args:
        pixels: Of each stratum; at least 1.
        total: Points wanted in all; more are given where the least of each stratum asks for it.
        per_class: Least points of a stratum; one that has fewer pixels gives them all.
    """
    size = np.asarray(pixels, dtype=np.float64)
    least = np.minimum(size, per_class)
    free = np.ones(len(size), dtype=bool)
    share = least.copy()
    while free.any():
        left = total - least[~free].sum()
        share[free] = np.maximum(left, 0) * size[free] / size[free].sum()
        small = free & (share < least)
        if not small.any():
            break
        share[small] = least[small]
        free &= ~small
    return [int(n) for n in np.minimum(size, np.maximum(np.round(share), least))]
