"""Search: what is asked of a catalogue, how often, and what is left of its answer."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import shapely
from servers import Answer, serving

from cropseg.core.errors import ConfigError, SourceError
from data_prep.products import Asset, Product, parse_name, utm_of_tile
from data_prep.rois import Roi
from data_prep.search import Season, choose, open_catalogue, outline, search, spread

ROI = Roi("r", "s", "EPSG:32633", (600000, 5300000, 605120, 5305120), 1.0)
TARGETS = outline(ROI)


def product(day: str, cloud: float = 10.0, baseline: str = "05.10", tile: str = "33UXP", made: str = "20220101T000000"):
    sensed = datetime.fromisoformat(f"{day}T10:00:00").replace(tzinfo=UTC)
    name = f"S2A_MSIL2A_{sensed:%Y%m%dT%H%M%S}_N{baseline.replace('.', '')}_R122_T{tile}_{made}"
    return Product(name, "u", sensed, tile, cloud, baseline, "EPSG:32633", shapely.geometry.mapping(TARGETS), {})


def item(p: Product) -> dict:
    return {
        "type": "Feature", "stac_version": "1.1.0", "id": p.id, "collection": "sentinel-2-l2a",
        "geometry": dict(p.footprint), "bbox": list(p.geometry.bounds), "links": [],
        "properties": {"datetime": p.acquired.isoformat(), "eo:cloud_cover": p.cloud_cover,
                       "grid:code": f"MGRS-{p.tile}", "processing:version": p.baseline},
        "assets": {"Product": {
            "href": "https://x/odata/v1/Products(28ca37fe-0847-4601-a50a-6cdf1fb4be6e)/$value", "file:size": 5}},
    }  # fmt: skip


def chosen(products, *, season=None, year=2022, max_cloud=50.0, limit=None, targets=TARGETS, roi=ROI):
    return choose(products, roi, targets, season or Season(), year, max_cloud=max_cloud, limit=limit)


def test_recorded_items_are_read(real_data):
    for name in ("items_2020.json", "items_2026.json"):
        for recorded in json.loads((real_data / "cdse" / name).read_text())["features"]:
            found = Product.from_item(recorded)
            assert found.crs == recorded["assets"]["B02_10m"]["proj:code"]
            assert found.uuid in recorded["assets"]["Product"]["href"]
            assert found.cloud_cover == recorded["properties"]["eo:cloud_cover"]
            assert Product.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_names_and_zones():
    assert parse_name(product("2022-05-01").id)["baseline"] == "05.10"
    assert utm_of_tile("36NYH") == "EPSG:32636"
    assert utm_of_tile("36MYH") == "EPSG:32736"
    with pytest.raises(SourceError, match="not the name"):
        parse_name("LC08_L2SP")


@pytest.mark.parametrize(
    ("season", "year", "inside", "outside"),
    [
        (Season(), 2021, ["2021-04-01T00:00:00", "2021-09-30T23:59:59.999"], ["2021-03-31T23:59:59.999", "2021-10-01"]),
        (Season(1, 12), 2020, ["2020-01-01", "2020-12-31T23:59"], ["2021-01-01", "2019-12-31"]),
        (Season(start="2021-11-01", end="2022-02-28"), 1999, ["2021-11-01", "2022-02-28T23:00"], ["2022-03-01"]),
    ],
)
def test_season(season, year, inside, outside):
    for text in inside:
        assert season.holds(datetime.fromisoformat(text).replace(tzinfo=UTC), year)
    for text in outside:
        assert not season.holds(datetime.fromisoformat(text).replace(tzinfo=UTC), year)


@pytest.mark.parametrize(
    "values",
    [
        {"first_month": 0},
        {"first_month": 9, "last_month": 4},
        {"start": "2021-01-01"},
        {"start": "2021-05-01", "end": "2021-04-01"},
        {"start": "May", "end": "June"},
    ],
)
def test_impossible_seasons(values):
    with pytest.raises(ConfigError):
        Season(**values)


def test_every_drop_has_its_reason():
    good = product("2022-05-01")
    old, new = product("2022-06-01", baseline="02.14"), product("2022-06-01", baseline="05.09")
    far = replace(product("2022-07-01"), footprint=shapely.geometry.mapping(shapely.box(0, 0, 1, 1)))
    zone = replace(product("2022-07-05"), crs="EPSG:32632")
    unknown = product("2022-08-01", cloud=math.nan)
    choice = chosen(
        [good, old, new, far, zone, unknown, product("2022-10-01"), product("2022-05-11", cloud=50.1),
         product("2022-05-21", cloud=50.0)]
    )  # fmt: skip
    assert [p.acquired.month for p in choice.kept] == [5, 5, 6, 8]
    assert new in choice.kept
    reasons = {d.product: d.reason for d in choice.dropped}
    assert "older processing (02.14; 05.09 is kept)" in reasons[old.id]
    assert "meets no parcel" in reasons[far.id]
    assert reasons[zone.id] == "in EPSG:32632, the ROI in EPSG:32633"
    assert sorted(r.split()[0] for r in reasons.values()) == ["cloud", "in", "its", "outside", "the"]


def test_footprint_must_meet_parcels_and_not_only_the_region():
    west, _, east, _ = TARGETS.bounds
    half = replace(
        product("2022-05-01"), footprint=shapely.geometry.mapping(shapely.box(west - 1, 40, (west + east) / 2, 60))
    )
    assert not chosen([half], targets=shapely.box((west + east) / 2 + 0.001, 40, east, 60)).kept
    assert chosen([half], targets=shapely.box(west, 40, east, 60)).kept


def test_limit_takes_the_clearest_of_each_month_in_turn():
    dates = [product("2022-05-01", 1), product("2022-05-11", 2), product("2022-05-21", 3), product("2022-06-01", 30),
             product("2022-06-11", 20), product("2022-07-01", 40)]  # fmt: skip
    assert [p.cloud_cover for p in spread(dates, 3)] == [1, 20, 40]
    assert [p.cloud_cover for p in spread(list(reversed(dates)), 4)] == [1, 2, 20, 40]
    choice = chosen(dates, limit=2)
    assert len(choice.kept) == 2
    assert all("over the limit of 2" in d.reason for d in choice.dropped)


def api(items, *, fail=(), size=2):
    """A STAC API with paging that first gives the answers of ``fail``."""
    pending = list(fail)

    def answer(request):
        if request.method == "GET":
            classes = ["core", "item-search", "item-search#filter", "item-search#query", "item-search#sort"]
            return Answer(200, {"type": "Catalog", "stac_version": "1.0.0", "id": "c", "description": "", "links": [
                {"rel": "search", "href": f"{request.base}/search", "method": "POST", "type": "application/geo+json"}],
                "conformsTo": [f"https://api.stacspec.org/v1.0.0/{name}" for name in classes]})  # fmt: skip
        if pending:
            return pending.pop(0)
        body = json.loads(request.body)
        start = int(body.pop("token", 0))
        links = [
            {
                "rel": "next",
                "href": f"{request.base}/search",
                "method": "POST",
                "body": {**body, "token": str(start + size)},
            }
        ]
        return Answer(200, {"type": "FeatureCollection", "features": items[start : start + size],
                            "links": links if start + size < len(items) else []})  # fmt: skip

    return answer


@pytest.mark.parametrize("cloud_filter", ["cql2", "query"])
def test_pages_are_followed_and_a_busy_server_asked_again(cloud_filter):
    found = [product("2022-05-01"), product("2022-04-01"), product("2022-06-01")]
    fail = [Answer(429, {}, {"Retry-After": "0"}), Answer(503, {}), Answer(500, {})]
    items = [item(p) for p in [*found, found[0]]]
    with serving(api(items, fail=fail)) as server:
        catalogue = open_catalogue(server.url, retries=3, backoff_s=0.01)
        answer = search(
            catalogue, "sentinel-2-l2a", ROI, Season(), 2022, max_cloud=33, cloud_filter=cloud_filter, page_size=2
        )
        asked = json.loads(server.requests[-1].body)
    assert [p.acquired.month for p in answer] == [4, 5, 6]
    assert answer[1].assets["Product"] == Asset("Product", items[0]["assets"]["Product"]["href"], 5)
    assert asked["datetime"] == "2022-04-01T00:00:00.000Z/2022-09-30T23:59:59.999Z"
    assert shapely.geometry.shape(asked["intersects"]).equals_exact(TARGETS, 1e-9)
    limit = asked["filter"]["args"][1] if cloud_filter == "cql2" else asked["query"]["eo:cloud_cover"]["lte"]
    assert limit == 33


@pytest.mark.parametrize("answer", [Answer(503, {}), Answer(400, {"description": "bad"}), Answer(200, b"<html>")])
def test_a_catalogue_that_fails_is_one_clear_error(answer):
    with serving(api([], fail=[answer] * 9)) as server, pytest.raises(SourceError, match="the catalogue at") as caught:
        search(open_catalogue(server.url, retries=2, backoff_s=0.01), "c", ROI, Season(), 2022, max_cloud=33)
    assert "source.stac_url" in caught.value.remedy


def test_no_server_at_all():
    with pytest.raises(SourceError, match="the catalogue at"):
        open_catalogue("http://127.0.0.1:9", retries=1, backoff_s=0.01)


def test_an_item_without_geometry_is_refused():
    with pytest.raises(SourceError, match="lacks geometry"):
        Product.from_item({"id": product("2022-05-01").id, "properties": {}, "assets": {}})


def test_an_item_without_cloud_cover_and_names_that_are_paths():
    given = item(product("2022-05-01"))
    given["properties"]["eo:cloud_cover"] = None
    assert math.isnan(Product.from_item(given).cloud_cover)
    given["properties"]["datetime"] = "yesterday"
    with pytest.raises(SourceError, match="yesterday"):
        Product.from_item(given)
    with pytest.raises(SourceError, match="not the name"):  # it would leave the cache folder
        Product.from_item({**given, "id": f"{given['id']}/../../../elsewhere"})


def test_two_halves_of_one_acquisition_are_both_kept():
    """Received by two stations: equal but for the time of making and the ground."""
    west, south, east, north = TARGETS.bounds
    one, other = product("2022-05-01"), product("2022-05-01", made="20220101T000001")
    middle = west + (east - west) * 0.4
    left = replace(one, footprint=shapely.geometry.mapping(shapely.box(west - 1, south - 1, middle, north + 1)))
    right = replace(other, footprint=shapely.geometry.mapping(shapely.box(middle, south - 1, east + 1, north + 1)))
    assert chosen([left, right]).kept == (left, right)
    assert chosen([one, right]).kept == (right,)  # most of what the older one shows is on the newer one
    assert chosen([one, other]).kept == (other,)
