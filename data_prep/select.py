"""Class-aware choice of patches (§2.3): rare crops first, limits on what background and frequent crops dominate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cropseg.core.errors import ConfigError
from cropseg.core.labels import BACKGROUND


@dataclass(frozen=True)
class Selection:
    """What was chosen.

    Attributes:
        kept: Ids, sorted.
        dropped: (id, reason) of the rest, sorted by id.
    """

    kept: tuple[str, ...]
    dropped: tuple[tuple[str, str], ...]


class Selector(Protocol):
    """A way of choosing patches; one YAML file in ``conf/select`` each."""

    @property
    def before_split(self) -> bool:
        """Whether it looks at the whole pool (the paper's order) and not at the training part alone."""
        ...

    def select(self, patches: pa.Table, rare: Sequence[int]) -> Selection:
        """Choose from ``patches``, whose rare classes are ``rare``."""
        ...


@dataclass(frozen=True)
class KeepAll:
    """No selection: evaluation sets, and the pool as it is.

    Attributes:
        before_split: Without effect; every selector has it.
    """

    before_split: bool = False

    def select(self, patches: pa.Table, rare: Sequence[int]) -> Selection:
        """Keep every patch."""
        return Selection(tuple(sorted(patches["id"].to_pylist())), ())


@dataclass(frozen=True)
class ClassAware:
    """A greedy choice, the same for the same patches whatever their order.

    Patches come in order of what they add: first those with a rare class, the richest in it first; then the rest by
    how much they hold of each crop in proportion to the whole. A patch is left out once the limit on its kind is
    reached; a patch with a rare class never is, except by the budget.

    Attributes:
        dominance: Share of a patch's labelled pixels from which one class dominates it.
        max_background: Most patches that background dominates, as a share of the choice.
        max_dominant: Most patches that one and the same frequent crop dominates, as a share of the choice.
        min_rare: Pixels of a rare class, as a share of a patch's labelled pixels, from which it counts as holding it.
        budget: Most patches; null for no limit.
        before_split: False: only the training part is chosen from; True: the whole pool, before it is split.
    """

    dominance: float = 0.6
    max_background: float = 0.3
    max_dominant: float = 0.3
    min_rare: float = 0.01
    budget: int | None = None
    before_split: bool = False

    def __post_init__(self) -> None:
        """Check the figures."""
        for name in ("dominance", "max_background", "max_dominant", "min_rare"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"select.{name} is a share", getattr(self, name), "give a number from 0 to 1")
        if self.budget is not None and self.budget < 1:
            raise ConfigError("select.budget is a number of patches", self.budget, "give 1 or more, or null")

    def select(self, patches: pa.Table, rare: Sequence[int]) -> Selection:
        """Choose from ``patches``; see the class."""
        if patches.num_rows == 0:
            return Selection((), ())
        ids = np.array(patches["id"].to_pylist(), dtype=np.str_)
        counts = np.array(patches["counts"].to_pylist(), dtype=np.int64)
        by_id = np.argsort(ids)
        ids, counts = ids[by_id], counts[by_id]
        labelled = np.maximum(counts.sum(axis=1), 1)
        share = counts / labelled[:, None]
        dominant = np.where(share.max(axis=1) >= self.dominance, share.argmax(axis=1), -1)
        holds_rare = (share[:, list(rare)] >= max(self.min_rare, 1e-12)).any(axis=1)
        order = np.lexsort((np.arange(len(ids)), -_worth(counts), -_worth(counts[:, list(rare)]), ~holds_rare))
        size = len(ids) if self.budget is None else min(self.budget, len(ids))
        limit = {c: int((self.max_background if c == BACKGROUND else self.max_dominant) * size)
                 for c in range(counts.shape[1])}  # fmt: skip
        taken = dict.fromkeys(limit, 0)
        kept: list[str] = []
        dropped: list[tuple[str, str]] = []
        for row in order:
            crop = int(dominant[row])
            frequent = crop >= 0 and not holds_rare[row]
            if len(kept) >= size:
                dropped.append((str(ids[row]), f"over the budget of {size} patches"))
            elif frequent and taken[crop] >= limit[crop]:
                kind = "background" if crop == BACKGROUND else f"class {crop}"
                dropped.append((str(ids[row]), f"over the limit of {limit[crop]} patches that {kind} dominates"))
            else:
                kept.append(str(ids[row]))
                if frequent:
                    taken[crop] += 1
        return Selection(tuple(sorted(kept)), tuple(sorted(dropped)))


def _worth(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Sum over classes of the patch's share of all pixels of that class; background's is left in, and small."""
    total = np.maximum(counts.sum(axis=0), 1)
    # Rounded, so that the order does not hang on the last bit of a sum.
    worth: npt.NDArray[np.float64] = np.round((counts / total).sum(axis=1), 12)
    return worth


def limit_patches(
    patches: pa.Table, *, per_roi: int | None, per_product: int | None
) -> Selection:  # fmt: skip
    """Keep at most so many patches an ROI and a product (§2.3), against redundancy.

    The patches with least of cloud and no data, and then most crop, come first.

    Args:
        patches: Manifest rows.
        per_roi: Most patches of one ROI over all its dates; None for no limit.
        per_product: Most patches of one product over all its ROIs; None for no limit.
    """
    for name, value in (("per_roi", per_roi), ("per_product", per_product)):
        if value is not None and value < 1:
            raise ConfigError(f"limits.{name} is a number of patches", value, "give 1 or more, or null")
    columns = ["id", "subset", "roi", "product", "nodata_fraction", "scl_invalid_fraction", "foreground_fraction"]
    rows = patches.select(columns).to_pylist()
    kept: list[str] = []
    dropped: list[tuple[str, str]] = []
    seen: dict[tuple[str, ...], int] = {}
    for row in sorted(rows, key=_quality):
        roi, product = ("roi", row["subset"], row["roi"]), ("product", row["product"])
        if per_roi is not None and seen.get(roi, 0) >= per_roi:
            dropped.append((row["id"], f"over the limit of {per_roi} patches an ROI"))
        elif per_product is not None and seen.get(product, 0) >= per_product:
            dropped.append((row["id"], f"over the limit of {per_product} patches a product"))
        else:
            kept.append(row["id"])
            for key in (roi, product):
                seen[key] = seen.get(key, 0) + 1
    return Selection(tuple(sorted(kept)), tuple(sorted(dropped)))


def _quality(row: dict[str, Any]) -> tuple[float, float, str]:
    scl = row["scl_invalid_fraction"]
    spoiled = row["nodata_fraction"] + (scl if scl == scl else 0.0)
    return round(spoiled, 6), -round(row["foreground_fraction"], 6), row["id"]
