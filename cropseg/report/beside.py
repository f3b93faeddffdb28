"""The paper's tables and figures: drawn in its form where the runs have them, with the reason where they have not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pyarrow.parquet as pq
from omegaconf import OmegaConf

from cropseg.core.errors import InputError
from cropseg.core.manifest import PARTS, Dataset, open_dataset
from cropseg.report import panels
from cropseg.report.content import (
    Block,
    Figure,
    Grid,
    Heading,
    Index,
    Legend,
    Missing,
    Section,
    Steps,
    Words,
)
from cropseg.report.panels import Gallery
from cropseg.report.paper_tables import paper_tables
from cropseg.runs import Run

FIGURES: Final = {
    1: "the data generation pipeline",
    2: "an image and its mask",
    3: "training dynamics: losses, mIoU, pixel accuracy, learning rate",
    4: "row-normalised confusion matrix of the internal test",
    5: "image, truth and prediction: internal test",
    6: "image, truth and prediction: Belgium",
    7: "image, truth and prediction: DACIA5",
    8: "image, truth and prediction: PASTIS",
}
"""Figures of the paper and what they show."""

SETS: Final = {"internal": 5, "be_vlg_2021": 6, "be_wal_2021": 6, "dacia5": 7, "pastis": 8}
"""Figure of the paper that shows an evaluation set."""


def maps(galleries: Sequence[Gallery], seeds: bool) -> Section:
    """The galleries of all sets: Figures 5 to 8 of the paper, and the best, median and worst patches."""
    text = (
        "The patches with most classes, one place after the other, chosen by their labels alone; then the best, the "
        "median and the worst. Images are stretched to the 2nd to 98th percentile of each patch. Confidence is the "
        "probability of the class that is shown."
    )
    if seeds:
        text += " Of a model with several seeds, the first is shown."
    blocks: list[Block] = [Words(text), Legend(scale=True)]
    numbered: set[int] = set()
    for gallery in galleries:
        number = SETS.get(gallery.key.split("+")[0])
        anchor = "" if number is None or number in numbered or gallery.reason else f"figure-{number}"
        heading = gallery.name if number is None else f"Figure {number}. Patches of {gallery.name}"
        blocks.append(Heading(heading, anchor))
        if number is not None and not gallery.reason:
            numbered.add(number)
        if gallery.reason:
            blocks.append(Missing(f"No panels: {gallery.reason}"))
            continue
        blocks += gallery.chosen
        if gallery.ranked:
            blocks += [Words(f"Best, median and worst by {gallery.ranking}:"), *gallery.ranked]
        elif gallery.unranked:
            blocks.append(Words(f"Best, median and worst are not shown: {gallery.unranked}.", quiet=True))
    return Section("maps", "Image, truth and prediction", tuple(blocks))


def figures_section(runs: Sequence[Run], others: Sequence[Section]) -> Section:
    """Figures 1 and 2, and where the rest of the paper's figures stand; ``others`` hold them."""
    blocks: list[Block] = []
    try:
        if runs[0].dataset_root is None:
            raise InputError("the run's config does not tell where its dataset lies")
        dataset = open_dataset(runs[0].dataset_root)
        blocks.append(_pipeline(dataset, runs[0].spec.split))
        parts = dataset.parts(runs[0].spec.split)
        if (pictures := panels.example(dataset, [int(row) for row in parts["train"]])) is not None:
            title = f"Figure 2. An image of the training part of {dataset.spec.name} and its mask"
            blocks += [Figure(title, pictures, anchor="figure-2", patch=True), Legend()]
    except InputError as error:
        blocks += [_pipeline(None, ""), Missing(f"Figure 2 is not shown: {error}")]
    there = {block.anchor for one in others for block in one.blocks if hasattr(block, "anchor")}
    there |= {block.anchor for block in blocks if hasattr(block, "anchor")}
    entries = []
    for number, what in FIGURES.items():
        anchor = f"figure-{number}"
        entries.append((f"Figure {number}", what, *((anchor, "") if anchor in there else ("", _why(number, runs)))))
    index = Index("The paper's figures", tuple(entries))
    return Section("figures", "The paper's figures", (index, *blocks))


def _why(number: int, runs: Sequence[Run]) -> str:
    """Why a figure of the paper is not shown."""
    sets = [name for name, figure in SETS.items() if figure == number]
    if number == 2:
        return "the training dataset is not on disk"
    if number == 3:
        return "no run was trained by epochs"
    if number == 4:
        sets = ["internal"]
    if any(name in run.evaluations for name in sets for run in runs):
        return "panels were left out, or their dataset or model is gone"
    return "not evaluated; Table 9 tells how to"


def _pipeline(dataset: Dataset | None, split: str) -> Steps:
    """Figure 1: the stages with this dataset's own settings and counts, as far as it tells them."""
    config = OmegaConf.create(dict(dataset.spec.provenance.get("config") or {})) if dataset else OmegaConf.create()

    def told(key: str, form: str, default: str = "") -> str:
        value = OmegaConf.select(config, key, default=None)
        return default if value is None else form.format(value)

    pool = dataset.root / "candidates.parquet" if dataset else None
    candidates = f"{pq.read_metadata(pool).num_rows:,} candidates" if pool is not None and pool.is_file() else ""
    names = "" if dataset is None else f"{len(dataset.spec.taxonomy)} classes, {dataset.spec.taxonomy.name}"
    counts = ""
    if dataset is not None:
        rows = dataset.parts(split)
        counts = ", ".join(f"{len(rows[part]):,} {part}" for part in PARTS)
    season = told("season.first_month", "months {}") + told("season.last_month", " to {}")
    steps = (
        ("EuroCrops parcels", "national crop names and geometries"),
        ("Harmonise labels", names),
        ("Choose regions", told("rois._target_", "{}").replace("data_prep.rois.", "").replace("_", " ")),
        ("Search Sentinel-2 L2A", ", ".join(one for one in (season, told("search.max_cloud", "cloud ≤ {} %")) if one)),
        ("Retrieve products", "kept on disk, never twice"),
        ("Align bands", told("grid.resampling", "10 m grid of B02, {}", "10 m grid of B02")),
        ("Rasterise parcels", "one mask an image"),
        ("Cut patches", told("patch.size", "{} px") + told("patch.stride", ", stride {} px")),
        ("Filter by quality", "no data, clouds (SCL), bright pixels, foreground"),
        ("Pool", candidates),
        ("Select by class", f"{len(dataset):,} patches" if dataset else ""),
        ("Split", f"{split}: {counts}" if counts else ""),
    )
    note = "In the paper: 97,945 candidates, 67,337 selected, 53,888 train, 6,797 val, 6,652 test."
    title = "Figure 1. From parcels and images to a dataset"
    return Steps(title, steps, note, "figure-1")


def tables_section(runs: Sequence[Run]) -> Section:
    """Tables 1 to 14 in the paper's form, ours beside the paper's."""
    found = paper_tables(runs)
    blocks: list[Block] = [Index("The paper's tables", tuple(_entry(one.number, one.caption) for one in found))]
    blocks += [Grid(one.table, f"table-{one.number}", style="paper") for one in found]
    return Section("tables", "The paper's tables", tuple(blocks))


def _entry(number: int, caption: str) -> tuple[str, str, str, str]:
    return f"Table {number}", caption, f"table-{number}", ""
