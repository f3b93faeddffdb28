"""From parcels and a season to a dataset: the stages of §2.3 in their order.

Every stage writes its result atomically and finds it again, so a run that was stopped goes on where it was and ends
with the same bytes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import geopandas as gpd
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from hydra.utils import instantiate
from omegaconf import DictConfig

from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.labels import BACKGROUND, IGNORE
from cropseg.core.manifest import MANIFEST_SCHEMA, DatasetSpec, read_table, write_dataset, write_table
from cropseg.core.progress import say, table, track
from data_prep import harmonize, more_splits, stats
from data_prep.folder import dataset_folder
from data_prep.parallel import mapping
from data_prep.places import Patches
from data_prep.products import Product
from data_prep.recipe import STAGES, Recipe, Stage, from_cfg, with_extent
from data_prep.rois import Roi
from data_prep.search import Choice, Dropped, choose, outline, to_wgs84
from data_prep.select import Selection, limit_patches
from data_prep.shards import REJECTION_SCHEMA, Cutting, Unit, is_done, make_shards
from data_prep.sources import Source
from data_prep.split import proof
from data_prep.subsets import Subset

Task = tuple[Path, list[tuple[Unit, gpd.GeoDataFrame]]]
"""A product's folder, and its units with the parcels around each."""


MANY_REGIONS: Final = 500
"""From so many searches on, a few minutes at a public catalogue, the user is told how to do with fewer."""


@dataclass(frozen=True)
class Step:
    """What a stage did.

    Attributes:
        stage: Its name.
        came: How many things came in.
        left: How many it gave on.
        what: What is counted.
        why: Reasons for the rest, with their numbers.
    """

    stage: str
    came: int
    left: int
    what: str
    why: Mapping[str, int]


@dataclass(frozen=True)
class Ground:
    """A subset with its labelled parcels and the ROIs chosen from them."""

    subset: Subset
    parcels: gpd.GeoDataFrame
    rois: tuple[Roi, ...] = ()


def run(cfg: DictConfig) -> Path:
    """Prepare a dataset as ``conf/prepare.yaml`` says, up to and including ``cfg.stage``.

    Returns:
        The dataset's folder.
    """
    stage: Stage = cfg.stage
    if stage not in STAGES:
        raise ConfigError("stage", stage, f"choose from {', '.join(STAGES)}")
    source: Source = instantiate(cfg.source)
    recipe = from_cfg(cfg)
    if stage not in ("harmonize", "rois"):
        _check_same_world(recipe, source)
    steps: list[Step] = []
    with dataset_folder(recipe, stage, overwrite=cfg.overwrite) as finished:
        try:
            if stage == "harmonize":
                harmonize.run(recipe.subsets, recipe.taxonomy, recipe.root, recipe.unmapped, recipe.ambiguous)
            elif finished:
                add_split(recipe, steps)
            else:
                prepare(recipe, source, stage, steps)
        finally:
            report(steps)
    return recipe.root


def prepare(recipe: Recipe, source: Source, stage: Stage, steps: list[Step]) -> None:
    """All stages; what each did is added to ``steps`` as it happens."""
    grounds = read_parcels(recipe, steps)
    grounds = find_rois(recipe, grounds, steps)
    if stage == "rois":
        return
    with source:
        choices = search_products(recipe, source, grounds, steps)
        if stage == "search":
            return
        products = {p.name: p for choice in choices.values() for p in choice.kept}
        units = [
            Unit(g.subset, roi, p.name) for g in grounds for roi in g.rois for p in choices[roi.subset, roi.name].kept
        ]
        safes = fetch_products(recipe, source, products, units, steps)
    if stage == "fetch":
        return
    cut_patches(recipe, grounds, units, safes, steps)
    pool = gather(recipe, units, steps)
    if stage == "extract":
        return
    split_and_select(recipe, pool, source.simulated, stage, steps)


def read_parcels(recipe: Recipe, steps: list[Step]) -> list[Ground]:
    """Harmonize: give each parcel a class or a reason; the audit goes to ``audit.csv``."""
    grounds, audits, came, why = [], [], 0, Counter[str]()
    for subset in recipe.subsets:
        say(f"reading parcels of {subset.name}")
        result = harmonize.harmonize(subset, recipe.taxonomy, unmapped=recipe.unmapped, ambiguous=recipe.ambiguous)
        came += len(result.parcels) + len(result.rejected)
        why.update(f"geometry: {str(reason).partition(' of parcel')[0]}" for reason in result.rejected["reason"])
        why["no class of the taxonomy (labelled 255)"] += int((result.parcels["label"] == IGNORE).sum())
        why["outside the taxonomy (background)"] += int((result.parcels["label"] == BACKGROUND).sum())
        grounds.append(Ground(with_extent(subset, result.parcels), result.parcels))
        audits.append(result.audit)
    with storage.atomic_path(recipe.root / "audit.csv") as temporary:
        pd.concat(audits, ignore_index=True).to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")
    steps.append(Step("harmonize", came, sum(len(_targets(g.parcels)) for g in grounds), "parcels", +why))
    return grounds


def find_rois(recipe: Recipe, grounds: Sequence[Ground], steps: list[Step]) -> list[Ground]:
    """Choose where to look; the list goes to ``rois.json``."""
    found = [
        replace(g, rois=tuple(recipe.find_rois(g.parcels, recipe.taxonomy, subset=g.subset.name))) for g in grounds
    ]
    storage.write_json(recipe.root / "rois.json", [asdict(roi) for ground in found for roi in ground.rois])
    number = sum(len(ground.rois) for ground in found)
    steps.append(Step("rois", number, number, "regions", {}))
    if number == 0:
        raise InputError("no region holds a target crop", None, "see audit.csv; loosen rois or choose another taxonomy")
    return found


def search_products(
    recipe: Recipe, source: Source, grounds: Sequence[Ground], steps: list[Step]
) -> dict[tuple[str, str], Choice]:
    """Ask the source for each ROI; the choice is kept in ``search/``, so that a later run sees the same products."""
    choices: dict[tuple[str, str], Choice] = {}
    tasks = [(ground, roi) for ground in grounds for roi in ground.rois]
    if len(tasks) > MANY_REGIONS:
        say(f"{len(tasks):,} regions, each a search of its own: a larger rois.cell_m or a rois.limit saves time")
    for ground, roi in track(tasks, "searching", len(tasks)):
        path = recipe.root / "search" / roi.subset / f"{roi.name}.json"
        if path.is_file():
            data = storage.read_json(path)
            kept = tuple(Product.from_dict(entry) for entry in data["kept"])
            choices[roi.subset, roi.name] = Choice(kept, tuple(Dropped(**entry) for entry in data["dropped"]))
            continue
        year = ground.subset.year
        answer = source.search(roi, recipe.season, year, recipe.max_cloud)
        near = _targets(_around(ground.parcels, roi))
        choice = choose(
            answer, roi, to_wgs84(shapely.union_all(near.geometry.to_numpy()), near.crs), recipe.season, year,
            max_cloud=recipe.max_cloud, limit=recipe.limits.products_per_roi,
        )  # fmt: skip
        storage.write_json(
            path, {"kept": [_slim(p) for p in choice.kept], "dropped": [asdict(d) for d in choice.dropped]}
        )
        choices[roi.subset, roi.name] = choice
    kept_pairs = sum(len(choice.kept) for choice in choices.values())
    why = Counter(_kind(d.reason) for choice in choices.values() for d in choice.dropped)
    steps.append(Step("search", kept_pairs + sum(why.values()), kept_pairs, "region × product", why))
    if not kept_pairs and not why:
        raise InputError(
            f"the source has no product of {recipe.season.interval(grounds[0].subset.year)[0]:%Y-%m} and later there",
            None, "check source.collection or source.folder, season, search.max_cloud and the subset's year",
        )  # fmt: skip
    if kept_pairs == 0:
        raise InputError(
            "no region has a product left", None, "the table says why: widen season, search.max_cloud or the region"
        )
    return choices


def fetch_products(
    recipe: Recipe, source: Source, products: Mapping[str, Product], units: Sequence[Unit], steps: list[Step]
) -> dict[str, Path]:
    """Bring the products that are still needed into the cache."""
    needed = sorted({unit.product for unit in units if not is_done(recipe.root, unit)})
    sizes = [asset.size or 0 for name in needed for asset in products[name].assets.values()]
    if sum(sizes):
        say(f"products needed: {len(needed):,}, {sum(sizes) / 1e9:,.1f} GB in all, less what the cache has")
    with ThreadPoolExecutor(source.connections) as pool:
        found = list(track(pool.map(lambda name: source.fetch(products[name]), needed), "fetching", len(needed)))
    done = len(products) - len(needed)
    steps.append(
        Step("fetch", len(products), len(needed), "products", {"every patch of them is made": done} if done else {})
    )
    return dict(zip(needed, found, strict=True))


def cut_patches(
    recipe: Recipe, grounds: Sequence[Ground], units: Sequence[Unit], safes: Mapping[str, Path], steps: list[Step]
) -> None:
    """Align, rasterize, cut and judge: one shard for each unit, one product at a time and process."""
    parcels = {ground.subset.name: ground.parcels for ground in grounds}
    by_product: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        if unit.product in safes:
            by_product[unit.product].append(unit)
    tasks = (
        (safes[name], [(unit, _around(parcels[unit.subset.name], unit.roi)) for unit in sorted(members, key=_by_block)])
        for name, members in sorted(by_product.items())
    )
    with mapping(recipe.workers) as mapped:
        results = mapped(partial(_cut_product, recipe.root, recipe.cutting), tasks)
        for _ in track(results, "cutting patches", len(by_product)):
            pass
    steps.append(Step("extract", len(units), len(units), "region × product", {}))


def gather(recipe: Recipe, units: Sequence[Unit], steps: list[Step]) -> pa.Table:
    """Collect the shards into the pool of candidates, within the limits an ROI and a product."""
    folders = [recipe.root / unit.folder for unit in units]
    indexes = [read_table(folder / "index.parquet") for folder in folders]
    refused = [read_table(folder / "rejections.parquet") for folder in folders]
    rows = pa.concat_tables([MANIFEST_SCHEMA.empty_table(), *indexes])
    refusals = pa.concat_tables([REJECTION_SCHEMA.empty_table(), *refused])
    why = Counter(refusals["rule"].to_pylist())
    steps.append(Step("quality", rows.num_rows + sum(why.values()), rows.num_rows, "windows", why))
    within = limit_patches(rows, per_roi=recipe.limits.per_roi, per_product=recipe.limits.per_product)
    pool = _only(rows, within.kept)
    steps.append(Step("limits", rows.num_rows, pool.num_rows, "patches", _reasons(within)))
    write_table(recipe.root / "candidates.parquet", pool.to_pylist(), MANIFEST_SCHEMA)
    reasons = [(row["id"], row["reason"]) for row in refusals.select(["id", "reason"]).to_pylist()]
    _write_reasons(recipe.root / "refused.csv", [*reasons, *within.dropped])
    return pool


def split_and_select(recipe: Recipe, pool: pa.Table, simulated: bool, stage: Stage, steps: list[Step]) -> None:
    """Divide the pool by place and balance its training part, or choose first and divide then (the paper's order)."""
    root, split, selector = recipe.root, recipe.split, recipe.selector
    if pool.num_rows == 0:
        raise InputError(
            "no patch passed the filters",
            None,
            "the table says which filter refused how many: loosen quality or season",
        )
    rare = recipe.taxonomy.rare
    if selector.before_split:
        chosen = selector.select(pool, rare)
        manifest = _only(pool, chosen.kept)
        rows = split.assign(Patches.read(manifest))
    else:
        rows = split.assign(Patches.read(pool))
        part = {name: [row["id"] for row in rows if row["part"] == name] for name in ("train", "val", "test")}
        chosen = selector.select(_only(pool, part["train"]), rare)
        manifest = _only(pool, [*chosen.kept, *part["val"], *part["test"]])
    parts = Counter(row["part"] for row in rows)
    steps.append(Step("split", len(rows), len(rows) - parts["buffer"], "patches", {k: v for k, v in parts.items()}))
    steps.append(Step("select", len(chosen.kept) + len(chosen.dropped), len(chosen.kept), "patches", _reasons(chosen)))
    _write_reasons(root / "dropped.csv", chosen.dropped)
    storage.write_json(root / "splits" / f"{split.name}.json", proof(split, manifest, rows))
    if stage != "split":
        tables = [stats.countries(manifest), stats.classes(manifest, recipe.taxonomy),
                  stats.parts(manifest, rows, recipe.taxonomy)]  # fmt: skip
        stats.write_and_show(tables, root / "tables")
    write_dataset(root, _spec(recipe, simulated), manifest.to_pylist(), {split.name: rows})
    say(f"dataset {recipe.name}: {manifest.num_rows} patches in {root}")


def add_split(recipe: Recipe, steps: list[Step]) -> None:
    """Draw one more split over a finished dataset, whose patches stay as they are."""
    root, split = recipe.root, recipe.split
    manifest = read_table(root / "manifest.parquet")
    rows = split.assign(Patches.read(manifest))
    path = root / "splits" / f"{split.name}.parquet"
    if path.is_file() and read_table(path).to_pylist() != sorted(rows, key=lambda row: row["id"]):
        # A model may have been trained on it: its test patches must not become training patches under the same name.
        raise ConfigError(
            f"{root} has a split of that name, drawn otherwise", split.name, "give this one a name: split.name="
        )
    parts = more_splits.write(root, split, rows, proof(split, manifest, rows))
    steps.append(Step("split", len(rows), len(rows) - parts["buffer"], "patches", dict(parts)))
    say(f"split {split.name} drawn over the {manifest.num_rows} patches of {root}")


def report(steps: Sequence[Step]) -> None:
    """Print what came in, what went out, and why the rest was left; nothing if no stage got that far."""
    if not steps:
        return
    table(
        "What each stage did",
        ("stage", "what", "in", "out", "why"),
        [
            (step.stage, step.what, f"{step.came:,}", f"{step.left:,}",
             "; ".join(f"{reason}: {n:,}" for reason, n in sorted(step.why.items(), key=lambda item: -item[1])))
            for step in steps
        ],
    )  # fmt: skip


def _spec(recipe: Recipe, simulated: bool) -> DatasetSpec:
    sparse = any(subset.coverage == "sparse" for subset in recipe.subsets)
    return DatasetSpec(
        name=recipe.name,
        bands=recipe.cutting.bands,
        taxonomy=recipe.taxonomy,
        resolution=float(recipe.cutting.resolution),
        patch_size=recipe.cutting.size,
        simulated=simulated,
        protocol="crop" if sparse else "all",
        provenance={"config": recipe.config, "inputs": recipe.inputs, "label_source": recipe.label_source},
    )


def _cut_product(root: Path, cutting: Cutting, task: Task) -> None:
    safe, units = task
    make_shards(root, safe, units, cutting)


def _check_same_world(recipe: Recipe, source: Source) -> None:
    """Refuse invented parcels on real images and the other way round: masks that have nothing to do with the pixels."""
    if recipe.simulated and not source.simulated:
        raise ConfigError(
            f"the parcels of {recipe.subsets[0].name} are invented, and the source's products are real", None,
            "choose region=own, or source.simulated=true for a service over a simulated region",
        )  # fmt: skip
    if source.simulated and not recipe.simulated:
        raise ConfigError(
            f"the parcels of {recipe.subsets[0].name} are real, and the source's products are simulated", None,
            "choose source=cdse, or source=local with a folder of products",
        )  # fmt: skip


def _by_block(unit: Unit) -> tuple[int, int]:
    """Order of reading: along the rows of a product's JPEG 2000 blocks (10 240 m), so that each is decoded once."""
    left, _, _, top = unit.roi.bounds
    return -top // 10_240, left


def _around(parcels: gpd.GeoDataFrame, roi: Roi) -> gpd.GeoDataFrame:
    """Parcels whose bounds meet the ROI's."""
    box = gpd.GeoSeries([outline(roi)], crs="EPSG:4326").to_crs(parcels.crs).total_bounds
    return parcels.iloc[sorted(parcels.sindex.query(shapely.box(*box)))]


def _targets(parcels: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    return parcels[~parcels["label"].isin([BACKGROUND, IGNORE])]


def _slim(product: Product) -> dict[str, object]:
    """What fetching needs: the single files' addresses are left out."""
    return replace(product, assets={k: a for k, a in product.assets.items() if k == "Product"}).to_dict()


def _only(rows: pa.Table, ids: Sequence[str]) -> pa.Table:
    return rows.filter(pc.is_in(rows["id"], pa.array(ids, pa.string())))


def _reasons(selection: Selection) -> Counter[str]:
    return Counter(reason for _, reason in selection.dropped)


def _write_reasons(path: Path, reasons: Sequence[tuple[str, str]]) -> None:
    """What was left out, one by one: id and reason."""
    with storage.atomic_path(path) as temporary:
        pd.DataFrame(sorted(reasons), columns=["id", "reason"]).to_csv(temporary, index=False, lineterminator="\n")


def _kind(reason: str) -> str:
    """A reason without the figures of the single case, for counting."""
    for kind in ("cloud cover", "outside the season", "the same acquisition in an older processing", "over the limit"):
        if reason.startswith(kind):
            return kind
    return "in another UTM zone" if reason.startswith("in EPSG") else reason
