"""Counted patches added up: all that is stored of an evaluation.

They are added up in one order, product by product, so that only the parcels of one product are held. Sums are of whole
numbers: no size of a batch and no order of patches changes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cropseg.calibration import BINS, STEPS, Reliability
from cropseg.core.manifest import Dataset
from cropseg.counting import Ints, ParcelCount, PatchCount, UInt32Array
from cropseg.details import PATCHES, AreaBand, Band, Details, lists
from cropseg.edges import BANDS_PX
from cropseg.metrics import Confusion, Protocol

BANDS_HA: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Where bands of parcel size begin, in hectares."""

AT_ONCE: Final = 200_000
"""Entries of a product's parcels that are put together at once, once the product is done."""

PLACE: Final = "place"
PARCEL_YEAR: Final = "parcel and year"
FROM_PARCELS: Final = "parcel raster"
FROM_TRUTH: Final = "class changes of the truth"
NO_PARCELS: Final = "the dataset knows no parcels"
NO_CONFIDENCE: Final = "the model gives labels without a confidence"


class Tally:
    """All patches of an evaluation, added up.

    Args:
        dataset: The dataset.
        rows: Its rows in the order in which they are added: those of a product together, see :func:`in_order`.
        places: Place of each row.
        clusters_are: What intervals are drawn over: :data:`PLACE` or :data:`PARCEL_YEAR`.
    """

    def __init__(self, dataset: Dataset, rows: Sequence[int], places: Sequence[str], clusters_are: str) -> None:
        n = len(dataset.spec.taxonomy)
        self._table = dataset.manifest.select(list(KEPT)).take(np.asarray(rows, dtype=np.int64))
        self._places, self._clusters_are = list(places), clusters_are
        self._years = [when.year for when in self._table["datetime"].to_pylist()]
        self._products = [tuple(one.values()) for one in self._table.select(list(PRODUCT)).to_pylist()]
        # Patches are added product by product and kept by id.
        self._by_id = np.argsort(np.array(self._table["id"].to_pylist(), dtype=object), kind="stable")
        self._spot = np.argsort(self._by_id)
        self._hectares = dataset.spec.resolution**2 / 10_000
        self._done = 0
        self._confusions = np.zeros((len(rows), n, n), np.int64)
        self._boundary = np.zeros((len(BANDS_PX), n, n), np.int64)
        self._once = np.zeros((n, n), np.int64)
        self._overlapping = False
        self._reliability: Ints | None = np.zeros((2, 2, BINS), np.int64)
        self._confidence = np.zeros((2, BINS), np.int64)
        self._with_parcels = 0
        self._open: list[ParcelCount] = []
        self._majority = np.zeros((n, n), np.int64)
        self._areas = np.zeros((len(BANDS_HA), n, n), np.int64)
        self._parcels = np.zeros(len(BANDS_HA), np.int64)
        self._outside = np.zeros((n, n), np.int64)
        self._clusters: dict[str, Confusion] = {}

    def add(self, patch: PatchCount) -> None:
        """Add the next patch."""
        at = self._done
        if at and self._products[at] != self._products[at - 1]:
            self._close()
        self._confusions[self._spot[at]] = patch.confusion
        self._boundary += patch.boundary
        self._overlapping |= patch.once is not None
        self._once += patch.confusion if patch.once is None else patch.once
        if patch.reliability is None or patch.confidence is None or self._reliability is None:
            self._reliability = None
        else:
            self._reliability += patch.reliability
            self._confidence += patch.confidence
        outside = patch.confusion
        if patch.parcels is not None:
            self._with_parcels += 1
            of_none = patch.parcels.entries[patch.parcels.entries["number"] == 0]
            outside = np.zeros_like(patch.confusion)
            outside.reshape(-1)[of_none["cell"]] = of_none["pixels"]
            self._open.append(patch.parcels)
        self._outside += outside
        if self._clusters_are == PARCEL_YEAR:
            self._cluster(f"{self._places[at]} {self._years[at]} outside parcels", outside)
        else:
            self._cluster(self._places[at], patch.confusion)
        self._done += 1

    def _cluster(self, name: str, confusion: Confusion) -> None:
        if confusion.any():
            self._clusters[name] = self._clusters[name] + confusion if name in self._clusters else confusion.copy()

    def _close(self) -> None:
        """Put the parcels of the product that is done together, as many at a time as memory is to hold."""
        parts, self._open = self._open, []
        if not parts:
            return
        entries = np.concatenate([one.entries for one in parts])
        numbers = np.concatenate([one.numbers for one in parts])
        areas = np.concatenate([one.areas for one in parts])
        turns = 1 + len(entries) // AT_ONCE
        for turn in range(turns):
            mine = numbers % turns == turn
            self._add_parcels(entries[entries["number"] % turns == turn], numbers[mine], areas[mine])

    def _add_parcels(self, entries: npt.NDArray[np.void], numbers: UInt32Array, areas: Ints) -> None:
        n = len(self._outside)
        known, same = np.unique(numbers, return_inverse=True)
        band = np.digitize(np.bincount(same, areas, len(known)) * self._hectares, BANDS_HA[1:])
        which, cell = np.searchsorted(known, entries["number"]), entries["cell"].astype(np.int64)
        crop = entries["number"] > 0
        pixels = entries["pixels"].astype(np.int64)
        np.add.at(self._areas.reshape(len(BANDS_HA), -1), (band[which[crop]], cell[crop]), pixels[crop])
        votes = np.zeros((2, len(known), n), np.int64)
        for side, label in zip(votes, (cell // n, cell % n), strict=True):
            np.add.at(side, (which, label), entries["once"].astype(np.int64))
        # argmax: of classes with as many pixels the one with the lower id.
        decided = np.flatnonzero((known > 0) & (votes[0].sum(axis=1) > 0))
        np.add.at(self._majority, tuple(votes[:, decided].argmax(axis=2)), 1)
        self._parcels += np.bincount(band[decided], minlength=len(BANDS_HA))
        if self._clusters_are == PARCEL_YEAR:
            at = self._done - 1
            subset = self._table["subset"][at].as_py()
            order = np.argsort(which, kind="stable")
            ends = np.searchsorted(which[order], np.arange(len(known) + 1))
            for number, first, end in zip(known, ends[:-1], ends[1:], strict=True):
                here = order[first:end]
                if number > 0:
                    matrix = np.bincount(cell[here], pixels[here], n * n).astype(np.int64)
                    self._cluster(f"{subset} {self._years[at]} parcel {number}", matrix.reshape(n, n))

    def details(self) -> Details:
        """What is to be stored, once every patch was added."""
        self._close()
        without = {}
        if not self._with_parcels:
            without["parcels"] = NO_PARCELS
        if self._reliability is None:
            without["reliability"] = NO_CONFIDENCE
        known = self._with_parcels > 0
        return Details(
            patches=self._rows(),
            clusters={name: self._clusters[name] for name in sorted(self._clusters)},
            clusters_are=self._clusters_are,
            boundary=tuple(Band(*one) for one in zip(BANDS_PX, (*BANDS_PX[1:], math.inf), self._boundary, strict=True)),
            boundary_from=self._edges(),
            parcel_majority=self._majority if known else None,
            parcel_areas=tuple(
                AreaBand(start, end, int(parcels), matrix)
                for start, end, parcels, matrix in zip(
                    BANDS_HA, (*BANDS_HA[1:], math.inf), self._parcels, self._areas, strict=True
                )
            )
            if known
            else (),
            outside_parcels=self._outside if known else None,
            reliability=self._histograms(),
            once=self._once if self._overlapping else None,
            without=without,
        )

    def _edges(self) -> str:
        rest = self._done - self._with_parcels
        if not rest:
            return FROM_PARCELS
        if not self._with_parcels:
            return FROM_TRUTH
        return f"{FROM_PARCELS} in {self._with_parcels} patches, {FROM_TRUTH} in {rest}"

    def _histograms(self) -> dict[Protocol, Reliability]:
        if self._reliability is None:
            return {}
        pixels, correct, sums = self._reliability.sum(axis=1), self._reliability[:, 1], self._confidence / STEPS
        return {
            "all": Reliability(pixels.sum(axis=0), correct.sum(axis=0), sums.sum(axis=0)),
            "crop": Reliability(pixels[1], correct[1], sums[1]),
        }

    def _rows(self) -> pa.Table:
        table, hits = self._table.take(self._by_id), np.diagonal(self._confusions, axis1=1, axis2=2)
        columns = {name: table[name] for name in ("id", "subset", "country", "roi", "product")}
        columns |= {
            "year": pc.year(table["datetime"]).cast(pa.int32()),
            "month": pc.month(table["datetime"]).cast(pa.int32()),
            "place": pa.array([self._places[at] for at in self._by_id], pa.string()),
            "cloud": table["scl_invalid_fraction"],
            "nodata": table["nodata_fraction"],
            "pixels": pa.array(self._confusions.sum(axis=(1, 2))),
            "correct": pa.array(hits.sum(axis=1)),
            "confusion": lists(self._confusions),
        }
        return pa.table(columns, schema=PATCHES)


KEPT: Final = (
    "id", "subset", "country", "roi", "product", "datetime", "scl_invalid_fraction", "nodata_fraction"
)  # fmt: skip
"""Columns of the manifest that the tally needs."""

PRODUCT: Final = ("subset", "product", "datetime")
"""Columns of the manifest that tell one image of a scene from another; parcel numbers are those of a subset."""


def in_order(dataset: Dataset, rows: Sequence[int]) -> list[int]:
    """The rows product by product, and by id within: an order that does not depend on that of the manifest."""
    table = dataset.manifest.select([*PRODUCT, "id"]).take(np.asarray(rows, dtype=np.int64)).to_pylist()
    return [row for _, row in sorted((tuple(one.values()), row) for one, row in zip(table, rows, strict=True))]
