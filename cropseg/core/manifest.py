"""The dataset folder: its manifest (GeoParquet, a row a patch), its splits, and what holds for all of it.

    <root>/dataset.json          DatasetSpec
    <root>/manifest.parquet      the patches, MANIFEST_SCHEMA
    <root>/candidates.parquet    the pool they were chosen from, same schema (absent in evaluation sets)
    <root>/splits/<name>.parquet SPLIT_SCHEMA, keyed by patch id

Paths in the manifest are relative to the root. It is read with pyarrow alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cropseg.core import storage, taxonomy
from cropseg.core.bands import check_bands
from cropseg.core.errors import InputError
from cropseg.core.scene import UInt8Array, UInt16Array
from cropseg.core.taxonomy import Taxonomy

Part = Literal["train", "val", "test"]
PARTS: Final = get_args(Part)

MANIFEST_SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # unique; <subset>/<roi>/<product>/<row>_<col>
        pa.field("image", pa.string(), nullable=False),  # .npy uint16 (bands, height, width)
        pa.field("mask", pa.string(), nullable=False),  # .npy uint8 (height, width)
        pa.field("parcels", pa.string()),  # .npy uint32 (height, width), parcel numbers, 0 = none; null if unknown
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("mask_sha256", pa.string(), nullable=False),
        pa.field("subset", pa.string(), nullable=False),  # such as at_2021
        pa.field("country", pa.string(), nullable=False),  # ISO 3166 alpha-2
        pa.field("roi", pa.string(), nullable=False),
        pa.field("product", pa.string(), nullable=False),
        pa.field("datetime", pa.timestamp("us", tz="UTC"), nullable=False),  # sensing start
        pa.field("tile", pa.string(), nullable=False),  # MGRS, such as 33UXP
        pa.field("crs", pa.string(), nullable=False),
        pa.field("transform", pa.list_(pa.float64(), 6), nullable=False),  # a b c d e f
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("nodata_fraction", pa.float32(), nullable=False),  # of all pixels, any band without data
        pa.field("foreground_fraction", pa.float32(), nullable=False),  # of all pixels, mask in 1 … n-1
        pa.field(
            "scl_invalid_fraction", pa.float32(), nullable=False
        ),  # of pixels with data; NaN where no SCL is known
        pa.field("bright_fraction", pa.float32(), nullable=False),  # of pixels with data
        pa.field("clamped_fraction", pa.float32(), nullable=False),  # of valid samples, raised to 1
        pa.field("counts", pa.list_(pa.int64()), nullable=False),  # pixels per class id
        pa.field("ignored", pa.int64(), nullable=False),  # pixels of value 255
        pa.field("geometry", pa.binary(), nullable=False),  # footprint, WKB, longitude and latitude (WGS 84)
    ]
)
"""Columns of ``manifest.parquet`` and ``candidates.parquet``."""

SPLIT_SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),  # train | val | test | buffer (used by none)
        pa.field("group", pa.string(), nullable=False),  # what was drawn as a whole: cell, product, country, patch
    ]
)
"""Columns of ``splits/<name>.parquet``."""

_GEO: Final = {
    b"geo": json.dumps(
        {
            "version": "1.0.0",
            "primary_column": "geometry",
            "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Polygon"]}},
        }
    ).encode()
}


@dataclass(frozen=True)
class DatasetSpec:
    """What holds for every patch of a dataset.

    Attributes:
        name: Name of the dataset.
        bands: Channel order.
        taxonomy: Classes of the masks.
        resolution: Pixel size in metres.
        patch_size: Window size in pixels.
        simulated: Whether pixels come from a simulation; every score on it then says so.
        protocol: ``all`` where unlabelled ground is background, ``crop`` where only labelled crop pixels are known.
        provenance: Free plain data: sources, thresholds, versions, rules applied.
    """

    name: str
    bands: tuple[str, ...]
    taxonomy: Taxonomy
    resolution: float
    patch_size: int
    simulated: bool
    protocol: Literal["all", "crop"] = "all"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the bands."""
        check_bands(self.bands)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``dataset.json``."""
        return {**{k: v for k, v in asdict(self).items() if k != "taxonomy"}, "taxonomy": self.taxonomy.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DatasetSpec:
        """Read back what :meth:`to_dict` gave."""
        rest = {k: v for k, v in data.items() if k not in ("taxonomy", "bands")}
        return cls(bands=tuple(data["bands"]), taxonomy=taxonomy.from_dict(data["taxonomy"]), **rest)


@dataclass(frozen=True)
class Dataset:
    """A dataset folder, opened.

    Attributes:
        root: The folder.
        spec: What holds for all patches.
        manifest: One row a patch, :data:`MANIFEST_SCHEMA`, in the order of the file.
        digest: SHA-256 of ``manifest.parquet``.
        labels: How much of the training part's labels is used, where that was asked for
            (:mod:`cropseg.data.few_labels`); empty for all of them, uncounted.
    """

    root: Path
    spec: DatasetSpec
    manifest: pa.Table
    digest: str
    labels: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.manifest.num_rows)

    def parts(self, split: str) -> dict[Part, npt.NDArray[np.int64]]:
        """Row numbers of each part of the split called ``split``, ascending.

        Raises:
            InputError: The split does not exist or does not cover the manifest.
        """
        path = self.root / "splits" / f"{split}.parquet"
        if not path.is_file():
            known = sorted(p.stem for p in path.parent.glob("*.parquet")) if path.parent.is_dir() else []
            names = ", ".join(known) or "none"
            remedy = f"it has: {names}; prepare.py stage=split split={split} adds one to a finished dataset"
            raise InputError(f"dataset {self.root} has no split", split, remedy)
        rows = pq.read_table(path, columns=["id", "part"])
        part_of = dict(zip(rows["id"].to_pylist(), rows["part"].to_pylist(), strict=True))
        ids = self.manifest["id"].to_pylist()
        missing = [i for i in ids if i not in part_of]
        if missing:
            raise InputError(
                f"split {path} lacks {len(missing)} patches of the manifest", missing[0], "make the split again"
            )
        parts = np.array([part_of[i] for i in ids])
        return {part: np.flatnonzero(parts == part) for part in PARTS}

    def image(self, row: int, into: UInt16Array | None = None) -> UInt16Array:
        """Image of manifest row ``row``: uint16 (bands, height, width), reflectance × 10000, 0 = no data.

        It is read ``into`` an array, C-contiguous, where that has its shape.
        """
        array: UInt16Array = self._load("image", row, np.dtype(np.uint16), 3, into)
        if array.shape[0] != len(self.spec.bands):
            raise InputError(
                f"image {self._path('image', row)} has another number of bands", array.shape[0], "prepare again"
            )
        return array

    def mask(self, row: int, into: UInt8Array | None = None) -> UInt8Array:
        """Mask of manifest row ``row``: uint8 (height, width), class ids and 255; ``into`` as for an image."""
        array: UInt8Array = self._load("mask", row, np.dtype(np.uint8), 2, into)
        return array

    def parcels(self, row: int) -> npt.NDArray[np.uint32]:
        """Parcel numbers of manifest row ``row``: uint32 (height, width), 0 = no parcel.

        Raises:
            InputError: The dataset does not know them, or the file is missing or broken.
        """
        if self.manifest["parcels"][row].as_py() is None:
            name = self.manifest["id"][row].as_py()
            remedy = "prepare it from a parcel file, or use all its labels"
            raise InputError(f"dataset {self.root} knows no parcels of patch", name, remedy)
        array: npt.NDArray[np.uint32] = self._load("parcels", row, np.dtype(np.uint32), 2)
        return array

    def _path(self, column: str, row: int) -> Path:
        return self.root / str(self.manifest[column][row].as_py())

    def _load(
        self, column: str, row: int, dtype: np.dtype[Any], ndim: int, into: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        path = self._path(column, row)
        try:
            array = storage.read_array(path, into)
        except FileNotFoundError as error:
            raise InputError(
                f"patch file is missing: {path}", None, "run prepare.py again; it remakes only this"
            ) from error
        except ValueError as error:
            raise InputError(
                f"patch file cannot be read: {path}", str(error), "remove it and run prepare.py again"
            ) from error
        if array.dtype != dtype or array.ndim != ndim:
            raise InputError(
                f"{path} must be {dtype} with {ndim} axes", f"{array.dtype} {array.shape}", "prepare it again"
            )
        return array


def open_dataset(root: str | Path) -> Dataset:
    """Open a dataset folder.

    Raises:
        InputError: The folder, its manifest or its ``dataset.json`` is missing or broken.
    """
    root = Path(root)
    path = root / "manifest.parquet"
    if not path.is_file():
        raise InputError(
            f"no dataset at {root} (manifest.parquet is missing)", None, "run prepare.py, or check the path"
        )
    try:
        manifest = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read", str(error), "run prepare.py again") from error
    missing = [name for name in MANIFEST_SCHEMA.names if name not in manifest.column_names]
    if missing:
        raise InputError(
            f"{path} lacks columns", missing, "it was made by another program or version: prepare it again"
        )
    spec = DatasetSpec.from_dict(storage.read_json(root / "dataset.json"))
    return Dataset(root, spec, manifest, storage.sha256(path))


def write_dataset(
    root: Path, spec: DatasetSpec, rows: Sequence[Mapping[str, Any]], splits: Mapping[str, Sequence[Mapping[str, str]]]
) -> None:
    """Write ``dataset.json``, the splits and, last, the manifest: its presence says that the rest is there."""
    storage.write_json(root / "dataset.json", spec.to_dict())
    for name, split in splits.items():
        write_table(root / "splits" / f"{name}.parquet", split, SPLIT_SCHEMA)
    write_table(root / "manifest.parquet", rows, MANIFEST_SCHEMA)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write rows as Parquet atomically, sorted by ``id``; a ``geometry`` column makes it GeoParquet."""
    ordered = sorted(rows, key=lambda row: str(row["id"]))
    geo = _GEO if "geometry" in schema.names else {}
    content = pa.Table.from_pylist([dict(row) for row in ordered], schema=schema.with_metadata(geo))
    with storage.atomic_path(path) as temporary:
        pq.write_table(content, temporary, compression="zstd")


def read_table(path: Path) -> pa.Table:
    """Read a Parquet table.

    Raises:
        InputError: It is missing or broken.
    """
    try:
        return pq.read_table(path)
    except FileNotFoundError as error:
        raise InputError(f"no such table: {path}", None, "run the stage that writes it") from error
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read", str(error), "remove it and run the stage again") from error
