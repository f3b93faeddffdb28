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
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy.stats

from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError, MismatchError
from cropseg.core.progress import say, table

LEVEL: Final = 0.95
FEWEST_CLUSTERS: Final = 10
"""Below, the spread of clusters says too little, and no interval is given."""

DESIGN: Final = "design"
"""Layer of the GeoPackage that lists all classes; points may be of classes that the map never gives."""

DRAWN: Final = "drawn"
"""Layer of the GeoPackage that lists the points as they were drawn; older files have none."""

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


def read_sample(path: str | Path) -> Sample:
    """Read the points that ``sample.py`` drew, after somebody filled in the column ``reference``.

    A sample from elsewhere needs the columns ``stratum``, ``map_class``, ``inclusion``, ``reference`` and ``pixel_m2``,
    and ``cluster`` where points were drawn in clusters.

    Raises:
        MismatchError: No known inclusion probabilities: the file is no probability sample of the mapped area.
        InputError: The file cannot be read, a point has no reference or an unknown class, or the points are not those
            that were drawn.
    """
    import geopandas as gpd
    from pyogrio.errors import DataSourceError

    path = Path(path)
    _refuse_convenience(path)
    try:
        layers = gpd.list_layers(path)
        # QGIS keeps styles in a layer of their own, without geometry as the design.
        placed = layers.loc[layers["geometry_type"].notna(), "name"].tolist()
        if len(placed) != 1:
            raise InputError(f"{path} must hold one layer of points, not", placed, "give what sample.py wrote")
        points = gpd.read_file(path, layer=placed[0])
        design = gpd.read_file(path, layer=DESIGN) if DESIGN in set(layers["name"]) else None
        drawn = gpd.read_file(path, layer=DRAWN) if DRAWN in set(layers["name"]) else None
    except DataSourceError as error:
        raise InputError(f"{path} is no file of points", str(error), "give what sample.py wrote") from error
    missing = sorted({"stratum", "map_class", "inclusion", "reference", "pixel_m2"} - set(points.columns))
    if "inclusion" in missing or "stratum" in missing:
        raise MismatchError(f"{path} has no known inclusion probabilities (columns missing)", missing, _WHY)
    if missing:
        raise InputError(f"{path} lacks columns", missing, "restore the file that sample.py wrote")
    reference = points["reference"].fillna("").astype(str).str.strip()
    if empty := int((reference == "").sum()):
        remedy = "fill in every point: leaving out the hard ones would make the rest look easy"
        raise InputError(f"{path}: points without a reference", f"{empty} of {len(points)}", remedy)
    mapped = points["map_class"].astype(str)
    if design is not None and (strange := sorted({*mapped} - {*design["name"].astype(str)})):
        raise InputError(f"{path}: map classes that the layer {DESIGN} does not list", strange, _RESTORE)
    found = dict.fromkeys(design["name"].astype(str)) if design is not None else dict.fromkeys(sorted({*mapped}))
    unknown = sorted(set(reference) - set(found))
    if unknown and design is not None:
        raise InputError(f"{path}: reference classes that the map does not know", unknown, f"use {', '.join(found)}")
    classes = (*found, *unknown)
    number = {name: i for i, name in enumerate(classes)}
    strata = points["stratum"].astype(str)
    inclusion = points["inclusion"].to_numpy(dtype=np.float64)
    if "stratum_pixels" in points.columns:
        _check_single(path, points)
        _check_whole(path, strata.to_numpy(), inclusion, points["stratum_pixels"].to_numpy(dtype=np.float64))
        _check_drawn(path, points, drawn)
    pixel = np.unique(points["pixel_m2"].to_numpy(dtype=np.float64))
    if len(pixel) != 1 or not pixel[0] > 0:
        raise InputError(f"{path}: pixel_m2 must be one area for all points", pixel.tolist(), "restore the file")
    return Sample(
        classes=classes,
        stratum=np.unique(strata, return_inverse=True)[1].astype(np.int64),
        mapped=mapped.map(number).to_numpy(dtype=np.int64),
        reference=reference.map(number).to_numpy(dtype=np.int64),
        inclusion=inclusion,
        pixel_ha=float(pixel[0]) / 1e4,
        cluster=np.unique(points["cluster"].astype(str), return_inverse=True)[1].astype(np.int64)
        if "cluster" in points.columns
        else None,
        counted=_counted(path, design, classes),
    )


def report_areas(sample: str | Path | None, out: str | Path | None = None) -> AreaReport:
    """Estimate accuracy and areas from a filled-in sample, print them and store them beside it.

    Args:
        sample: The GeoPackage.
        out: JSON file; None stands for ``<sample>.area.json``.

    Raises:
        ConfigError: ``sample`` is not set, or one of the two is no path.
    """
    if sample is None or sample == "":
        raise ConfigError("sample is not set", None, "give sample=<points.gpkg>, drawn by sample.py and filled in")
    path = as_path("sample", sample, "give the path of the points that sample.py drew, filled in")
    own = path.with_suffix(".area.json")
    where = own if out is None or out == "" else as_path("out", out, "give the path of a JSON file")
    points = read_sample(path)
    found = estimate(points)
    storage.write_json(where, {"sample": path.name, "sample_sha256": storage.sha256(path), **found.to_dict()})
    rows = [
        (
            name,
            n,
            _plain(found.users[i]),
            _plain(found.producers[i]),
            _hectares(found.area_ha[i]) if n else "none found",
            f"{mapped:,.1f}",
        )
        for i, (name, n, mapped) in enumerate(
            zip(found.classes, found.counts.sum(axis=0).tolist(), found.mapped_ha, strict=True)
        )
    ]
    table(
        f"{path.name}: estimates ± half the 95 % interval",
        (
            "class",
            "points",
            "user's accuracy",
            "producer's accuracy",
            "area in ha",
            _on_map(points),
        ),
        rows,
    )
    drawn = f"{found.points} points" + (f" in {found.clusters} clusters" if found.clusters else "")
    say(f"overall accuracy {_plain(found.overall)} of the mapped area, from {drawn}")
    estimates = (found.overall, *found.users, *found.producers)
    sure = {one.value for one in estimates if one is not None and one.se < 1e-12}  # 0 but for rounding
    for value in sorted(sure & {0.0, 1.0}, reverse=True):
        what = "disagreed" if value else "agreed"
        say(f"{value:.3f} ± 0.000 says that no point {what}, not that none would: draw more points of that class")
    if sure - {0.0, 1.0}:
        say("± 0.000 at other values says that the points of each stratum were alike, not that all are: draw more")
    say("areas are estimated from the points' true classes (Olofsson et al. 2014); counted pixels carry the map's bias")
    say(f"stored: {where}")
    return found


_WHY: Final = (
    "Accuracy and areas of a map can only be estimated from points drawn at random with known probability over the "
    "mapped area; draw them with python sample.py map=<GeoTIFF>"
)


_RESTORE: Final = "restore the file as sample.py wrote it, with its column reference filled in, or draw anew"


def as_path(option: str, value: object, remedy: str) -> Path:
    """The value of an option as a path.

    Raises:
        ConfigError: It is none, such as a number or a list.
    """
    if not isinstance(value, str | Path):
        raise ConfigError(f"{option} must be a path", value, remedy)
    return Path(value)


def _refuse_convenience(path: Path) -> None:
    """Refuse evaluation sets: they were put together for convenience."""
    if (path / "manifest.parquet").is_file() or path.suffix.lower() in (".json", ".parquet"):
        reason = (
            "is an evaluation set: its patches were chosen by parcels, clouds and classes, so the probability with "
            "which ground came into it is not known"
        )
        raise MismatchError(f"{path} {reason}", None, _WHY)
    if not path.is_file():
        raise InputError(f"no such file: {path}", None, "give the GeoPackage that sample.py wrote")


def _counted(path: Path, design: Any, classes: Sequence[str]) -> Ints | None:
    """Pixels of each class on the map, as ``sample.py`` counted them; None in a sample from elsewhere."""
    if design is None or "pixels" not in design.columns:
        return None
    pixels = design["pixels"].fillna(0).to_numpy()
    if not np.issubdtype(pixels.dtype, np.number) or (pixels < 0).any():
        raise InputError(f"{path}: pixels in the layer {DESIGN} are counts, not", pixels.tolist(), _RESTORE)
    count = dict(zip(design["name"].astype(str), pixels.tolist(), strict=True))
    return np.array([count[name] for name in classes], dtype=np.int64)


def _check_whole(path: Path, strata: npt.NDArray[Any], inclusion: Floats, pixels: Floats) -> None:
    """Refuse a sample to which points were added, or that lost some: then the probabilities are wrong."""
    for name in np.unique(strata):
        here = strata == name
        expected, got = float(pixels[here][0]), float((1 / inclusion[here]).sum())
        if abs(got - expected) > 1e-6 * expected:
            drawn = round(expected * float(inclusion[here][0]))
            what = f"{path}: stratum {name} was drawn with {drawn} points and holds"
            raise InputError(what, int(here.sum()), "restore the points as they were drawn, or draw anew")


_PIXEL: Final = ["pixel_row", "pixel_col"]


def _check_single(path: Path, points: Any) -> None:
    """Refuse points that stand in a file of ``sample.py`` more than once: it draws without replacement."""
    for columns in (["point"], _PIXEL):
        if set(columns) <= set(points.columns):
            again = points[points.duplicated(columns, keep=False)]
            if len(again):
                what = f"{path}: points that are there more than once, by {' and '.join(columns)}"
                named = again["point"].tolist() if "point" in again else again[columns].to_numpy().tolist()
                raise InputError(what, _some(named), _RESTORE)


def _check_drawn(path: Path, points: Any, drawn: Any) -> None:
    """Refuse points other than those that ``sample.py`` drew, once none is there twice and none too many.

    Args:
        path: The file.
        points: Its points.
        drawn: Number, pixel, stratum, map class and place of the points as they were drawn; None in older files, whose
            points are known by their numbers alone, which run from 1.
    """
    if drawn is not None and (missing := sorted({"point", *_PIXEL} - set(points.columns))):
        raise InputError(f"{path} lacks columns", missing, _RESTORE)
    if "point" not in points.columns:
        return
    numbers = np.arange(1, len(points) + 1) if drawn is None else drawn["point"].to_numpy()
    if len(strange := points.loc[~points["point"].isin(numbers), "point"]):
        raise InputError(f"{path}: points that were not drawn", _some(strange.tolist()), _RESTORE)
    if drawn is None:
        return
    own = drawn.set_index("point").loc[points["point"]]
    for column in (*_PIXEL, "stratum", "map_class"):
        other = points[column].to_numpy() != own[column].to_numpy()
        if other.any():
            what = f"{path}: points whose {column} is not the one that was drawn"
            raise InputError(what, _some(points["point"][other].tolist()), _RESTORE)
    moved = _moved(path, points, own)
    if moved.any():
        what = f"{path}: points that lie in another place than where they were drawn"
        raise InputError(what, _some(points["point"][moved].tolist()), _RESTORE)


def _moved(path: Path, points: Any, own: Any) -> npt.NDArray[np.bool_]:
    """Which points lie farther than half a pixel from where they were drawn, in whatever CRS they are kept."""
    import geopandas as gpd
    import pyogrio

    about = pyogrio.read_info(path, layer=DRAWN)["layer_metadata"] or {}
    if not {"crs", "pixel"} <= set(about):
        raise InputError(f"{path}: the layer {DRAWN} lost its metadata crs and pixel", None, _RESTORE)
    here = points.geometry.to_crs(about["crs"]) if points.crs is not None else points.geometry
    there = gpd.GeoSeries.from_xy(own["x"], own["y"], index=here.index, crs=here.crs)
    distance = here.distance(there, align=False).to_numpy()
    return np.asarray(~(distance <= float(about["pixel"]) / 2))  # a point without a place has none that is near


def _some(values: Sequence[Any]) -> list[Any]:
    """The first of many, whole numbers as such: a table with an empty cell has floats."""
    return [int(one) if isinstance(one, float) and one.is_integer() else one for one in values[:10]]


def _on_map(sample: Sample) -> str:
    """Heading of the areas on the map: those of points are only counted where each stratum is mapped as one class."""
    known = sample.counted is not None or len({*zip(sample.stratum, sample.mapped, strict=True)}) == len(
        {*sample.stratum}
    )
    return "counted on the map in ha" if known else "on the map in ha, by the points"


def _plain(one: Estimate | None) -> str:
    return "n/a" if one is None else f"{one.value:.3f} ± {one.high - one.value:.3f}"


def _hectares(one: Estimate) -> str:
    return f"{one.value:,.1f} ± {one.high - one.value:,.1f}"


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
