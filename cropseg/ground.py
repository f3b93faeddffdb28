"""What an evaluation set shares with what a model was trained on: whole patches, or their ground."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import shapely

from cropseg.core.errors import MismatchError
from cropseg.core.manifest import Dataset, open_dataset
from cropseg.predictor import ModelSpec

SLIVER: Final = 0.01
"""Share of a patch below which common ground is not counted: neighbours touch, and their corners are rounded."""


def training_rows(spec: ModelSpec) -> tuple[Dataset, list[int]] | None:
    """The dataset that a model was trained on with the rows of its training part; None where that cannot be told.

    It cannot where the folder is gone, or was prepared again since: then nobody knows which patches were trained on.
    """
    root = Path(spec.dataset_root)
    if not spec.dataset_root or not (root / "manifest.parquet").is_file():
        return None
    dataset = open_dataset(root)
    known = (root / "splits" / f"{spec.split}.parquet").is_file()
    if dataset.digest != spec.manifest_digest or not known:
        return None
    return dataset, [int(row) for row in dataset.parts(spec.split)["train"]]


def refuse_trained(name: str, dataset: Dataset, rows: Sequence[int], trained: Dataset, part: Sequence[int]) -> None:
    """Refuse patches that a model was trained on: the same image with the same truth, in whatever dataset it lies.

    Raises:
        MismatchError: There is one; the first is named.
    """
    known = set(_contents(trained, part))
    shared = [row for row, content in zip(rows, _contents(dataset, rows), strict=True) if content in known]
    if shared:
        raise MismatchError(
            f"evaluation set {name} holds {len(shared)} patches that the model was trained on",
            str(dataset.manifest["id"][shared[0]].as_py()),
            "evaluate a part of the split that it was not trained on, such as test",
        )


def shared_ground(dataset: Dataset, rows: Sequence[int], trained: Dataset, part: Sequence[int]) -> float:
    """Of the patches ``rows``, the share of which more than :data:`SLIVER` of the ground lies in a training patch.

    Footprints are compared in longitude and latitude, whatever the zone; the date does not count.
    """
    if not len(rows):
        return 0.0
    mine, theirs = _footprints(dataset, rows), _footprints(trained, part)
    index, other = shapely.STRtree(theirs).query(mine, predicate="intersects")
    common = shapely.area(shapely.intersection(mine[index], theirs[other])) / shapely.area(mine[index])
    return len(np.unique(index[common > SLIVER])) / len(rows)


def _footprints(dataset: Dataset, rows: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    wkb = dataset.manifest["geometry"].take(np.asarray(rows, dtype=np.int64)).to_pylist()
    return np.asarray(shapely.from_wkb(wkb), dtype=object)


def _contents(dataset: Dataset, rows: Sequence[int]) -> list[tuple[str, str]]:
    table = dataset.manifest.select(["image_sha256", "mask_sha256"]).take(np.asarray(rows, dtype=np.int64))
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))
