"""Accuracy and class areas of a map, printed and stored: what ``area.py`` does."""

from __future__ import annotations

from pathlib import Path

from cropseg.area import AreaReport, Estimate, Sample, estimate
from cropseg.area_points import as_path, read_sample
from cropseg.core import storage
from cropseg.core.errors import ConfigError
from cropseg.core.progress import say, table


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
    if where.exists() and where.samefile(path):
        raise ConfigError("out is the sample itself", str(where), "give another file, or leave it out")
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
