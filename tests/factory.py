"""Small datasets for tests, written through the same function as real ones."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import shapely

from cropseg.core import storage, taxonomy
from cropseg.core.bands import PAPER_BANDS
from cropseg.core.manifest import Dataset, DatasetSpec, open_dataset, write_dataset

PARTS = {"train": 0.6, "val": 0.2, "test": 0.2}


def spectra(classes: int, bands: int, seed: int = 7) -> np.ndarray:
    """A spectrum for each class, (classes, bands), DN between 500 and 6000; the same for every call."""
    return np.random.default_rng(seed).uniform(500, 6000, (classes, bands))


def make_patch(random, size: int, bands: int, classes: int, *, noise: float, nodata: bool, ignored: bool):
    """Rectangular fields on background, a spectrum each plus noise: image uint16 (C, H, W), mask uint8 (H, W)."""
    mask = np.zeros((size, size), np.uint8)
    for _ in range(6):
        top, left = random.integers(0, size - size // 4, 2)
        height, width = random.integers(size // 4, size // 2 + 1, 2)
        mask[top : top + height, left : left + width] = random.integers(0, classes)
    image = spectra(classes, bands)[mask].transpose(2, 0, 1) + random.normal(0, noise, (bands, size, size))
    image = image.clip(1, 10000).astype(np.uint16)
    if nodata:
        image[:, :, : size // 4] = 0
    if ignored:
        mask[: size // 8] = 255
    return image, mask


def make_dataset(
    root: Path,
    n: int = 10,
    size: int = 32,
    bands: tuple[str, ...] = PAPER_BANDS,
    *,
    seed: int = 0,
    noise: float = 100.0,
    nodata: bool = False,
    ignored: bool = False,
    shuffle_labels: bool = False,
    parts: dict[str, float] | None = None,
    split: str = "location",
    protocol: str = "all",
    simulated: bool = True,
    taxonomy_name: str = "eurocrops10",
    resolution: float = 10.0,
    name: str = "tiny",
) -> Dataset:
    """Write ``n`` patches of ``size`` pixels a side and one split, and open the folder.

    ``parts`` gives the share of each part in order (default 60/20/20 of train/val/test); ``nodata`` empties a quarter
    of every second patch; ``ignored`` sets an eighth of each mask to 255; ``shuffle_labels`` deals every mask's labels
    out at random. Each patch carries a parcel raster (one parcel a class and patch).
    """
    random = np.random.default_rng(seed)
    classes = taxonomy.load(taxonomy_name)
    rows, split_rows = [], []
    shares = parts or PARTS
    bounds = np.cumsum(list(shares.values()))
    for index in range(n):
        image, mask = make_patch(
            random, size, len(bands), len(classes), noise=noise, nodata=nodata and index % 2 == 1, ignored=ignored
        )
        if shuffle_labels:
            mask = random.permutation(mask.ravel()).reshape(mask.shape)
        roi, product = f"roi{index % 3}", f"S2A_MSIL2A_2021060{index % 5 + 1}T100031_N0300_R122_T33UXP"
        patch_id = f"xx_2021/{roi}/{product}/{index * size}_0"
        stem = f"shards/{patch_id}"
        parcels = np.where(mask == 255, 0, mask.astype(np.uint32) + 100 * (index + 1)) * (mask > 0)
        for kind, array in (("image", image), ("mask", mask), ("parcels", parcels.astype(np.uint32))):
            storage.write_array(root / f"{stem}.{kind}.npy", array)
        lon, lat = 15.0 + 0.01 * index, 48.0
        transform = [resolution, 0.0, 500000.0 + index * size * resolution, 0.0, -resolution, 5400000.0]
        counts = np.bincount(mask[mask != 255], minlength=len(classes))
        rows.append(
            {
                "id": patch_id,
                "image": f"{stem}.image.npy",
                "mask": f"{stem}.mask.npy",
                "parcels": f"{stem}.parcels.npy",
                "image_sha256": storage.sha256(root / f"{stem}.image.npy"),
                "mask_sha256": storage.sha256(root / f"{stem}.mask.npy"),
                "subset": "xx_2021",
                "country": "XX",
                "roi": roi,
                "product": product,
                "datetime": datetime(2021, 6, index % 5 + 1, 10, tzinfo=UTC),
                "tile": "33UXP",
                "crs": "EPSG:32633",
                "transform": transform,
                "height": size,
                "width": size,
                "nodata_fraction": float((image == 0).any(axis=0).mean()),
                "foreground_fraction": float(((mask > 0) & (mask != 255)).mean()),
                "scl_invalid_fraction": float("nan"),
                "bright_fraction": 0.0,
                "clamped_fraction": 0.0,
                "counts": counts.tolist(),
                "ignored": int((mask == 255).sum()),
                "geometry": shapely.box(lon, lat, lon + 0.01, lat + 0.01).wkb,
            }
        )
        part = list(shares)[min(int(np.searchsorted(bounds, (index + 0.5) / n)), len(shares) - 1)]
        split_rows.append({"id": patch_id, "part": part, "group": patch_id})
    spec = DatasetSpec(name, tuple(bands), classes, resolution, size, simulated, protocol)
    write_dataset(root, spec, rows, {split: split_rows})
    return open_dataset(root)
