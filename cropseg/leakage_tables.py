"""The tables of experiment=leakage (:mod:`cropseg.leakage`): splits side by side, and what lies between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cropseg import intervals
from cropseg.evidence import ends, p_value, signed
from cropseg.metrics import Protocol
from cropseg.redraw import LEAST_PLACES, Places
from cropseg.report.tables import Column, Table
from cropseg.scores import MEANS, PROTOCOLS, SIMULATED_NOTE, format_score
from cropseg.seeds import Spread

TOO_FEW: Final = f"fewer than {LEAST_PLACES} places"
"""Why a score or gap stands without an interval."""


@dataclass(frozen=True)
class SplitScore:
    """One model under one split.

    Attributes:
        split: Name of the split.
        seeds: Of the runs.
        train: Patches of the training part.
        test: Patches of the test part.
        patches: Confusion matrix of each patch of the test part, of each run.
        places: The same by place.
        test_places: Places of the test part.
        test_groups: What the split drew into it as a whole: patches, places, blocks or countries.
        area_in_train: Share of the test ground, each footprint once, that training patches cover.
        patches_in_train: Share of the test patches of which more than a sliver is covered by one training patch.
        places_in_train: Share of the test places that have training patches too.
        score: Over the seeds.
        interval: Over places, and over seeds if there are enough; None where there are too few places.
    """

    split: str
    seeds: tuple[int | None, ...]
    train: int
    test: int
    patches: tuple[Places, ...]
    places: tuple[Places, ...]
    test_places: int
    test_groups: int
    area_in_train: float
    patches_in_train: float
    places_in_train: float
    score: Spread
    interval: intervals.Interval | None


@dataclass(frozen=True)
class Gap:
    """What one split adds to the score of another.

    Attributes:
        looser: Split with the first score.
        stricter: Split with the score that is taken off.
        value: The difference of the means.
        found: The same with its interval; None where a test part has too few places for one.
        both: Places that both test parts hold.
        same_patches: Patches that both test parts hold.
        same: The difference on these; NaN without any.
        same_found: The same with its interval; None where they lie on too few places.
        p: Two-sided, corrected for all gaps together (Holm); NaN without ``found``.
    """

    looser: str
    stricter: str
    value: float
    found: intervals.Comparison | None
    both: int
    same_patches: int
    same: float
    same_found: intervals.Comparison | None
    p: float = math.nan


def split_table(found: Sequence[SplitScore], title: str, score: str) -> Table:
    """A row a split."""
    columns = (
        Column("split", text=True),
        Column("seeds"),
        Column("training patches"),
        Column("test patches"),
        Column("test groups", "what the split drew as a whole: patches, places, blocks or countries"),
        Column("test places", "patches whose footprints overlap, over all dates, are one place"),
        Column("test ground in train", "share of its area that training patches of any date cover"),
        Column("test patches on it", "share that has more than 1 % of its ground in a training patch"),
        Column("test places in train", "share that has training patches too"),
        Column(MEANS[score][0], "[95 % interval] over places, and over seeds if there are three or more"),
        Column("over seeds", "mean (lowest … highest)"),
    )  # fmt: skip
    rows = tuple(
        (
            one.split, ", ".join("?" if seed is None else str(seed) for seed in one.seeds), f"{one.train:,}",
            f"{one.test:,}", f"{one.test_groups:,}", f"{one.test_places:,}", f"{one.area_in_train:.1%}",
            f"{one.patches_in_train:.1%}", f"{one.places_in_train:.1%}",
            f"{format_score(one.score.mean)} ({TOO_FEW})" if one.interval is None else ends(one.interval),
            str(one.score),
        )
        for one in found
    )  # fmt: skip
    return Table(title, columns, rows)


def gap_table(found: Sequence[Gap], score: str) -> Table:
    """A row a gap."""
    columns = (
        Column("gap", text=True),
        Column(f"in {MEANS[score][0]}", "of the means over seeds, each on its own test part [95 % interval]"),
        Column("p, Holm", "two-sided, corrected for all gaps of the table"),
        Column("places in both tests", "paired in the interval; other places are drawn for one side alone"),
        Column("patches in both tests"),
        Column("gap on these", "the same patches, so only what was learned from differs"),
        Column("says", text=True),
    )
    rows = tuple(
        (
            f"{gap.looser} - {gap.stricter}", _difference(gap.value, gap.found),
            "" if math.isnan(gap.p) else p_value(gap.p), f"{gap.both:,}",
            f"{gap.same_patches:,}", _difference(gap.same, gap.same_found),
            "" if gap.found is None else gap.found.label,
        )
        for gap in found
    )  # fmt: skip
    return Table("What the looser split adds to the score", columns, rows)


def _difference(value: float, found: intervals.Comparison | None) -> str:
    if found is not None:
        return signed(found)
    return "" if math.isnan(value) else f"{value:+.4f} ({TOO_FEW})"


def notes(score: str, protocol: Protocol, *, simulated: bool) -> list[str]:
    """What must stand below both tables."""
    found = [
        f"{MEANS[score][0]}, {PROTOCOLS[protocol]}: {MEANS[score][1]}.",
        "Interval of a gap: places are drawn with replacement out of all that either test part holds; a place that "
        "both hold is drawn for both. It is as wide as the test part with fewer places makes it (Student's t). How the "
        "splits themselves happened to be drawn is not in it.",
        "A gap is the leak and whatever else differs: the places and crops tested, and the patches left to train on.",
        "Where test groups are few, such as blocks or countries, an interval speaks of other places in these alone.",
    ]
    return [f"{SIMULATED_NOTE[0].upper()}{SIMULATED_NOTE[1:]}.", *found] if simulated else found
