"""Wrong datasets: each silent error of this field, made where it is really made, and written as a dataset of its own.

Used by what_breaks.py. A change takes a :class:`Patch` of a right dataset and gives those of the wrong one. Errors of
reading go through data_prep's own reading of the product, errors of labels through its rasterising.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from hydra import compose, initialize_config_dir
from rasterio.enums import Resampling

from cropseg.core import storage
from cropseg.core.bands import DARKEST, NODATA
from cropseg.core.errors import InputError
from cropseg.core.labels import BACKGROUND, IGNORE
from cropseg.core.manifest import Dataset, open_dataset, write_dataset
from cropseg.core.scene import Grid
from cropseg.core.tiling import Window
from data_prep.align import AlignedProduct
from data_prep.extract import Candidate, extract
from data_prep.harmonize import harmonize
from data_prep.products import Product
from data_prep.rasterize import rasterize
from data_prep.recipe import Recipe, from_cfg, with_extent
from data_prep.rois import Roi
from data_prep.safe import open_product

REPO = Path(__file__).resolve().parents[1]
SPLIT = {"embedded": "location", "embedded_unseen": "test"}


@dataclass(frozen=True)
class Patch:
    """A patch held in memory: its manifest row, image, mask and parcel numbers, and its part."""

    row: dict[str, Any]
    image: np.ndarray
    mask: np.ndarray
    parcels: np.ndarray
    part: str

    @property
    def place(self):
        return place(self.row["id"])


def place(patch_id):
    """The ground of a patch: dates of one place differ in the product alone."""
    subset, roi, _, cut = patch_id.split("/")[:4]
    return f"{subset}/{roi}/{cut}"


def draw(*keys):
    """A number from 0 to 1 for these names."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, keys)).encode()).digest()[:8], "big") / 2**64


class Source:
    """A right dataset, and the products and parcels that it was made from."""

    def __init__(self, data: Path, name: str, options=()):
        self.data, self.name, self.options = data, name, tuple(options)

    @cached_property
    def dataset(self) -> Dataset:
        return open_dataset(self.data / self.name)

    @cached_property
    def recipe(self) -> Recipe:
        """What the dataset was prepared by."""
        with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
            given = [f"region={self.name}", f"paths.data={self.data.resolve()}", f"paths.root={self.data.resolve()}"]
            return from_cfg(compose("prepare", [*given, *self.options]))

    def parcels(self, name):
        """A subset and its harmonised parcels."""
        return self._parcels[name]

    @cached_property
    def _parcels(self):
        rules = {"unmapped": self.recipe.unmapped, "ambiguous": self.recipe.ambiguous}
        made = {one.name: (one, harmonize(one, self.recipe.taxonomy, **rules).parcels) for one in self.recipe.subsets}
        return {name: (with_extent(one, parcels), parcels) for name, (one, parcels) in made.items()}

    def scene(self, product, kind=AlignedProduct, *, offset_times=1, **options):
        """A product of the dataset, opened with the dataset's own options but for ``options``."""
        found = sorted(self.data.glob(f"cache/*/{product}/{product}.SAFE"))
        if not found:
            raise InputError(f"product {product} is not in the cache", None, "prepare the dataset again")
        opened = open_product(found[0])
        opened = replace(opened, offsets={band: offset_times * dn for band, dn in opened.offsets.items()})
        grid = self.recipe.config["grid"]
        given = {key: grid[key] for key in ("resolution", "resampling", "boa_offset")}
        return kind(opened, options.pop("bands", grid["bands"]), **{**given, **options})

    def patches(self, parts) -> Iterator[Patch]:
        """The patches of some parts, product by product."""
        rows_of = self.dataset.parts(SPLIT[self.name])
        rows = [(int(row), part) for part in parts for row in rows_of[part]]
        product = self.dataset.manifest["product"].to_pylist()
        for row, part in sorted(rows, key=lambda one: product[one[0]]):
            data = self.dataset.manifest.slice(row, 1).to_pylist()[0]
            image, mask = self.dataset.image(row), self.dataset.mask(row)
            yield Patch(data, image, mask, self.dataset.parcels(row), part)


def write(source: Source, root: Path, patches: Iterator[Patch], size=None) -> Path:
    """Write patches as a dataset, its manifest last; a finished one is left as it is."""
    if (root / "manifest.parquet").is_file():
        return root
    rows, split = [], []
    for patch in patches:
        stem = f"shards/{patch.row['id']}"
        paths = {kind: f"{stem}.{kind}.npy" for kind in ("image", "mask", "parcels")}
        for kind, path in paths.items():
            storage.write_array(root / path, getattr(patch, kind))
        digests = {f"{kind}_sha256": storage.sha256(root / paths[kind]) for kind in ("image", "mask")}
        counts = np.bincount(patch.mask.ravel(), minlength=IGNORE + 1)
        labels = {"counts": counts[: len(source.dataset.spec.taxonomy)].tolist(), "ignored": int(counts[IGNORE])}
        shape = {"height": patch.mask.shape[0], "width": patch.mask.shape[1]}
        rows.append({**patch.row, **paths, **digests, **labels, **shape})
        split.append({"id": patch.row["id"], "part": patch.part, "group": patch.place})
    spec = source.dataset.spec
    write_dataset(root, replace(spec, patch_size=size or spec.patch_size), rows, {SPLIT[source.name]: split})
    return root


# Errors of reading.


def _window(scene, row, size=None):
    a, _, c, _, e, f = row["transform"]
    x0, y0 = scene.grid.transform[2], scene.grid.transform[5]
    top, left, cut = round((f - y0) / e), round((c - x0) / a), row["height"]
    grow = ((size or cut) - cut) // 2
    return Window(top - grow, left - grow, cut + 2 * grow, cut + 2 * grow)


def read_again(**options):
    """Images read once more, with other options of :class:`AlignedProduct`; labels as they are."""

    def change(source, patches):
        scene = None
        for patch in patches:
            if scene is None or scene.name != patch.row["product"]:
                scene = source.scene(patch.row["product"], **options)
            yield replace(patch, image=scene.read(_window(scene, patch.row)))

    return change


def sorted_bands(source, patches):
    """Bands in the order of their names, as a folder lists them, taken for the paper's order."""
    bands = sorted(source.dataset.spec.bands)
    return read_again(bands=bands)(source, patches)


def swapped_colours(source, patches):
    """Red and blue exchanged: an image written as RGB and read as BGR."""
    bands = list(source.dataset.spec.bands)
    red, blue = bands.index("B04"), bands.index("B02")
    bands[red], bands[blue] = "B02", "B04"
    return read_again(bands=bands)(source, patches)


# Errors of labels.


def half_a_pixel(source, patches):
    """Parcels burnt on a grid whose corner is taken for the centre of its first pixel: half a pixel down and right."""
    for patch in patches:
        subset, parcels = source.parcels(patch.row["subset"])
        a, b, c, d, e, f = patch.row["transform"]
        shifted = Grid(patch.row["crs"], (a, b, c + a / 2, d, e, f + e / 2), *patch.mask.shape)
        cutting = source.recipe.cutting
        labels = rasterize(
            parcels, shifted, subset.coverage, subset.extent,
            all_touched=cutting.all_touched, undefined=cutting.undefined,
        )  # fmt: skip
        yield replace(patch, mask=labels.mask)


def label_noise(share):
    """This share of the parcels carries another crop, the same on all dates; which one follows the crops' areas."""

    def change(source, patches):
        counts = np.sum(np.stack(source.dataset.manifest["counts"].to_numpy()), axis=0).astype(float)
        counts[BACKGROUND] = 0
        for patch in patches:
            mask = patch.mask.copy()
            for number in np.unique(patch.parcels[(patch.mask > BACKGROUND) & (patch.mask != IGNORE)]):
                if number and draw("whether", patch.row["subset"], number) < share:
                    inside = (patch.parcels == number) & (patch.mask > BACKGROUND) & (patch.mask != IGNORE)
                    others = counts.copy()
                    others[patch.mask[inside][0]] = 0
                    which = draw("what", patch.row["subset"], number)
                    mask[inside] = np.searchsorted(np.cumsum(others / others.sum()), which)
            yield replace(patch, mask=mask)

    return change


# No data.


def gap(value):
    """A swath edge laid over each patch, about three tenths of it without data, which are written as ``value``."""

    def change(source, patches):
        for patch in patches:
            rows, cols = np.indices(patch.mask.shape) / patch.mask.shape[0]
            side = rows if draw("side", patch.row["id"]) < 0.5 else 1 - rows
            missing = cols + 0.3 * side > 0.85
            yield replace(patch, image=np.where(missing, np.uint16(value), patch.image))

    return change


right_gap, zero_gap = gap(NODATA), gap(DARKEST)
"""0 is no data here and never a reading: filled for the model, left out of the scores. 1, a reflectance of 0.0001, is
what a reader that knows no such value makes of it."""


# Windows.


def smaller_windows(size):
    """Each patch cut into windows of ``size`` pixels: the same ground, less around it."""

    def change(source, patches):
        for patch in patches:
            steps = range(0, patch.mask.shape[0], size)
            for row, col in ((row, col) for row in steps for col in steps):
                part = Window(row, col, size, size).slices
                a, b, c, d, e, f = patch.row["transform"]
                moved = {"id": f"{patch.row['id']}/{row}_{col}", "transform": [a, b, c + a * col, d, e, f + e * row]}
                arrays = patch.image[:, part[0], part[1]], patch.mask[part], patch.parcels[part]
                yield Patch({**patch.row, **moved}, *(np.ascontiguousarray(one) for one in arrays), patch.part)

    return change


def larger_windows(size):
    """Windows of ``size`` pixels around each patch, of which only the patch is scored; beyond the tile is no data."""

    def change(source, patches):
        scene = None
        for patch in patches:
            if scene is None or scene.name != patch.row["product"]:
                scene = source.scene(patch.row["product"])
            wanted = _window(scene, patch.row, size)
            top, left = max(wanted.row, 0), max(wanted.col, 0)
            bottom, right = min(wanted.row + size, scene.grid.height), min(wanted.col + size, scene.grid.width)
            image = np.full((patch.image.shape[0], size, size), NODATA, np.uint16)
            inside = Window(top - wanted.row, left - wanted.col, bottom - top, right - left).slices
            image[(slice(None), *inside)] = scene.read(Window(top, left, bottom - top, right - left))
            grow = (size - patch.mask.shape[0]) // 2
            mask = np.pad(patch.mask, grow, constant_values=IGNORE)
            yield replace(patch, image=image, mask=mask, parcels=np.pad(patch.parcels, grow))

    return change


# Scene classes.


class BilinearScl(AlignedProduct):
    """A product whose scene classes, which are names, are interpolated as if they were amounts."""

    @cached_property
    def _interpolated(self):
        with rasterio.open(self.product.path_of("SCL", 20)) as file:
            return file.read(1, out_shape=(self.grid.height, self.grid.width), resampling=Resampling.bilinear)

    def scl(self, window):
        return self._interpolated[window.slices].copy()


def chosen_by_scl(kind):
    """Patches chosen anew by the scene classes that ``kind`` gives, and pixels of invalid classes left out of truth.

    Windows of the patches' regions are cut from every product of the season and judged as prepare.py does; those on
    the ground of the patches are kept.
    """

    def change(source, patches):
        known = {}
        for patch in patches:
            known.setdefault((patch.row["subset"], patch.row["roi"]), {})[patch.place] = patch
        rois = {(one["subset"], one["name"]): one for one in storage.read_json(source.dataset.root / "rois.json")}
        wanted = {}
        for subset, roi in known:
            for product in storage.read_json(source.dataset.root / "search" / subset / f"{roi}.json")["kept"]:
                wanted.setdefault(Product.from_dict(product).name, []).append((subset, roi))
        cutting, invalid = source.recipe.cutting, list(source.recipe.cutting.thresholds.scl_invalid)
        for product, members in sorted(wanted.items()):
            scene = source.scene(product, kind)
            for subset_name, roi in members:
                subset, parcels = source.parcels(subset_name)
                for found in extract(
                    scene, _roi(rois[subset_name, roi]), parcels, size=cutting.size, stride=cutting.stride,
                    thresholds=cutting.thresholds, taxonomy=cutting.taxonomy, coverage=subset.coverage,
                    extent=subset.extent, all_touched=cutting.all_touched, undefined=cutting.undefined,
                ):  # fmt: skip
                    if not isinstance(found, Candidate):
                        continue
                    patch_id = f"{subset_name}/{roi}/{product}/{found.window.row}_{found.window.col}"
                    twin = known[subset_name, roi].get(place(patch_id))
                    if twin is None:
                        continue
                    mask = found.mask.copy()
                    mask[np.isin(scene.scl(found.window), invalid)] = IGNORE
                    row = {**twin.row, "id": patch_id, "product": product, "datetime": scene.acquired}
                    yield Patch(row, found.image, mask, found.parcels, twin.part)

    return change


def _roi(data):
    return Roi(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})


# The same ground on both sides.


def leaked(source, patches):
    """Half of the dates of each test place in the training part, in the stead of as many others."""
    patches = list(patches)
    dates = {}
    for patch in sorted((one for one in patches if one.part == "test"), key=lambda one: one.row["id"]):
        dates.setdefault(patch.place, []).append(patch.row["id"])
    moved = {one for ids in dates.values() for one in ids[1::2]}
    train = sorted((one.row["id"] for one in patches if one.part == "train"), key=lambda one: draw("left out", one))
    out = set(train[: len(moved)])
    for patch in patches:
        if patch.row["id"] not in out and not (patch.part == "test" and len(dates[patch.place]) < 2):
            yield replace(patch, part="train") if patch.row["id"] in moved else patch


def not_leaked(source, patches):
    """The test patches that :func:`leaked` leaves."""
    return (one for one in leaked(source, patches) if one.part == "test")


Change = Callable[[Source, Iterator[Patch]], Iterator[Patch]]
