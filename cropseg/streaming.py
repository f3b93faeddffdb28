"""Patches through a model in a stream: other threads read ahead of it and count behind it.

No more than a few batches are held at a time. Reading, and numpy's work on whole arrays, leave the interpreter to the
thread that predicts, so the model hardly waits for either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cropseg.core.bands import NODATA
from cropseg.core.errors import InputError, MismatchError
from cropseg.core.labels import IGNORE
from cropseg.core.manifest import Dataset
from cropseg.core.progress import track
from cropseg.core.scene import UInt8Array, UInt16Array
from cropseg.counting import PatchCount, UInt32Array, count
from cropseg.details import Details
from cropseg.ground import places
from cropseg.overlaps import Neighbour, neighbours, owned
from cropseg.predictor import Predictor, classify
from cropseg.tally import PLACE, Tally, in_order

AHEAD: Final = 2
"""Batches that are read before the model asks for them, and batches that may wait to be counted."""

THREADS: Final = 2
"""Threads that read and count. More only wait for each other: numpy's steps over one patch are short, and between
them the interpreter is one thread's."""


@dataclass(frozen=True)
class Counted:
    """What :func:`run_through` found.

    Attributes:
        details: The patches, added up.
        without_label: Pixels left out because their truth is 255.
        without_data: Labelled pixels left out because the image has no data there.
    """

    details: Details
    without_label: int
    without_data: int


@dataclass(frozen=True)
class Batch:
    """Patches as they were read.

    Attributes:
        images: uint16 (n, bands, size, size).
        truth: uint8 (n, size, size).
        parcels: Parcel numbers of each patch, None where they are not known.
        others: Windows that overlap each.
    """

    images: UInt16Array
    truth: UInt8Array
    parcels: tuple[UInt32Array | None, ...]
    others: tuple[Sequence[Neighbour], ...]


def run_through(
    predictor: Predictor,
    dataset: Dataset,
    rows: Sequence[int],
    batch_size: int,
    what: str,
    clusters_are: str = PLACE,
) -> Counted:
    """Predict and count patches.

    Args:
        predictor: The model; what it says of a patch must not depend on the batch that the patch is in.
        dataset: The dataset.
        rows: Its patches, in any order.
        batch_size: Patches at a time.
        what: What the progress bar says.
        clusters_are: As for :class:`cropseg.tally.Tally`.

    Raises:
        InputError: A patch is broken; it is named.
        MismatchError: The model's answer does not fit the patches.
    """
    rows = in_order(dataset, rows)
    overlapping = neighbours(dataset, rows)
    tally = Tally(dataset, rows, places(dataset, rows), clusters_are)
    left_out = np.zeros(2, np.int64)
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    reads: deque[Future[Batch]] = deque()
    counts: deque[Future[tuple[list[PatchCount], npt.NDArray[np.int64]]]] = deque()

    def settle() -> None:
        found, missing = counts.popleft().result()
        left_out[:] += missing
        for patch in found:
            tally.add(patch)

    with ThreadPoolExecutor(THREADS, thread_name_prefix="patches") as pool:
        try:
            waiting = iter(batches)
            for _ in track(batches, what):
                while len(reads) <= AHEAD and (following := next(waiting, None)) is not None:
                    reads.append(pool.submit(_read, dataset, following, overlapping))
                batch = reads.popleft().result()
                labels, confidence = classify(predictor, batch.images)
                if labels.shape != batch.truth.shape:
                    raise MismatchError("the model's labels have another shape than the masks", labels.shape)
                counts.append(pool.submit(_count, batch, labels, confidence, len(dataset.spec.taxonomy)))
                while len(counts) > AHEAD:
                    settle()
            while counts:
                settle()
        finally:
            pool.shutdown(cancel_futures=True)
    return Counted(tally.details(), *(int(one) for one in left_out))


def _count(
    batch: Batch, labels: UInt8Array, confidence: npt.NDArray[np.float32] | None, classes: int
) -> tuple[list[PatchCount], npt.NDArray[np.int64]]:
    """Each patch counted, and how many pixels were left out for want of a label and of data."""
    empty = batch.images.min(axis=1) == NODATA  # it is the least value there is
    unknown = batch.truth == IGNORE
    counted = ~(empty | unknown)
    found = [
        count(
            batch.truth[i],
            counted[i],
            labels[i],
            None if confidence is None else confidence[i],
            batch.parcels[i],
            owned(batch.truth.shape[-1], batch.others[i]) if batch.others[i] else None,
            classes,
        )
        for i in range(len(labels))
    ]
    return found, np.array([unknown.sum(), (empty & ~unknown).sum()], np.int64)


def _read(dataset: Dataset, rows: Sequence[int], overlapping: dict[int, list[Neighbour]]) -> Batch:
    """Read ``rows``.

    Raises:
        InputError: A patch of another shape, or a label that is neither a class nor 255.
    """
    size, classes = dataset.spec.patch_size, len(dataset.spec.taxonomy)
    images = np.empty((len(rows), len(dataset.spec.bands), size, size), dtype=np.uint16)
    masks = np.empty((len(rows), size, size), dtype=np.uint8)
    rasters: list[UInt32Array | None] = []
    remedy = "prepare the dataset again"
    for place, row in enumerate(rows):
        patch = str(dataset.manifest["id"][row].as_py())
        into = images[place], masks[place]
        image, mask = dataset.image(row, into[0]), dataset.mask(row, into[1])
        parcels = None if dataset.manifest["parcels"][row].as_py() is None else dataset.parcels(row)
        shapes = {"image": image.shape[1:], "mask": mask.shape}
        if parcels is not None:
            shapes["parcel raster"] = parcels.shape
        for what, shape in shapes.items():
            if shape != (size, size):
                raise InputError(f"{what} of patch {patch} is not {size} by {size} pixels", shape, remedy)
        if ((mask >= classes) & (mask != IGNORE)).any():
            unknown = np.setdiff1d(mask[mask >= classes], [IGNORE])
            raise InputError(f"mask of patch {patch} has labels that are no class", unknown.tolist(), remedy)
        for given, held in zip((image, mask), into, strict=True):
            if given is not held:
                held[...] = given
        rasters.append(parcels)
    return Batch(images, masks, tuple(rasters), tuple(overlapping.get(row, ()) for row in rows))
