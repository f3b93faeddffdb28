"""What every importer of a benchmark ends in: patches written as ours, an audit, a comparison with the paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import shapely

from cropseg.core import storage
from cropseg.core.bands import DARKEST, NODATA
from cropseg.core.errors import ConfigError
from cropseg.core.labels import IGNORE
from cropseg.core.manifest import DatasetSpec, write_dataset
from cropseg.core.progress import table
from cropseg.core.scene import Grid, UInt8Array, UInt16Array
from cropseg.core.taxonomy import Taxonomy
from data_prep.quality import Thresholds, measure
from data_prep.search import to_wgs84

UInt32Array = npt.NDArray[np.uint32]

BRIGHTEST: Final = 65_534
"""The largest value of our images: 65535 stands for a saturated detector in products."""

TARGETS: Final = "a class name, or 255 for ignored"


@dataclass(frozen=True)
class Sample:
    """One patch as an importer found it.

    Attributes:
        subset: Such as dacia5_2021.
        country: ISO 3166 alpha-2.
        roi: Place.
        product: Scene.
        spot: What tells this patch from the others of its place and scene, such as ``0_256`` (row, column).
        acquired: Sensing time, UTC; midnight where only the day is known.
        tile: MGRS tile, or a word that says that none is known.
        grid: Its pixels.
        image: uint16 (bands, height, width), reflectance × 10000, 0 = no data.
        mask: uint8 (height, width), class ids and 255.
        parcels: uint32 (height, width), 0 = none; None where parcels are not known.
        clamped: Share of the valid samples that were raised to 1.
    """

    subset: str
    country: str
    roi: str
    product: str
    spot: str
    acquired: datetime
    tile: str
    grid: Grid
    image: UInt16Array
    mask: UInt8Array
    parcels: UInt32Array | None
    clamped: float

    @property
    def id(self) -> str:
        """Name of the patch."""
        return f"{self.subset}/{self.roi}/{self.product}/{self.spot}"


class Writer:
    """Writes samples into a dataset folder; :meth:`finish` makes it one."""

    def __init__(self, root: Path, spec: DatasetSpec) -> None:
        self.root, self.spec = root, spec
        self.rows: list[dict[str, Any]] = []
        visible = [band for band in ("B02", "B03", "B04") if band in spec.bands]
        self._thresholds = Thresholds(bright_bands=visible or spec.bands)  # figures only, nothing is refused on them
        with storage.storage_errors(root):
            (root / "manifest.parquet").unlink(missing_ok=True)  # until it is finished again, it is no dataset

    def add(self, sample: Sample, image: str | None = None) -> dict[str, Any]:
        """Write the arrays of one patch and remember its row, which is returned.

        Args:
            sample: The patch.
            image: Path, relative to the dataset folder, of its image where that is written already.
        """
        arrays: dict[str, npt.NDArray[Any]] = {"image": sample.image, "mask": sample.mask}
        if sample.parcels is not None:
            arrays["parcels"] = sample.parcels
        paths = {kind: f"shards/{sample.id}.{kind}.npy" for kind in arrays}
        if image is not None:
            paths["image"] = image
            del arrays["image"]
        for kind, array in arrays.items():
            storage.write_array(self.root / paths[kind], array)
        figures = measure(
            sample.image, sample.mask, None, self._thresholds, self.spec.taxonomy,
            bands=self.spec.bands, clamped_fraction=sample.clamped,
        )  # fmt: skip
        row = {
            "id": sample.id,
            **paths,
            "image_sha256": storage.sha256(self.root / paths["image"]),
            "mask_sha256": storage.sha256(self.root / paths["mask"]),
            "subset": sample.subset,
            "country": sample.country,
            "roi": sample.roi,
            "product": sample.product,
            "datetime": sample.acquired,
            "tile": sample.tile,
            "crs": sample.grid.crs,
            "transform": list(sample.grid.transform),
            "height": sample.grid.height,
            "width": sample.grid.width,
            "geometry": to_wgs84(shapely.box(*sample.grid.bounds), sample.grid.crs).wkb,
            **asdict(figures),
        }
        self.rows.append(row)
        return row

    def counts(self) -> npt.NDArray[np.int64]:
        """Pixels of each class over all patches so far."""
        none = np.zeros(len(self.spec.taxonomy), np.int64)
        return none + sum((np.asarray(row["counts"], np.int64) for row in self.rows), none)

    def finish(self) -> None:
        """Write the tables: one split, ``test``, with every patch in its part ``test``."""
        parts = [{"id": row["id"], "part": "test", "group": row["roi"]} for row in self.rows]
        write_dataset(self.root, self.spec, self.rows, {"test": parts})


def to_image(
    values: npt.NDArray[Any], valid: npt.NDArray[np.bool_], low: float = DARKEST, high: float = BRIGHTEST
) -> tuple[UInt16Array, float]:
    """Digital numbers as an image of ours: no data becomes 0, then valid samples are clipped.

    Args:
        values: Reflectance × 10000, without offset.
        valid: Of the same shape: where a sample is a measurement.
        low: Least value of a valid sample, at least 1.
        high: Largest value.

    Returns:
        uint16 of the same shape, and the share of the valid samples that were raised to ``low``.
    """
    clipped = np.clip(np.where(valid, np.rint(values), 0), low, high)
    raised = int((valid & (values < low)).sum()) / max(1, int(valid.sum()))
    return np.where(valid, clipped, NODATA).astype(np.uint16), raised


def label_table(labels: Mapping[Any, Any], classes: Taxonomy, whose: str) -> dict[int, int]:
    """Class id by value of the foreign mask, from a mapping of values to class names or 255.

    Raises:
        ConfigError: A value is no integer, or what it maps to is neither a class nor 255.
    """
    if not isinstance(labels, Mapping) or not labels:
        raise ConfigError(f"{whose} must map values to classes", labels, f"map each value to {TARGETS}")
    found: dict[int, int] = {}
    for value, target in labels.items():
        try:
            if isinstance(value, float | bool):
                raise ValueError
            key = int(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{whose}: a label value must be a whole number", value, f"map it to {TARGETS}"
            ) from error
        if isinstance(target, str):
            found[key] = classes.id_of(target)
        elif target == IGNORE:
            found[key] = IGNORE
        else:
            raise ConfigError(f"{whose}: what label {key} becomes", target, f"give {TARGETS}")
    return found


def apply_labels(values: npt.NDArray[Any], labels: Mapping[int, int]) -> UInt8Array:
    """Class ids of a mask whose values all stand in ``labels``."""
    keys = np.array(sorted(labels), np.int64)
    ids = np.array([labels[key] for key in keys.tolist()], np.uint8)
    mask: UInt8Array = ids[np.searchsorted(keys, values)]
    return mask


def day_in_season(day: date, season: Sequence[str]) -> bool:
    """Whether a day lies between two days MM-DD, both included, of its own year.

    Raises:
        ConfigError: ``season`` is not two such days in order.
    """
    try:
        first, last = (datetime.strptime(f"2020-{text}", "%Y-%m-%d").date() for text in season)
    except (TypeError, ValueError) as error:
        raise ConfigError("season of the importer", list(season), "give first and last day as MM-DD") from error
    if first > last:
        raise ConfigError("season of the importer ends before it begins", list(season), "swap the days")
    return (first.month, first.day) <= (day.month, day.day) <= (last.month, last.day)


def midnight(day: date) -> datetime:
    """A day as a time, where the hour is not known."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def against_paper(
    counts: Mapping[str, tuple[int | None, int]],
    support: Mapping[str, int] | None,
    found: npt.NDArray[np.int64],
    classes: Taxonomy,
) -> list[dict[str, Any]]:
    """Hold counts and label supports against the paper's; they depend on labels and rules alone, not on any score.

    Args:
        counts: Name: (the paper's figure or None, ours).
        support: The paper's pixels per class name (Table 14); None where it gives none.
        found: Ours by class id.
        classes: The taxonomy.
    """
    pairs = dict(counts)
    if support is not None:
        known = {classes.id_of(name): int(pixels) for name, pixels in support.items()}
        for crop in classes.classes[1:]:
            pairs[f"pixels of {crop.name}"] = known.get(crop.id, 0), int(found[crop.id])
    return [
        {"what": what, "paper": paper, "here": here, "verdict": "agree" if paper == here else "differ"}
        for what, (paper, here) in pairs.items()
        if paper is not None
    ]


def show_paper(rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Print what :func:`against_paper` gave, if it gave anything."""
    if not rows:
        return
    columns = ("what", "paper", "here", "verdict")
    table(f"{name} against the paper", columns, [[row[column] for column in columns] for row in rows])


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows with the same keys as CSV, atomically."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    storage.write_bytes(path, text.getvalue().encode())
