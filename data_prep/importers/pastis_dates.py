"""One date a PASTIS patch: the rules by which it can be chosen, and what each of them would give.

The paper does not say how 2433 patches became 1955 single dates. One rule is primary, fixed in the config before any
score exists; the others are tabulated beside it, and so are the ways that change which patches are in at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cropseg.core.bands import QUANTIFICATION
from data_prep.importers.options import ABOVE_0, SEASON, SHARE, check_options, whole_number
from data_prep.importers.samples import day_in_season


@dataclass(frozen=True)
class Look:
    """What one date of a patch shows; shares are 0 to 1.

    Attributes:
        index: Number of the date in the file.
        day: The day.
        nodata: Share of the pixels without data in a visible band or B08.
        bright: Share of the others whose visible bands are brighter than the limit on average.
        ndvi: Median NDVI of pixels with data; 0 if there is none.
    """

    index: int
    day: date
    nodata: float
    bright: float
    ndvi: float


@dataclass(frozen=True)
class DateLimits:
    """Which dates may be chosen.

    Attributes:
        season: First and last day, MM-DD.
        year: The only year; None for any.
        max_nodata: Largest share of pixels without data.
        max_bright: Largest share of bright pixels.
        bright_reflectance: Mean reflectance of B02, B03 and B04 above which a pixel is bright.
    """

    season: Sequence[str] = ("04-01", "09-30")
    year: int | None = 2019
    max_nodata: float = 0.05
    max_bright: float = 0.10
    bright_reflectance: float = 0.30

    def __post_init__(self) -> None:
        """Check the figures."""
        check_options(
            "importer.limits",
            {
                "season": (self.season, SEASON), "year": (self.year, whole_number(1).or_null()),
                "max_nodata": (self.max_nodata, SHARE), "max_bright": (self.max_bright, SHARE),
                "bright_reflectance": (self.bright_reflectance, ABOVE_0),
            },
        )  # fmt: skip
        day_in_season(date(2019, 1, 1), self.season)

    def in_season(self, day: date) -> bool:
        """Whether a day may be chosen at all."""
        return (self.year is None or day.year == self.year) and day_in_season(day, self.season)

    def allow(self, seen: Look) -> bool:
        """Whether a date of the season shows enough of the ground."""
        return seen.nodata <= self.max_nodata and seen.bright <= self.max_bright

    def from_middle(self, day: date) -> int:
        """Days from the middle of the season."""
        first, last = (date.fromisoformat(f"{day.year}-{text}") for text in self.season)
        return abs(day.toordinal() - (first.toordinal() + last.toordinal()) // 2)


DateRule = Callable[[Look, DateLimits], tuple[float, ...]]
"""What is least for the date to choose."""

RULES: Final[Mapping[str, DateRule]] = {
    "clearest": lambda seen, limits: (seen.nodata + seen.bright, limits.from_middle(seen.day), seen.index),
    "greenest": lambda seen, _: (-seen.ndvi, seen.index),
    "middle": lambda seen, limits: (limits.from_middle(seen.day), seen.index),
    "first": lambda seen, _: (seen.day.toordinal(), seen.index),
    "last": lambda seen, _: (-seen.day.toordinal(), seen.index),
}
"""The rules: fewest bright or empty pixels, then nearest the middle of the season; largest median NDVI; nearest the
middle of the season; the first; the last. Each among the dates that the limits allow."""


def look_at(
    values: npt.NDArray[Any], index: int, day: date, bands: Sequence[str], nodata: Sequence[int], limit: float
) -> Look:
    """Measure one date.

    Args:
        values: (bands, height, width), as stored; may be mapped from disk, of which four bands are read.
        index: Number of the date.
        day: The day.
        bands: Order of ``values`` as documented.
        nodata: Values without data.
        limit: Reflectance above which a pixel is bright.
    """
    red, near = bands.index("B04"), bands.index("B08")
    some = np.asarray(values[[bands.index("B02"), bands.index("B03"), red, near]], np.float32)
    data = ~np.isin(some, list(nodata)).any(axis=0)
    if not data.any():
        return Look(index, day, 1.0, 0.0, 0.0)
    seen = some[:, data]
    bright = float((seen[:3].mean(axis=0) > limit * QUANTIFICATION).mean())
    red_value, near_value = np.maximum(seen[2], 1), np.maximum(seen[3], 1)
    ndvi = float(np.median((near_value - red_value) / (near_value + red_value)))
    return Look(index, day, 1 - float(data.mean()), bright, ndvi)


def choose(looks: Sequence[Look], limits: DateLimits, rule: str) -> Look | None:
    """The date that a rule chooses among those of the season; None if the limits allow none."""
    allowed = [seen for seen in looks if limits.allow(seen)]
    return min(allowed, key=lambda seen: RULES[rule](seen, limits), default=None)


def rule_table(patches: Sequence[Sequence[Look]], limits: DateLimits, primary: str) -> list[dict[str, Any]]:
    """For each rule: how many patches have a date, how many of these are the primary rule's, and their mean day."""
    chosen = {rule: [choose(looks, limits, rule) for looks in patches] for rule in RULES}
    rows = []
    for rule, dates in chosen.items():
        days = [seen.day.timetuple().tm_yday for seen in dates if seen]
        same = sum(seen is not None and seen == other for seen, other in zip(dates, chosen[primary], strict=True))
        mean = round(float(np.mean(days)), 1) if days else None
        rows.append({"rule": rule, "samples": len(days), "same_as_primary": same, "mean_day_of_year": mean})
    return rows


def way_table(
    patches: Sequence[Sequence[Look]],
    counts: Sequence[npt.NDArray[np.int64]],
    limits: DateLimits,
    paper: int | None,
    support: npt.NDArray[np.int64] | None,
) -> list[dict[str, Any]]:
    """Samples and label support by other ways to choose patches and dates, from labels and cloud alone.

    Args:
        patches: Dates of the season, by patch.
        counts: Pixels per class, by patch.
        limits: The limits.
        paper: The paper's number of samples.
        support: The paper's pixels per class; of the crops, the distances to it are added up.
    """
    rows = []
    for dates in ("one", "every"):
        for limited in (True, False):
            for least in (0, 1, 1000):
                samples, pixels = 0, np.zeros_like(counts[0])
                for looks, count in zip(patches, counts, strict=True):
                    allowed = sum(not limited or limits.allow(seen) for seen in looks)
                    crop = int(count[1:].sum())
                    times = min(1, allowed) if dates == "one" else allowed
                    samples += times * (crop >= least)
                    pixels = pixels + times * count * (crop >= least)
                verdict = "agree" if samples == paper else "differ"
                rows.append(
                    {
                        "dates_a_patch": dates,
                        "cloud_limits": limited,
                        "least_crop_pixels": least,
                        "samples": samples,
                        "crop_pixels": int(pixels[1:].sum()),
                        "support_off_by": None if support is None else int(np.abs(pixels - support)[1:].sum()),
                        "against_paper": verdict if paper is not None else "",
                    }
                )
    return rows
