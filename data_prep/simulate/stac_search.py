"""What a STAC item search answers over items in memory: space, time, ids, query, CQL2, order, pages and fields.

The rules are those of STAC API 1.0 and its query, filter, sort and fields extensions; where they leave something open
(order without ``sortby``, ties, an item's time) the answer is that of pgstac, the database behind public catalogues.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import cql2
import shapely
import shapely.geometry

Item = Mapping[str, Any]

MAX_LIMIT: Final = 10_000
"""Most items a page; a greater limit is lowered to it, as stac-fastapi does."""

_TOP_LEVEL: Final = ("id", "collection", "bbox", "geometry")
_TIMES: Final = frozenset({"datetime", "start_datetime", "end_datetime", "created", "updated", "published"})
_ALWAYS: Final = ("id", "collection", "type")
_MISSING: Final = object()
_CQL2_OPERATORS: Final = {
    *("and", "or", "not", "=", "<>", "<", "<=", ">", ">=", "isNull", "like", "between", "in", "casei", "accenti"),
    *("+", "-", "*", "/", "^", "%", "div", "a_equals", "a_contains", "a_containedBy", "a_overlaps"),
    *(f"s_{name}" for name in ("intersects", "equals", "disjoint", "touches", "within", "overlaps", "crosses")),
    *("s_contains", "t_after", "t_before", "t_contains", "t_disjoint", "t_during", "t_equals", "t_finishedBy"),
    *("t_finishes", "t_intersects", "t_meets", "t_metBy", "t_overlappedBy", "t_overlaps", "t_startedBy", "t_starts"),
}


class BadSearch(ValueError):
    """A search that cannot be answered; the message says why (HTTP 400)."""


@dataclass(frozen=True)
class Search:
    """A checked item search.

    Attributes:
        collections: Ids of collections; None for all.
        ids: Ids of items; None for all.
        bbox: 4 or 6 numbers, longitude and latitude; west greater than east crosses the antimeridian.
        intersects: GeoJSON geometry of any type.
        datetime: RFC 3339 moment or interval, ``..`` or nothing for an open end.
        query: Property to {operator: value}.
        filter: CQL2 as text or JSON.
        sortby: (field, descending); None for newest first.
        limit: Items a page.
        offset: Items before this page.
        include: Fields to give; empty for all.
        exclude: Fields to leave out.
    """

    collections: Sequence[str] | None = None
    ids: Sequence[str] | None = None
    bbox: Sequence[float] | None = None
    intersects: Mapping[str, Any] | None = None
    datetime: str | None = None
    query: Mapping[str, Mapping[str, Any]] | None = None
    filter: str | Mapping[str, Any] | None = None
    sortby: Sequence[tuple[str, bool]] | None = None
    limit: int = 10
    offset: int = 0
    include: frozenset[str] = field(default_factory=frozenset)
    exclude: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Page:
    """One page of an answer.

    Attributes:
        items: In order, with the fields asked for.
        matched: Items on all pages.
        offset: Items before this page.
    """

    items: list[dict[str, Any]]
    matched: int
    offset: int


def find(items: Iterable[Item], search: Search) -> Page:
    """Answer ``search``.

    Raises:
        BadSearch: It contradicts itself or cannot be read.
    """
    tests = _tests(search)
    found = [item for item in items if all(test(item) for test in tests)]
    found = _sorted(found, search.sortby)
    page = found[search.offset : search.offset + min(search.limit, MAX_LIMIT)]
    return Page([_pick(item, search.include, search.exclude) for item in page], len(found), search.offset)


def _tests(search: Search) -> list[Callable[[Item], bool]]:
    tests: list[Callable[[Item], bool]] = []
    if search.bbox is not None and search.intersects is not None:
        raise BadSearch("bbox and intersects exclude each other")
    if search.collections:
        tests.append(lambda item: item.get("collection") in search.collections)  # type: ignore[operator]
    if search.ids:
        tests.append(lambda item: item["id"] in search.ids)  # type: ignore[operator]
    if search.datetime:
        begin, end = interval(search.datetime)
        tests.append(lambda item: _times(item)[0] <= end and begin <= _times(item)[1])
    area = _area(search)
    if area is not None:
        tests.append(lambda item: bool(area.intersects(_shape(item))))
    for name, conditions in (search.query or {}).items():
        for operator, value in conditions.items():
            tests.append(_condition(name, operator, value))
    if search.filter:
        tests.append(_cql2(search.filter))
    return tests


def interval(text: str) -> tuple[datetime, datetime]:
    """First and last moment of a STAC ``datetime`` parameter; an open end is the least or greatest datetime.

    Raises:
        BadSearch: It is no RFC 3339 moment or interval, or ends before it begins.
    """
    ends = text.split("/")
    if len(ends) > 2 or all(end in ("", "..") for end in ends):
        raise BadSearch(f"datetime {text!r} is neither a moment nor an interval with a closed end")
    begin, end = ends[0], ends[-1]
    first = datetime.min.replace(tzinfo=UTC) if begin in ("", "..") else _moment(begin)
    last = datetime.max.replace(tzinfo=UTC) if end in ("", "..") else _moment(end)
    if first > last:
        raise BadSearch(f"datetime {text!r} ends before it begins")
    return first, last


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadSearch(f"{text!r} is not a date and time of RFC 3339") from error
    if moment.tzinfo is None:
        raise BadSearch(f"{text!r} has no time zone, which RFC 3339 asks for")
    return moment.astimezone(UTC)


def _times(item: Item) -> tuple[datetime, datetime]:
    """An item's own time: from start to end where it has them (as pgstac reads it), else its datetime."""
    properties = item["properties"]
    begin = properties.get("start_datetime") or properties["datetime"]
    return _moment(begin), _moment(properties.get("end_datetime") or properties["datetime"])


def _area(search: Search) -> shapely.Geometry | None:
    if search.bbox is not None:
        numbers = list(search.bbox)
        if len(numbers) not in (4, 6):
            raise BadSearch(f"bbox has {len(numbers)} numbers; it takes 4 or 6")
        half = len(numbers) // 2
        west, south, east, north = *numbers[:2], *numbers[half : half + 2]
        if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90):
            raise BadSearch(f"bbox {numbers} is not (west, south, east, north) in degrees")
        boxes = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
        return shapely.union_all([shapely.box(left, south, right, north) for left, right in boxes])
    if search.intersects is not None:
        try:
            return shapely.geometry.shape(search.intersects)
        except (ValueError, TypeError, KeyError, AttributeError, shapely.errors.ShapelyError) as error:
            raise BadSearch(f"intersects is not a GeoJSON geometry ({error})") from error
    return None


def _shape(item: Item) -> shapely.Geometry:
    return shapely.geometry.shape(item["geometry"])


def _value(item: Item, name: str) -> Any:
    """A field by its name, with or without ``properties.``; :data:`_MISSING` where the item has none."""
    if name in _TOP_LEVEL:
        return item.get(name, _MISSING)
    value: Any = item["properties"]
    name = name.removeprefix("properties.")
    if name in value:
        return value[name]
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value


def _comparable(name: str, value: Any) -> Any:
    if name.removeprefix("properties.") in _TIMES and isinstance(value, str):
        return _moment(value)
    return value


_COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "eq": lambda left, right: bool(left == right),
    "neq": lambda left, right: bool(left != right),
    "ne": lambda left, right: bool(left != right),
    "lt": lambda left, right: bool(left < right),
    "lte": lambda left, right: bool(left <= right),
    "gt": lambda left, right: bool(left > right),
    "gte": lambda left, right: bool(left >= right),
    "in": lambda left, right: left in right,
    "startsWith": lambda left, right: left.startswith(right),
    "endsWith": lambda left, right: left.endswith(right),
    "contains": lambda left, right: right in left,
}


def _condition(name: str, operator: str, value: Any) -> Callable[[Item], bool]:
    """One condition of the query extension; a missing or null field, or one of another type, never meets it."""
    compare = _COMPARISONS.get(operator)
    if compare is None:
        raise BadSearch(f"query operator {operator!r} is unknown; use {', '.join(_COMPARISONS)}")
    if operator == "in":
        if not isinstance(value, list):
            raise BadSearch(f"query operator 'in' takes a list, not {value!r}")
        wanted: Any = [_comparable(name, member) for member in value]
    else:
        if operator in ("startsWith", "endsWith") and not isinstance(value, str):
            raise BadSearch(f"query operator {operator!r} takes a string, not {value!r}")
        wanted = _comparable(name, value)

    def test(item: Item) -> bool:
        found = _value(item, name)
        if found is _MISSING or found is None:
            return False
        try:
            return compare(_comparable(name, found), wanted)
        except (TypeError, AttributeError):
            return False

    return test


def _cql2(text: str | Mapping[str, Any]) -> Callable[[Item], bool]:
    try:
        expression = cql2.parse_text(text) if isinstance(text, str) else cql2.parse_json(json.dumps(text))
        expression.validate()
    except (cql2.ParseError, cql2.ValidationError, ValueError, TypeError) as error:
        raise BadSearch(f"filter is not CQL2 ({' '.join(str(error).split())})") from error
    unknown = sorted(_operators(expression.to_json()) - _CQL2_OPERATORS)
    if unknown:
        raise BadSearch(f"filter uses the unknown function {unknown[0]!r}")

    # An unknown value (a missing property) does not reduce to true or false; like SQL's null, it does not match.
    def test(item: Item) -> bool:
        reduced: Any = expression.reduce(_plain(item)).to_json()
        return reduced is True

    return test


def _plain(item: Item) -> dict[str, Any]:
    """What filters may ask of: everything but assets and links, which would only be copied for each item."""
    return {key: item[key] for key in ("type", "id", "collection", "geometry", "bbox", "properties") if key in item}


def _operators(expression: Any) -> set[str]:
    if isinstance(expression, Mapping):
        own = {str(expression["op"])} if "op" in expression else set()
        return own.union(*(_operators(part) for part in expression.values()))
    if isinstance(expression, list):
        return set().union(*(_operators(part) for part in expression))
    return set()


def _sorted(items: list[Item], sortby: Sequence[tuple[str, bool]] | None) -> list[Item]:
    """By each field in turn, items without it last; ties by collection and id, in the first field's direction.

    The last is what pgstac does since its version 0.10 (``sortby_with_tiebreakers``).
    """
    order = list(sortby or [("datetime", True)])
    order += [("collection", order[0][1]), ("id", order[0][1])]

    def compare(left: Item, right: Item) -> int:
        for name, descending in order:
            a, b = (_sortable(name, item) for item in (left, right))
            if a == b:
                continue
            if a[0] != b[0]:
                return -1 if a[0] < b[0] else 1
            return -1 if (a < b) != descending else 1
        return 0

    return sorted(items, key=functools.cmp_to_key(compare))


def _sortable(name: str, item: Item) -> tuple[int, Any]:
    value = _comparable(name, _value(item, name))
    if value is _MISSING or value is None:
        return 3, 0
    if isinstance(value, bool | int | float):
        return 0, value
    return (1, value) if isinstance(value, datetime) else (2, str(value))


def _pick(item: Item, include: frozenset[str], exclude: frozenset[str]) -> dict[str, Any]:
    """A copy with the fields asked for; id, collection and type always stay."""
    if not include:
        picked = {key: dict(value) if key == "properties" else value for key, value in item.items()}
    else:
        picked = {key: item[key] for key in (*_ALWAYS, *include) if key in item}
        properties = {name.removeprefix("properties.") for name in include if name not in item}
        chosen = {name: item["properties"][name] for name in sorted(properties) if name in item["properties"]}
        if chosen and "properties" not in include:
            picked["properties"] = chosen
    for name in exclude - include - set(_ALWAYS):
        if name in picked:
            del picked[name]
        else:
            picked.get("properties", {}).pop(name.removeprefix("properties."), None)
    return picked
