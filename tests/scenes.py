"""Windows cut out of simulated scenes, held in memory: overlapping, of several dates, with or without parcels."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import shapely

from cropseg.core import taxonomy
from cropseg.core.bands import PAPER_BANDS
from cropseg.core.manifest import MANIFEST_SCHEMA, Dataset, DatasetSpec


@dataclass(frozen=True)
class Cut(Dataset):
    """A dataset whose patches are windows of arrays by product: image, mask, parcels (None if unknown)."""

    scenes: dict = field(default_factory=dict)
    spots: tuple = ()

    def _cut(self, row, number):
        product, line, col = self.spots[row]
        array, size = self.scenes[product][number], self.spec.patch_size
        return array[..., line : line + size, col : col + size].copy()

    def image(self, row, into=None):
        return self._cut(row, 0)

    def mask(self, row, into=None):
        return self._cut(row, 1)

    def parcels(self, row):
        return self._cut(row, 2)


def make_scene(random, side, classes, *, parcels=True, field_size=4):
    """Blocky parcels of a class each, with no-data and unknown pixels strewn in."""
    blocks = -(-side // field_size)
    numbers = random.integers(0, 6, (blocks, blocks)).astype(np.uint32).repeat(field_size, 0).repeat(field_size, 1)
    numbers = numbers[:side, :side]
    of = random.integers(0, classes, 6).astype(np.uint8)
    of[0] = 0
    mask = of[numbers]
    mask[random.random(mask.shape) < 0.1] = 255
    image = random.integers(1, 9000, (len(PAPER_BANDS), side, side)).astype(np.uint16)
    image[3, random.random(mask.shape) < 0.1] = 0
    return image, mask, numbers if parcels else None


def cut(scenes, spots, size, *, roi="r", subset="s_2021", name="cut"):
    """The windows at ``spots`` (product, line, column) of ``scenes``, as a dataset."""
    rows = []
    for product, line, col in spots:
        parcels = None if scenes[product][2] is None else "p"
        lon, lat = 15 + col * 1e-4, 48 - line * 1e-4
        rows.append(
            {
                "id": f"{subset}/{roi}/{product}/{line}_{col}",
                "image": "i", "mask": "m", "parcels": parcels, "image_sha256": "", "mask_sha256": "",
                "subset": subset, "country": "XX", "roi": roi, "product": product,
                "datetime": datetime(2021, 5, 1 + int(product[-1]), 10, tzinfo=UTC), "tile": "33UXP",
                "crs": "EPSG:32633", "transform": [10.0, 0.0, 500000.0 + 10 * col, 0.0, -10.0, 5400000.0 - 10 * line],
                "height": size, "width": size, "nodata_fraction": 0.0, "foreground_fraction": 0.0,
                "scl_invalid_fraction": float("nan"), "bright_fraction": 0.0, "clamped_fraction": 0.0,
                "counts": [0], "ignored": 0,
                "geometry": shapely.box(lon, lat - size * 1e-4, lon + size * 1e-4, lat).wkb,
            }
        )  # fmt: skip
    spec = DatasetSpec(name, PAPER_BANDS, taxonomy.load("eurocrops10"), 10.0, size, True)
    manifest = pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)
    return Cut(Path("nowhere"), spec, manifest, "0" * 64, scenes=scenes, spots=tuple(spots))


class Erratic:
    """Pixelwise: label and confidence follow from the bands of the pixel."""

    validation_score = 0.5

    def __init__(self, spec=None, classes=11):
        self.spec, self.classes = spec, classes

    def classify(self, images):
        key = (images.astype(np.int64) * np.arange(1, images.shape[1] + 1)[None, :, None, None]).sum(axis=1)
        return (key % self.classes).astype(np.uint8), ((key * 7919 % 1000 + 1) / 1000).astype(np.float32)

    def labels(self, images):
        return self.classify(images)[0]
