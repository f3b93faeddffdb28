"""A few tiny products with their catalogue, laid out as the simulator lays them out."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from cropseg.core.bands import PAPER_BANDS, S2_BANDS
from data_prep.simulate.catalogue import item, write_catalogue
from data_prep.simulate.writer import ProductMeta, pack, write_product

META = ProductMeta(
    tile="33UXP",
    epsg=32633,
    ulx=600000,
    uly=5300040,
    size=60,
    acquired=datetime(2022, 6, 12, 10, 6, 1, 24000, tzinfo=UTC),
    baseline="05.10",
    platform="S2A",
    relative_orbit=79,
    absolute_orbit=36400,
    cloud_cover=12.5,
    nodata_percentage=0.0,
    generated=datetime(2022, 6, 12, 15, 0, 0, tzinfo=UTC),
    place="nowhere",
)


def layers(meta: ProductMeta, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Random bands and scene classes; a slanted swath edge cuts off the left."""
    rng = np.random.default_rng(seed)
    half = meta.size // 2
    scl = rng.integers(1, 12, (half, half)).astype(np.uint8)
    for row in range(half):
        scl[row, : max(0, half // 3 - row // 3)] = 0
    bands = {}
    for band in PAPER_BANDS:
        side = meta.size * 10 // S2_BANDS[band].resolution
        bands[band] = rng.integers(1, 12000, (side, side)).astype(np.uint16)
        bands[band][np.kron(scl == 0, np.ones((side // half, side // half), bool))] = 0
    bands["B02"][-1, -1] = 65535
    return bands, scl


def small_region(folder: Path, count: int = 3) -> Path:
    """``<folder>`` with ``products/<name>.zip`` and ``stac/``; dates a month apart, before and after baseline 04.00."""
    items = []
    for index in range(count):
        moved = META.acquired + timedelta(days=30 * index, milliseconds=index)
        meta = replace(
            META,
            acquired=moved,
            generated=moved + timedelta(hours=5),
            baseline="02.14" if index % 2 else "05.10",
            platform="S2B" if index % 2 else "S2A",
            cloud_cover=10.0 * index,
            ulx=META.ulx + 600 * index,
        )
        safe = write_product(meta, *layers(meta, index), folder / "work")
        items.append(item(meta, safe, pack(safe, folder / "products")))
    shutil.rmtree(folder / "work")
    write_catalogue(items, folder / "stac")
    return folder
