"""Drawing groups of patches into parts so that each part sees each class in about its share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def iterative_stratification(
    present: npt.NDArray[np.int64],
    size: npt.NDArray[np.int64],
    fractions: npt.NDArray[np.float64],
    rank: npt.NDArray[np.float64],
) -> npt.NDArray[np.int64]:
    """Assign groups to parts by the iterative stratification of Sechidis, Tsoumakas and Vlahavas (2011).

    The class with the fewest unassigned groups goes first; each of its groups, large ones first, goes to the part that
    still wants most of that class. Two additions for few groups: while no more groups of a class are left than parts
    lack it, it goes to one of those; and no part stays empty.

    Args:
        present: (groups, classes) patches of the group that hold the class.
        size: (groups,) patches.
        fractions: (parts,) shares that add up to 1.
        rank: (groups,) numbers that break ties between groups of equal size: the draw.

    Returns:
        (groups,) part of each.
    """
    groups, classes = present.shape
    parts = np.flatnonzero(fractions > 0)
    wanted = np.outer(fractions, present.sum(axis=0)).astype(np.float64)
    wanted_size = fractions * size.sum()
    part_of = np.full(groups, -1, dtype=np.int64)
    holds = np.zeros((len(fractions), classes), dtype=bool)
    # Large ones first, so that small groups are left to even things out; the draw decides among those of about a size.
    queue = np.lexsort((rank, -np.floor(np.log2(np.maximum(size, 1)))))

    def give(group: int, choose_from: npt.NDArray[np.int64], crop: int | None) -> None:
        want = wanted[:, crop] if crop is not None else wanted_size
        part = max(choose_from.tolist(), key=lambda p: (want[p], wanted_size[p], -p))
        part_of[group] = part
        wanted[part] -= present[group]
        wanted_size[part] -= size[group]
        holds[part] |= present[group] > 0

    def candidates(left: int, lacking: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        empty = parts[~np.isin(parts, part_of)]
        if len(empty) and int((part_of < 0).sum()) <= len(empty):
            return empty
        return lacking if len(lacking) > 0 and left <= len(lacking) else parts

    while True:
        left = (present[part_of < 0] > 0).sum(axis=0)
        if not left.any():
            break
        crop = int(np.argmin(np.where(left > 0, left, groups + 1)))
        for remaining, group in zip(
            range(int(left[crop]), 0, -1), [g for g in queue if part_of[g] < 0 and present[g, crop]], strict=True
        ):
            give(int(group), candidates(remaining, parts[~holds[parts, crop]]), crop)
    for group in [g for g in queue if part_of[g] < 0]:
        give(int(group), candidates(groups, parts[:0]), None)
    return part_of
