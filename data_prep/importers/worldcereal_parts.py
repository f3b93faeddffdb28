"""Which pixels of one small place may be learned from, and which are kept to test on.

The whole place is a single window, so parts are made of masks: a dataset of one part has 255 on the pixels of the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cropseg.core.labels import IGNORE
from cropseg.core.manifest import Part
from cropseg.core.scene import UInt8Array

UInt32Array = npt.NDArray[np.uint32]
Masks = Mapping[Part, UInt8Array]

DEAL: Final[tuple[Part, ...]] = ("train", "test", "val")
"""The parcels of a class are dealt out in this turn: a class of one parcel is only learned, of two also tested."""


@dataclass(frozen=True)
class Parcel:
    """A field of the place.

    Attributes:
        number: Its value in the parcel raster, from 1.
        code: WorldCereal crop code.
        label: Class id; 255 if the code is none of the taxonomy's.
        pixels: Its size within the place.
    """

    number: int
    code: int
    label: int
    pixels: int


def find_parcels(codes: npt.NDArray[np.integer], labels: Mapping[int, int]) -> tuple[UInt32Array, list[Parcel]]:
    """8-connected components of equal codes, numbered by code and then from the top left.

    Args:
        codes: (height, width), 0 = unknown: no parcel.
        labels: Class id by code; codes that are missing have 255.

    Returns:
        The raster of parcel numbers, 0 = none, and the parcels by number.
    """
    raster = np.zeros(codes.shape, np.uint32)
    parcels: list[Parcel] = []
    for code in np.unique(codes[codes != 0]).tolist():
        found, count = ndimage.label(codes == code, np.ones((3, 3)))
        sizes = np.bincount(found.ravel())
        for component in range(1, count + 1):
            number = len(parcels) + 1
            raster[found == component] = number
            parcels.append(Parcel(number, int(code), labels.get(int(code), IGNORE), int(sizes[component])))
    return raster, parcels


def by_parcel(
    raster: UInt32Array, parcels: Sequence[Parcel], *, seed: int, buffer: int, min_parcel: int
) -> tuple[Masks, dict[int, Part]]:
    """Parts that share no parcel.

    The parcels of each class are put into a random order and dealt out in the turn :data:`DEAL`. Then pixels of
    ``train`` within ``buffer`` pixels (in either axis) of a pixel of ``val`` or ``test``, and those of ``val`` within
    it of ``test``, are left out: neighbours see the same 20 m pixels. Test parcels stay whole.

    Args:
        raster: Parcel numbers.
        parcels: The parcels; those of label 255 and those below ``min_parcel`` are in no part.
        seed: Seed of the order.
        buffer: Pixels between parts.
        min_parcel: Least size in pixels; smaller ones are slivers at the edge of the place.

    Returns:
        The mask of each part, uint8 with 255 outside it, and the part of each parcel by its number.
    """
    part_of: dict[int, Part] = {}
    for label in sorted({parcel.label for parcel in parcels} - {IGNORE}):
        mine = [parcel.number for parcel in parcels if parcel.label == label and parcel.pixels >= min_parcel]
        order = np.random.default_rng([seed, label]).permutation(mine).tolist()
        part_of.update({int(number): DEAL[turn % len(DEAL)] for turn, number in enumerate(order)})
    inside = {part: np.isin(raster, [n for n, p in part_of.items() if p == part]) for part in DEAL}
    stripped: Sequence[tuple[Part, tuple[Part, ...]]] = (("train", ("val", "test")), ("val", ("test",)))
    for part, others in stripped:
        near = np.any([inside[other] for other in others], axis=0)
        if buffer > 0:
            near = ndimage.binary_dilation(near, np.ones((3, 3)), iterations=buffer)
        inside[part] = inside[part] & ~near
    labels = label_mask(raster, parcels)
    return {part: np.where(inside[part], labels, np.uint8(IGNORE)) for part in DEAL}, part_of


def by_pixel(
    parts: Masks, raster: UInt32Array, parcels: Sequence[Parcel], part_of: Mapping[int, Part], *, seed: int, date: int
) -> Masks:
    """Parts drawn pixel by pixel, as often seen: a leak, since a parcel's other pixels and dates tell its crop.

    Each part has as many pixels of each class as in ``parts``, drawn from the same parcels, for each date anew. The two
    ways differ in nothing but what is kept apart, therefore.

    Args:
        parts: What :func:`by_parcel` gave.
        raster: Parcel numbers.
        parcels: The parcels.
        part_of: The parcels that take part.
        seed: Seed of the draw.
        date: Number of the date.
    """
    pool = np.where(np.isin(raster, list(part_of)), label_mask(raster, parcels), np.uint8(IGNORE)).ravel()
    drawn = {part: np.full(pool.shape, IGNORE, np.uint8) for part in parts}
    for label in np.unique(pool[pool != IGNORE]).tolist():
        rest = np.random.default_rng([seed, date, label]).permutation(np.flatnonzero(pool == label))
        for part, mask in parts.items():
            wanted = int((mask == label).sum())
            drawn[part][rest[:wanted]] = label
            rest = rest[wanted:]
    return {part: mask.reshape(raster.shape) for part, mask in drawn.items()}


def label_mask(raster: UInt32Array, parcels: Sequence[Parcel]) -> UInt8Array:
    """Class id of every pixel, uint8 (height, width); 255 outside parcels."""
    lookup = np.full(len(parcels) + 1, IGNORE, np.uint8)
    for parcel in parcels:
        lookup[parcel.number] = parcel.label
    mask: UInt8Array = lookup[raster]
    return mask
