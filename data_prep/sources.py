"""Where products come from: a catalogue with an archive, the same over the embedded region, or a folder on disk.

A source is used in a ``with`` statement. Each is one YAML file in ``conf/source``.
"""

from __future__ import annotations

import contextlib
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import numpy as np
import pystac_client
import shapely
import shapely.geometry

from cropseg.core.errors import ConfigError, InputError
from cropseg.core.progress import say
from cropseg.core.storage import read_json
from data_prep.fetch import Fetcher
from data_prep.products import Product, parse_name
from data_prep.rois import Roi
from data_prep.safe import open_product
from data_prep.search import Season, open_catalogue, search
from data_prep.tokens import Credentials, TokenManager


class Source(Protocol):
    """What the pipeline asks of a source."""

    @property
    def simulated(self) -> bool:
        """Whether its pixels come from a simulation."""
        ...

    @property
    def connections(self) -> int:
        """How many products may be fetched at a time."""
        ...

    def __enter__(self) -> Self:
        """Make it ready."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of it."""
        ...

    def search(self, roi: Roi, season: Season, year: int, max_cloud: float) -> list[Product]:
        """Products over ``roi`` in the season; more than asked for is allowed, :func:`search.choose` judges again."""
        ...

    def fetch(self, product: Product) -> Path:
        """The ``.SAFE`` folder of ``product``."""
        ...


class Cdse:
    """The Copernicus Data Space, or any service that speaks its addresses.

    Args:
        stac_url: Root of the STAC API.
        collection: Collection of L2A products.
        token_url: OpenID Connect token address; the account comes from the environment or netrc, never from here.
        download_url: Root of the archive.
        cache: Folder of fetched products, shared by all datasets.
        cloud_filter: ``cql2`` or ``query``, see :func:`data_prep.search.search`.
        page_size: Items a page of the catalogue's answer.
        connections: Products fetched at a time; few are allowed an account.
        attempts: How often a failing request is made.
        backoff_s: First pause between attempts in seconds; doubles each time.
        credentials: The account, for services started by this program.
        simulated: Whether the products are simulated.
    """

    def __init__(
        self,
        stac_url: str,
        collection: str,
        token_url: str,
        download_url: str,
        cache: str | Path,
        *,
        cloud_filter: Literal["cql2", "query"] = "cql2",
        page_size: int = 100,
        connections: int = 2,
        attempts: int = 6,
        backoff_s: float = 1.0,
        credentials: Credentials | None = None,
        simulated: bool = False,
    ) -> None:
        for name, value in (("page_size", page_size), ("connections", connections), ("attempts", attempts)):
            if value < 1:
                raise ConfigError(f"source.{name} must be at least 1", value, "give a positive number")
        self.connections = connections
        self.simulated = simulated
        self._stac_url = stac_url
        self._collection = collection
        self._cloud_filter: Literal["cql2", "query"] = cloud_filter
        self._page_size = page_size
        self._attempts = attempts
        self._backoff = backoff_s
        tokens = TokenManager(token_url, credentials, attempts=attempts, backoff_s=backoff_s)
        self._client: pystac_client.Client | None = None  # opened by the first search, for all of them
        self._fetcher = Fetcher(download_url, tokens, Path(cache), attempts=attempts, backoff_s=backoff_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def search(self, roi: Roi, season: Season, year: int, max_cloud: float) -> list[Product]:
        """Ask the catalogue."""
        if self._client is None:
            self._client = open_catalogue(self._stac_url, retries=self._attempts, backoff_s=self._backoff)
        return search(
            self._client, self._collection, roi, season, year, max_cloud=max_cloud, cloud_filter=self._cloud_filter,
            page_size=self._page_size,
        )  # fmt: skip

    def fetch(self, product: Product) -> Path:
        """Download it, unless the cache has it."""
        return self._fetcher.fetch(product)


class Embedded:
    """The simulated region behind real services on loopback: :class:`Cdse` with their addresses.

    Args:
        folder: A region that ``simulate.py`` made.
        cache: Folder of fetched products.
        port: Port of the STAC API, the archive takes the next; 0 for any two that are free.
        page_size: Items a page.
        connections: Products fetched at a time.
    """

    def __init__(
        self, folder: str | Path, cache: str | Path, *, port: int = 0, page_size: int = 100, connections: int = 2
    ) -> None:
        self.folder = Path(folder)
        self.connections = connections
        self.simulated = True
        self._cache = Path(cache)
        self._port = port
        self._page_size = page_size
        self._running = contextlib.ExitStack()
        self._cdse: Cdse | None = None

    def __enter__(self) -> Self:
        from data_prep.simulate.services import serve

        endpoints = self._running.enter_context(serve(self.folder, port=self._port))
        # The cache is the region's own: two simulations may give different products the same name.
        key = str(read_json(self.folder / "region.json")["digest"])[:16]
        self._cdse = Cdse(
            endpoints.stac_url, "sentinel-2-l2a", endpoints.token_url, endpoints.download_url,
            self._cache / f"simulated-{key}", page_size=self._page_size, connections=self.connections,
            credentials=Credentials(endpoints.username, endpoints.password), simulated=True,
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cdse = None
        self._running.close()

    def search(self, roi: Roi, season: Season, year: int, max_cloud: float) -> list[Product]:
        """Ask the catalogue on loopback."""
        return self._service.search(roi, season, year, max_cloud)

    def fetch(self, product: Product) -> Path:
        """Download it from the archive on loopback, unless the cache has it."""
        return self._service.fetch(product)

    @property
    def _service(self) -> Cdse:
        if self._cdse is None:
            raise RuntimeError("the embedded source is used in a with statement")
        return self._cdse


class Local:
    """A folder of ``.SAFE`` products, read in place.

    Args:
        folder: The folder; products may lie in folders below it.
        simulated: Whether the products are simulated.
    """

    def __init__(self, folder: str | Path, *, simulated: bool = False) -> None:
        self.connections = 1
        self.simulated = simulated
        self._folder = Path(folder)
        self._found: dict[str, tuple[Product, Path]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def search(self, roi: Roi, season: Season, year: int, max_cloud: float) -> list[Product]:
        """All products of the folder.

        Raises:
            InputError: There is no such folder, or no product in it.
        """
        return [product for product, _ in self._products.values()]

    def fetch(self, product: Product) -> Path:
        """Where it lies.

        Raises:
            InputError: It was there when the folder was searched, and is no longer.
        """
        if product.id not in self._products:
            raise InputError(
                f"source.folder {self._folder} no longer holds {product.name}.SAFE", None,
                "put it back, or remove the dataset's search/ folder to search again",
            )  # fmt: skip
        return self._products[product.id][1]

    @property
    def _products(self) -> dict[str, tuple[Product, Path]]:
        if self._found is None:
            if not self._folder.is_dir():
                raise InputError("source.folder is not a folder", str(self._folder), "give a folder of .SAFE products")
            paths = sorted(path for path in self._folder.rglob("*.SAFE") if path.is_dir())
            if not paths:
                raise InputError("no .SAFE product below source.folder", str(self._folder), "unpack the products there")
            products = [(read_local(path), path) for path in paths]
            self._found = {product.id: (product, path) for product, path in products}
        return self._found


def read_local(safe: Path) -> Product:
    """Describe a product on disk by its own metadata."""
    product = open_product(safe)
    root = ElementTree.parse(safe / "MTD_MSIL2A.xml").getroot()
    texts = {element.tag.rpartition("}")[2]: (element.text or "").strip() for element in root.iter()}
    numbers = [float(text) for text in texts.get("EXT_POS_LIST", "").split()]
    if len(numbers) < 8 or len(numbers) % 2:
        raise InputError(f"{safe} states no footprint (EXT_POS_LIST)", None, "fetch the product again")
    ring = np.array(numbers).reshape(-1, 2)[:, ::-1]  # latitude first, in the file
    parse_name(product.name)
    return Product(
        id=product.name,
        uuid="",
        acquired=product.acquired,
        tile=product.tile,
        cloud_cover=_number(texts.get("Cloud_Coverage_Assessment", "")),
        baseline=product.baseline,
        crs=product.crs,
        footprint=shapely.geometry.mapping(shapely.Polygon(ring)),
        assets={},
    )


def simulated_subsets(
    folder: str | Path, names: Sequence[str], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:  # fmt: skip
    """The subsets called ``names`` of a simulated region, as plain data for :func:`data_prep.subsets.from_config`.

    The region is simulated first if it is not there.

    Args:
        folder: Where ``simulate.py`` put it, or is to put it.
        names: Names of the subsets.
        settings: What to simulate, see :class:`data_prep.simulate.region.Settings`.

    Raises:
        ConfigError: The region has no such subset.
    """
    from data_prep.simulate import region as simulation

    folder = Path(folder)
    if not (folder / "region.json").is_file():
        say(f"the embedded region is not there yet: simulating it into {folder}")
    simulation.build(settings, folder)
    known = {entry["name"]: entry for entry in read_json(folder / "region.json")["subsets"]}
    for name in names:
        if name not in known:
            raise ConfigError(f"{folder} has no subset", name, f"choose from {', '.join(sorted(known))}")
    paths = ("parcels", "table")
    return [
        {key: str(folder / value) if key in paths and value else value for key, value in known[name].items()}
        for name in names
    ]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
