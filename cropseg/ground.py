"""What an evaluation set shares with what a model was trained on: whole patches, or their ground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import shapely

from cropseg.core.errors import MismatchError
from cropseg.core.manifest import Dataset, open_dataset
from cropseg.predictor import ModelSpec

SLIVER: Final = 0.01
"""Share of a patch below which common ground is not counted: neighbours touch, and their corners are rounded."""


Rows = tuple[Dataset, Sequence[int]]
"""Rows of a dataset."""


def training_parts(spec: ModelSpec, known: Dataset | None = None) -> list[Rows | None]:
    """The training parts of all that a model learned from: its own first, then those of the run that it started from.

    A part is None where it cannot be told: the folder is gone, or was prepared again since.

    Args:
        spec: What the model remembers.
        known: A dataset that is open already; it is taken where its digest is the one asked for.
    """
    return [_training_rows(one, known) for one in spec.trained_on]


def _training_rows(source: Mapping[str, Any], known: Dataset | None) -> Rows | None:
    root, digest, split = Path(source["dataset_root"]), source["manifest_digest"], source["split"]
    if known is None or known.digest != digest:
        if not source["dataset_root"] or not (root / "manifest.parquet").is_file():
            return None
        known = open_dataset(root)
    if known.digest != digest or not (known.root / "splits" / f"{split}.parquet").is_file():
        return None
    return known, [int(row) for row in known.parts(split)["train"]]


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


def shared_ground(dataset: Dataset, rows: Sequence[int], parts: Sequence[Rows | None]) -> float | None:
    """Of the patches ``rows``, the share of which more than :data:`SLIVER` of the ground lies in a training patch.

    Footprints are compared in longitude and latitude, whatever the zone; the date does not count.

    Args:
        dataset: The dataset of the patches.
        rows: Which of it.
        parts: What the model learned from, of :func:`training_parts`.

    Returns:
        The share; None where a part is not known.
    """
    told = [part for part in parts if part is not None]
    if len(told) < len(parts):
        return None
    mine = _footprints(dataset, rows)
    theirs = np.concatenate([_footprints(*part) for part in told])
    index, other = shapely.STRtree(theirs).query(mine, predicate="intersects")
    common = shapely.area(shapely.intersection(mine[index], theirs[other])) / shapely.area(mine[index])
    return len(np.unique(index[common > SLIVER])) / len(rows)


def _footprints(dataset: Dataset, rows: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    wkb = dataset.manifest["geometry"].take(np.asarray(rows, dtype=np.int64)).to_pylist()
    return np.asarray(shapely.from_wkb(wkb), dtype=object)


def _contents(dataset: Dataset, rows: Sequence[int]) -> list[tuple[str, str]]:
    table = dataset.manifest.select(["image_sha256", "mask_sha256"]).take(np.asarray(rows, dtype=np.int64))
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))
