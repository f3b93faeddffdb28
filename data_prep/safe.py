"""One Sentinel-2 Level-2A product as delivered: a SAFE folder, what its metadata say, and where its files lie."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from cropseg.core.bands import NODATA, QUANTIFICATION, S2_BANDS, SATURATED
from cropseg.core.errors import InputError
from data_prep.safe_manifest import Entry, read_manifest, verify

SCL: Final = "SCL"
"""Name of the scene classification in file names."""

_FETCH_AGAIN: Final = "remove the product from the cache and run the same command again"


@dataclass(frozen=True)
class SafeProduct:
    """A product on disk.

    Attributes:
        folder: The SAFE folder.
        granule: Its one granule's folder.
        name: ESA's product name, without ``.SAFE``.
        tile: MGRS tile, such as ``33UXP``.
        acquired: Sensing start of the datatake, UTC.
        baseline: Processing baseline, such as ``05.09``.
        crs: UTM zone of the tile, such as ``EPSG:32633``.
        quantification: Digital numbers per unit of reflectance, always 10000.
        offsets: BOA offset in digital numbers by band; 0 where the product has none.
        offset_evidence: On what evidence ``offsets`` stands.
        manifest: Size and checksum by path inside the folder; empty where the product has no ``manifest.safe``.
    """

    folder: Path
    granule: Path
    name: str
    tile: str
    acquired: datetime
    baseline: str
    crs: str
    quantification: int
    offsets: Mapping[str, int]
    offset_evidence: str
    manifest: Mapping[str, Entry] = field(default_factory=dict)

    def verify(self, path: Path) -> None:
        """Compare one of the product's files with its manifest, where that names it.

        Raises:
            InputError: The file is damaged.
        """
        entry = self.manifest.get(path.relative_to(self.folder).as_posix())
        if entry is not None:
            verify(path, entry)

    def path_of(self, band: str, resolution: int) -> Path:
        """The file of a band, or of ``SCL``, at a resolution in metres.

        Raises:
            InputError: The product has no such file, or more than one.
        """
        folder = self.granule / "IMG_DATA" / f"R{resolution}m"
        # GDAL's SENTINEL2 driver reads an absent file as zeros; here it is an error.
        found = sorted(folder.glob(f"*_{band}_{resolution}m.jp2"))
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(
                f"product {self.name} has several files of {band} at {resolution} m",
                [path.name for path in found],
                _FETCH_AGAIN,
            )
        missing = folder / f"T{self.tile}_{self.acquired:%Y%m%dT%H%M%S}_{band}_{resolution}m.jp2"
        here = sorted(path.name.split("_")[-2] for path in folder.glob("*.jp2"))
        raise InputError(
            f"product {self.name} lacks the file {missing.relative_to(self.folder)}",
            None,
            f"at {resolution} m it holds: {', '.join(here) or 'nothing'}; fetch it again or ask for other bands",
        )


def open_product(path: Path) -> SafeProduct:
    """Read the metadata of a SAFE folder.

    The BOA offset is what ``BOA_ADD_OFFSET`` of this very product says; the sensing date says nothing about it, as
    old scenes are reprocessed.

    Args:
        path: The folder that holds ``MTD_MSIL2A.xml``.

    Returns:
        The product.

    Raises:
        InputError: There is no such product, its metadata are broken or contradict themselves, it is of another
            level, or it holds several granules (the format before 2016).
    """
    metadata = _metadata_of(path)
    root = _parse(metadata)
    granule = _granule_of(path)
    tile_metadata = granule / "MTD_TL.xml"
    tile_root = _parse(tile_metadata)
    baseline = _text(root, "PROCESSING_BASELINE", metadata)
    offsets, evidence = _offsets(root, metadata, baseline)
    _check_values(root, metadata)
    return SafeProduct(
        folder=path,
        granule=granule,
        name=_text(root, "PRODUCT_URI", metadata).removesuffix(".SAFE"),
        tile=_tile(_text(tile_root, "TILE_ID", tile_metadata), tile_metadata),
        acquired=_time(_text(root, "DATATAKE_SENSING_START", metadata), metadata),
        baseline=baseline,
        crs=_crs(_text(tile_root, "HORIZONTAL_CS_CODE", tile_metadata), tile_metadata),
        quantification=QUANTIFICATION,
        offsets=offsets,
        offset_evidence=evidence,
        manifest=read_manifest(path),
    )


def _metadata_of(path: Path) -> Path:
    if not path.is_dir():
        raise InputError(f"no such product folder: {path}", None, "give the unpacked .SAFE folder of a product")
    metadata = path / "MTD_MSIL2A.xml"
    if metadata.is_file():
        return metadata
    if (path / "MTD_MSIL1C.xml").is_file():
        raise InputError(f"{path} is a Level-1C product", None, "give a Level-2A one: its name holds MSIL2A")
    inside = sorted(child.name for child in path.glob("*.SAFE"))
    hint = f"it holds {inside[0]}: give that folder" if inside else "give the unpacked .SAFE folder of a product"
    raise InputError(f"{path} is no Sentinel-2 Level-2A product: it lacks MTD_MSIL2A.xml", None, hint)


def _granule_of(path: Path) -> Path:
    granules = sorted(child for child in (path / "GRANULE").glob("*") if child.is_dir())
    if len(granules) != 1:
        raise InputError(
            f"product {path} must hold one granule",
            [granule.name for granule in granules],
            "use single-tile products (all since December 2016); an incomplete one has to be fetched again",
        )
    return granules[0]


def _parse(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except FileNotFoundError as error:
        raise InputError(f"product metadata are missing: {path}", None, _FETCH_AGAIN) from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"product metadata cannot be read: {path}", str(error), _FETCH_AGAIN) from error


def _find_all(root: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    """Elements by name in any namespace: their URIs changed with the baselines."""
    return [element for element in root.iter() if isinstance(element.tag, str) and element.tag.split("}")[-1] == tag]


def _text(root: ElementTree.Element, tag: str, path: Path) -> str:
    for element in _find_all(root, tag):
        if element.text and element.text.strip():
            return element.text.strip()
    raise InputError(f"{path} lacks {tag}", None, _FETCH_AGAIN)


def _number(text: str | None, what: str, path: Path) -> int:
    try:
        value = float(text or "")
        if value != int(value):
            raise ValueError
    except (ValueError, OverflowError) as error:
        raise InputError(f"{what} in {path} is not a whole number", text, _FETCH_AGAIN) from error
    return int(value)


def _time(text: str, path: Path) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"sensing time in {path} is not a time", text, _FETCH_AGAIN) from error
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _tile(tile_id: str, path: Path) -> str:
    found = re.search(r"_T(\d{2}[A-Z]{3})_", tile_id)
    if found is None:
        raise InputError(f"TILE_ID in {path} names no MGRS tile", tile_id, _FETCH_AGAIN)
    return found.group(1)


def _crs(code: str, path: Path) -> str:
    if not re.fullmatch(r"EPSG:32[67]\d\d", code.upper()):
        raise InputError(f"HORIZONTAL_CS_CODE in {path} is no UTM zone", code, _FETCH_AGAIN)
    return code.upper()


def _offsets(root: ElementTree.Element, path: Path, baseline: str) -> tuple[dict[str, int], str]:
    """BOA offset by band, and the evidence for it."""
    elements = _find_all(root, "BOA_ADD_OFFSET")
    version = _version(baseline, path)
    if not elements:
        if version >= (4, 0):
            raise InputError(
                f"{path} is of baseline {baseline} but gives no BOA_ADD_OFFSET, which every one since 04.00 has",
                None,
                "the metadata were altered: fetch the product again",
            )
        return dict.fromkeys(S2_BANDS, 0), f"no BOA_ADD_OFFSET in MTD_MSIL2A.xml, baseline {baseline}: none"
    by_id = {
        _number(element.get("band_id"), "band_id of BOA_ADD_OFFSET", path): _number(
            element.text, "BOA_ADD_OFFSET", path
        )
        for element in elements
    }
    missing = [band.name for band in S2_BANDS.values() if band.boa_id not in by_id]
    if missing:
        raise InputError(f"{path} gives BOA_ADD_OFFSET for some bands but not for", missing, _FETCH_AGAIN)
    offsets = {band.name: by_id[band.boa_id] for band in S2_BANDS.values()}
    shown = ", ".join(str(value) for value in sorted(set(offsets.values())))
    return offsets, f"BOA_ADD_OFFSET in MTD_MSIL2A.xml, baseline {baseline}: {shown}"


def _version(baseline: str, path: Path) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)\.(\d+)", baseline)
    if found is None:
        raise InputError(f"PROCESSING_BASELINE in {path} is not like 05.09", baseline, _FETCH_AGAIN)
    return int(found.group(1)), int(found.group(2))


def _check_values(root: ElementTree.Element, path: Path) -> None:
    """Refuse a product whose numbers mean something else than the format's: none is known."""
    quantification = _number(_text(root, "BOA_QUANTIFICATION_VALUE", path), "BOA_QUANTIFICATION_VALUE", path)
    if quantification != QUANTIFICATION:
        raise InputError(f"BOA_QUANTIFICATION_VALUE in {path} must be {QUANTIFICATION}", quantification, _FETCH_AGAIN)
    expected = {"NODATA": NODATA, "SATURATED": SATURATED}
    names = [(element.text or "").strip() for element in _find_all(root, "SPECIAL_VALUE_TEXT")]
    values = [_number(element.text, "SPECIAL_VALUE_INDEX", path) for element in _find_all(root, "SPECIAL_VALUE_INDEX")]
    for name, value in zip(names, values, strict=False):
        if expected.get(name, value) != value:
            raise InputError(f"special value {name} in {path} must be {expected[name]}", value, _FETCH_AGAIN)
