"""What only inconsistent items and direct callers meet: times that last, properties that are missing, bad searches."""

import pytest

from data_prep.simulate.stac_search import BadSearch, Search, find


def item(name: str, **properties) -> dict:
    ring = [[0, 0], [1, 0], [1, 1], [0, 0]]
    return {
        "type": "Feature",
        "id": name,
        "collection": "c",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"datetime": "2022-06-01T00:00:00Z", **properties},
        "assets": {},
    }


def ids(items, **search) -> list[str]:
    return [found["id"] for found in find(items, Search(**search)).items]


def test_an_item_that_lasts_is_found_by_any_moment_of_it():
    long = item("a", start_datetime="2022-05-01T00:00:00Z", end_datetime="2022-07-01T00:00:00Z")
    short = item("b")
    assert ids([long, short], datetime="2022-05-10T00:00:00Z") == ["a"]
    assert ids([long, short], datetime="2022-06-30T00:00:00Z/..") == ["a"]
    assert ids([long, short], datetime="../2022-06-01T00:00:00Z") == ["b", "a"]
    assert ids([long, short], datetime="2022-07-01T00:00:01Z/..") == []


@pytest.mark.parametrize("descending", [False, True])
def test_items_without_the_field_come_last_either_way(descending):
    items = [item("none"), item("null", cover=None), item("two", cover=2), item("one", cover=1)]
    found = ids(items, sortby=[("cover", descending)])
    assert found[:2] == (["two", "one"] if descending else ["one", "two"])
    assert set(found[2:]) == {"none", "null"}


def test_nested_properties_can_be_asked_for():
    items = [item("a", statistics={"water": 3.5}), item("b", statistics={}), item("c")]
    assert ids(items, query={"statistics.water": {"gt": 3}}) == ["a"]


@pytest.mark.parametrize(
    ("search", "word"),
    [
        ({"datetime": "../.."}, "interval"),
        ({"datetime": "a/b/c"}, "interval"),
        ({"datetime": "2022-06-01T00:00:00"}, "time zone"),
        ({"datetime": "soon"}, "RFC 3339"),
        ({"datetime": "2022-07-01T00:00:00Z/2022-06-01T00:00:00Z"}, "before it begins"),
        ({"bbox": [1, 2, 3]}, "4 or 6"),
        ({"bbox": [1, 4, 3, 2]}, "west, south"),
        ({"bbox": [1, 2, 3, 4], "intersects": {"type": "Point", "coordinates": [1, 2]}}, "exclude"),
        ({"intersects": {"type": "Circle", "coordinates": [1, 2]}}, "GeoJSON"),
        ({"query": {"a": {"startsWith": 3}}}, "string"),
    ],
)
def test_bad_searches_say_why(search, word):
    with pytest.raises(BadSearch, match=word):
        find([item("a")], Search(**search))


def test_pages_and_limits():
    items = [item(f"{n:02d}") for n in range(7)]
    page = find(items, Search(limit=3, offset=6))
    assert (len(page.items), page.matched, page.offset) == (1, 7, 6)
    assert find(items, Search(limit=3, offset=9)).items == []
    assert len(find(items, Search(limit=10**9)).items) == 7
