"""Patches through a model in a stream: read, predicted and counted, no more than a few batches at a time.

A model that takes all of a machine for each answer is asked here, batch by batch; other threads read ahead of it and
count behind it. One that answers on each core by itself is asked on threads of its own, and what a thread asked about
it also reads and counts: no core waits for another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
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
from cropseg.predictor import Predictor, SideBySide, classify
from cropseg.tally import PLACE, Tally, in_order

Found = tuple[list[PatchCount], npt.NDArray[np.int64]]
"""Patches of a batch, counted, and pixels left out for want of a label and of data."""

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
    classes = len(dataset.spec.taxonomy)
    offer = getattr(predictor, "side_by_side", None)
    beside: SideBySide | None = None if offer is None else offer(batch_size)

    def read(batch: Sequence[int]) -> Batch:
        return _read(dataset, batch, overlapping)

    def predict(batch: Batch) -> Callable[[], Found]:
        labels, confidence = classify(predictor, batch.images)
        if labels.shape != batch.truth.shape:
            raise MismatchError("the model's labels have another shape than the masks", labels.shape)
        return lambda: _count(batch, labels, confidence, classes)

    if beside is None:
        batches = _cut(rows, batch_size)
        counted = _behind(batches, read, predict)
    else:
        batches = _cut(rows, beside.at_a_time(batch_size, dataset.spec.patch_size))
        counted = _beside(beside, batches, lambda batch: predict(read(batch))())
    with closing(counted):
        for found, missing in track(counted, what, len(batches)):
            left_out += missing
            for patch in found:
                tally.add(patch)
    return Counted(tally.details(), *(int(one) for one in left_out))


def _cut(rows: Sequence[int], size: int) -> list[Sequence[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _behind(
    batches: Sequence[Sequence[int]],
    read: Callable[[Sequence[int]], Batch],
    predict: Callable[[Batch], Callable[[], Found]],
) -> Generator[Found]:
    """Batches counted: predicted here one after the other, read ahead of that and counted behind it elsewhere."""
    reads: deque[Future[Batch]] = deque()
    counts: deque[Future[Found]] = deque()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="patches") as pool:
        try:
            waiting = iter(batches)
            for _ in batches:
                while len(reads) <= AHEAD and (following := next(waiting, None)) is not None:
                    reads.append(pool.submit(read, following))
                counts.append(pool.submit(predict(reads.popleft().result())))
                while len(counts) > AHEAD:
                    yield counts.popleft().result()
            while counts:
                yield counts.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _beside(
    asked: SideBySide, batches: Sequence[Sequence[int]], whole: Callable[[Sequence[int]], Found]
) -> Generator[Found]:
    """Batches counted, each read, predicted and counted on one thread of many; a few more wait than are worked on."""
    submitted: deque[Future[Found]] = deque()
    try:
        for batch in batches:
            submitted.append(asked.pool.submit(whole, batch))
            if len(submitted) > asked.threads + AHEAD:
                yield submitted[0].result()
                submitted.popleft()
        while submitted:
            yield submitted[0].result()
            submitted.popleft()
    finally:
        wait([one for one in submitted if not one.cancel()])  # the pool outlives this


def _count(batch: Batch, labels: UInt8Array, confidence: npt.NDArray[np.float32] | None, classes: int) -> Found:
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
