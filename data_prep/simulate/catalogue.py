"""STAC items of simulated products, with the keys that the Copernicus Data Space (CDSE) gives its own.

Addresses keep CDSE's real host in the stored files; :func:`with_host` puts a running server's in its place.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import rasterio
import shapely.geometry

from cropseg.core.bands import QUANTIFICATION, S2_BANDS, SceneClass
from cropseg.core.storage import write_json
from data_prep.simulate import safe_xml
from data_prep.simulate.writer import ProductMeta, footprint, scene_statistics

COLLECTION: Final = "sentinel-2-l2a"
"""CDSE's collection of L2A products."""

CDSE_DOWNLOAD: Final = "https://download.dataspace.copernicus.eu"
"""Host of every https address in a stored item."""

MD5: Final = "d50110"
SHA3_256: Final = "1620"
"""Prefixes of CDSE's hex multihashes: code and length of the digest (github.com/multiformats/multicodec)."""

NOTE: Final = "simulated: measures the software, not crop mapping"

_EXTENSIONS: Final = tuple(
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in (
        "alternate-assets/v1.2.0", "authentication/v1.1.0", "classification/v2.0.0", "eo/v2.0.0", "file/v2.1.0",
        "grid/v1.1.0", "processing/v1.2.0", "product/v1.0.0", "projection/v2.0.0", "raster/v2.0.0", "sat/v1.1.0",
        "timestamps/v1.1.0",
    )
)  # fmt: skip
_AUTH: Final = {
    "s3": {"type": "s3"},
    "oidc": {
        "type": "openIdConnect",
        "openIdConnectUrl": "https://identity.dataspace.copernicus.eu/auth/realms/CDSE/.well-known/openid-configuration",
    },
}
# Common names and titles as CDSE writes them.
_BAND_WORDS: Final = {
    "B02": ("blue", "Blue (band 2)"),
    "B03": ("green", "Green (band 3)"),
    "B04": ("red", "Red (band 4)"),
    "B05": ("rededge071", "Red edge 1 (band 5)"),
    "B06": ("rededge075", "Red edge 2 (band 6)"),
    "B07": ("rededge078", "Red edge 3 (band 7)"),
    "B08": ("nir", "NIR 1 (band 8)"),
    "B8A": ("nir08", "NIR 2 (band 8A)"),
    "B11": ("swir16", "SWIR 1 (band 11)"),
    "B12": ("swir22", "SWIR 2 (band 12)"),
}
_SCENE_NAMES: Final = {
    SceneClass.NO_DATA: ("no_data", "nodata"),
    SceneClass.SATURATED: ("saturated_or_defective", "saturated_defective"),
    SceneClass.DARK: ("dark_area_pixels", "dark_area"),
    SceneClass.CLOUD_SHADOW: ("cloud_shadows", "cloud_shadow"),
    SceneClass.VEGETATION: ("vegetation", "vegetation"),
    SceneClass.BARE: ("not_vegetated", "not_vegetated"),
    SceneClass.WATER: ("water", "water"),
    SceneClass.UNCLASSIFIED: ("unclassified", "unclassified"),
    SceneClass.CLOUD_MEDIUM: ("cloud_medium_probability", "medium_proba_clouds"),
    SceneClass.CLOUD_HIGH: ("cloud_high_probability", "high_proba_clouds"),
    SceneClass.CIRRUS: ("thin_cirrus", "thin_cirrus"),
    SceneClass.SNOW: ("snow", None),
}


def product_uuid(name: str) -> str:
    """The archive's key of a product: the same for the same name."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{CDSE_DOWNLOAD}/{name}.SAFE"))


def item(meta: ProductMeta, safe: Path, archive: Path) -> dict[str, Any]:
    """The STAC 1.1 item of a product, as CDSE's catalogue would show it.

    Args:
        meta: What is known of the product.
        safe: Its ``.SAFE`` folder.
        archive: Its zip, made by :func:`data_prep.simulate.writer.pack`.

    Returns:
        A GeoJSON feature. Its geometry is the ground that holds data, not the tile.
    """
    with rasterio.open(safe / f"{meta.image('SCL', 20)}.jp2") as dataset:
        scl = dataset.read(1)
    outline, shares = footprint(meta, scl), scene_statistics(scl)
    assets = {f"{layer}_{resolution}m": _image(meta, safe, layer, resolution) for layer, resolution in meta.images}
    assets["SCL_20m"]["classification:classes"] = [
        {"name": name, "value": int(kind), "percentage": shares[kind]} | ({"nodata": True} if kind == 0 else {})
        for kind, (name, _) in _SCENE_NAMES.items()
    ]
    for key, path, digest in (
        ("product_metadata", "MTD_MSIL2A.xml", _sha3),
        ("granule_metadata", f"GRANULE/{meta.granule}/MTD_TL.xml", _sha3),
        ("safe_manifest", "manifest.safe", _md5),
    ):
        described = {"type": "application/xml", "title": path.rsplit("/", 1)[-1], "roles": ["metadata"]}
        assets[key] = described | _file(meta, safe, path, digest)
    assets["Product"] = {
        "href": f"{CDSE_DOWNLOAD}/odata/v1/Products({product_uuid(meta.name)})/$value",
        "type": "application/zip",
        "title": "Zipped product",
        "roles": ["data", "metadata", "archive"],
        "auth:refs": ["oidc"],
        "file:size": archive.stat().st_size,
        "file:checksum": _md5(archive),
        "file:local_path": f"{meta.name}.SAFE.zip",
    }
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": list(_EXTENSIONS),
        "id": meta.name,
        "collection": COLLECTION,
        "bbox": list(outline.bounds),
        "geometry": shapely.geometry.mapping(outline),
        "properties": _properties(meta, shares, archive),
        "links": [{"rel": "collection", "type": "application/json", "href": "./collection.json"}],
        "assets": assets,
    }


def collection(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The STAC collection of ``items``, with their extent in space and time."""
    boxes = [item["bbox"] for item in items] or [[-180.0, -90.0, 180.0, 90.0]]
    times = sorted(item["properties"]["datetime"] for item in items) or [None]
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "stac_extensions": [],
        "id": COLLECTION,
        "title": "Sentinel-2 Level-2A (simulated)",
        "description": f"Products of the embedded region; {NOTE}.",
        "license": "Apache-2.0",
        "keywords": ["Sentinel", "Reflectance", "simulated"],
        "providers": [{"name": "cropseg", "roles": ["producer"]}],
        "extent": {
            "spatial": {"bbox": [[*(min(box[i] for box in boxes) for i in (0, 1)),
                                  *(max(box[i] for box in boxes) for i in (2, 3))]]},
            "temporal": {"interval": [[times[0], times[-1]]]},
        },
        "summaries": {"product:type": ["S2MSI2A"], "constellation": ["sentinel-2"], "instruments": ["msi"]},
        "links": [{"rel": "items", "type": "application/geo+json", "href": "./items.json"}],
    }  # fmt: skip


def write_catalogue(items: Iterable[Mapping[str, Any]], folder: Path) -> None:
    """Write ``items.json`` (a feature collection ordered by time and id) and ``collection.json`` into ``folder``."""
    ordered = sorted(items, key=lambda item: (item["properties"]["datetime"], item["id"]))
    write_json(folder / "collection.json", collection(ordered))
    write_json(folder / "items.json", {"type": "FeatureCollection", "features": ordered, "links": []})


def with_host(item: Mapping[str, Any], download_url: str) -> dict[str, Any]:
    """A copy of ``item`` whose https addresses lie at ``download_url`` instead of CDSE's download host."""

    def moved(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: moved(part) for key, part in value.items()}
        if isinstance(value, str) and value.startswith(f"{CDSE_DOWNLOAD}/"):
            return download_url.rstrip("/") + value[len(CDSE_DOWNLOAD) :]
        return value

    return {**item, "assets": moved(item["assets"])}


def _properties(meta: ProductMeta, shares: Mapping[SceneClass, float], archive: Path) -> dict[str, Any]:
    sensed, made = _iso(meta.acquired), _iso(meta.generated)
    return {
        "datetime": sensed,
        "start_datetime": sensed,
        "end_datetime": sensed,
        "created": made,
        "updated": made,
        "published": made,
        "gsd": 10,
        "description": f"{meta.place}; {NOTE}" if meta.place else NOTE,
        "constellation": "sentinel-2",
        "platform": f"sentinel-2{meta.platform[-1].lower()}",
        "instruments": ["msi"],
        "grid:code": f"MGRS-{meta.tile}",
        "product:type": "S2MSI2A",
        "processing:level": "L2",
        "processing:version": meta.baseline,
        "processing:datetime": made,
        "processing:facility": "cropseg simulation",
        "sat:relative_orbit": meta.relative_orbit,
        "sat:absolute_orbit": meta.absolute_orbit,
        "sat:orbit_state": "descending",
        "eo:cloud_cover": round(meta.cloud_cover, 2),
        "eo:snow_cover": shares[SceneClass.SNOW],
        "eopf:datatake_id": safe_xml.datatake_id(meta),
        "eopf:datastrip_id": safe_xml.datastrip_id(meta),
        "eopf:instrument_mode": "INS-NOBS",
        "statistics": {name: shares[kind] for kind, (_, name) in _SCENE_NAMES.items() if name},
        "auth:schemes": _AUTH,
        "_private": {
            "visible": True,
            "product_name": f"{meta.name}.SAFE",
            "product_size": archive.stat().st_size,
            "product_uuid": product_uuid(meta.name),
        },
    }


def _image(meta: ProductMeta, safe: Path, layer: str, resolution: int) -> dict[str, Any]:
    side = meta.size * 10 // resolution
    shared = {
        "type": "image/jp2",
        "gsd": resolution,
        "nodata": 0,
        "proj:code": meta.crs,
        "proj:bbox": list(meta.bounds),
        "proj:shape": [side, side],
        "proj:transform": [int(value) for value in meta.transform(resolution)[:6]],
    }
    if layer == "SCL":
        shared |= {
            "title": f"Scene classification map (SCL) - {resolution}m",
            "data_type": "uint8",
            "roles": ["data", "sampling:original", f"gsd:{resolution}m"],
        }
    else:
        common, words = _BAND_WORDS[layer]
        wavelength = round(S2_BANDS[layer].wavelength / 1000, 3)
        shared |= {
            "title": f"{words} - {resolution}m",
            "data_type": "uint16",
            "roles": ["data", "reflectance", "sampling:original", f"gsd:{resolution}m"],
            "bands": [
                {"name": layer, "description": words, "eo:common_name": common, "eo:center_wavelength": wavelength}
            ],
            "raster:scale": 1 / QUANTIFICATION,
            "raster:offset": meta.offset / QUANTIFICATION,
        }
    return shared | _file(meta, safe, f"{meta.image(layer, resolution)}.jp2", _sha3)


def _file(meta: ProductMeta, safe: Path, path: str, digest: Callable[[Path], str]) -> dict[str, Any]:
    """What every asset inside the product says of its file."""
    nodes = "".join(f"/Nodes({part})" for part in (f"{meta.name}.SAFE", *path.split("/")))
    folder = f"Sentinel-2/MSI/L2A/{meta.acquired.astimezone(UTC):%Y/%m/%d}/{meta.name}.SAFE"
    return {
        "href": f"s3://eodata/{folder}/{path}",
        "alternate:name": "S3",
        "auth:refs": ["s3"],
        "alternate": {
            "https": {
                "href": f"{CDSE_DOWNLOAD}/odata/v1/Products({product_uuid(meta.name)}){nodes}/$value",
                "auth:refs": ["oidc"],
                "alternate:name": "HTTPS",
            }
        },
        "file:size": (safe / path).stat().st_size,
        "file:checksum": digest(safe / path),
        "file:local_path": f"{meta.name}.SAFE/{path}",
    }


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return MD5 + hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _sha3(path: Path) -> str:
    with path.open("rb") as file:
        return SHA3_256 + hashlib.file_digest(file, "sha3_256").hexdigest()


def _iso(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
