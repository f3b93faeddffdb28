"""The unit of work, one ROI on one product, and its shard: a folder of patches that counts once its index stands.

shards/<subset>/<roi>/<product>/<row>_<col>.image.npy, .mask.npy, .parcels.npy
shards/<subset>/<roi>/<product>/rejections.parquet    what was refused, with the reason
shards/<subset>/<roi>/<product>/index.parquet         manifest rows; written last: the commit record
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely
from filelock import FileLock

from cropseg.core import storage
from cropseg.core.manifest import MANIFEST_SCHEMA, read_table, write_table
from cropseg.core.scene import Grid
from cropseg.core.taxonomy import Taxonomy
from data_prep.align import AlignedProduct, BoaOffset, Resampling
from data_prep.extract import Candidate, Rejection, extract
from data_prep.quality import Thresholds
from data_prep.rasterize import Undefined
from data_prep.rois import Roi
from data_prep.safe import open_product
from data_prep.search import to_wgs84
from data_prep.subsets import Subset

REJECTION_SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),  # the filter that refused it, or `region`
        pa.field("reason", pa.string(), nullable=False),
        pa.field("nodata_fraction", pa.float32()),
        pa.field("foreground_fraction", pa.float32()),
        pa.field("scl_invalid_fraction", pa.float32()),
        pa.field("bright_fraction", pa.float32()),
    ]
)
"""Columns of ``rejections.parquet``."""


@dataclass(frozen=True)
class Cutting:
    """How patches are cut from a product: what all units of a dataset share.

    Attributes:
        bands: Channel order.
        resolution: Pixel size in metres.
        resampling: How coarser bands reach it.
        boa_offset: Whether the product's own offset is applied.
        size: Window size in pixels.
        stride: Step in pixels.
        all_touched: Whether a parcel owns every pixel it touches.
        undefined: What becomes of pixels whose parcels say nothing or too much.
        thresholds: The quality filters.
        taxonomy: Classes of the masks.
    """

    bands: tuple[str, ...]
    resolution: int
    resampling: Resampling
    boa_offset: BoaOffset
    size: int
    stride: int
    all_touched: bool
    undefined: Undefined
    thresholds: Thresholds
    taxonomy: Taxonomy


@dataclass(frozen=True)
class Unit:
    """One ROI on one product.

    Attributes:
        subset: Whose parcels label it.
        roi: The region.
        product: The product's name.
    """

    subset: Subset
    roi: Roi
    product: str

    @property
    def folder(self) -> str:
        """The shard's folder inside the dataset."""
        return f"shards/{self.subset.name}/{self.roi.name}/{self.product}"


def is_done(root: Path, unit: Unit) -> bool:
    """Whether the shard is committed and every file that it names is there."""
    index = root / unit.folder / "index.parquet"
    if not index.is_file():
        return False
    rows = read_table(index).select(["image", "mask", "parcels"]).to_pylist()
    return all((root / path).is_file() for row in rows for path in row.values() if path)


def make_shards(
    root: Path, safe: Path, units: Sequence[tuple[Unit, gpd.GeoDataFrame]], cutting: Cutting
) -> None:  # fmt: skip
    """Make the shards of one product that are not done yet.

    Args:
        root: The dataset folder.
        safe: The product's ``.SAFE`` folder.
        units: Units of this product with the harmonised parcels around each.
        cutting: How to cut.

    Raises:
        InputError: A file of the product cannot be read.
        StorageError: The disk is full, read-only or not ours; the shard in work is removed.
    """
    scene = AlignedProduct(
        open_product(safe), cutting.bands, resolution=cutting.resolution, resampling=cutting.resampling,
        boa_offset=cutting.boa_offset,
    )  # fmt: skip
    with scene:
        for unit, parcels in units:
            folder = root / unit.folder
            with storage.storage_errors(folder):
                folder.parent.mkdir(parents=True, exist_ok=True)
            # A worker may outlive a killed parent: whoever comes next waits until it is done.
            with FileLock(folder.parent / f".{unit.product}.lock"):
                if is_done(root, unit):
                    continue
                shutil.rmtree(folder, ignore_errors=True)
                try:
                    _make_shard(root, scene, unit, parcels, cutting)
                except BaseException:
                    shutil.rmtree(folder, ignore_errors=True)
                    raise


def _make_shard(root: Path, scene: AlignedProduct, unit: Unit, parcels: gpd.GeoDataFrame, cutting: Cutting) -> None:
    rows: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for result in extract(
        scene,
        unit.roi,
        parcels,
        size=cutting.size,
        stride=cutting.stride,
        thresholds=cutting.thresholds,
        taxonomy=cutting.taxonomy,
        coverage=unit.subset.coverage,
        extent=unit.subset.extent,
        all_touched=cutting.all_touched,
        undefined=cutting.undefined,
    ):
        if isinstance(result, Rejection):
            refused.append(_rejection(unit, result))
        else:
            rows.append(_row(root, scene, unit, result))
    write_table(root / unit.folder / "rejections.parquet", refused, REJECTION_SCHEMA)
    write_table(root / unit.folder / "index.parquet", rows, MANIFEST_SCHEMA)


def _row(root: Path, scene: AlignedProduct, unit: Unit, patch: Candidate) -> dict[str, Any]:
    """Write a patch's files and return its manifest row."""
    stem = f"{unit.folder}/{patch.window.row}_{patch.window.col}"
    paths = {name: f"{stem}.{name}.npy" for name in ("image", "mask", "parcels")}
    image = _save(root / paths["image"], patch.image)
    mask = _save(root / paths["mask"], patch.mask)
    _save(root / paths["parcels"], patch.parcels)
    return {
        "id": stem.removeprefix("shards/"),
        **paths,
        "image_sha256": image,
        "mask_sha256": mask,
        "subset": unit.subset.name,
        "country": unit.subset.country[:2].upper(),
        "roi": unit.roi.name,
        "product": unit.product,
        "datetime": scene.acquired,
        "tile": scene.product.tile,
        "crs": patch.grid.crs,
        "transform": list(patch.grid.transform),
        "height": patch.grid.height,
        "width": patch.grid.width,
        "geometry": shapely.to_wkb(_footprint(patch.grid)),
        **{key: list(value) if key == "counts" else value for key, value in asdict(patch.figures).items()},
    }


def _rejection(unit: Unit, refusal: Rejection) -> dict[str, Any]:
    place = "region" if refusal.window is None else f"{refusal.window.row}_{refusal.window.col}"
    figures = asdict(refusal.figures) if refusal.figures else {}
    return {
        "id": f"{unit.folder.removeprefix('shards/')}/{place}",
        "rule": refusal.rule,
        "reason": refusal.reason,
        **{name: figures.get(name) for name in REJECTION_SCHEMA.names[3:]},
    }


def _footprint(grid: Grid) -> shapely.Geometry:
    return to_wgs84(shapely.box(*grid.bounds), grid.crs)


def _save(path: Path, array: npt.NDArray[Any]) -> str:
    """Write an array and flush it; not renamed into place, since without the index the folder does not count."""
    with storage.storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Through memory: numpy's own writing to a file hides the reason when the disk is full.
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        with path.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
    return storage.sha256(path)
