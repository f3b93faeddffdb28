"""What a preparation is made by: the config turned into objects, and the part of it that decides the result."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import geopandas as gpd
import shapely
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from cropseg.core import storage
from cropseg.core.bands import check_bands
from cropseg.core.errors import ConfigError
from cropseg.core.taxonomy import Taxonomy
from data_prep.align import RESOLUTIONS, BoaOffset, Resampling
from data_prep.harmonize import Ambiguous, Unmapped
from data_prep.quality import check_filters
from data_prep.rasterize import Undefined
from data_prep.rois import Roi
from data_prep.search import Season, to_wgs84
from data_prep.select import Selector
from data_prep.shards import Cutting
from data_prep.split import Split
from data_prep.subsets import Subset, from_config

Stage = Literal["harmonize", "rois", "search", "fetch", "extract", "split", "stats", "all"]
STAGES = get_args(Stage)

# What changes how the work is done and not what comes out of it.
_MEANS = frozenset({"paths", "stage", "workers", "overwrite", "out", "prepare_as", "hydra", "scale"})
_SOURCE_MEANS = frozenset(
    {"cache", "folder", "port", "page_size", "connections", "attempts", "backoff_s", "cloud_filter"}
)


@dataclass(frozen=True)
class Limits:
    """How much is taken from one place and one date, against redundancy (§2.3).

    Attributes:
        products_per_roi: Most products an ROI; None for all.
        per_roi: Most patches an ROI, over all dates; None for all.
        per_product: Most patches a product, over all ROIs; None for all.
    """

    products_per_roi: int | None = None
    per_roi: int | None = None
    per_product: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("products_per_roi", "per_roi", "per_product"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"limits.{name} is a number", value, "give 1 or more, or null for no limit")


@dataclass(frozen=True)
class Recipe:
    """Everything that a preparation is made by.

    Attributes:
        name: Name of the dataset.
        root: Its folder.
        subsets: Parcels.
        taxonomy: Classes.
        unmapped: What crops outside the taxonomy become.
        ambiguous: What names of several classes become.
        season: When to look.
        max_cloud: Greatest cloud cover of a tile in percent.
        limits: Against redundancy.
        find_rois: Strategy: (parcels, taxonomy, subset=name) -> ROIs, best first.
        cutting: How patches are cut and judged.
        split: How they are divided.
        selector: How they are chosen.
        workers: Processes that cut patches.
        simulated: Whether the parcels are invented.
        config: The part of the config that decides the result, as plain data.
        inputs: SHA-256 of the files that the result is made from.
    """

    name: str
    root: Path
    subsets: tuple[Subset, ...]
    taxonomy: Taxonomy
    unmapped: Unmapped
    ambiguous: Ambiguous
    season: Season
    max_cloud: float
    limits: Limits
    find_rois: Callable[..., list[Roi]]
    cutting: Cutting
    split: Split
    selector: Selector
    workers: int
    simulated: bool
    config: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def label_source(self) -> dict[str, list[str]]:
        """Who told the labels of each subset: whose declarations, and EuroCrops where it translated their crops."""
        kind = "simulated" if self.simulated else "parcel"
        found = {}
        for subset in self.subsets:
            # EuroCrops' own files are told by their name, such as FR_2018_EC21.shp.
            translated = subset.table is not None or re.search(r"_EC\d\d", Path(str(subset.parcels)).name)
            collection = ["simulation"] if self.simulated else ["EuroCrops"] if translated else []
            found[subset.name] = [*collection, f"{kind} declarations of {subset.country}"]
        return found


def read_subsets(cfg: DictConfig) -> tuple[Subset, ...]:
    """The subsets of ``region.subsets``: a list of plain data, or a ``_target_`` that gives one."""
    entries = cfg.region.get("subsets")
    if entries is None:
        raise ConfigError("region has no subsets", cfg.region.get("name"), "list them under region.subsets")
    if "_target_" in entries:
        return from_config(instantiate(entries))
    return from_config(OmegaConf.to_container(entries, resolve=True))  # type: ignore[arg-type]


def from_cfg(cfg: DictConfig) -> Recipe:
    """Build the recipe of ``conf/prepare.yaml``.

    Raises:
        ConfigError: An option has an impossible value.
        InputError: A file of the region is missing.
    """
    _check(cfg)
    subsets = read_subsets(cfg)
    taxonomy = instantiate(cfg.taxonomy)
    thresholds = instantiate(cfg.quality)
    check_filters(thresholds, cfg.grid.bands, taxonomy)
    return Recipe(
        name=str(cfg.name),
        root=Path(cfg.out),
        subsets=subsets,
        taxonomy=taxonomy,
        unmapped=cfg.labels.unmapped,
        ambiguous=cfg.labels.ambiguous,
        season=instantiate(cfg.season),
        max_cloud=float(cfg.search.max_cloud),
        limits=Limits(**cfg.limits),
        find_rois=instantiate(cfg.rois),
        cutting=Cutting(
            bands=check_bands(cfg.grid.bands),
            resolution=int(cfg.grid.resolution),
            resampling=cfg.grid.resampling,
            boa_offset=cfg.grid.boa_offset,
            size=int(cfg.patch.size),
            stride=int(cfg.patch.stride),
            all_touched=bool(cfg.labels.all_touched),
            undefined=cfg.labels.undefined,
            thresholds=thresholds,
            taxonomy=taxonomy,
        ),
        split=instantiate(cfg.split),
        selector=instantiate(cfg.select),
        workers=int(cfg.workers),
        simulated=bool(cfg.region.get("simulated", False)),
        config=decisive(cfg, subsets),
        inputs=_inputs(cfg, subsets),
    )


def _check(cfg: DictConfig) -> None:
    """Refuse impossible values now, and not after an hour of downloads."""
    for key, least in (("workers", 1), ("patch.size", 1), ("patch.stride", 1), ("seed", 0), ("rois.cell_m", 1)):
        value = OmegaConf.select(cfg, key)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{key} is a whole number", value, f"give {least} or more")
    if not isinstance(cfg.overwrite, bool):
        raise ConfigError("overwrite is true or false", cfg.overwrite, "true removes what is in the dataset's folder")
    cloud = cfg.search.max_cloud
    if isinstance(cloud, bool) or not isinstance(cloud, int | float) or not 0 <= cloud <= 100:
        raise ConfigError("search.max_cloud is a percentage", cloud, "give 0 to 100")
    for key, allowed in (
        ("grid.resolution", RESOLUTIONS), ("grid.resampling", get_args(Resampling)),
        ("grid.boa_offset", get_args(BoaOffset)), ("labels.undefined", get_args(Undefined)),
        ("labels.all_touched", (True, False)),
    ):  # fmt: skip
        if OmegaConf.select(cfg, key) not in allowed:
            raise ConfigError(key, OmegaConf.select(cfg, key), f"choose from {', '.join(map(str, allowed))}")
    if not OmegaConf.is_list(cfg.grid.bands):
        raise ConfigError("grid.bands is a list", cfg.grid.bands, "such as [B02, B03, B04, B08]")
    window_m = cfg.patch.size * cfg.grid.resolution
    if cfg.rois.cell_m < window_m:
        raise ConfigError(
            f"a window of {cfg.patch.size} pixels is {window_m} m wide and fits in no region of rois.cell_m",
            cfg.rois.cell_m, f"give rois.cell_m={window_m} or more, or a smaller patch.size",
        )  # fmt: skip


def decisive(cfg: DictConfig, subsets: tuple[Subset, ...]) -> dict[str, Any]:
    """The config without what does not change the result; paths only by their file's name, for content is hashed."""
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    config = {key: value for key, value in plain.items() if key not in _MEANS}
    config["source"] = {key: value for key, value in plain["source"].items() if key not in _SOURCE_MEANS}
    named = (replace(subset, parcels=_name(subset.parcels), table=_name(subset.table)) for subset in subsets)
    config["region"] = {"name": plain["region"].get("name"), "subsets": {s.name: dict(vars(s)) for s in named}}
    plain_json: dict[str, Any] = json.loads(json.dumps(config))  # as it is read back: tuples become lists
    return plain_json


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*old, *new}):
        one, other = old.get(key), new.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found |= differences(one, other, f"{prefix}{key}.")
        elif one != other:
            found[f"{prefix}{key}"] = (one, other)
    return found


def with_extent(subset: Subset, parcels: gpd.GeoDataFrame) -> Subset:
    """``subset`` with the ground that its parcels speak for: their bounds where it states none."""
    if subset.extent is not None or subset.coverage == "sparse" or parcels.empty:
        return subset
    box = shapely.box(*parcels.total_bounds)
    side = max(box.bounds[2] - box.bounds[0], box.bounds[3] - box.bounds[1]) / 64
    return replace(subset, extent=to_wgs84(shapely.segmentize(box, side), parcels.crs).bounds)


def _inputs(cfg: DictConfig, subsets: tuple[Subset, ...]) -> dict[str, str]:
    digests = {f"{subset.name}.{path.name}": storage.sha256(path) for subset in subsets for path in _files(subset)}
    region = Path(cfg.source.get("folder") or "") / "region.json"
    if region.is_file():
        digests["simulation"] = str(storage.read_json(region)["digest"])
    return digests


def _files(subset: Subset) -> list[Path]:
    """The files that hold the subset's parcels and names; a shapefile is several."""
    found = []
    for text in (subset.parcels, subset.table):
        path = Path(str(text).partition("!")[0]) if text else None
        if path is not None and path.is_file():
            found += sorted(path.parent.glob(f"{path.stem}.*")) if path.suffix.lower() == ".shp" else [path]
    return found


def _name(path: str | None) -> str | None:
    return None if path is None else Path(path).name
