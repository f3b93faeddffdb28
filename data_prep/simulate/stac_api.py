"""A STAC API over a folder's ``items.json``: stac-fastapi with a client that answers from memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlencode

import attr
from fastapi import FastAPI, Request
from pydantic import Field, ValidationError
from pydantic_settings import SettingsConfigDict
from stac_fastapi.api.app import StacApi
from stac_fastapi.api.models import (
    ItemCollectionUri,
    create_get_request_model,
    create_post_request_model,
    create_request_model,
)
from stac_fastapi.extensions.fields import FieldsExtension
from stac_fastapi.extensions.filter import FilterExtension
from stac_fastapi.extensions.filter.client import BaseFiltersClient
from stac_fastapi.extensions.filter.request import FilterExtensionPostRequest
from stac_fastapi.extensions.pagination import TokenPaginationExtension
from stac_fastapi.extensions.query import QueryExtension
from stac_fastapi.extensions.sort import SortExtension
from stac_fastapi.types.config import ApiSettings
from stac_fastapi.types.core import BaseCoreClient
from stac_fastapi.types.errors import InvalidQueryParameter, NotFoundError
from stac_fastapi.types.requests import get_base_url

from cropseg.core.storage import read_json
from data_prep.simulate.catalogue import NOTE, with_host
from data_prep.simulate.stac_search import BadSearch, Page, Search, find

_CRS84: Final = "http://www.opengis.net/def/crs/OGC/1.3/CRS84"
_GEOJSON: Final = "application/geo+json"
_SORT_CLASSES: Final = (
    "https://api.stacspec.org/v1.0.0/item-search#sort",
    "https://api.stacspec.org/v1.0.0/ogcapi-features#sort",
)
_QUERYABLES: Final = {
    "id": {"type": "string"},
    "collection": {"type": "string"},
    "geometry": {"$ref": "https://geojson.org/schema/Geometry.json"},
    "datetime": {"type": "string", "format": "date-time"},
    "platform": {"type": "string"},
    "grid:code": {"type": "string"},
    "product:type": {"type": "string"},
    "processing:version": {"type": "string"},
    "eo:cloud_cover": {"type": "number", "minimum": 0, "maximum": 100},
    "sat:relative_orbit": {"type": "integer", "minimum": 1},
}


class _Settings(ApiSettings):
    """Without the ``.env`` file of whoever's folder this runs in."""

    model_config = SettingsConfigDict(env_file=None, extra="allow")


class FilterPostRequest(FilterExtensionPostRequest):
    """A POST search may carry its filter as CQL2 text too, as it may in a GET."""

    filter_expr: str | dict[str, Any] | None = Field(None, alias="filter")  # type: ignore[assignment]
    filter_lang: Literal["cql2-json", "cql2-text"] | None = Field(None, alias="filter-lang")  # type: ignore[assignment]


@attr.s
class TextFilterExtension(FilterExtension):
    """The filter extension with :class:`FilterPostRequest`."""

    POST = FilterPostRequest


@attr.s
class Queryables(BaseFiltersClient):
    """What a filter may ask of; other properties of the items work as well."""

    collections: Mapping[str, Any] = attr.ib(factory=dict)

    def get_queryables(self, collection_id: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """JSON Schema of the queryable properties."""
        if collection_id is not None and collection_id not in self.collections:
            raise NotFoundError(f"no collection {collection_id}")
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": str(kwargs["request"].url),
            "type": "object",
            "title": "Queryables",
            "properties": _QUERYABLES,
            "additionalProperties": True,
        }


@attr.s
class MemoryClient(BaseCoreClient):
    """Answers from items held in memory.

    Attributes:
        collections: STAC collections by id.
        items: STAC items.
        post_model: Request model of ``POST /search``, which checks GET parameters as well.
    """

    collections: Mapping[str, Mapping[str, Any]] = attr.ib(factory=dict)
    items: Sequence[Mapping[str, Any]] = attr.ib(factory=list)
    post_model: Any = attr.ib(default=None)

    def all_collections(self, **kwargs: Any) -> Any:
        """``GET /collections``."""
        base = get_base_url(kwargs["request"])
        return {
            "collections": [self._collection(name, base) for name in self.collections],
            "links": [_link("root", base), _link("self", f"{base}collections")],
        }

    def get_collection(self, collection_id: str, **kwargs: Any) -> Any:
        """``GET /collections/{id}``."""
        return self._collection(collection_id, get_base_url(kwargs["request"]))

    def get_item(self, item_id: str, collection_id: str, **kwargs: Any) -> Any:
        """``GET /collections/{id}/items/{id}``."""
        for item in self.items:
            if item["id"] == item_id and item["collection"] == collection_id:
                return _linked(dict(item), get_base_url(kwargs["request"]))
        raise NotFoundError(f"no item {item_id} in collection {collection_id}")

    def item_collection(self, collection_id: str, **kwargs: Any) -> Any:  # type: ignore[override]
        """``GET /collections/{id}/items``, with every parameter of a search."""
        if collection_id not in self.collections:
            raise NotFoundError(f"no collection {collection_id}")
        return self.get_search(collections=[collection_id], **kwargs)

    def get_search(self, **kwargs: Any) -> Any:  # type: ignore[override]
        """``GET /search``: read into the model of a POST, so that both are held to the same rules."""
        request: Request = kwargs.pop("request")
        asked = {key: value for key, value in kwargs.items() if value is not None}
        for key in ("intersects", "query"):
            if key in asked:
                asked[key] = _json(key, asked[key])
        if "sortby" in asked:
            asked["sortby"] = [
                {"field": name.strip().lstrip("+-"), "direction": "desc" if name.strip().startswith("-") else "asc"}
                for name in asked["sortby"]
            ]
        if "fields" in asked:
            names = [name.strip() for name in asked["fields"]]
            asked["fields"] = {
                "include": [name.lstrip("+") for name in names if not name.startswith("-")],
                "exclude": [name[1:] for name in names if name.startswith("-")],
            }
        if asked.get("filter_lang") == "cql2-json" and "filter_expr" in asked:
            asked["filter_expr"] = _json("filter", asked["filter_expr"])
        aliases = {"filter_expr": "filter", "filter_crs": "filter-crs", "filter_lang": "filter-lang"}
        try:
            model = self.post_model(**{aliases.get(key, key): value for key, value in asked.items()})
        except ValidationError as error:
            raise InvalidQueryParameter(_explain(error)) from error
        page = self._find(model)
        parameters = [(key, value) for key, value in request.query_params.multi_items() if key != "token"]
        here = str(request.url).split("?")[0]
        links = [
            _link(relation, f"{here}?{urlencode([*parameters, ('token', token)])}", _GEOJSON) | {"method": "GET"}
            for relation, token in _tokens(page, model.limit or 10)
        ]
        return self._answer(page, links, request)

    def post_search(self, search_request: Any, **kwargs: Any) -> Any:
        """``POST /search``."""
        request: Request = kwargs["request"]
        page = self._find(search_request)
        body = search_request.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
        links = [
            _link(relation, str(request.url), _GEOJSON) | {"method": "POST", "body": body | {"token": token}}
            for relation, token in _tokens(page, search_request.limit or 10)
        ]
        return self._answer(page, links, request)

    def _find(self, asked: Any) -> Page:
        if asked.filter_crs not in (None, _CRS84):
            raise InvalidQueryParameter(f"filter-crs {asked.filter_crs!r} is not offered; use {_CRS84}")
        fields = asked.fields
        search = Search(
            collections=asked.collections,
            ids=asked.ids,
            bbox=asked.bbox,
            intersects=asked.intersects.model_dump(mode="json") if asked.intersects else None,
            datetime=asked.datetime,
            query=asked.query,
            filter=asked.filter_expr,
            sortby=[(sort.field, sort.direction.value == "desc") for sort in asked.sortby or []],
            limit=asked.limit or 10,
            offset=_offset(asked.token),
            include=frozenset((fields.include if fields else None) or ()),
            exclude=frozenset((fields.exclude if fields else None) or ()),
        )
        try:
            return find(self.items, search)
        except BadSearch as error:
            raise InvalidQueryParameter(str(error)) from error

    def _answer(self, page: Page, links: list[dict[str, Any]], request: Request) -> dict[str, Any]:
        base = get_base_url(request)
        return {
            "type": "FeatureCollection",
            "features": [_linked(item, base) for item in page.items],
            "links": [_link("root", base), _link("self", str(request.url), _GEOJSON), *links],
            "numberMatched": page.matched,
            "numberReturned": len(page.items),
        }

    def _collection(self, name: str, base: str) -> dict[str, Any]:
        if name not in self.collections:
            raise NotFoundError(f"no collection {name}")
        here = f"{base}collections/{name}"
        links = [
            _link("self", here),
            _link("parent", base),
            _link("root", base),
            _link("items", f"{here}/items", _GEOJSON),
            _link("http://www.opengis.net/def/rel/ogc/1.0/queryables", f"{here}/queryables", "application/schema+json"),
        ]
        return {**self.collections[name], "links": links}


def create_app(folder: Path, download_url: str) -> FastAPI:
    """The STAC API over ``folder``.

    Args:
        folder: With ``items.json`` and ``collection.json``.
        download_url: Root of the file server, put in place of CDSE's download host in every address.

    Raises:
        InputError: A file is missing or not JSON.
    """
    items = [with_host(item, download_url) for item in read_json(folder / "items.json")["features"]]
    collection = read_json(folder / "collection.json")
    collections = {collection["id"]: collection}
    # pystac-client and others look for version 1.0.0 of the sort extension.
    sort = SortExtension()
    sort.conformance_classes = [*_SORT_CLASSES, *sort.conformance_classes]
    extensions = [
        QueryExtension(),
        TextFilterExtension(client=Queryables(collections=collections)),
        sort,
        FieldsExtension(),
        TokenPaginationExtension(),
    ]
    post_model = create_post_request_model(extensions)
    items_model: Any = create_request_model(
        "ItemsGetRequest", base_model=ItemCollectionUri, extensions=extensions, request_type="GET"
    )
    title = "cropseg: embedded region"
    settings = _Settings(
        stac_fastapi_title=title,
        stac_fastapi_description=NOTE,
        stac_fastapi_landing_id="cropseg-embedded",
        stac_fastapi_version="1.0.0",
    )
    api = StacApi(
        settings=settings,
        client=MemoryClient(
            landing_page_id=settings.stac_fastapi_landing_id,
            collections=collections,
            items=items,
            post_model=post_model,
        ),
        extensions=extensions,
        search_get_request_model=create_get_request_model(extensions),
        search_post_request_model=post_model,
        items_get_request_model=items_model,
    )
    return api.app


def _tokens(page: Page, limit: int) -> list[tuple[str, str]]:
    """(relation, token) of the neighbouring pages."""
    tokens = []
    if page.offset + len(page.items) < page.matched and page.items:
        tokens.append(("next", f"next:{page.offset + len(page.items)}"))
    if page.offset > 0:
        tokens.append(("previous", f"prev:{max(0, page.offset - limit)}"))
    return tokens


def _offset(token: str | None) -> int:
    if not token:
        return 0
    word, _, number = token.partition(":")
    if word not in ("next", "prev") or not number.isdecimal():
        raise InvalidQueryParameter(f"token {token!r} is none of this server's")
    return int(number)


def _json(key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidQueryParameter(f"{key} is not JSON ({error})") from error


def _link(relation: str, href: str, kind: str = "application/json") -> dict[str, Any]:
    return {"rel": relation, "type": kind, "href": href}


def _linked(item: dict[str, Any], base: str) -> dict[str, Any]:
    if "id" not in item or "collection" not in item:
        return item
    parent = f"{base}collections/{item['collection']}"
    links = [
        _link("self", f"{parent}/items/{item['id']}", _GEOJSON),
        _link("parent", parent),
        _link("collection", parent),
        _link("root", base),
    ]
    return {**item, "links": links}


def _explain(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, part['loc'])) or 'search'}: {part['msg']}" for part in error.errors())
