"""Dividing patches into train, val and test, and the proof that the parts are as apart as promised.

A split draws groups as a whole. What a group is, is the kind of split: a place, a product, a country, or one patch.
Ground distances are metres in EPSG:3035 (see :mod:`data_prep.places`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from cropseg.core.errors import ConfigError, InputError
from cropseg.core.labels import BACKGROUND
from cropseg.core.manifest import PARTS
from data_prep.places import HALF_PIXEL_M2, Patches, first_of_each, places, uniform
from data_prep.stratify import iterative_stratification

BUFFER: Final = "buffer"
"""Part of patches that stand too near to another part: used by none."""

Fractions = tuple[float, float, float]
Rows = list[dict[str, str]]


class Split(Protocol):
    """A way of dividing patches; one YAML file in ``conf/split`` each."""

    @property
    def name(self) -> str:
        """Name of its table in ``splits/``."""
        ...

    def assign(self, patches: Patches) -> Rows:
        """A row with ``id``, ``part`` and ``group`` for each patch, in their order."""
        ...

    def broken(self, report: dict[str, Any]) -> list[str]:
        """What in a :func:`proof` report breaks this split's promise; empty if it is kept."""
        ...


@dataclass(frozen=True)
class LocationSplit:
    """By place: every date and every overlapping window of a place falls into one part (design of this project).

    Patches are gathered by the ground cell that holds their centre, and cells joined where footprints overlap. The
    groups are drawn so that each part sees each class where possible. With a buffer, training patches nearer to a
    validation or test patch than that, and validation patches nearer to a test patch, are left out.

    Attributes:
        cell_m: Side of a cell in metres.
        buffer_m: Least distance between patches of different parts in metres.
        seed: Seed of the draw.
        fractions: Shares of train, val and test.
        name: Name of the split.
    """

    cell_m: float = 2560.0
    buffer_m: float = 0.0
    seed: int = 0
    fractions: Fractions = (0.8, 0.1, 0.1)
    name: str = "location"

    def __post_init__(self) -> None:
        """Check the figures."""
        object.__setattr__(self, "fractions", _checked(self.fractions))
        if not self.cell_m > 0 or not self.buffer_m >= 0:
            raise ConfigError(
                "split.cell_m must be positive and split.buffer_m not negative", (self.cell_m, self.buffer_m)
            )

    def assign(self, patches: Patches) -> Rows:
        """Draw the places, then empty the buffer."""
        group = places(patches, self.cell_m)
        parts = draw(patches, group, self.fractions, self.seed, f"make split.cell_m smaller than {self.cell_m:g}")
        parts = buffered(patches, parts, self.buffer_m)
        _all_present(parts, "make split.buffer_m or split.cell_m smaller, or prepare more regions")
        return _rows(patches, parts, group)

    def broken(self, report: dict[str, Any]) -> list[str]:
        """No shared ground, and the buffer kept."""
        near = report["minimum_distance_m"]
        found = [] if not report["overlapping_pairs"] else [f"{report['overlapping_pairs']} pairs of patches overlap"]
        if near is not None and near < self.buffer_m - 1e-6:
            found.append(f"two parts are {near:.1f} m apart, less than the buffer of {self.buffer_m:g} m")
        return found


@dataclass(frozen=True)
class RandomSplit:
    """The paper's split: an independent draw for each patch (§3), whatever lies beside it.

    Attributes:
        seed: Seed of the draw.
        fractions: Shares of train, val and test.
        name: Name of the split.
    """

    seed: int = 0
    fractions: Fractions = (0.8, 0.1, 0.1)
    name: str = "random"

    def __post_init__(self) -> None:
        """Check the shares."""
        object.__setattr__(self, "fractions", _checked(self.fractions))

    def assign(self, patches: Patches) -> Rows:
        """Draw each patch by a hash of seed and id, so that the draw of one hangs on no other."""
        parts = np.array([_part(uniform(self.seed, str(i)), self.fractions) for i in patches.ids])
        return _rows(patches, parts, patches.ids)

    def broken(self, report: dict[str, Any]) -> list[str]:
        """It promises nothing; the report shows how much ground the parts share."""
        return []


@dataclass(frozen=True)
class GroupSplit:
    """By a column: all patches of a product, or of a country, fall into one part.

    Attributes:
        column: ``product`` or ``country``.
        seed: Seed of the draw.
        fractions: Shares of train, val and test.
        name: Name of the split; the column's name if empty.
    """

    column: str
    seed: int = 0
    fractions: Fractions = (0.8, 0.1, 0.1)
    name: str = ""
    columns: ClassVar[tuple[str, ...]] = ("product", "country")

    def __post_init__(self) -> None:
        """Check the column and the shares."""
        if self.column not in self.columns:
            raise ConfigError("split.column", self.column, f"use one of {', '.join(self.columns)}")
        object.__setattr__(self, "fractions", _checked(self.fractions))
        object.__setattr__(self, "name", self.name or self.column)

    def assign(self, patches: Patches) -> Rows:
        """Draw the values of the column."""
        group: npt.NDArray[np.str_] = getattr(patches, self.column)
        parts = draw(patches, group, self.fractions, self.seed, f"prepare more than one {self.column} a part")
        return _rows(patches, parts, group)

    def broken(self, report: dict[str, Any]) -> list[str]:
        """No value of the column on two sides."""
        shared = report[{"product": "shared_products", "country": "shared_countries"}[self.column]]
        return [f"{len(shared)} shared: {shared[0]}"] if shared else []


@dataclass(frozen=True)
class CountrySplit:
    """By country, also where there are fewer of them than parts.

    As many countries as parts are divided like any group (:class:`GroupSplit`). Of two, one is tested on and the other
    learned from, with validation patches drawn by place, as :class:`LocationSplit` does.

    Attributes:
        cell_m: Side of a cell in metres, where validation is drawn by place.
        buffer_m: Least distance between training and validation patches in metres, there.
        seed: Seed of the draw, also of the country that is tested on.
        fractions: Shares of train, val and test; of two countries the third share is whatever the country holds.
        name: Name of the split.
    """

    cell_m: float = 2560.0
    buffer_m: float = 0.0
    seed: int = 0
    fractions: Fractions = (0.8, 0.1, 0.1)
    name: str = "country"

    def __post_init__(self) -> None:
        """Check the figures."""
        LocationSplit(self.cell_m, self.buffer_m, self.seed, self.fractions)
        if min(_checked(self.fractions)[::2]) <= 0:
            raise ConfigError("a split by country needs a share of train and of test", list(self.fractions))

    def assign(self, patches: Patches) -> Rows:
        """Draw the countries, and the validation patches where no country is left for them."""
        names = np.unique(patches.country)
        if len(names) < 2:
            remedy = "leave this split out, or prepare regions of more countries"
            raise ConfigError("a split by country needs two countries at least, and there is", names.tolist(), remedy)
        if len(names) >= sum(share > 0 for share in self.fractions):
            return GroupSplit("country", self.seed, self.fractions, self.name).assign(patches)
        tested = min(names.tolist(), key=lambda name: uniform(self.seed, name))
        other = patches.country != tested
        rest = patches.only(other)
        train, val, _ = self.fractions
        place = places(rest, self.cell_m)
        parts = np.full(len(patches), "test", dtype="<U6")
        shares = (train / (train + val), val / (train + val), 0.0)
        drawn = draw(rest, place, shares, self.seed, f"make split.cell_m smaller than {self.cell_m:g}")
        parts[other] = buffered(rest, drawn, self.buffer_m)
        _all_present(parts, "make split.buffer_m or split.cell_m smaller, or prepare more regions")
        group = patches.country.astype(np.result_type(patches.country, place))
        group[other] = place
        return _rows(patches, parts, group)

    def broken(self, report: dict[str, Any]) -> list[str]:
        """No country of the test part in another part."""
        shared = report["shared_countries_with_test"]
        return [f"{len(shared)} shared: {shared[0]}"] if shared else []


@dataclass(frozen=True)
class TestOnly:
    """An evaluation set: every patch in ``test``.

    Attributes:
        name: Name of the split.
    """

    name: str = "test"
    __test__: ClassVar[bool] = False  # not a test case, whatever pytest makes of the name

    def assign(self, patches: Patches) -> Rows:
        """All to test."""
        return _rows(patches, np.full(len(patches), "test"), np.full(len(patches), "all"))

    def broken(self, report: dict[str, Any]) -> list[str]:
        """There is nothing to keep apart."""
        return []


def draw(
    patches: Patches, group: npt.NDArray[np.str_], fractions: Fractions, seed: int, remedy: str
) -> npt.NDArray[np.str_]:
    """Part of each patch, drawn by whole groups, each part seeing each class where possible.

    Raises:
        ConfigError: There are fewer groups than parts.
    """
    names, index = np.unique(group, return_inverse=True)
    wanted = [part for part, share in zip(PARTS, fractions, strict=True) if share > 0]
    if len(names) < len(wanted):
        raise ConfigError(
            f"{len(wanted)} parts cannot be drawn from {len(names)} group{'s' * (len(names) != 1)}", None, remedy
        )
    present = np.zeros((len(names), patches.counts.shape[1] + 1), dtype=np.int64)
    np.add.at(present[:, :-1], index, (patches.counts > 0).astype(np.int64))
    present[:, BACKGROUND] = 0  # in nearly every patch: it would only blur the draw
    np.add.at(present[:, -1], index, 1)
    rank = np.array([uniform(seed, str(name)) for name in names])
    chosen = iterative_stratification(present[:, :-1], present[:, -1], np.array(fractions), rank)
    return np.array(PARTS)[chosen][index]


def buffered(patches: Patches, parts: npt.NDArray[np.str_], buffer_m: float) -> npt.NDArray[np.str_]:
    """Move to ``buffer`` what is nearer than ``buffer_m``: val patches to test ones, then train ones to either."""
    parts = parts.astype("<U6")
    if buffer_m <= 0:
        return parts
    for part, others in (("val", ["test"]), ("train", ["val", "test"])):
        mine, theirs = np.flatnonzero(parts == part), np.flatnonzero(np.isin(parts, others))
        if len(mine) == 0 or len(theirs) == 0:
            continue
        tree = shapely.STRtree(patches.ground[theirs])
        near, of = tree.query(patches.ground[mine], predicate="dwithin", distance=buffer_m)
        # dwithin includes the distance itself, which the promise allows.
        apart = shapely.distance(patches.ground[mine[near]], patches.ground[theirs[of]])
        parts[np.unique(mine[near[apart < buffer_m]])] = BUFFER
    return parts


def proof(split: Split, manifest: pa.Table, rows: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Measure how far apart the parts of a split are.

    Args:
        split: The split, whose promise is checked.
        manifest: The patches.
        rows: Its table; may hold more patches than the manifest.

    Returns:
        The report: patches and groups per part, ``minimum_distance_m`` between patches of different parts (None for
        fewer than two parts), ``overlapping_pairs``, ``shared_products``, ``shared_dates``, ``shared_countries``,
        ``shared_countries_with_test``, and the classes each part lacks.

    Raises:
        InputError: The promise is broken, or a patch has no part.
    """
    patches = Patches.read(manifest)
    part_of = {row["id"]: row["part"] for row in rows}
    group_of = {row["id"]: row["group"] for row in rows}
    missing = [str(i) for i in patches.ids if i not in part_of]
    if missing:
        raise InputError(f"split {split.name} lacks {len(missing)} patches", missing[0], "make the split again")
    parts = np.array([part_of[str(i)] for i in patches.ids])
    members = {part: np.flatnonzero(parts == part) for part in PARTS}
    distances = {}
    pairs = 0

    def distinct(of: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
        shapes: npt.NDArray[np.object_] = patches.ground[of]
        return shapes[first_of_each(shapes)]

    for one, other in combinations([p for p in PARTS if len(members[p])], 2):
        mine, theirs = distinct(members[one]), distinct(members[other])
        tree = shapely.STRtree(mine)
        _, apart = tree.query_nearest(theirs, return_distance=True, all_matches=False)
        distances[f"{one}-{other}"] = round(float(apart.min()), 3)
        left, right = tree.query(theirs, predicate="intersects")
        pairs += int((shapely.area(shapely.intersection(theirs[left], mine[right])) >= HALF_PIXEL_M2).sum())
    report: dict[str, Any] = {
        "split": split.name,
        "patches": {part: len(rows_) for part, rows_ in members.items()} | {BUFFER: int((parts == BUFFER).sum())},
        "groups": {part: len({group_of[str(i)] for i in patches.ids[rows_]}) for part, rows_ in members.items()},
        "distance_m": distances,
        "minimum_distance_m": min(distances.values(), default=None),
        "overlapping_pairs": pairs,
        "shared_products": _shared(patches.product, members),
        "shared_dates": _shared(patches.date, members),
        "shared_countries": _shared(patches.country, members),
        "shared_countries_with_test": _shared(
            patches.country, {"test": members["test"], "rest": np.concatenate([members["train"], members["val"]])}
        ),
        "classes_absent": {
            part: np.flatnonzero(patches.counts[rows_].sum(axis=0) == 0).tolist()
            for part, rows_ in members.items()
            if len(rows_)
        },
    }
    if found := split.broken(report):
        raise InputError(f"split {split.name} breaks its promise", found[0], "draw it again with another split.seed")
    return report


def _part(value: float, fractions: Fractions) -> str:
    edges = np.cumsum(fractions)
    return str(PARTS[min(int(np.searchsorted(edges, value, side="right")), len(PARTS) - 1)])


def _checked(fractions: Sequence[float]) -> Fractions:
    shares = tuple(float(share) for share in fractions)
    if len(shares) != len(PARTS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise ConfigError("split.fractions must be shares of train, val and test that add up to 1", list(fractions))
    return shares[0], shares[1], shares[2]


def _all_present(parts: npt.NDArray[np.str_], remedy: str) -> None:
    for part in PARTS:
        if not (parts == part).any():
            raise ConfigError(f"the split leaves no patch in {part}", None, remedy)


def _rows(patches: Patches, parts: npt.NDArray[np.str_], group: npt.NDArray[np.str_]) -> Rows:
    columns = zip(patches.ids, parts, group, strict=True)
    return [{"id": str(i), "part": str(p), "group": str(g)} for i, p, g in columns]


def _shared(values: npt.NDArray[np.str_], members: dict[Any, npt.NDArray[np.int64]]) -> list[str]:
    seen = [set(values[rows].tolist()) for rows in members.values()]
    return sorted({value for one, other in combinations(seen, 2) for value in one & other})
