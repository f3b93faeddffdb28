"""The embedded region as a folder: parcels, products, a STAC catalogue and ``region.json``.

Layout of the folder::

    parcels/            vector files and name tables as national agencies publish them
    products/<name>.zip Sentinel-2 L2A products
    stac/               items.json and collection.json
    region.json         subsets, settings and their digest; written last, so it is the commit record

Same settings, same bytes, whatever the number of workers. A run that was stopped goes on where it stood.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyproj
from filelock import FileLock

from cropseg.core.errors import ConfigError
from cropseg.core.progress import say, track
from cropseg.core.storage import read_json, storage_errors, write_json
from data_prep.simulate import catalogue, parcels, render, scl, writer
from data_prep.simulate.places import Pass, Place, place

FORMAT: Final = 2
"""Raised when code changes what the same settings give."""

SPARSE_OF: Final = {"emb_east": "emb_east_sparse"}
"""Places whose ground is described a second time by some of its parcels alone."""

NOTE: Final = "simulated: measures the software, not crop mapping"


@dataclass(frozen=True)
class Settings:
    """What is simulated.

    Attributes:
        size: Pixels per side of every product at 10 m; even, 10980 is a whole tile.
        regions: Names of places in ``data/regions.yaml``.
        skip: Days (ISO dates) whose products are left out.
        seed: Seed of everything random.
        sparse_share: Share of the parcels that the sparse file knows.
        workers: Processes; no part of the result.

    Raises:
        ConfigError: A value that no simulation can have.
    """

    size: int = 480
    regions: tuple[str, ...] = ("emb_north", "emb_west", "emb_east")
    skip: tuple[str, ...] = ()
    seed: int = 0
    sparse_share: float = 0.15
    workers: int = 1

    def __post_init__(self) -> None:
        """Check every value, and take lists as YAML gives them."""
        for name in ("regions", "skip"):
            object.__setattr__(self, name, tuple(str(value) for value in getattr(self, name)))
        if not 60 <= self.size <= 10_980 or self.size % 2:
            raise ConfigError("size of a simulated product", self.size, "give an even number from 60 to 10980 pixels")
        if not 0 < self.sparse_share <= 1:
            raise ConfigError("sparse_share of the simulation", self.sparse_share, "give a share above 0, at most 1")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ConfigError("seed of the simulation", self.seed, "give a whole number")
        if self.workers < 1:
            raise ConfigError("workers of the simulation", self.workers, "give at least 1")
        if not self.regions or len(set(self.regions)) != len(self.regions):
            raise ConfigError("regions of the simulation", list(self.regions), "name each place once, at least one")
        days = {f"{overpass.acquired:%Y-%m-%d}" for name in self.regions for overpass in place(name).passes}
        if unknown := sorted(set(self.skip) - days):
            raise ConfigError("no product to skip on", unknown[0], f"days are {', '.join(sorted(days))}")
        for name in self.regions:
            if not self.passes(place(name)):
                raise ConfigError(f"every product of {name} is skipped", list(self.skip), "leave at least one")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Settings:
        """Build from plain data, such as a Hydra config.

        Raises:
            ConfigError: A key is unknown.
        """
        known = [entry.name for entry in dataclasses.fields(cls)]
        if unknown := sorted(str(key) for key in set(config) - set(known)):
            raise ConfigError("the simulation has no option", unknown[0], f"choose from {', '.join(known)}")
        return cls(**{str(key): value for key, value in config.items()})

    def passes(self, where: Place) -> tuple[Pass, ...]:
        """The overpasses of a place that are not skipped."""
        return tuple(p for p in where.passes if f"{p.acquired:%Y-%m-%d}" not in self.skip)

    def to_dict(self) -> dict[str, Any]:
        """What decides the result, as plain data."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "workers"}

    @property
    def digest(self) -> str:
        """SHA-256 over the settings and every constant of the simulation."""
        text = hashlib.sha256(json.dumps([FORMAT, self.to_dict()], sort_keys=True).encode())
        for file in sorted((resources.files("data_prep.simulate") / "data").iterdir(), key=lambda entry: entry.name):
            if file.name.endswith((".yaml", ".npz")):
                text.update(hashlib.sha256(file.read_bytes()).digest())
        return text.hexdigest()


@dataclass(frozen=True)
class Summary:
    """What a folder of the embedded region holds.

    Attributes:
        folder: Where.
        reused: Whether it was there already.
        products: Names of its products.
        subsets: Rows of each subset's parcel file.
    """

    folder: Path
    reused: bool
    products: tuple[str, ...]
    subsets: Mapping[str, int]


def build(settings: Settings | Mapping[str, Any], folder: Path) -> Summary:
    """Make the embedded region, or find it made.

    Args:
        settings: What to simulate; a mapping is read by :meth:`Settings.from_config`.
        folder: Where; made if missing. Another simulation in it is replaced.

    Raises:
        ConfigError: Impossible settings, or ``folder`` holds something that is no simulated region.
        StorageError: The disk refuses.
    """
    chosen = settings if isinstance(settings, Settings) else Settings.from_config(settings)
    folder = Path(folder)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        done = folder / "region.json"
        if done.is_file() and (stored := read_json(done)).get("digest") == chosen.digest:
            say(f"simulated region is there already: {folder}")
            return _summary(folder, stored, reused=True)
        _prepare(folder, chosen)
        subsets = _parcel_files(folder, chosen)
        names = _products(folder, chosen)
        items = [read_json(path) for path in sorted((folder / ".build").glob("* * *.json"))]
        catalogue.write_catalogue(items, folder / "stac")
        record = {
            "format": FORMAT,
            "simulated": True,
            "note": NOTE,
            "digest": chosen.digest,
            "settings": json.loads(json.dumps(chosen.to_dict())),
            "subsets": [subset for subset, _ in subsets],
            "rows": {subset["name"]: rows for subset, rows in subsets},
            "products": sorted(names),
        }
        write_json(done, record)
        shutil.rmtree(folder / ".build", ignore_errors=True)
        return _summary(folder, record, reused=False)


def _summary(folder: Path, record: Mapping[str, Any], *, reused: bool) -> Summary:
    return Summary(folder, reused, tuple(record["products"]), dict(record["rows"]))


def _prepare(folder: Path, settings: Settings) -> None:
    """Keep the unfinished work of the same settings, and clear away that of others."""
    state = folder / ".build" / "settings.json"
    if state.is_file() and read_json(state)["digest"] == settings.digest:
        return
    strangers = [entry.name for entry in folder.iterdir() if entry.name != ".lock"]
    if strangers and not state.is_file() and not (folder / "region.json").is_file():
        raise ConfigError(
            f"{folder} holds files but no simulated region", sorted(strangers)[0], "choose an empty folder"
        )
    with storage_errors(folder):
        (folder / "region.json").unlink(missing_ok=True)
        for name in ("parcels", "products", "stac", ".build"):
            shutil.rmtree(folder / name, ignore_errors=True)
    write_json(state, {"digest": settings.digest})


@lru_cache(maxsize=1)
def _scene(name: str, size: int, seed: int) -> render.Scene:
    """The last scene, kept: all products of a place are made one after the other."""
    return render.scene(place(name), size, seed)


def _parcel_files(folder: Path, settings: Settings) -> list[tuple[dict[str, Any], int]]:
    """Write every parcel file; the subsets that describe them, with their number of rows."""
    found = []
    for name in settings.regions:
        ground = _scene(name, settings.size, settings.seed)
        where = ground.place
        table = parcels.frame(where, ground.land.shapes[ground.land.is_parcel], ground.crop, settings.seed)
        parcels.write(table, where, folder / "parcels", where.file)
        subset: dict[str, Any] = {
            "name": name,
            "country": where.country,
            "year": where.year,
            "parcels": f"parcels/{where.file}",
            "coverage": "exhaustive",
            "extent": known_extent(ground),
        }
        if "EC_trans_n" not in table:
            subset["table"] = f"parcels/{where.country.lower()}_{where.year}.csv"
            parcels.write_table(where, folder / subset["table"])
        found.append((subset, len(table)))
        if name in SPARSE_OF:
            few = parcels.sparse(table, settings.sparse_share, where, settings.seed)
            file = Path(where.file).stem + "_sparse" + Path(where.file).suffix
            parcels.write(few, where, folder / "parcels", file)
            changed = {"name": SPARSE_OF[name], "parcels": f"parcels/{file}", "coverage": "sparse"}
            found.append(({**subset, **changed}, len(few)))
    return found


def known_extent(ground: render.Scene) -> list[float]:
    """Left, bottom, right, top in degrees of the largest upright box within the ground whose parcels are all known."""
    left, bottom, right, top = ground.known
    to_degrees = pyproj.Transformer.from_crs(ground.place.epsg, 4326, always_xy=True)
    along = np.linspace(0, 1, 50)
    x, y = left + along * (right - left), bottom + along * (top - bottom)
    west, _ = to_degrees.transform(np.full(50, left), y)
    east, _ = to_degrees.transform(np.full(50, right), y)
    _, south = to_degrees.transform(x, np.full(50, bottom))
    _, north = to_degrees.transform(x, np.full(50, top))
    box = (west.max(), south.max(), east.min(), north.min())
    return [round(float(value), 6) for value in box]


def _products(folder: Path, settings: Settings) -> list[str]:
    """Write what is missing of the products; the names of all."""
    tasks = [
        (folder, name, settings, tuple(together))
        for name in settings.regions
        for _, together in groupby(
            sorted(settings.passes(place(name)), key=lambda p: (p.acquired, p.baseline)), key=lambda p: p.datatake
        )
    ]
    names: list[str] = []
    for done in track(_run(tasks, settings.workers), "simulating products", total=len(tasks)):
        names += done
    return sorted(names)


def _run(tasks: list[tuple[Path, str, Settings, tuple[Pass, ...]]], workers: int) -> Iterable[list[str]]:
    if workers == 1 or len(tasks) == 1:
        yield from (_overpass(*task) for task in tasks)
        return
    # Fresh processes: GDAL and BLAS do not survive a fork while their threads run.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context) as pool:
        for future in as_completed([pool.submit(_overpass, *task) for task in tasks]):
            yield future.result()


def _overpass(folder: Path, name: str, settings: Settings, together: tuple[Pass, ...]) -> list[str]:
    """Measure one overpass and write the products that were made of it, where they are not there yet."""
    ground: render.Scene | None = None
    measured: render.Measurement | None = None
    written = []
    for overpass, state in _states(folder, name, together):
        if state.is_file():
            written.append(read_json(state)["id"])
            continue
        if measured is None or ground is None:
            ground = _scene(name, settings.size, settings.seed)
            measured = render.measure(ground, overpass)
        meta = _meta(ground.place, settings.size, overpass, measured)
        safe = writer.write_product(meta, measured.product(overpass.baseline), measured.scl, folder / "products")
        item = catalogue.item(meta, safe, writer.pack(safe, folder / "products"))
        shutil.rmtree(safe)
        write_json(state, item)
        written.append(meta.name)
    return written


def _states(folder: Path, name: str, together: tuple[Pass, ...]) -> Iterator[tuple[Pass, Path]]:
    for overpass in together:
        yield overpass, folder / ".build" / f"{name} {overpass.datatake} {overpass.baseline}.json"


def _meta(where: Place, size: int, overpass: Pass, measured: render.Measurement) -> writer.ProductMeta:
    valid = measured.valid[10]
    return writer.ProductMeta(
        tile=where.tile,
        epsg=where.epsg,
        ulx=where.ulx,
        uly=where.uly,
        size=size,
        acquired=overpass.acquired,
        baseline=overpass.baseline,
        platform=overpass.platform,
        relative_orbit=overpass.relative_orbit,
        absolute_orbit=overpass.absolute_orbit,
        cloud_cover=round(scl.cloud_cover(measured.scl), 6),
        nodata_percentage=round(100.0 * float(np.count_nonzero(~valid)) / valid.size, 6),
        generated=overpass.generated,
        place=where.place,
    )
