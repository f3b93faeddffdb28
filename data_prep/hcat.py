"""HCAT, EuroCrops' hierarchical crop codes: an independent way to a class, to hold the keyword rules against.

The codes were given by people who read the national names; the keyword rules see English words alone. Where the two
disagree, one of them is wrong, or the crop lies between classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cropseg.core.taxonomy import Taxonomy

CLASS_OF_PREFIX = {
    "33010106": "maize",  # grain maize, sweet corn, popcorn
    "33010904": "maize",  # green and silage maize
    "33010604": "rapeseed",
    "33010101": "wheat",  # common soft wheat
    "33010102": "wheat",  # durum
    "33010103": "wheat",  # rye: Table 1 puts rye and triticale with wheat
    "33010108": "wheat",  # triticale
    "33010104": "barley",
    "33010105": "oats",
    "33010605": "sunflower",
    "33012907": "sugar beet",
    "330116": "soybean",
    "330103": "potato",
    "3302": "pasture",  # pasture, meadow, grassland
    "33010901": "pasture",  # temporary grass
    "3301090301": "pasture",  # alfalfa, lucerne: Table 1 names it and clover, no other legume or grass species
    "3301090303": "pasture",  # clover
}
"""Class by the longest prefix of the HCAT3 code. Coarse on purpose: a branch of the tree, not a judgement a crop."""


@dataclass(frozen=True)
class Agreement:
    """How often two ways of naming a crop's class say the same.

    Attributes:
        rows: Rows compared.
        same: Those in which both say the same class, or both none.
        target_rows: Rows in which either says a class.
        target_same: Those of them in which both say the same.
    """

    rows: int
    same: int
    target_rows: int
    target_same: int

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.rows + other.rows,
            self.same + other.same,
            self.target_rows + other.target_rows,
            self.target_same + other.target_same,
        )

    @property
    def share(self) -> float:
        """Share of all rows, 0 to 1; 1 if there are none."""
        return self.same / self.rows if self.rows else 1.0

    @property
    def target_share(self) -> float:
        """Share of the rows in which either says a class, 0 to 1; 1 if there are none."""
        return self.target_same / self.target_rows if self.target_rows else 1.0


def class_of(code: str, taxonomy: Taxonomy) -> str:
    """The class that a HCAT3 code falls into; empty if none, or if the taxonomy has no class of that name."""
    for length in range(len(code), 0, -1):
        if (name := CLASS_OF_PREFIX.get(code[:length])) is not None:
            return name if name in taxonomy.names else ""
    return ""


def agreement(counts: Iterable[tuple[str, str, int]]) -> Agreement:
    """Compare pairs of class names, empty for no class, each with the number of rows that have it."""
    rows = same = target_rows = target_same = 0
    for first, second, count in counts:
        rows += count
        same += count * (first == second)
        target_rows += count * bool(first or second)
        target_same += count * (bool(first) and first == second)
    return Agreement(rows, same, target_rows, target_same)
