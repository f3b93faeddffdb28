"""Counting one predicted patch, in whole numbers; it needs nothing but the patch and may run on any thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cropseg.calibration import BINS, STEPS, bins_of
from cropseg.core.errors import InputError, MismatchError
from cropseg.core.labels import BACKGROUND
from cropseg.core.scene import UInt8Array
from cropseg.edges import BANDS_PX, edge_bands
from cropseg.metrics import Confusion

UInt32Array = npt.NDArray[np.uint32]
Ints = npt.NDArray[np.int64]

ENTRY: Final = np.dtype([("number", np.uint32), ("cell", np.uint16), ("pixels", np.uint32), ("once", np.uint32)])
"""Pixels of a parcel by its number and truth · classes + prediction; of these, those that are the window's own."""


@dataclass(frozen=True)
class ParcelCount:
    """Pixels of a patch by parcel; parcel 0 is the ground outside.

    Attributes:
        entries: Counted pixels, :data:`ENTRY`.
        numbers: Its parcels.
        areas: The window's own pixels of each, whether counted or not.
    """

    entries: npt.NDArray[np.void]
    numbers: UInt32Array
    areas: Ints


@dataclass(frozen=True)
class PatchCount:
    """What one patch gives.

    Attributes:
        confusion: Its pixels.
        boundary: The same by distance to the edge, (bands, classes, classes).
        once: Those that are this window's own; None where no window overlaps it.
        reliability: Pixels by (crop truth, correct, bin of the confidence), (2, 2, bins); None without confidence.
        confidence: Sum of the confidences in units of 1 / STEPS, (2, bins), by (crop truth, bin).
        parcels: By parcel; None without a parcel raster.
    """

    confusion: Confusion
    boundary: Confusion
    once: Confusion | None
    reliability: Ints | None
    confidence: Ints | None
    parcels: ParcelCount | None


def count(
    truth: UInt8Array,
    counted: npt.NDArray[np.bool_],
    predicted: UInt8Array,
    confidence: npt.NDArray[np.float32] | None,
    parcels: UInt32Array | None,
    mine: npt.NDArray[np.bool_] | None,
    classes: int,
) -> PatchCount:
    """Count one patch.

    Args:
        truth: Class ids and 255, (height, width).
        counted: Pixels that count: their truth is known and the image has data.
        predicted: Class ids.
        confidence: Probability of the predicted class; None where the model gives none.
        parcels: Parcel numbers, 0 = none; None where they are not known.
        mine: Pixels that no overlapping window counts; None where there is no such window.
        classes: Number of classes.

    Raises:
        InputError: A predicted label is no class.
        MismatchError: A confidence is no probability.
    """
    # Where every pixel counts, as in most patches, nothing is picked out. Sums of small whole numbers come first, in
    # types as narrow as they fit: what this costs is the memory that it goes through.
    chosen = slice(None) if counted.all() else np.flatnonzero(counted)

    def of(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return array.reshape(-1)[chosen]

    known, mapped, cells = of(truth), of(predicted), classes * classes
    for name, labels in (("truth", known), ("prediction", mapped)):
        if labels.size and labels.max() >= classes:
            remedy = "check the taxonomy"
            raise InputError(f"a {name} label is outside 0 … {classes - 1}", int(labels.max()), remedy)
    cell = np.multiply(known, classes, dtype=np.uint16) + mapped
    band = of(edge_bands(truth if parcels is None else parcels))
    place = np.multiply(band, cells, dtype=np.uint16) + cell
    boundary = np.bincount(place, minlength=len(BANDS_PX) * cells).reshape(len(BANDS_PX), classes, classes)
    own = None if mine is None else of(mine)
    histogram = sums = None
    if confidence is not None:
        claimed = of(confidence)
        if claimed.size and not (claimed.min() >= 0 and claimed.max() <= 1 + 1e-4):  # NaN is neither; sums may round up
            remedy = "it must give probabilities; one whose weights are no numbers must be trained again"
            raise MismatchError("the model's confidence is no probability", float(claimed.max()), remedy)
        # bool is a number here: (of a crop, right, bin) in one.
        kind = (known != BACKGROUND).view(np.uint8) * np.uint8(2) + (known == mapped).view(np.uint8)
        bins = np.multiply(kind, BINS, dtype=np.int32)
        bins += bins_of(claimed)
        place = bins.astype(np.intp)  # what bincount makes of it, each time
        histogram = np.bincount(place, minlength=4 * BINS).reshape(2, 2, BINS)
        added = np.bincount(place, weights=claimed, minlength=4 * BINS).reshape(2, 2, BINS).sum(axis=1)
        sums = np.rint(added * STEPS).astype(np.int64)
    return PatchCount(
        confusion=boundary.sum(axis=0),
        boundary=boundary,
        once=None if own is None else np.bincount(cell[own], minlength=cells).reshape(classes, classes),
        reliability=histogram,
        confidence=sums,
        parcels=None if parcels is None else _by_parcel(parcels, chosen, cell, mine, cells),
    )


def _by_parcel(
    parcels: UInt32Array,
    chosen: slice | Ints,
    cell: npt.NDArray[np.uint16],
    mine: npt.NDArray[np.bool_] | None,
    cells: int,
) -> ParcelCount:
    numbers, which, lengths = parcel_runs(parcels)
    local = np.repeat(which.astype(np.uint32), lengths)
    entry = local[chosen] * np.uint32(cells) + cell
    pixels = once = np.bincount(entry, minlength=len(numbers) * cells)
    areas = np.bincount(which, lengths, len(numbers)).astype(np.int64)
    if mine is not None:
        own = mine.reshape(-1)
        once = np.bincount(entry[own[chosen]], minlength=len(numbers) * cells)
        areas = np.bincount(local[own], minlength=len(numbers))
    held = np.flatnonzero(pixels > 0)
    entries = np.empty(len(held), ENTRY)
    entries["number"], entries["cell"] = numbers[held // cells], held % cells
    entries["pixels"], entries["once"] = pixels[held], once[held]
    return ParcelCount(entries, numbers, areas)


def parcel_runs(parcels: UInt32Array) -> tuple[UInt32Array, Ints, Ints]:
    """Parcel numbers, ascending; and of each run of pixels of one parcel, row by row, which it is, and its length.

    Only the corners of parcels are sorted: the first pixel of each, row by row, is like neither that above nor that
    to the left.
    """
    flat = parcels.reshape(-1)
    first = np.ones(parcels.shape, dtype=bool)
    np.not_equal(flat[1:], flat[:-1], out=first.reshape(-1)[1:])
    starts = np.flatnonzero(first)
    first[1:] &= parcels[1:] != parcels[:-1]
    numbers = np.unique(parcels[first])
    return numbers, np.searchsorted(numbers, flat[starts]), np.diff(starts, append=flat.size)
