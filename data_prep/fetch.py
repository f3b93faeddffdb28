"""Downloading products once: a cache of unpacked SAFE folders, each whole or absent.

<cache>/<name>/<name>.SAFE/     the product
<cache>/<name>/complete.json    its files and sizes; written last, so without it the folder does not count
<cache>/.parts/<name>.<checksum>.part   what an interrupted download has so far; taken up again by Range
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import time
import zipfile
from pathlib import Path, PurePosixPath

import requests
from filelock import FileLock

from cropseg.core import storage
from cropseg.core.errors import SourceError, StorageError
from cropseg.core.progress import say, warn
from data_prep.products import Asset, Product
from data_prep.tokens import PASSWORD, USERNAME, TokenManager

MULTIHASHES = {"d50110": "md5", "1620": "sha3_256", "1220": "sha256"}
"""Multihash prefixes (algorithm, digest length) and hashlib's names; the first two are what CDSE uses."""

_CHUNK = 1 << 20
_LONGEST_WAIT_S = 600.0
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


class Fetcher:
    """Gets products from an archive that speaks CDSE's OData addresses, through a cache on disk.

    Args:
        download_url: Root of the service; a product is at ``<root>/odata/v1/Products(<uuid>)/$value``. The host of the
            catalogue's own links is not used: a redirect across hosts loses the login.
        tokens: Gives the bearer token.
        cache: The cache folder.
        attempts: How often a download is tried before giving up.
        backoff_s: First pause between attempts in seconds, doubles each time; a ``Retry-After`` goes before it.
        timeout_s: Longest silence of the server in seconds.
    """

    def __init__(
        self,
        download_url: str,
        tokens: TokenManager,
        cache: Path,
        *,
        attempts: int = 5,
        backoff_s: float = 2.0,
        timeout_s: float = 120.0,
    ) -> None:
        self._url = download_url.rstrip("/")
        self._tokens = tokens
        self._cache = cache
        self._attempts = attempts
        self._backoff = backoff_s
        self._timeout = timeout_s

    def fetch(self, product: Product) -> Path:
        """The product's ``.SAFE`` folder in the cache, downloaded if it is not there whole.

        Raises:
            SourceError: The archive refuses, lacks or garbles the product.
            StorageError: The disk is full, read-only or not ours.
        """
        folder = self._cache / product.name
        with storage.storage_errors(self._cache):
            (self._cache / ".parts").mkdir(parents=True, exist_ok=True)
        with FileLock(self._cache / ".parts" / f"{product.name}.lock"):
            safe = cached(folder)
            if safe is not None:
                return safe
            if folder.exists():
                warn(f"{folder} is not whole: downloading it again")
                shutil.rmtree(folder)
            archive = self._download(product)
            try:
                safe = unpack(archive, folder, product.name)
            finally:
                archive.unlink(missing_ok=True)
            return safe

    def _download(self, product: Product) -> Path:
        asset = product.assets.get("Product")
        if asset is None or not product.uuid:
            raise SourceError("the catalogue gives no archive for product", product.name, "choose another collection")
        if asset.checksum is not None:
            _kind(asset.checksum)  # before a gigabyte is fetched that cannot be checked
        part = self._cache / ".parts" / f"{product.name}.{(asset.checksum or 'unknown')[-16:]}.part"
        self._check_space(asset)
        say(f"downloading {product.name}" + (f" ({asset.size / 1e6:,.0f} MB)" if asset.size else ""))
        problem, wait = "", 0.0
        rejected: str | None = None
        for attempt in range(self._attempts):
            if attempt:
                time.sleep(max(self._backoff * 2 ** (attempt - 1), min(wait, _LONGEST_WAIT_S)))
            token = self._tokens.token(rejected=rejected)
            try:
                status, wait = self._transfer(product, part, token)
                problem = f"it answered {status}"
            except requests.RequestException as error:
                problem = f"the connection broke ({type(error).__name__})"
                continue
            except OSError as error:
                part.unlink(missing_ok=True)  # a full disk is better served by the space
                with storage.storage_errors(part):
                    raise error
            if status in (401, 403):
                if rejected is not None:
                    raise SourceError(
                        f"the archive refuses the login ({status}) for {product.name}", None,
                        f"check {USERNAME} and {PASSWORD} (or netrc), and that the account may download",
                    )  # fmt: skip
                rejected = token
            elif status in (404, 410):
                raise SourceError(
                    f"the archive has no product {product.name} ({status})", None,
                    "it was withdrawn or replaced: remove the dataset's search/ folder to search again",
                )  # fmt: skip
            elif status in (200, 206, 416):
                problem = wrong(part, asset)
                if not problem:
                    return part
                if part.exists() and (asset.size is None or part.stat().st_size >= asset.size):
                    part.unlink()  # all there and still wrong: nothing to take up again
            elif status not in _TRANSIENT:
                raise SourceError(f"the archive answers {status} for {product.name}", None, "check source.download_url")
        raise SourceError(
            f"{product.name} could not be downloaded in {self._attempts} attempts ({problem})", None,
            "check source.download_url and the network, and run the same command again",
        )  # fmt: skip

    def _transfer(self, product: Product, part: Path, token: str) -> tuple[int, float]:
        """One request; what arrives is added to ``part``. Returns the status and the seconds asked to wait."""
        have = part.stat().st_size if part.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        url = f"{self._url}/odata/v1/Products({product.uuid})/$value"
        with requests.get(url, headers=headers, auth=_Bearer(token), stream=True, timeout=self._timeout) as answer:
            if answer.status_code not in (200, 206):
                retry_after = answer.headers.get("Retry-After", "")
                return answer.status_code, float(retry_after) if retry_after.isdigit() else 0.0
            resumed = answer.status_code == 206
            if resumed and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                part.unlink(missing_ok=True)
                return 503, 0.0
            with part.open("ab" if resumed else "wb") as file:
                for chunk in answer.iter_content(_CHUNK):
                    file.write(chunk)
        return answer.status_code, 0.0

    def _check_space(self, asset: Asset) -> None:
        free = shutil.disk_usage(self._cache).free
        # The archive and its unpacked files stand side by side for a moment; JPEG 2000 does not shrink in a zip.
        if asset.size is not None and free < 2 * asset.size:
            raise StorageError(
                f"{self._cache} has {free / 1e6:,.0f} MB free, a product needs {2 * asset.size / 1e6:,.0f} MB", None,
                "free some space or set paths.cache to another disk; what is finished is kept",
            )  # fmt: skip


class _Bearer(requests.auth.AuthBase):
    """Sends the token; as an `auth` object, so that requests does not put netrc's entry in its place."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the header."""
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def cached(folder: Path) -> Path | None:
    """The ``.SAFE`` folder in ``folder`` if its record is there and every file has the recorded size."""
    record = folder / "complete.json"
    if not record.is_file():
        return None
    files: dict[str, int] = storage.read_json(record)
    for name, size in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return None
    return folder / f"{folder.name}.SAFE"


def wrong(path: Path, asset: Asset) -> str:
    """What is wrong with a downloaded file, empty if nothing is.

    Raises:
        SourceError: The catalogue's checksum is of an unknown kind.
    """
    size = path.stat().st_size if path.exists() else 0
    if asset.size is not None and size != asset.size:
        return f"{size} of {asset.size} bytes arrived"
    if asset.checksum is None:
        return "" if zipfile.is_zipfile(path) else "what arrived is not a zip archive"
    prefix = _kind(asset.checksum)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, MULTIHASHES[prefix]).hexdigest()
    return "" if digest == asset.checksum.removeprefix(prefix) else "its checksum is not the catalogue's"


def _kind(checksum: str) -> str:
    """The multihash prefix of a checksum."""
    prefix = next((p for p in MULTIHASHES if checksum.startswith(p)), None)
    if prefix is None:
        raise SourceError(
            "checksum of an unknown kind in the catalogue", checksum[:6], f"known: {', '.join(MULTIHASHES)}"
        )
    return prefix


def unpack(archive: Path, folder: Path, name: str) -> Path:
    """Unpack a product's zip so that ``folder`` is either whole or absent.

    Args:
        archive: The zip; everything in it must lie in ``<name>.SAFE/``.
        folder: Where the product and its record are to stand.
        name: The product's name.

    Returns:
        ``<folder>/<name>.SAFE``.

    Raises:
        SourceError: The archive is broken, or holds something outside the product's folder.
    """
    temporary = archive.with_suffix(".unpacked")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with storage.storage_errors(temporary), zipfile.ZipFile(archive) as content:
            for entry in content.infolist():
                _check_entry(entry, name)
            content.extractall(temporary)
        safe = temporary / f"{name}.SAFE"
        if not safe.is_dir():
            raise SourceError(f"the archive of {name} holds no {name}.SAFE", None, "report it to the archive's owner")
        files = {
            path.relative_to(temporary).as_posix(): path.stat().st_size
            for path in sorted(safe.rglob("*"))
            if path.is_file()
        }
        storage.write_json(temporary / "complete.json", files)
        with storage.storage_errors(folder):
            temporary.replace(folder)
    except (zipfile.BadZipFile, RuntimeError, EOFError) as error:
        raise SourceError(f"the archive of {name} is broken ({error})", None, "run the same command again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder / f"{name}.SAFE"


def _check_entry(entry: zipfile.ZipInfo, name: str) -> None:
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    link = stat.S_ISLNK(entry.external_attr >> 16)
    if link or path.is_absolute() or ".." in path.parts or path.parts[:1] != (f"{name}.SAFE",):
        raise SourceError(
            f"the archive of {name} holds an entry outside {name}.SAFE", entry.filename, "report it to its owner"
        )
