"""Drawing a probability sample from a crop map: points whose true class somebody then looks up.

Without replacement and with known inclusion probabilities, as Olofsson et al. (2014) advise: the map's classes are the
strata, rare ones get a least number of points. The map is read twice, block by block: first its pixels are counted,
then those are picked whose rank among the pixels of their stratum was drawn.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeGuard, get_args

import numpy as np
import numpy.typing as npt

from cropseg.area import allocate, sample_size
from cropseg.area_points import DESIGN, DRAWN, as_path
from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.labels import IGNORE
from cropseg.core.progress import say, table, track
from cropseg.core.taxonomy import Taxonomy
from cropseg.map_file import CropMapFile, open_map

Strategy = Literal["stratified", "simple"]
WHOLE: Final = "map"
"""Name of the single stratum of a simple sample."""


@dataclass(frozen=True)
class Design:
    """How a sample is drawn.

    Attributes:
        strategy: ``stratified`` by the map's classes, or ``simple``: every mapped pixel with the same probability.
        per_class: Least points of a stratum (at least 2).
        total: Points in all; None stands for ``per_class`` in each stratum, or for what ``target_se`` asks.
        target_se: Standard error of the overall accuracy that is wanted, such as 0.01; needs ``total`` None.
        expected_accuracy: User's accuracy expected, a number for all classes or one by class name; for ``target_se``.
        seed: Of the draw.
    """

    strategy: Strategy = "stratified"
    per_class: int = 50
    total: int | None = None
    target_se: float | None = None
    expected_accuracy: float | Mapping[str, float] = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: Naming the option that has an impossible one.
        """
        choices = get_args(Strategy)
        if self.strategy not in choices:
            raise _refused("strategy", self.strategy, f"choose from {', '.join(choices)}")
        _check_whole("per_class", self.per_class, 2, "give 50 to 100: a single point has no variance")
        if self.total is not None:
            _check_whole("total", self.total, 2, "give total=500, or null")
        if self.target_se is not None and not (_is_number(self.target_se) and 0 < self.target_se < 1):
            raise _refused("target_se must lie between 0 and 1", self.target_se, "give target_se=0.01, or null")
        _check_expected(self.expected_accuracy)
        _check_whole("seed", self.seed, 0, "give seed=0: the same seed gives the same points")
        if self.total is not None and self.target_se is not None:
            raise ConfigError("total and target_se both say how many points", self.total, "give one of them")

    def points(self, names: Sequence[str], pixels: Sequence[int]) -> list[int]:
        """Points of each stratum, of so many pixels each."""
        total = self.total
        if self.target_se is not None:
            total = sample_size([n / sum(pixels) for n in pixels], self._expected(names), self.target_se)
        if self.strategy == "simple":
            return [min(sum(pixels), self.per_class if total is None else max(total, 2))]
        return allocate(pixels, self.per_class * len(pixels) if total is None else total, self.per_class)

    def _expected(self, names: Sequence[str]) -> list[float]:
        if not isinstance(self.expected_accuracy, Mapping):
            return [float(self.expected_accuracy)] * len(names)
        if missing := [name for name in names if name not in self.expected_accuracy]:
            raise ConfigError("expected_accuracy lacks classes of the map", missing, "give all, or a single number")
        return [float(self.expected_accuracy[name]) for name in names]


def _refused(what: str, value: object, remedy: str) -> ConfigError:
    """The error for an option's value; a null is named too."""
    return ConfigError(f"{what}: null" if value is None else what, value, remedy)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_whole(name: str, value: object, least: int, remedy: str) -> None:
    """Refuse an option that is no whole number from ``least`` on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _refused(f"{name} must be a whole number of at least {least}", value, remedy)


def _check_expected(expected: object) -> None:
    """Refuse expected accuracies that are no shares."""
    named = expected if isinstance(expected, Mapping) else {None: expected}
    for name, value in named.items():
        if not (_is_number(value) and 0 <= value <= 1):
            what = "expected_accuracy" if name is None else f"expected_accuracy of {name}"
            raise _refused(f"{what} must lie from 0 to 1", value, "give 0.8, or {maize: 0.9, …} for every class")


@dataclass(frozen=True)
class Drawn:
    """What was drawn.

    Attributes:
        rows: int64 (points,), pixel row of each.
        cols: int64 (points,), pixel column.
        mapped: int64 (points,), the map's class id.
        stratum: int64 (points,), index into the following.
        strata: Names of the strata.
        pixels: Pixels of each stratum.
        points: Points of each stratum.
        class_pixels: Pixels of each class of the map.
    """

    rows: npt.NDArray[np.int64]
    cols: npt.NDArray[np.int64]
    mapped: npt.NDArray[np.int64]
    stratum: npt.NDArray[np.int64]
    strata: tuple[str, ...]
    pixels: tuple[int, ...]
    points: tuple[int, ...]
    class_pixels: tuple[int, ...]


def draw(opened: CropMapFile, design: Design) -> Drawn:
    """Draw a sample from an open map.

    Raises:
        InputError: The map tells nothing anywhere.
        ConfigError: The design does not fit the map.
    """
    windows = list(opened.windows())
    counts = np.zeros(IGNORE + 1, dtype=np.int64)
    for window in track(windows, f"counting {opened.path.name}"):
        counts += np.bincount(opened.read(window).ravel(), minlength=IGNORE + 1)
    names = opened.legend.classes
    present = np.flatnonzero(counts[: len(names)])
    if not len(present):
        raise InputError(f"{opened.path} tells nothing anywhere", None, "check the legend and the file")
    stratum_of = np.full(IGNORE + 1, -1, dtype=np.int64)
    simple = design.strategy == "simple"
    stratum_of[present] = 0 if simple else np.arange(len(present))
    strata = (WHOLE,) if simple else tuple(names[i] for i in present)
    points = design.points([names[i] for i in present], counts[present].tolist())
    pixels = [int(counts[present].sum())] if simple else counts[present].tolist()
    random = np.random.default_rng(design.seed)
    ranks = [np.sort(random.choice(n, k, replace=False, shuffle=False)) for n, k in zip(pixels, points, strict=True)]
    passed = np.zeros(len(strata), dtype=np.int64)
    found: list[npt.NDArray[np.int64]] = []
    for window in track(windows, f"drawing from {opened.path.name}"):
        labels = opened.read(window).ravel()
        strata_here = stratum_of[labels]
        for index in range(len(strata)):
            here = np.flatnonzero(strata_here == index)
            first, last = np.searchsorted(ranks[index], (passed[index], passed[index] + len(here)))
            place = here[ranks[index][first:last] - passed[index]]
            row, col = np.divmod(place, window.width)
            found.append(
                np.stack([row + window.row, col + window.col, labels[place], np.full(len(place), index)]).astype(
                    np.int64
                )
            )
            passed[index] += len(here)
    drawn = np.concatenate(found, axis=1)
    # Mixed, so that whoever looks the points up does not see a class at a stretch.
    rows, cols, mapped, stratum = drawn[:, random.permutation(drawn.shape[1])]
    sizes = tuple(int(n) for n in pixels)
    told = tuple(int(n) for n in counts[: len(names)])
    return Drawn(rows, cols, mapped, stratum, strata, sizes, tuple(points), told)


def draw_sample(
    path: str | Path,
    out: str | Path | None,
    design: Design,
    taxonomy: Taxonomy,
    legend: str | None = None,
) -> Path:
    """Draw a sample from a map and write it as a GeoPackage, to be filled in with QGIS.

    Args:
        path: The map, in a projected CRS in metres.
        out: The GeoPackage; None stands for ``<map>.sample.gpkg`` beside it. It must not exist.
        design: How it is drawn.
        taxonomy: Classes of the map.
        legend: See :func:`cropseg.map_file.open_map`.

    Returns:
        The GeoPackage.

    Raises:
        ConfigError: ``out`` is no path or exists, or the CRS has no pixels of equal area.
        InputError: The map cannot be read.
    """
    path = Path(path)
    own = path.with_name(f"{path.stem}.sample.gpkg")
    where = own if out in (None, "") else as_path("out", out, "give the path of a GeoPackage, which ends in .gpkg")
    if where.suffix.lower() != ".gpkg":
        raise ConfigError("a sample is a GeoPackage", str(where), "let out= end in .gpkg")
    if where.exists():
        remedy = "somebody may have filled it in: give another out=, or remove it"
        raise ConfigError(f"{where} exists already", None, remedy)
    with open_map(path, taxonomy, legend) as opened:
        if opened.metres is None:
            remedy = "reproject it: gdalwarp -t_srs EPSG:3035 -r near <map> equal_area.tif"
            raise ConfigError(
                f"pixels of {path} are no areas in square metres, for its CRS is", opened.crs_name, remedy
            )
        drawn = draw(opened, design)
        _write(where, opened, drawn, design)
    hectares = opened.metres / 1e4
    table(
        f"Points drawn from {path.name}",
        ("stratum", "pixels", "hectares", "points", "inclusion probability"),
        [
            (name, f"{size:,}", f"{size * hectares:,.1f}", n, f"{n / size:.2e}")
            for name, size, n in zip(drawn.strata, drawn.pixels, drawn.points, strict=True)
        ],
    )
    say(f"{len(drawn.rows)} points in {where}; the column reference takes one of {', '.join(opened.legend.classes)}")
    say(f"then: python area.py sample={where}")
    return where


def _write(where: Path, opened: CropMapFile, drawn: Drawn, design: Design) -> None:
    import geopandas as gpd
    import pandas as pd
    import pyogrio

    a, _, x, _, e, y = opened.grid.transform
    pixels, points = np.array(drawn.pixels), np.array(drawn.points)
    names = np.array(opened.legend.classes, dtype=object)
    frame = gpd.GeoDataFrame(
        {
            "point": np.arange(1, len(drawn.rows) + 1),
            "reference": pd.Series([None] * len(drawn.rows), dtype=object),
            "map_class": names[drawn.mapped],
            "stratum": np.array(drawn.strata, dtype=object)[drawn.stratum],
            "inclusion": (points / pixels)[drawn.stratum],
            "stratum_pixels": pixels[drawn.stratum],
            "pixel_m2": opened.metres,
            "pixel_row": drawn.rows,
            "pixel_col": drawn.cols,
        },
        geometry=gpd.points_from_xy(x + a * (drawn.cols + 0.5), y + e * (drawn.rows + 0.5)),
        crs=opened.grid.crs,
    )
    classes = pd.DataFrame(
        {"id": np.arange(len(names)), "name": names, "pixels": np.array(drawn.class_pixels, dtype=np.int64)}
    )
    # What nobody edits, so that area.py finds points that were moved or exchanged.
    kept = pd.DataFrame(frame[["point", "pixel_row", "pixel_col", "stratum", "map_class"]])
    kept = kept.assign(x=frame.geometry.x, y=frame.geometry.y)
    about = {
        "map": opened.path.name,
        "map_sha256": storage.sha256(opened.path),
        "legend": opened.legend.name,
        "strategy": design.strategy,
        "seed": str(design.seed),
    }
    logging.getLogger("pyogrio").setLevel(logging.WARNING)  # it tells how many records it wrote
    with storage.atomic_path(where) as temporary:
        pyogrio.write_dataframe(frame, temporary, layer="points", driver="GPKG", layer_metadata=about)
        pyogrio.write_dataframe(classes, temporary, layer=DESIGN, driver="GPKG")
        where_drawn = {"crs": opened.grid.crs, "pixel": str(min(abs(a), abs(e)))}
        pyogrio.write_dataframe(kept, temporary, layer=DRAWN, driver="GPKG", layer_metadata=where_drawn)
