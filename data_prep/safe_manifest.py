"""``manifest.safe``: the size and checksum of every file of a product, and whether a file still has them.

A JPEG 2000 file has no checksum of its own, so damage inside it decodes without an error to other pixels. The product's
manifest gives one for each file: it is compared once per process, when the file is first opened.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from cropseg.core.errors import InputError

_FETCH_AGAIN: Final = "remove the product from the cache and run the same command again"

_ALGORITHMS: Final[Mapping[str, Callable[[], Any]]] = {
    "MD5": functools.partial(hashlib.md5, usedforsecurity=False),
    "SHA3-256": hashlib.sha3_256,
}
"""Names as products give them: MD5 in older ones, SHA3-256 in recent ones."""


@dataclass(frozen=True)
class Entry:
    """What the manifest says of one file.

    Attributes:
        size: Bytes.
        algorithm: Name of the checksum, such as ``SHA3-256``.
        checksum: Hex digits, lower case.
    """

    size: int
    algorithm: str
    checksum: str


def read_manifest(folder: Path) -> dict[str, Entry]:
    """Entries by path relative to the product's folder; empty where the product has no manifest.

    Raises:
        InputError: The manifest is broken.
    """
    path = folder / "manifest.safe"
    if not path.is_file():
        return {}
    entries = {}
    try:
        for stream in ElementTree.parse(path).getroot().iter("byteStream"):
            location, checksum = stream.find("fileLocation"), stream.find("checksum")
            if location is not None and checksum is not None:
                name = location.get("href", "").removeprefix("./").lstrip("/")
                digits = (checksum.text or "").strip().lower()
                entries[name] = Entry(int(stream.get("size", "")), checksum.get("checksumName", ""), digits)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"product manifest cannot be read: {path}", str(error), _FETCH_AGAIN) from error
    return entries


def verify(path: Path, entry: Entry) -> None:
    """Compare a file with its manifest; a checksum of an unknown kind is passed over, the size never.

    Raises:
        InputError: The file is not the one that the manifest names.
    """
    status = path.stat()
    if status.st_size != entry.size:
        raise InputError(
            f"{path} is cut off or altered: the product's manifest gives {entry.size} bytes",
            status.st_size,
            _FETCH_AGAIN,
        )
    if entry.algorithm in _ALGORITHMS and _digest(path, entry.algorithm, status.st_mtime_ns) != entry.checksum:
        raise InputError(
            f"{path} is corrupt: its {entry.algorithm} is not the one in the product's manifest", None, _FETCH_AGAIN
        )


@functools.lru_cache(maxsize=4096)
def _digest(path: Path, algorithm: str, _modified: int) -> str:
    with path.open("rb") as file:
        return str(hashlib.file_digest(file, _ALGORITHMS[algorithm]).hexdigest())
