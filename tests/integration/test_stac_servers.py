"""The in-memory STAC API and stac-fastapi-pgstac are asked the same, and both must say what brute force says."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pgstac_support
import pystac_client
import pytest
import requests
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real import need

from data_prep.simulate.catalogue import COLLECTION, collection, product_uuid
from data_prep.simulate.services import serve

START = datetime(2022, 3, 1, 10, 6, 1, 24000, tzinfo=UTC)


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@pytest.fixture(scope="session")
def items() -> list[dict]:
    """Forty consistent items: every one has every property, and its own time; some lie by the antimeridian."""
    rng = np.random.default_rng(7)
    made = []
    for index in range(40):
        west = rng.uniform(10, 18) if index % 8 else rng.choice([-179.9, 178.5])
        south = rng.uniform(44, 50)
        outline = shapely.affinity.rotate(shapely.box(west, south, west + 1.2, south + 0.9), rng.uniform(-8, 8))
        moment = iso(START + timedelta(days=int(rng.integers(0, 240)), milliseconds=index))
        name = f"S2A_MSIL2A_{index:03d}"
        made.append(
            {
                "type": "Feature",
                "stac_version": "1.1.0",
                "stac_extensions": [],
                "id": name,
                "collection": COLLECTION,
                "bbox": list(outline.bounds),
                "geometry": json.loads(shapely.to_geojson(outline)),
                "properties": {
                    "datetime": moment,
                    "start_datetime": moment,
                    "end_datetime": moment,
                    # Ties on purpose: order among them must be the same on both servers.
                    "eo:cloud_cover": float(rng.integers(0, 12) * 8.25),
                    "sat:relative_orbit": int(rng.integers(1, 4)),
                    "platform": f"sentinel-2{'ab'[index % 2]}",
                    "grid:code": f"MGRS-33U{'XYV'[index % 3]}P",
                    "processing:version": "05.10" if index % 3 else "02.14",
                },
                "links": [],
                "assets": {
                    "Product": {
                        "href": f"https://download.dataspace.copernicus.eu/odata/v1/Products({product_uuid(name)})/$value"
                    }
                },
            }
        )
    return made


@pytest.fixture(scope="session")
def memory(items, tmp_path_factory):
    folder = tmp_path_factory.mktemp("region")
    (folder / "stac").mkdir()
    (folder / "products").mkdir()
    (folder / "stac" / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    (folder / "stac" / "collection.json").write_text(json.dumps(collection(items)))
    for item in items:
        (folder / "products" / f"{item['id']}.zip").write_bytes(b"")
    with serve(folder) as endpoints:
        yield endpoints.stac_url


@pytest.fixture(scope="session")
def database(items):
    need(pgstac_support.missing())
    with pgstac_support.pgstac(items, collection(items)) as url:
        yield url


@pytest.fixture(params=["memory", "database"])
def url(request) -> str:
    return request.getfixturevalue(request.param)


def post(url: str, **body) -> list[str]:
    """Ids of all pages, in order."""
    address, ids, pages = f"{url}/search", [], 0
    body.setdefault("limit", 100)
    while True:
        answer = requests.post(address, json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page["features"]) <= body["limit"]
        ids += [feature["id"] for feature in page["features"]]
        following = [link for link in page["links"] if link["rel"] == "next"]
        pages += 1
        if not following:
            return ids
        assert pages < 100
        address, body = following[0]["href"], following[0]["body"]


def get(url: str, path: str = "/search", **parameters) -> list[str]:
    ids = []
    address: str | None = f"{url}{path}"
    query = {"limit": 100, **parameters}
    while address:
        answer = requests.get(address, params=query, timeout=30)
        assert answer.status_code == 200, answer.text
        ids += [feature["id"] for feature in answer.json()["features"]]
        address = next((link["href"] for link in answer.json()["links"] if link["rel"] == "next"), None)
        query = {}
    return ids


def brute(items, test=lambda item: True) -> set[str]:
    return {item["id"] for item in items if test(item)}


def when(item) -> datetime:
    return datetime.fromisoformat(item["properties"]["datetime"])


def ground(item) -> shapely.Geometry:
    return shapely.geometry.shape(item["geometry"])


def by(name, test):
    return lambda item: test(item["properties"][name])


def compare(operator: str, name: str, value) -> dict:
    return {"op": operator, "args": [{"property": name}, value]}


JULY, AUGUST = datetime(2022, 7, 1, tzinfo=UTC), datetime(2022, 8, 1, tzinfo=UTC)
SQUARE = shapely.box(13, 46, 15, 48)
SHAPES = {
    "Point": shapely.Point(14.1, 47.2),
    "MultiPoint": shapely.MultiPoint([(14.1, 47.2), (11.5, 45.1)]),
    "LineString": shapely.LineString([(10, 45), (18, 50)]),
    "MultiLineString": shapely.MultiLineString([[(10, 45), (12, 46)], [(16, 50), (18, 49)]]),
    "Polygon": SQUARE.difference(shapely.box(13.2, 46.2, 14.8, 47.8)),
    "MultiPolygon": shapely.MultiPolygon([shapely.box(11, 45, 11.5, 45.5), shapely.box(17, 49, 17.5, 49.5)]),
    "GeometryCollection": shapely.GeometryCollection([shapely.Point(14.1, 47.2), shapely.box(17, 49, 17.5, 49.5)]),
}
CASES = {
    "everything": ({}, lambda item: True),
    "interval": ({"datetime": f"{iso(JULY)}/{iso(AUGUST)}"}, lambda item: JULY <= when(item) <= AUGUST),
    "open end": ({"datetime": f"{iso(JULY)}/.."}, lambda item: when(item) >= JULY),
    "open start": ({"datetime": f"../{iso(JULY)}"}, lambda item: when(item) <= JULY),
    "other time zone": ({"datetime": "2022-07-01T02:00:00+02:00/.."}, lambda item: when(item) >= JULY),
    "bbox": ({"bbox": SQUARE.bounds}, lambda item: ground(item).intersects(SQUARE)),
    "bbox of nothing": ({"bbox": [-60, -10, -50, -5]}, lambda item: False),
    "ids": ({"ids": ["S2A_MSIL2A_003", "S2A_MSIL2A_031", "none"]}, lambda item: item["id"][-2:] in ("03", "31")),
    "collection": ({"collections": [COLLECTION]}, lambda item: True),
    "other collection": ({"collections": ["landsat"]}, lambda item: False),
    **{
        shape: ({"intersects": json.loads(shapely.to_geojson(geometry))}, lambda i, g=geometry: ground(i).intersects(g))
        for shape, geometry in SHAPES.items()
    },
    **{
        f"query {operator}": ({"query": {"eo:cloud_cover": {operator: 33.0}}}, by("eo:cloud_cover", test))
        for operator, test in {
            "eq": lambda cover: cover == 33,
            "neq": lambda cover: cover != 33,
            "lt": lambda cover: cover < 33,
            "lte": lambda cover: cover <= 33,
            "gt": lambda cover: cover > 33,
            "gte": lambda cover: cover >= 33,
        }.items()
    },
    "query two": (
        {"query": {"eo:cloud_cover": {"gte": 10, "lt": 60}, "platform": {"eq": "sentinel-2a"}}},
        lambda i: 10 <= i["properties"]["eo:cloud_cover"] < 60 and i["properties"]["platform"] == "sentinel-2a",
    ),
    "cql2 <=": ({"filter": compare("<=", "eo:cloud_cover", 33)}, by("eo:cloud_cover", lambda cover: cover <= 33)),
    "cql2 not": (
        {"filter": {"op": "not", "args": [compare("=", "platform", "sentinel-2a")]}},
        by("platform", lambda platform: platform != "sentinel-2a"),
    ),
    "cql2 and or": (
        {
            "filter": {
                "op": "and",
                "args": [
                    compare("<", "eo:cloud_cover", 60),
                    {
                        "op": "or",
                        "args": [compare("=", "sat:relative_orbit", 2), compare("=", "processing:version", "02.14")],
                    },
                ],
            }
        },
        lambda i: (
            i["properties"]["eo:cloud_cover"] < 60
            and (i["properties"]["sat:relative_orbit"] == 2 or i["properties"]["processing:version"] == "02.14")
        ),
    ),
    "cql2 between": (
        {"filter": {"op": "between", "args": [{"property": "eo:cloud_cover"}, 10, 60]}},
        by("eo:cloud_cover", lambda cover: 10 <= cover <= 60),
    ),
    "cql2 in": ({"filter": compare("in", "grid:code", ["MGRS-33UXP"])}, by("grid:code", lambda c: c == "MGRS-33UXP")),
    "cql2 space": (
        {"filter": {"op": "s_intersects", "args": [{"property": "geometry"}, json.loads(shapely.to_geojson(SQUARE))]}},
        lambda item: ground(item).intersects(SQUARE),
    ),
    "cql2 time": (
        {"filter": compare(">=", "datetime", {"timestamp": iso(JULY)})},
        lambda item: when(item) >= JULY,
    ),
    "all at once": (
        {
            "collections": [COLLECTION],
            "bbox": SQUARE.bounds,
            "datetime": f"{iso(START)}/{iso(AUGUST)}",
            "query": {"eo:cloud_cover": {"lte": 70}},
        },
        lambda i: ground(i).intersects(SQUARE) and when(i) <= AUGUST and i["properties"]["eo:cloud_cover"] <= 70,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_search_finds_what_brute_force_finds(url, items, case):
    body, test = CASES[case]
    found = post(url, **body)
    assert set(found) == brute(items, test)
    assert len(found) == len(set(found))
    assert post(url, **body, limit=9) == found


def over_the_antimeridian(item) -> bool:
    return any(ground(item).intersects(shapely.box(w, 40, e, 55)) for w, e in ((178, 180), (-180, -179)))


# What pgstac's request model does not offer (in, string operators, CQL2 text in a POST), or answers with 500 (a bbox
# of six numbers).
MEMORY_CASES = {
    "bbox of six": ({"bbox": [13, 46, -10, 15, 48, 900]}, CASES["bbox"][1]),
    "antimeridian": ({"bbox": [178, 40, -179, 55]}, over_the_antimeridian),
    "moment": ({"datetime": "2022-03-01T00:00:00Z"}, lambda item: False),
    "query in": ({"query": {"sat:relative_orbit": {"in": [1, 3]}}}, by("sat:relative_orbit", lambda o: o in (1, 3))),
    "query startsWith": ({"query": {"grid:code": {"startsWith": "MGRS-33UX"}}}, by("grid:code", lambda c: "UX" in c)),
    "query endsWith": ({"query": {"grid:code": {"endsWith": "UYP"}}}, by("grid:code", lambda c: "UYP" in c)),
    "query contains": ({"query": {"properties.platform": {"contains": "2a"}}}, by("platform", lambda p: "2a" in p)),
    "query time": ({"query": {"datetime": {"gte": "2022-07-01T02:00:00+02:00"}}}, lambda item: when(item) >= JULY),
    "query id": ({"query": {"id": {"eq": "S2A_MSIL2A_003"}}}, lambda item: item["id"] == "S2A_MSIL2A_003"),
    "query of another type": ({"query": {"platform": {"lt": 3}}}, lambda item: False),
    "query of nothing": ({"query": {"view:azimuth": {"neq": 3}}}, lambda item: False),
    "cql2 text": (
        {"filter": "eo:cloud_cover <= 33 AND platform LIKE '%2a'", "filter-lang": "cql2-text"},
        lambda i: i["properties"]["eo:cloud_cover"] <= 33 and i["properties"]["platform"] == "sentinel-2a",
    ),
    "cql2 of nothing": ({"filter": compare("<", "view:azimuth", 3)}, lambda item: False),
    "cql2 not of nothing": ({"filter": {"op": "not", "args": [compare("<", "view:azimuth", 3)]}}, lambda item: False),
    "cql2 null": ({"filter": {"op": "isNull", "args": [{"property": "view:azimuth"}]}}, lambda item: True),
    "cql2 nothing or cloud": (
        {"filter": {"op": "or", "args": [compare("<", "view:azimuth", 3), compare("<=", "eo:cloud_cover", 33)]}},
        CASES["cql2 <="][1],
    ),
}


@pytest.mark.parametrize("case", MEMORY_CASES)
def test_memory_answers_what_the_standard_has_beyond_pgstac(memory, items, case):
    body, test = MEMORY_CASES[case]
    found = post(memory, **body)
    assert set(found) == brute(items, test)
    assert post(memory, **body, limit=3) == found


def test_one_moment_finds_what_was_sensed_then(memory, items):
    moment = items[3]["properties"]["datetime"]
    assert post(memory, datetime=moment) == brute_list(items, lambda item: item["properties"]["datetime"] == moment)


def brute_list(items, test) -> list[str]:
    return [item["id"] for item in items if test(item)]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"filter": {"op": "nonsense", "args": [1, 2]}}, "nonsense"),
        ({"filter": {"op": "="}}, "CQL2"),
        ({"filter": {"op": "=", "args": [{"op": "nonsense", "args": [1]}, 2]}}, "nonsense"),
        ({"filter": "((", "filter-lang": "cql2-text"}, "CQL2"),
        ({"filter": compare("=", "id", "a"), "filter-crs": "EPSG:3857"}, "filter-crs"),
        ({"query": {"eo:cloud_cover": {"about": 3}}}, "about"),
        ({"query": {"eo:cloud_cover": {"in": 3}}}, "list"),
        ({"query": {"datetime": {"lt": "soon"}}}, "soon"),
        ({"intersects": {"type": "Polygon", "coordinates": [[1, 2]]}}, "intersects"),
        ({"intersects": {"type": "Point", "coordinates": [1, 2]}, "bbox": [1, 2, 3, 4]}, "mutually exclusive"),
        ({"bbox": [1, 5, 3, 4]}, "latitude"),
        ({"bbox": [-200, 5, 3, 14]}, "180"),
        ({"bbox": [1, 2, 3]}, "bbox"),
        ({"datetime": "2022-07-01"}, "datetime"),
        ({"datetime": "../.."}, "datetime"),
        ({"limit": -1}, "limit"),
        ({"token": "next:x"}, "token"),
        ({"sortby": [{"field": "id", "direction": "up"}]}, "direction"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_its_reason(memory, body, word):
    answer = requests.post(f"{memory}/search", json=body, timeout=30)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    assert word in answer.text


@pytest.mark.parametrize(
    "query",
    ["bbox=1,2,3,4&intersects=%7B%7D", "intersects=%7B", "query=%7B", "filter=%7B&filter-lang=cql2-json", "filter=(("],
)
def test_get_refuses_alike(memory, query):
    answer = requests.get(f"{memory}/search?{query}", timeout=30)
    assert answer.status_code == 400
    assert answer.json()["description"]


def test_fields_are_chosen(memory, items):
    def first(**body) -> dict:
        return requests.post(f"{memory}/search", json={"limit": 1, **body}, timeout=30).json()["features"][0]

    slim = first(fields={"include": ["properties.eo:cloud_cover", "geometry"]})
    assert set(slim) == {"id", "collection", "type", "links", "geometry", "properties"}
    assert list(slim["properties"]) == ["eo:cloud_cover"]
    rest = first(fields={"exclude": ["assets", "properties.platform"]})
    assert "assets" not in rest
    assert "platform" not in rest["properties"]
    assert "eo:cloud_cover" in rest["properties"]
    query = "fields=id,properties.platform,-geometry&limit=1"
    answer = requests.get(f"{memory}/search?{query}", timeout=30).json()["features"][0]
    assert set(answer["properties"]) == {"platform"}


def test_pages_lead_back_as_well(memory):
    page = requests.get(f"{memory}/search", params={"limit": 15}, timeout=30).json()
    assert (page["numberMatched"], page["numberReturned"]) == (40, 15)
    second = requests.get({link["rel"]: link["href"] for link in page["links"]}["next"], timeout=30).json()
    links = {link["rel"]: link["href"] for link in second["links"]}
    assert requests.get(links["previous"], timeout=30).json()["features"] == page["features"]


def test_about_itself(memory, items):
    landing = requests.get(memory, timeout=30).json()
    assert any(uri.endswith("item-search#filter") for uri in landing["conformsTo"])
    assert any(uri == "https://api.stacspec.org/v1.0.0/item-search#sort" for uri in landing["conformsTo"])
    properties = requests.get(f"{memory}/collections/{COLLECTION}/queryables", timeout=30).json()["properties"]
    assert properties["eo:cloud_cover"]["type"] == "number"
    assert requests.get(f"{memory}/collections/landsat/queryables", timeout=30).status_code == 404
    (only,) = requests.get(f"{memory}/collections", timeout=30).json()["collections"]
    assert only["id"] == COLLECTION
    item = requests.get(f"{memory}/collections/{COLLECTION}/items/{items[0]['id']}", timeout=30).json()
    assert item["assets"]["Product"]["href"].startswith("http://127.0.0.1:")
    assert {link["rel"]: link["href"] for link in item["links"]}["collection"] == f"{memory}/collections/{COLLECTION}"


def test_pystac_client_sorts_and_filters_by_text(memory, items):
    search = pystac_client.Client.open(memory).search(
        filter="eo:cloud_cover <= 33", sortby=["+properties.datetime"], max_items=20, limit=4
    )
    expected = [name for name in order(items, ("datetime", False)) if name in brute(items, CASES["cql2 <="][1])]
    assert [item.id for item in search.items()] == expected[:20]


GET_CASES = {
    "interval": ("interval", {}),
    "bbox": ("bbox", {"bbox": "13,46,15,48"}),
    "ids": ("ids", {"ids": "S2A_MSIL2A_003,S2A_MSIL2A_031"}),
    "intersects": ("Polygon", {"intersects": shapely.to_geojson(SHAPES["Polygon"])}),
    "query": ("query lte", {"query": json.dumps({"eo:cloud_cover": {"lte": 33}})}),
    "cql2-text": ("cql2 <=", {"filter": "eo:cloud_cover <= 33", "filter-lang": "cql2-text"}),
    "cql2-json": (
        "cql2 <=",
        {"filter": json.dumps(compare("<=", "eo:cloud_cover", 33)), "filter-lang": "cql2-json"},
    ),
}


@pytest.mark.parametrize("case", GET_CASES)
def test_get_answers_as_post(url, items, case):
    name, parameters = GET_CASES[case]
    parameters = parameters or CASES[name][0]
    expected = brute(items, CASES[name][1])
    assert set(get(url, **parameters)) == expected
    assert get(url, **parameters, limit=3) == get(url, **parameters)


def test_items_of_a_collection_can_be_searched_too(url, items):
    path = f"/collections/{COLLECTION}/items"
    assert set(get(url, path)) == brute(items)
    assert set(get(url, path, bbox="13,46,15,48", limit=2)) == brute(items, CASES["bbox"][1])
    assert set(get(url, path, datetime=CASES["interval"][0]["datetime"])) == brute(items, CASES["interval"][1])


def order(items, *keys):
    """Ids by (name, descending) in turn; ties by id in the first one's direction, as pgstac has it."""
    rows = sorted(items, key=lambda item: item["id"], reverse=keys[0][1])
    for name, descending in reversed(keys):
        rows = sorted(
            rows,
            key=lambda item, name=name: item["id"] if name == "id" else item["properties"][name],
            reverse=descending,
        )
    return [item["id"] for item in rows]


@pytest.mark.parametrize(
    "keys",
    [
        [("datetime", False)],
        [("datetime", True)],
        [("eo:cloud_cover", False), ("datetime", False)],
        [("eo:cloud_cover", True)],
        [("eo:cloud_cover", False)],
        [("sat:relative_orbit", False), ("eo:cloud_cover", True), ("id", False)],
        [("id", False)],
    ],
)
def test_sort(url, items, keys):
    for prefix in ("", "properties."):
        sortby = [
            {"field": name if name == "id" else prefix + name, "direction": "desc" if descending else "asc"}
            for name, descending in keys
        ]
        expected = order(items, *keys)
        assert post(url, sortby=sortby) == expected
        assert post(url, sortby=sortby, limit=17) == expected
        text = ",".join(("-" if key["direction"] == "desc" else "+") + key["field"] for key in sortby)
        assert get(url, sortby=text, limit=25) == expected


def test_newest_come_first_unless_asked_otherwise(url, items):
    assert post(url) == order(items, ("datetime", True))


def test_pystac_client_reads_both(url, items):
    client = pystac_client.Client.open(url)
    search = client.search(
        collections=[COLLECTION],
        intersects=shapely.geometry.mapping(SQUARE),
        datetime=f"{iso(START)}/{iso(AUGUST)}",
        filter=compare("<=", "eo:cloud_cover", 70),
        filter_lang="cql2-json",
        limit=4,
    )
    found = [item.id for item in search.items()]
    assert set(found) == brute(items, CASES["all at once"][1])
    assert found == [name for name in order(items, ("datetime", True)) if name in set(found)]
    assert client.get_collection(COLLECTION).get_item("S2A_MSIL2A_003").id == "S2A_MSIL2A_003"


@pytest.mark.parametrize(
    ("status", "path"),
    [
        (400, "/search?datetime=yesterday"),
        (400, "/search?datetime=2022-08-01T00:00:00Z/2022-07-01T00:00:00Z"),
        (400, "/search?bbox=1,2,3"),
        (400, "/search?bbox=a,b,c,d"),
        (400, "/search?limit=0"),
        (404, "/collections/landsat"),
        (404, f"/collections/{COLLECTION}/items/none"),
        (404, "/collections/landsat/items"),
    ],
)
def test_errors_are_typed_json(url, status, path):
    answer = requests.get(url + path, timeout=30)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    west=st.floats(8, 19), south=st.floats(43, 51), width=st.floats(0, 8), height=st.floats(0, 6),
    first=st.integers(0, 240), days=st.integers(0, 240), limit=st.integers(1, 50), cover=st.floats(0, 100),
)  # fmt: skip
def test_any_box_interval_cloud_limit_and_page(
    memory, items, west, south, width, height, first, days, limit, cover
):  # fmt: skip
    box = shapely.box(west, south, west + width, south + height)
    begin, end = START + timedelta(days=first), START + timedelta(days=first + days)
    found = post(
        memory,
        bbox=[west, south, west + width, south + height],
        datetime=f"{iso(begin)}/{iso(end)}",
        filter=compare("<=", "eo:cloud_cover", cover),
        limit=limit,
    )
    if width and height:
        expected = brute(
            items,
            lambda i: (
                ground(i).intersects(box) and begin <= when(i) <= end and i["properties"]["eo:cloud_cover"] <= cover
            ),
        )
        assert set(found) == expected
    assert found == [name for name in order(items, ("datetime", True)) if name in set(found)]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    west=st.floats(8, 19), south=st.floats(43, 51), width=st.floats(0.01, 8), height=st.floats(0.01, 6),
    first=st.integers(0, 240), days=st.integers(0, 240), limit=st.integers(2, 50),
)  # fmt: skip
def test_both_servers_agree_on_any_search(memory, database, west, south, width, height, first, days, limit):
    begin, end = START + timedelta(days=first), START + timedelta(days=first + days)
    body = {
        "bbox": [west, south, west + width, south + height],
        "datetime": f"{iso(begin)}/{iso(end)}",
        "sortby": [{"field": "eo:cloud_cover", "direction": "asc"}],
        "limit": limit,
    }
    assert post(memory, **body) == post(database, **body)
