"""Which products show a region of interest in a season: the catalogue's answer, and what is left of it and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

import pyproj
import pystac_client
import shapely
import shapely.geometry
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from requests.exceptions import RequestException
from urllib3 import Retry

from cropseg.core.errors import ConfigError, SourceError
from data_prep.products import Product
from data_prep.rois import Roi

WGS84 = "EPSG:4326"
TRANSIENT = (429, 500, 502, 503, 504)
"""Answers of a busy server, worth asking again."""

_FAILURES = (APIError, RequestException, OSError, ValueError, KeyError)


@dataclass(frozen=True)
class Season:
    """The time of year to look at.

    Attributes:
        first_month: First month of the subset's year, 1 to 12.
        last_month: Last month, inclusive.
        start: First day (ISO date) instead of the months, for seasons that are not within one year.
        end: Last day, inclusive.
    """

    first_month: int = 4
    last_month: int = 9
    start: str | None = None
    end: str | None = None

    def __post_init__(self) -> None:
        """Check the months and days."""
        if not 1 <= self.first_month <= self.last_month <= 12:
            raise ConfigError(
                "season months must be 1 to 12, the first not after the last", (self.first_month, self.last_month),
                "set season.first_month and season.last_month, or season.start and season.end",
            )  # fmt: skip
        if (self.start is None) != (self.end is None):
            raise ConfigError("a season has both start and end, or neither", (self.start, self.end), "set both")
        begin, end = self.interval(2000)
        if begin >= end:
            raise ConfigError("season ends before it starts", (self.start, self.end), "swap the two")

    def interval(self, year: int) -> tuple[datetime, datetime]:
        """First moment of the season and the first moment after it, UTC, for a subset of ``year``."""
        if self.start is not None and self.end is not None:
            return _day(self.start), _day(self.end) + timedelta(days=1)
        after = (year, self.last_month + 1) if self.last_month < 12 else (year + 1, 1)
        return datetime(year, self.first_month, 1, tzinfo=UTC), datetime(*after, 1, tzinfo=UTC)

    def holds(self, moment: datetime, year: int) -> bool:
        """Whether ``moment`` lies in the season of a subset of ``year``."""
        begin, end = self.interval(year)
        return begin <= moment < end


@dataclass(frozen=True)
class Dropped:
    """A product that is not used, and why."""

    product: str
    reason: str


@dataclass(frozen=True)
class Choice:
    """What a search came to for one ROI.

    Attributes:
        kept: In order of acquisition.
        dropped: The rest of what the catalogue gave.
    """

    kept: tuple[Product, ...]
    dropped: tuple[Dropped, ...]


def open_catalogue(
    stac_url: str, *, retries: int = 6, backoff_s: float = 1.0, timeout_s: float = 60.0
) -> pystac_client.Client:  # fmt: skip
    """Connect to a STAC API: once for many searches.

    Args:
        stac_url: Root of the API.
        retries: How often to ask again after 429 (at the server's ``Retry-After``), 5xx or a lost connection.
        backoff_s: First pause in seconds where the server names none; doubles each time.
        timeout_s: Longest wait for one answer in seconds.

    Raises:
        SourceError: It cannot be reached, or is no STAC API.
    """
    retry = Retry(
        total=retries, backoff_factor=backoff_s, status_forcelist=TRANSIENT, allowed_methods=None,
        respect_retry_after_header=True,
    )  # fmt: skip
    try:
        return pystac_client.Client.open(stac_url, stac_io=StacApiIO(max_retries=retry, timeout=timeout_s))
    except _FAILURES as error:
        raise _failed(stac_url, error) from error


def search(
    catalogue: pystac_client.Client,
    collection: str,
    roi: Roi,
    season: Season,
    year: int,
    *,
    max_cloud: float,
    cloud_filter: Literal["cql2", "query"] = "cql2",
    page_size: int = 100,
) -> list[Product]:
    """Ask a STAC API for the products over ``roi`` in ``season``.

    Args:
        catalogue: The API, from :func:`open_catalogue`.
        collection: Id of the collection of L2A products.
        roi: Where; asked as a polygon in longitude and latitude (``intersects``).
        season: When.
        year: The subset's year.
        max_cloud: Greatest cloud cover of the tile in percent, inclusive.
        cloud_filter: ``cql2`` (the filter extension) or ``query`` (its forerunner), whichever the server offers.
        page_size: Items a page.

    Returns:
        Each product once, by acquisition and name.

    Raises:
        SourceError: The catalogue cannot be reached, refuses, or answers something unusable.
    """
    begin, end = season.interval(year)
    asked: dict[str, Any] = {
        "collections": [collection],
        "intersects": shapely.geometry.mapping(outline(roi)),
        # STAC intervals include their end; sensing times carry milliseconds.
        "datetime": f"{_iso(begin)}/{_iso(end - timedelta(milliseconds=1))}",
        "sortby": [{"field": "properties.datetime", "direction": "asc"}, {"field": "id", "direction": "asc"}],
        "limit": page_size,
    }
    if cloud_filter == "cql2":
        asked["filter"] = {"op": "<=", "args": [{"property": "eo:cloud_cover"}, max_cloud]}
        asked["filter_lang"] = "cql2-json"
    elif cloud_filter == "query":
        asked["query"] = {"eo:cloud_cover": {"lte": max_cloud}}
    else:
        raise ConfigError("source.cloud_filter", cloud_filter, "use cql2 or query")
    try:
        items = list(catalogue.search(**asked).items_as_dicts())
    except _FAILURES as error:
        raise _failed(catalogue.get_self_href() or catalogue.id, error) from error
    products = {product.id: product for product in map(Product.from_item, items)}
    return sorted(products.values(), key=lambda p: (p.acquired, p.id))


def choose(
    products: Sequence[Product], roi: Roi, targets: shapely.Geometry, season: Season, year: int, *,
    max_cloud: float, limit: int | None,
) -> Choice:  # fmt: skip
    """Keep the products worth fetching for ``roi``.

    The catalogue's filters are applied again, so that a folder of products is held to the same rules.

    Args:
        products: What the catalogue gave.
        roi: The region.
        targets: Union of the parcels in the ROI that carry a target class, longitude and latitude.
        season: When.
        year: The subset's year.
        max_cloud: Greatest cloud cover of the tile in percent; unknown cover passes.
        limit: Most products an ROI; None for all. See :func:`spread`.
    """
    begin, end = season.interval(year)
    kept: list[Product] = []
    dropped: list[Dropped] = []
    newest = _newest(products)
    ground = outline(roi)
    for product in sorted(products, key=lambda p: (p.acquired, p.id)):
        best = newest[product.datatake_tile]
        if not begin <= product.acquired < end:
            reason = f"outside the season {begin:%Y-%m-%d} to {end - timedelta(days=1):%Y-%m-%d}"
        elif product.cloud_cover > max_cloud:
            reason = f"cloud cover {product.cloud_cover:g} % is above {max_cloud:g} %"
        elif product.crs != roi.crs:
            reason = f"in {product.crs}, the ROI in {roi.crs}"
        elif product.id != best.id and not _shows_more(product, best, ground):
            reason = f"the same acquisition in an older processing ({product.baseline}; {best.baseline} is kept)"
        elif not product.geometry.intersects(targets):
            reason = "its footprint meets no parcel of a target class"
        else:
            kept.append(product)
            continue
        dropped.append(Dropped(product.id, reason))
    within = kept if limit is None else spread(kept, limit)
    ids = {product.id for product in within}
    dropped += [Dropped(p.id, f"over the limit of {limit} products an ROI") for p in kept if p.id not in ids]
    return Choice(tuple(within), tuple(sorted(dropped, key=lambda d: d.product)))


def spread(products: Sequence[Product], limit: int) -> list[Product]:
    """The ``limit`` best products: from each month in turn the least cloudy one that is left.

    A plain order by cloud would take most dates from the dry months, and so show each crop at one stage only.
    """
    months: dict[tuple[int, int], list[Product]] = defaultdict(list)
    for product in sorted(products, key=lambda p: (_cloud(p), p.acquired, p.id)):
        months[product.acquired.year, product.acquired.month].append(product)
    ranked = sorted(
        (rank, _cloud(product), product.acquired, product.id, product)
        for queue in months.values()
        for rank, product in enumerate(queue)
    )
    return sorted((entry[-1] for entry in ranked[:limit]), key=lambda p: (p.acquired, p.id))


def outline(roi: Roi) -> shapely.Geometry:
    """The ROI's bounds as a polygon in longitude and latitude, its edges densified so that they stay straight."""
    return to_wgs84(shapely.segmentize(shapely.box(*roi.bounds), 1000.0), roi.crs)


def to_wgs84(geometry: shapely.Geometry, crs: str) -> shapely.Geometry:
    """``geometry`` from ``crs`` to longitude and latitude."""
    return shapely.transform(geometry, _to_wgs84(crs).transform, interleaved=False)


@lru_cache(maxsize=32)
def _to_wgs84(crs: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(crs, WGS84, always_xy=True)


def _newest(products: Sequence[Product]) -> Mapping[tuple[str, str, str], Product]:
    newest: dict[tuple[str, str, str], Product] = {}
    for product in sorted(products, key=lambda p: (p.baseline, p.id.rsplit("_", 1)[-1], p.id)):
        newest[product.datatake_tile] = product
    return newest


def _shows_more(product: Product, best: Product, ground: shapely.Geometry) -> bool:
    """Whether ``best`` misses most of what ``product`` shows of the ground.

    The halves of an acquisition that two stations received are products of their own, neither a newer processing.
    """
    here = product.geometry.intersection(ground)
    return bool(here.area > 0 and here.difference(best.geometry).area > here.area / 2)


def _cloud(product: Product) -> float:
    return product.cloud_cover if product.cloud_cover == product.cloud_cover else 100.0


def _day(text: str) -> datetime:
    try:
        return datetime.fromisoformat(str(text)).replace(tzinfo=UTC)
    except ValueError as error:
        raise ConfigError("season.start and season.end are ISO dates", text, "write 2022-04-01") from error


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _failed(stac_url: str, error: Exception) -> SourceError:
    return SourceError(
        f"the catalogue at {stac_url} failed ({_brief(error)})", None,
        "check source.stac_url, source.collection and the network, and run the same command again",
    )  # fmt: skip


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
