"""Scores of parts of an evaluation set: by country, date, cloud, place, parcel size, and distance to the parcel edge.

Everything is added up from what is stored beside a confusion matrix (:mod:`cropseg.details`), so the groups of one
question hold each counted pixel once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np

from cropseg.core.errors import ConfigError
from cropseg.details import Details, matrices
from cropseg.metrics import Confusion

By = Literal["country", "subset", "product", "month", "year", "cloud", "place"]

CLOUD_BANDS: Final = (0.0, 0.01, 0.05, 0.10, 0.20)
"""Upper ends, included, of the bands of cloud share; a last band holds the rest."""

MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)

UNKNOWN: Final = "not known"


@dataclass(frozen=True)
class Group:
    """Patches, parcels or pixels that have something in common.

    Attributes:
        name: What they have in common.
        patches: How many patches; 0 where the group is of no patches.
        places: Confusion matrix of each place among them; empty where the group is of no places.
        confusion: All their pixels.
        parcels: How many parcels; 0 where the group is of no parcels.
    """

    name: str
    patches: int
    places: Mapping[str, Confusion]
    confusion: Confusion
    parcels: int = 0


def groups(details: Details, by: By) -> list[Group]:
    """The patches of an evaluation by what they have in common, in the order of its values.

    Args:
        details: What is stored of the evaluation.
        by: ``country``, ``subset`` (a country's year), ``product`` (a Sentinel-2 scene), ``month`` and ``year`` of the
            image, ``cloud`` (share of the patch that the scene classification calls invalid, in
            :data:`CLOUD_BANDS`), or ``place``.

    Raises:
        ConfigError: Another ``by``.
    """
    found: dict[str, dict[str, Confusion]] = {}
    patches: dict[str, int] = {}
    places = details.patches["place"].to_pylist()
    for name, place, matrix in zip(_names(details, by), places, matrices(details.patches), strict=True):
        sites = found.setdefault(name, {})
        sites[place] = sites[place] + matrix if place in sites else matrix
        patches[name] = patches.get(name, 0) + 1
    ordered = sorted(found, key=_order(by))
    return [Group(name, patches[name], found[name], np.sum(list(found[name].values()), axis=0)) for name in ordered]


def cloud_band(share: float) -> str:
    """The band of a cloud share, 0 … 1, in words; NaN is not known."""
    if math.isnan(share):
        return UNKNOWN
    return _CLOUDS[int(np.searchsorted(np.array(CLOUD_BANDS, dtype=np.float32), np.float32(share)))]


def boundary_bands(details: Details) -> list[Group]:
    """Pixels by their distance to the nearest edge; empty where edges are not known."""
    return [Group(_span(one.from_px, one.to_px, "px"), 0, {}, one.confusion) for one in details.boundary]


def parcel_sizes(details: Details) -> list[Group]:
    """Pixels of parcels by their size, and those outside parcels; empty where parcels are not known."""
    found = [
        Group(_span(one.from_ha, one.to_ha, "ha"), 0, {}, one.confusion, one.parcels) for one in details.parcel_areas
    ]
    outside = details.outside_parcels
    return found if outside is None or not outside.any() else [*found, Group("outside parcels", 0, {}, outside)]


def _span(low: float, high: float, unit: str) -> str:
    return f"{low:g} {unit} and more" if math.isinf(high) else f"{low:g} … {high:g} {unit}"


def _percent(share: float) -> str:
    return f"{100 * share:g}"


_CLOUDS: Final = (
    "0 %",
    *(f"{_percent(low)} … {_percent(high)} %" for low, high in pairwise(CLOUD_BANDS)),
    f"over {_percent(CLOUD_BANDS[-1])} %",
)


def _names(details: Details, by: By) -> list[str]:
    known: Mapping[str, Callable[[Any], str]] = {
        **{column: str for column in ("country", "subset", "product", "year", "place")},
        "month": lambda month: MONTHS[month - 1],
        "cloud": cloud_band,
    }
    if by not in known:
        raise ConfigError("patches cannot be grouped by", by, f"choose from {', '.join(known)}")
    return [known[by](value) for value in details.patches[by].to_pylist()]


def _order(by: By) -> Callable[[str], tuple[int, str]]:
    """Months and bands in their own order, the rest by name."""
    own: Sequence[str] = MONTHS if by == "month" else (*_CLOUDS, UNKNOWN) if by == "cloud" else ()
    return lambda name: (own.index(name) if own else 0, name)
