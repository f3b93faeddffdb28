"""What the Random Forests see of a pixel (§3.3), and which pixels they are trained on.

No data: a pixel counts as valid if every band of it has data. Local statistics are taken over the valid pixels that
lie inside both the window and the image, so nothing is padded and nothing mixes no data in. A pixel without data has
the patch's band means instead of its own values; a window without any valid pixel has the band's mean and deviation 0;
a patch without any has zeros. A prediction exists everywhere, therefore, and what it is worth there is the caller's
to know from the image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cropseg.core.bands import NODATA, QUANTIFICATION, check_bands
from cropseg.core.checks import whole
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.manifest import Dataset
from cropseg.core.progress import track
from cropseg.core.scene import UInt8Array, UInt16Array

LARGEST_WINDOW: Final = 201
"""Up to this window size the exact integer variance of uint16 values fits into 64 bits."""


@dataclass(frozen=True)
class Features:
    """The features of a pixel: its reflectance in every band, then the statistics of its surroundings.

    Attributes:
        bands: Channel order of the images.
        context: Bands whose surroundings are described; empty for the spectral forest.
        windows: Side lengths in pixels of the square windows around the pixel, each odd; empty without ``context``.
    """

    bands: tuple[str, ...]
    context: tuple[str, ...] = ()
    windows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        check_bands(self.bands)
        missing = [name for name in self.context if name not in self.bands]
        if missing:
            raise ConfigError("context bands that the images do not have", missing, f"choose from {list(self.bands)}")
        if bool(self.context) != bool(self.windows):
            raise ConfigError(
                "context bands and windows come together",
                {"context": list(self.context), "windows": list(self.windows)},
                "set both (spatial forest) or none (spectral forest)",
            )
        if any(not whole(size) or size % 2 == 0 or not 3 <= size <= LARGEST_WINDOW for size in self.windows):
            raise ConfigError(
                "model.windows of the forest",
                list(self.windows),
                f"use whole odd sizes from 3 to {LARGEST_WINDOW} pixels",
            )
        for name, values in (("context bands", self.context), ("windows", self.windows)):
            if len(set(values)) != len(values):
                raise ConfigError(f"{name} of the forest repeat", list(values), "name each once")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features in their order, such as ``B04`` and ``B04_mean_5``."""
        local = [f"{band}_{what}_{size}" for size in self.windows for band in self.context for what in ("mean", "std")]
        return (*self.bands, *local)

    def compute(self, image: UInt16Array) -> npt.NDArray[np.float32]:
        """Features of every pixel of one patch.

        Args:
            image: uint16 (bands, height, width), reflectance × 10000, 0 = no data.

        Returns:
            float32 (height · width, features), row by row, in units of reflectance.

        Raises:
            InputError: The image has another number of bands.
        """
        if image.ndim != 3 or len(image) != len(self.bands):
            raise InputError("image for the forest must be (bands, height, width)", image.shape, f"bands: {self.bands}")
        _, height, width = image.shape
        valid = valid_pixels(image)
        table = np.empty((height, width, len(self.names)), np.float32)
        means = band_means(image, valid)
        table[..., : len(self.bands)] = np.moveaxis(image, 0, -1)
        if not valid.all():
            table[~valid, : len(self.bands)] = means
        column = len(self.bands)
        for size in self.windows:
            for band in self.context:
                index = self.bands.index(band)
                mean, std = local_statistics(image[index], valid, size, fallback=float(means[index]))
                table[..., column], table[..., column + 1] = mean, std
                column += 2
        table /= QUANTIFICATION
        return table.reshape(height * width, -1)


def valid_pixels(image: UInt16Array) -> npt.NDArray[np.bool_]:
    """Pixels with data in every band: bool (height, width) of a uint16 (bands, height, width) image."""
    found: npt.NDArray[np.bool_] = (image != NODATA).all(axis=0)
    return found


def band_means(image: UInt16Array, valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Mean of each band over the valid pixels, float64 (bands,), in the image's units; zeros if there are none."""
    count = int(valid.sum())
    if count == 0:
        return np.zeros(len(image))
    total = np.where(valid, image, 0).sum(axis=(1, 2), dtype=np.int64)
    means: npt.NDArray[np.float64] = total / count
    return means


def local_statistics(
    values: npt.NDArray[np.uint16], valid: npt.NDArray[np.bool_], size: int, fallback: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and population standard deviation (divisor n) in the square window around each pixel.

    With n valid values x in the window, mean = Σx / n and std = √(n·Σx² − (Σx)²) / n. All three sums are integers and
    exact, so the difference does not cancel: a constant surrounding has a deviation of exactly 0.

    Args:
        values: uint16 (height, width).
        valid: bool (height, width); the others are left out.
        size: Side length in pixels, odd, at most :data:`LARGEST_WINDOW`.
        fallback: Mean where the window holds no valid pixel; the deviation is 0 there.

    Returns:
        Two float64 arrays (height, width) in the units of ``values``.
    """
    kept = np.where(valid, values, 0).astype(np.int64)
    count = box_sum(valid.astype(np.int64), size)
    total = box_sum(kept, size)
    spread = count * box_sum(kept * kept, size) - total * total
    divisor = np.maximum(count, 1)
    mean = np.where(count > 0, total / divisor, fallback)
    std: npt.NDArray[np.float64] = np.sqrt(spread.astype(np.float64)) / divisor
    return mean, std


def box_sum(values: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Sum over the part of the ``size`` × ``size`` window around each pixel that lies inside the array.

    A box filter by cumulative sums, one axis after the other: its cost does not depend on ``size``.

    Args:
        values: int64 (height, width).
        size: Side length in pixels, odd.
    """
    half = size // 2
    for axis in (0, 1):
        length = values.shape[axis]
        sums = np.insert(np.cumsum(values, axis=axis), 0, 0, axis=axis)
        centre = np.arange(length)
        last, first = np.minimum(centre + half + 1, length), np.maximum(centre - half, 0)
        values = sums.take(last, axis=axis) - sums.take(first, axis=axis)
    return values


@dataclass(frozen=True)
class Sampling:
    """How many pixels are drawn, and by which seed.

    Attributes:
        per_class: At most so many pixels of a class in all.
        per_class_and_patch: At most so many pixels of a class out of one patch, so that many patches are drawn from.
        seed: Seed of the order of the patches and of the pixels within each.
    """

    per_class: int
    per_class_and_patch: int
    seed: int

    def __post_init__(self) -> None:
        """Check the caps."""
        for name in ("per_class", "per_class_and_patch"):
            value = getattr(self, name)
            if not whole(value) or value < 1:
                raise ConfigError(f"model.sampling.{name} of the forest", value, "set a whole number, 1 or more")


@dataclass(frozen=True)
class Samples:
    """The training table of a forest.

    Attributes:
        x: float32 (n, features).
        y: uint8 (n,), class ids.
        pixels: Pixels drawn per class id; 0 for a class that the training part lacks.
        patches: Patches that each class was drawn from, per class id.
    """

    x: npt.NDArray[np.float32]
    y: UInt8Array
    pixels: tuple[int, ...]
    patches: tuple[int, ...]

    def absent(self, names: Sequence[str]) -> list[str]:
        """Names of the classes without a single pixel."""
        return [name for name, count in zip(names, self.pixels, strict=True) if count == 0]


def draw(dataset: Dataset, rows: npt.NDArray[np.int64], features: Features, sampling: Sampling) -> Samples:
    """Draw pixels of every class from the patches ``rows``, holding one patch in memory at a time.

    Patches come in an order that follows from the seed and their ids, and each has its own random numbers from the
    same two, so neither the order of the manifest nor of the files matters. Reading ends as soon as every class is
    full; a patch whose counts promise nothing that is still wanted is not opened. Ignored pixels and pixels without
    data are never drawn.

    Raises:
        InputError: There are fewer than two classes to learn.
    """
    ids = dataset.manifest["id"].to_pylist()
    counts = np.array(dataset.manifest["counts"].to_pylist(), np.int64).reshape(len(ids), -1)
    classes = len(dataset.spec.taxonomy)
    keys = {int(row): _key(sampling.seed, ids[row]) for row in rows}
    pixels, patches = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    xs: list[npt.NDArray[np.float32]] = []
    ys: list[UInt8Array] = []
    for row in track(sorted(keys, key=lambda row: keys[row]), "drawing pixels"):
        wanted = np.flatnonzero((pixels < sampling.per_class) & (counts[row] > 0))
        if len(wanted) == 0:
            continue
        room = {int(c): int(min(sampling.per_class - pixels[c], sampling.per_class_and_patch)) for c in wanted}
        image, mask = dataset.image(row), dataset.mask(row)
        chosen = _choose(mask, valid_pixels(image), room, np.random.default_rng(keys[row]))
        if len(chosen) == 0:
            continue
        labels = mask.reshape(-1)[chosen]
        drawn = np.bincount(labels, minlength=classes)
        pixels += drawn
        patches += drawn > 0
        xs.append(features.compute(image)[chosen])
        ys.append(labels)
    if np.count_nonzero(pixels) < 2:
        raise InputError(
            f"the training part of dataset {dataset.spec.name} has fewer than two classes with data",
            [dataset.spec.taxonomy.names[c] for c in np.flatnonzero(pixels)],
            "check the split, or prepare more regions",
        )
    return Samples(np.concatenate(xs), np.concatenate(ys), tuple(pixels.tolist()), tuple(patches.tolist()))


def _key(seed: int, patch: str) -> int:
    """A number that a patch has in this seed and in no other: 128 bits of SHA-256."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{patch}".encode()).digest()[:16], "big")


def _choose(
    mask: UInt8Array, valid: npt.NDArray[np.bool_], room: Mapping[int, int], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Flat positions of the pixels to take, at most ``room[c]`` of class c, each once, ascending within a class."""
    chosen: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    for class_id, most in sorted(room.items()):
        found = np.flatnonzero((mask == class_id) & valid)
        chosen.append(np.sort(rng.choice(found, min(most, len(found)), replace=False)))
    return np.concatenate(chosen)
