"""A Sentinel-2 L2A product as a catalogue describes it: plain data that can be stored and read back."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import shapely
import shapely.geometry

from cropseg.core.errors import SourceError

_NAME = re.compile(
    r"(?P<mission>S2[A-Z])_MSIL2A_(?P<sensed>\d{8}T\d{6})_N(?P<baseline>\d{4})_R(?P<orbit>\d{3})"
    r"_T(?P<tile>\d{2}[A-Z]{3})_(?P<made>\d{8}T\d{6})"
)
_UUID = re.compile(r"Products\(([0-9a-fA-F-]{36})\)")


@dataclass(frozen=True)
class Asset:
    """One file of a product.

    Attributes:
        key: Name in the STAC item, such as ``B02_10m`` or ``Product`` (the zip of all).
        href: Address.
        size: Bytes, if the catalogue knows.
        checksum: Multihash in hex (``d50110…`` is md5, ``1620…`` is sha3-256), if the catalogue knows.
        local_path: Path inside the product folder, if the catalogue knows.
    """

    key: str
    href: str
    size: int | None = None
    checksum: str | None = None
    local_path: str | None = None


@dataclass(frozen=True)
class Product:
    """One acquisition over one tile in one processing.

    Attributes:
        id: The catalogue's id: the product's name without ``.SAFE``.
        uuid: The archive's key; empty for a product read from a folder.
        acquired: Sensing start, UTC.
        tile: MGRS tile, such as ``33UXP``.
        cloud_cover: Percent of the tile; NaN if unknown.
        baseline: Processing baseline, such as ``05.10``.
        crs: ``EPSG:326zz`` or ``EPSG:327zz``.
        footprint: GeoJSON geometry of the pixels with data, longitude and latitude (WGS 84).
        assets: By key.
    """

    id: str
    uuid: str
    acquired: datetime
    tile: str
    cloud_cover: float
    baseline: str
    crs: str
    footprint: Mapping[str, Any]
    assets: Mapping[str, Asset]

    @property
    def name(self) -> str:
        """The product's name, without ``.SAFE``."""
        return self.id

    @property
    def geometry(self) -> shapely.Geometry:
        """The footprint as a shapely geometry, longitude and latitude."""
        return shapely.make_valid(shapely.geometry.shape(self.footprint))

    @property
    def datatake_tile(self) -> tuple[str, str, str]:
        """Mission, sensing time and tile: equal for two processings of the same acquisition."""
        return self.id[:3], self.acquired.strftime("%Y%m%dT%H%M%S"), self.tile

    def to_dict(self) -> dict[str, Any]:
        """Plain data that :meth:`from_dict` reads back."""
        return {**asdict(self), "acquired": self.acquired.isoformat()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Product:
        """Read back what :meth:`to_dict` gave."""
        assets = {key: Asset(**asset) for key, asset in data["assets"].items()}
        return cls(**{**data, "acquired": datetime.fromisoformat(data["acquired"]), "assets": assets})

    @classmethod
    def from_item(cls, item: Mapping[str, Any]) -> Product:
        """Read a STAC item as the Copernicus Data Space writes it (collection ``sentinel-2-l2a``).

        Raises:
            SourceError: The item lacks what every product must have.
        """
        name = str(item.get("id", "")).removesuffix(".SAFE")
        parts = parse_name(name)
        properties = item.get("properties") or {}
        if not item.get("geometry") or not properties.get("datetime"):
            raise SourceError("catalogue item lacks geometry or datetime", name, "report it to the catalogue's owner")
        assets = {
            key: Asset(
                key, str(asset.get("href", "")), asset.get("file:size"), asset.get("file:checksum"),
                asset.get("file:local_path"),
            )
            for key, asset in sorted((item.get("assets") or {}).items())
        }  # fmt: skip
        archive = assets.get("Product")
        found = _UUID.search(archive.href) if archive else None
        tile = str(properties.get("grid:code", "")).removeprefix("MGRS-") or parts["tile"]
        codes = [properties.get("proj:code")] + [
            asset.get("proj:code") for _, asset in sorted((item.get("assets") or {}).items())
        ]
        return cls(
            id=name,
            uuid=found.group(1) if found else "",
            acquired=_utc(str(properties["datetime"])),
            tile=tile,
            cloud_cover=_percent(properties.get("eo:cloud_cover")),
            baseline=str(properties.get("processing:version") or parts["baseline"]),
            crs=next((str(code) for code in codes if code), utm_of_tile(tile)),
            footprint=dict(item["geometry"]),
            assets=assets,
        )


def parse_name(name: str) -> dict[str, str]:
    """Mission, sensing time, baseline (``05.10``), orbit, tile and production time in a product's name.

    Raises:
        SourceError: It is not the name of a Sentinel-2 L2A product.
    """
    found = _NAME.fullmatch(name)  # nothing before or after it: the name becomes a folder in the cache
    if found is None:
        raise SourceError("not the name of a Sentinel-2 L2A product", name, "choose a collection of L2A products")
    parts = found.groupdict()
    return {**parts, "baseline": f"{parts['baseline'][:2]}.{parts['baseline'][2:]}"}


def utm_of_tile(tile: str) -> str:
    """EPSG code of an MGRS tile's UTM zone: bands C to M are south of the equator."""
    return f"EPSG:32{7 if tile[2] < 'N' else 6}{tile[:2]}"


def _percent(value: object) -> float:
    """A number, or NaN where the catalogue gives none."""
    return float(value) if isinstance(value, int | float) else math.nan


def _utc(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise SourceError("catalogue item has no such time", text, "report it to the catalogue's owner") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
