"""Training on a share of the labelled parcels, as if the others had never been visited.

- A parcel of the training part keeps its label if its draw is below the fraction; the pixels of the others become 255.
  The draw of a parcel is a number in [0, 1) that follows from (seed, subset, parcel number) alone. So all dates of a
  parcel go together, whatever window, tile or split they lie in, and the parcels of a smaller fraction are among those
  of a larger one.
- Ground without a parcel is cut into squares of :data:`CELL` pixels on the map, each of which is drawn like a parcel,
  from (seed, CRS, its row and column on the map). Background then stays in proportion to the crops; kept whole, it
  would swamp few parcels, and dropped, it would hide forest and town from the model.
- A patch that had labelled crop pixels and lost all of them is left out, with the background that it has left; one that
  had none stays. So the share of background falls a little where few patches have a parcel left.
- Validation and test are untouched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cropseg.core.errors import ConfigError, InputError
from cropseg.core.labels import IGNORE
from cropseg.core.manifest import Dataset
from cropseg.core.progress import say, track, warn
from cropseg.core.scene import UInt8Array

CELL: Final = 16
"""Side in pixels of the squares that stand for parcels where there are none: 2.6 ha at 10 m, as large as a field."""

READERS: Final = 8
"""Threads that read masks and parcels while labels are counted; reading waits for the disk more than for a core."""

UInt64Array = npt.NDArray[np.uint64]


def draws(key: str, numbers: UInt64Array) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each of ``numbers``, evenly distributed and always the same for the same key.

    A multiple of 2⁻⁵³, so that it is exact.

    The n-th value is the n-th output of the generator SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable
    pseudorandom number generators") whose seed is the first 64 bits of the key's SHA-256.
    """
    seed = np.uint64(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
    found: npt.NDArray[np.float64] = (splitmix64(seed, numbers) >> np.uint64(11)) / 2.0**53
    return found


def splitmix64(seed: np.uint64, numbers: UInt64Array) -> UInt64Array:
    """Outputs number ``numbers`` (from 1) of SplitMix64 with ``seed``."""
    with np.errstate(over="ignore"):  # all arithmetic is modulo 2⁶⁴
        z: UInt64Array = seed + numbers * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


@dataclass(frozen=True)
class FewLabels(Dataset):
    """A dataset of whose training patches a share of the parcels is labelled.

    :meth:`mask` and the manifest's columns ``counts`` and ``ignored`` tell of the labels that are left, so that whoever
    learns from it, draws from it or weights by it sees the same.

    Attributes:
        fraction: Share of the parcels that keep their labels, above 0 and at most 1.
        seed: Of the draw.
        train: Rows whose labels are thinned out.
    """

    fraction: float = 1.0
    seed: int = 0
    train: frozenset[int] = field(default_factory=frozenset)

    def mask(self, row: int, into: UInt8Array | None = None) -> UInt8Array:
        """Mask of manifest row ``row``: uint8 (height, width), class ids and 255; ``into`` as for an image."""
        mask = super().mask(row, into)
        if self.fraction < 1 and int(row) in self.train:
            parcels = self.parcels(row)
            if parcels.shape != mask.shape:
                name = self.manifest["id"][row].as_py()
                raise InputError(f"mask and parcels of patch {name} differ in size", parcels.shape, "prepare it again")
            mask[~self.kept(row, parcels)] = IGNORE
        return mask

    def kept(self, row: int, parcels: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
        """Which pixels of a patch keep their label: bool (height, width), given its parcel numbers."""
        manifest = self.manifest
        subset, crs = manifest["subset"][row].as_py(), manifest["crs"][row].as_py()
        known = draws(f"{self.seed}/parcel/{subset}", parcels.astype(np.uint64)) < self.fraction
        cells = draws(f"{self.seed}/ground/{crs}", cell_numbers(parcels.shape, manifest["transform"][row].as_py()))
        kept: npt.NDArray[np.bool_] = np.where(parcels > 0, known, cells < self.fraction)
        return kept


def cell_numbers(shape: tuple[int, int], transform: list[float]) -> UInt64Array:
    """Number of the square of the map that each pixel's centre lies in: uint64 (height, width).

    Args:
        shape: Height and width.
        transform: Six numbers a b c d e f, north up.
    """
    a, _, c, _, e, f = transform
    rows = np.floor((f + e * (np.arange(shape[0]) + 0.5)) / (CELL * abs(e))).astype(np.int64)
    cols = np.floor((c + a * (np.arange(shape[1]) + 0.5)) / (CELL * abs(a))).astype(np.int64)
    low = np.int64(2**32 - 1)
    numbers: UInt64Array = ((rows & low)[:, None] << 32 | (cols & low)[None]).astype(np.uint64)
    return numbers


@dataclass(frozen=True)
class _Counted:
    """What is labelled in one patch: pixels per class before and after, and the labelled parcels before and after."""

    before: npt.NDArray[np.int64]
    after: npt.NDArray[np.int64]
    ignored: int
    parcels: npt.NDArray[np.uint32]
    kept: npt.NDArray[np.uint32]


def check_fraction(fraction: float) -> None:
    """Refuse a share that is none.

    Raises:
        ConfigError: It is not above 0 and at most 1.
    """
    if not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise ConfigError("dataset.fraction must be above 0 and at most 1", fraction, "use 0.1, say, or null for all")


def with_few_labels(
    dataset: Dataset, rows: npt.NDArray[np.int64], fraction: float, seed: int
) -> tuple[FewLabels, npt.NDArray[np.int64]]:
    """Take the labels of all but a share of the parcels away from the training part, and count what is left.

    Masks and parcels of the part are read once for it.

    Args:
        dataset: The opened folder.
        rows: Rows of its training part.
        fraction: Share of the parcels that keep their labels; 1 changes nothing and counts.
        seed: Of the draw.

    Returns:
        The dataset with fewer labels, and the rows that still have some. Its ``labels`` hold ``fraction``, ``seed``,
        ``parcels`` and ``all_parcels`` (labelled parcels kept, and in all: those with at least one pixel that is not
        255), ``patches`` and ``all_patches``, and ``pixels`` (labelled pixels per class kept, of the patches kept).

    Raises:
        ConfigError: The fraction is out of range.
        InputError: The dataset has no parcel rasters, or no labelled crop pixel is left.
    """
    check_fraction(fraction)
    thinned = FewLabels(
        dataset.root, dataset.spec, dataset.manifest, dataset.digest, {}, fraction, seed, frozenset(rows.tolist())
    )
    with ThreadPoolExecutor(READERS) as pool:
        found = list(track(pool.map(lambda row: _count(thinned, row), rows.tolist()), "counting labels", len(rows)))
    lost = np.array([one.before[1:].any() and not one.after[1:].any() for one in found], dtype=bool)
    names = dataset.spec.taxonomy.names
    before, after = (
        np.array(counts, dtype=np.int64).reshape(-1, len(names))
        for counts in ([one.before for one in found], [one.after for one in found])
    )
    pixels = after[~lost].sum(axis=0)
    subsets = [dataset.manifest["subset"][row].as_py() for row in rows.tolist()]
    known = _distinct((subset, one.parcels) for subset, one in zip(subsets, found, strict=True))
    kept = _distinct((subset, one.kept) for subset, one, gone in zip(subsets, found, lost, strict=True) if not gone)
    if not len(found) or not pixels[1:].any():
        remedy = "use a larger fraction, or another seed"
        raise InputError(f"dataset.fraction={fraction} leaves no labelled crop pixel of {known} parcels", None, remedy)
    summary = {
        "fraction": float(fraction),
        "seed": seed,
        "parcels": kept,
        "all_parcels": known,
        "patches": len(rows) - int(lost.sum()),
        "all_patches": len(rows),
        "pixels": pixels.tolist(),
    }
    say(
        f"labels of {kept} of {known} parcels of the training part are used, in {summary['patches']} of "
        f"{summary['all_patches']} patches (dataset.fraction={fraction}, seed {seed})"
    )
    gone = [name for name, one, now in zip(names, before.sum(axis=0), pixels, strict=True) if one and not now]
    if gone:
        warn(f"no labelled pixel is left of: {', '.join(gone)}")
    result = FewLabels(
        dataset.root,
        dataset.spec,
        _recounted(dataset.manifest, rows, found),
        dataset.digest,
        summary,
        fraction,
        seed,
        thinned.train,
    )
    return result, rows[~lost]


def _count(dataset: FewLabels, row: int) -> _Counted:
    parcels = dataset.parcels(row)
    whole, mask = Dataset.mask(dataset, row), dataset.mask(row)
    classes = len(dataset.spec.taxonomy)
    # Labels that are no class are refused where they are learned from.
    before, after = (np.bincount(one.ravel(), minlength=IGNORE + 1) for one in (whole, mask))
    return _Counted(
        before=before[:classes],
        after=after[:classes],
        ignored=int(after[IGNORE]),
        parcels=np.setdiff1d(parcels[whole != IGNORE], [0]),
        kept=np.setdiff1d(parcels[mask != IGNORE], [0]),
    )


def _distinct(parcels: Iterable[tuple[str, npt.NDArray[np.uint32]]]) -> int:
    """Number of distinct (subset, parcel number)."""
    by_subset: dict[str, list[npt.NDArray[np.uint32]]] = {}
    for subset, numbers in parcels:
        by_subset.setdefault(subset, []).append(numbers)
    return sum(len(np.unique(np.concatenate(numbers))) for numbers in by_subset.values())


def _recounted(manifest: pa.Table, rows: npt.NDArray[np.int64], found: list[_Counted]) -> pa.Table:
    """The manifest with pixels per class and ignored pixels of ``rows`` as counted."""
    columns: dict[str, list[Any]] = {name: manifest[name].to_pylist() for name in ("counts", "ignored")}
    for row, one in zip(rows.tolist(), found, strict=True):
        columns["counts"][row], columns["ignored"][row] = one.after.tolist(), one.ignored
    for name, values in columns.items():
        place = manifest.schema.get_field_index(name)
        manifest = manifest.set_column(
            place, manifest.schema.field(name), pa.array(values, manifest.schema.field(name).type)
        )
    return manifest
