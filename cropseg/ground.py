"""What an evaluation set shares with what a model was trained on: patches, ground, years, the source of the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cropseg.core.errors import MismatchError
from cropseg.core.manifest import Dataset, open_dataset
from cropseg.predictor import ModelSpec

SLIVER: Final = 0.01
"""Share of a patch below which common ground is not counted: neighbours touch, and their corners are rounded."""

NOT_TOLD: Final = "not told"

Rows = tuple[Dataset, Sequence[int]]
"""Rows of a dataset."""

Shapes = npt.NDArray[np.object_]
Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sharing:
    """What patches share with a training part, told before they are scored.

    Attributes:
        ground: Share of the patches whose ground also lies in the training part, :func:`shared_ground`.
        years: Years that both have images of; None where the training part is not known.
        label_sources: Who told the labels of both; None where either does not tell.
        same_dataset: Whether the patches are a part of a dataset that was trained on: years and sources are the same
            then, as they should be.
    """

    ground: float | None
    years: tuple[int, ...] | None
    label_sources: tuple[str, ...] | None
    same_dataset: bool = False

    @property
    def words(self) -> str:
        """The whole of it in one line."""
        if self.ground is None:
            ground = "whether the training part holds the same ground is not told"
        elif self.ground > 0:
            ground = f"{self.ground:.1%} of the patches lie on ground of the training part"
        else:
            ground = "no patch lies on ground of the training part"
        years = NOT_TOLD if self.years is None else ", ".join(map(str, self.years)) or "none"
        sources = NOT_TOLD if self.label_sources is None else ", ".join(self.label_sources) or "none"
        return f"{ground}; years in common: {years}; label sources in common: {sources}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data beside an evaluation; the ground has its own field there."""
        listed = {"years": self.years, "label_sources": self.label_sources}
        plain = {key: None if value is None else list(value) for key, value in listed.items()}
        return {**plain, "same_dataset": self.same_dataset}


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


def sharing(dataset: Dataset, rows: Sequence[int], parts: Sequence[Rows | None]) -> Sharing:
    """What the patches ``rows`` share with ``parts``, of :func:`training_parts`."""
    told = [part for part in parts if part is not None]
    same = any(trained.digest == dataset.digest for trained, _ in told)
    ground = shared_ground(dataset, rows, parts)
    if len(told) < len(parts):
        return Sharing(ground, None, None, same)
    years = _years(dataset, rows) & set().union(*(_years(*part) for part in told))
    mine, theirs = label_sources(dataset, rows), [label_sources(*part) for part in told]
    known = [one for one in theirs if one is not None]
    sources = None if mine is None or len(known) < len(theirs) else tuple(sorted(mine & set().union(*known)))
    return Sharing(ground, tuple(sorted(years)), sources, same)


def label_sources(dataset: Dataset, rows: Sequence[int]) -> set[str] | None:
    """Who told the labels of ``rows``: the collection and whose declarations went into it, as far as known.

    ``dataset.json`` tells it under ``provenance.label_source``: a list, or a mapping from subset to a list. None where
    it does not, as in datasets of earlier versions.
    """
    told = dataset.spec.provenance.get("label_source")
    if not isinstance(told, Mapping):
        return None if told is None else {told} if isinstance(told, str) else set(map(str, told))
    subsets = set(dataset.manifest["subset"].take(np.asarray(rows, dtype=np.int64)).to_pylist())
    if subsets - set(told):
        return None
    return {str(source) for subset in subsets for source in told[subset]}


def shared_ground(dataset: Dataset, rows: Sequence[int], parts: Sequence[Rows | None]) -> float | None:
    """Of the patches ``rows``, the share of which more than :data:`SLIVER` of the ground lies in a training patch.

    Footprints are compared in longitude and latitude, whatever the zone, and across the 180° meridian; the date does
    not count.

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
    theirs = np.concatenate([_footprints(*part) for part in told])
    mine = _footprints(dataset, rows)
    index, _, common = _common(mine, theirs)
    return len(np.unique(index[common > SLIVER * shapely.area(mine[index])])) / len(rows)


def shared_area(dataset: Dataset, rows: Sequence[int], train: Sequence[int]) -> float:
    """Of the ground of the patches ``rows``, each footprint counted once, the share that patches ``train`` cover.

    Patches of a dataset are of one size, so the shares of the footprints are averaged.

    Args:
        dataset: The dataset of both.
        rows: Patches, such as those of a test part.
        train: Other patches, of any date.
    """
    mine, theirs = _distinct(_footprints(dataset, rows))[0], _distinct(_footprints(dataset, train))[0]
    if not len(mine) or not len(theirs):
        return 0.0
    # Overlapping windows cover ground once: what covers a footprint is joined before it is measured.
    index, other, _ = _common(mine, theirs)
    covered = np.zeros(len(mine))
    for one in np.unique(index):
        near = shapely.union_all(_beside(mine[one], theirs[other[index == one]]))
        covered[one] = shapely.area(shapely.intersection(mine[one], near)) / shapely.area(mine[one])
    return float(covered.mean())


def places(dataset: Dataset, rows: Sequence[int]) -> list[str]:
    """Name of the place of each of ``rows``: patches are of one if more than :data:`SLIVER` of a patch is in common.

    All dates of a window and all windows that overlap it, also through others between them, are one place. Its name is
    that of its first patch by id, without the product: ``<subset>/<roi>/<row>_<column>``.
    """
    shapes, which = _distinct(_footprints(dataset, rows))
    one, other, common = _common(shapes, shapes)
    area = shapely.area(shapes)
    linked = common > SLIVER * np.minimum(area[one], area[other])
    pairs = coo_array((np.ones(int(linked.sum())), (one[linked], other[linked])), shape=(len(shapes),) * 2)
    group = connected_components(pairs, directed=False)[1][which]
    ids = [str(dataset.manifest["id"][row].as_py()) for row in rows]
    names: dict[int, str] = {}
    taken: dict[str, int] = {}
    for number in sorted(range(len(ids)), key=lambda number: ids[number]):
        if (of := int(group[number])) not in names:
            pieces = ids[number].split("/")
            name = "/".join([*pieces[:-2], pieces[-1]])
            taken[name] = taken.get(name, 0) + 1
            # A window of the same name in a product of another zone or tile lies elsewhere.
            names[of] = name if taken[name] == 1 else f"{name}#{taken[name]}"
    return [names[int(of)] for of in group]


def _common(mine: Shapes, theirs: Shapes) -> tuple[Indices, Indices, Floats]:
    """Pairs that intersect: index of each, and the area in common; shapes across the 180° meridian on both sides."""
    (left, of_left), (right, of_right) = _on_both_sides(mine), _on_both_sides(theirs)
    index, other = shapely.STRtree(right).query(left, predicate="intersects")
    return of_left[index], of_right[other], shapely.area(shapely.intersection(left[index], right[other]))


def _on_both_sides(shapes: Shapes) -> tuple[Shapes, Indices]:
    """The shapes, those that reach beyond 180° also 360° further west; and which each one is."""
    over = np.flatnonzero(shapely.bounds(shapes)[:, 2] > 180) if len(shapes) else np.zeros(0, np.int64)
    return np.concatenate([shapes, _moved(shapes[over], -360.0)]), np.concatenate([np.arange(len(shapes)), over])


def _beside(shape: shapely.Geometry, others: Shapes) -> Shapes:
    """``others`` moved by whole turns to where they are nearest to ``shape``."""
    here = shapely.bounds(shape)[0]
    found = others.copy()
    for turn in (-360.0, 360.0):
        far = np.abs(shapely.bounds(found)[:, 0] + turn - here) < np.abs(shapely.bounds(found)[:, 0] - here)
        found[far] = _moved(found[far], turn)
    return found


def _moved(shapes: Shapes, degrees: float) -> Shapes:
    if not len(shapes):
        return shapes
    moved: Shapes = shapely.transform(shapes, lambda points: points + np.array([degrees, 0.0]))
    return moved


def _footprints(dataset: Dataset, rows: Sequence[int]) -> Shapes:
    """Footprints in degrees; those across the 180° meridian run on beyond 180 instead of round the world."""
    wkb = dataset.manifest["geometry"].take(np.asarray(rows, dtype=np.int64)).to_pylist()
    shapes = np.asarray(shapely.from_wkb(wkb), dtype=object)
    if len(shapes):
        bounds = shapely.bounds(shapes)
        round_the_world = bounds[:, 2] - bounds[:, 0] > 180
        if round_the_world.any():
            shapes[round_the_world] = shapely.transform(
                shapes[round_the_world], lambda points: points + np.where(points[:, :1] < 0, [360.0, 0.0], 0.0)
            )
    return shapes


def _distinct(shapes: Shapes) -> tuple[Shapes, Indices]:
    """Each footprint once, and which of them each one is."""
    _, first, which = np.unique(shapely.to_wkb(shapes, hex=True), return_index=True, return_inverse=True)
    return shapes[first], which


def _years(dataset: Dataset, rows: Sequence[int]) -> set[int]:
    return set(pc.year(dataset.manifest["datetime"].take(np.asarray(rows, dtype=np.int64))).to_pylist())


def _contents(dataset: Dataset, rows: Sequence[int]) -> list[tuple[str, str]]:
    table = dataset.manifest.select(["image_sha256", "mask_sha256"]).take(np.asarray(rows, dtype=np.int64))
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))
