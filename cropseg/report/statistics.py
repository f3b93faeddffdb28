"""How sure the scores are, and where a model is wrong: the chapter around :mod:`cropseg.report.depth`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from cropseg.calibration import Diagram, Reliability
from cropseg.evidence import scored
from cropseg.report import depth, figures
from cropseg.report.content import Block, Figure, Fold, Grid, Heading, Legend, Missing, Picture, Section, Words
from cropseg.report.tables import Table
from cropseg.runs import Run
from cropseg.scores import PROTOCOLS
from cropseg.seeds import sets_of

BINS: Final = 10
"""Of a reliability diagram."""

LONG: Final = 8
"""Tables of more rows are folded away."""

PARTS: Final[tuple[tuple[str, str, Callable[[Sequence[Run]], list[Table]]], ...]] = (
    (
        "Intervals",
        "How far a score would move on other ground of the same kind: places are drawn again, not pixels.",
        depth.intervals,
    ),
    ("Comparisons", "Two models on the same places, corrected for how many pairs were looked at.", depth.comparisons),
    ("From home to elsewhere", "What each class loses from the internal set to each other one.", depth.drops),
    (
        "Confidence",
        "Whether a model is right as often as it says. Below the dashed line it is surer than it should be. "
        "Mended is what the validation part alone can put right.",
        depth.calibration,
    ),
    ("Field edges", "Pixels near the edge of a parcel mix two crops; those inside do not.", depth.boundary),
    ("Whole parcels", "A parcel counted once, by the class that most of its pixels have.", depth.parcels),
    ("Overlapping windows", "Every window counted, as the paper does, and each ground pixel once.", depth.once),
    ("Breakdowns", "The same scores by country, date, cloud and place.", depth.breakdowns),
)
"""Parts of the chapter: heading, what they answer, and their tables."""


def section(runs: Sequence[Run]) -> Section:
    """The chapter; a part that does not exist says why."""
    blocks: list[Block] = [Legend()]
    for heading, answer, tables in PARTS:
        blocks += [Heading(heading), Words(answer)]
        if tables is depth.calibration:
            blocks += _reliability(runs)
        blocks += _blocks(tables(runs), longest=0 if tables is depth.breakdowns else LONG)
    return Section("statistics", "How sure, and where wrong", tuple(blocks))


def _blocks(found: Sequence[Table], longest: int) -> list[Block]:
    """Tables, those of more rows folded away but the first; the same reason for several missing ones is told once."""
    blocks: list[Block] = []
    reasons: dict[str, list[str]] = {}
    for one in found:
        grid = Grid(one, by_class=True)
        if not one.rows:
            reasons.setdefault(one.note or "Nothing is stored.", []).append(one.title)
        elif len(one.rows) > longest and (blocks or not longest):
            blocks.append(Fold(one.title, (grid,)))
        else:
            blocks.append(grid)
    return [*blocks, *(Missing(f"{', '.join(titles)}: {reason}") for reason, titles in reasons.items())]


def _reliability(runs: Sequence[Run]) -> list[Block]:
    """One reliability diagram a set, a line a model, its seeds added up; under the protocol that the set is for."""
    pictures = []
    for on, title in sets_of(runs).items():
        diagrams: dict[str, Diagram] = {}
        for model in scored(runs, on):
            known = [one.reliability[on.protocol] for one in model.details if on.protocol in one.reliability]
            if known:
                parts = [np.sum([getattr(one, part) for one in known], axis=0) for part in _PARTS]
                diagrams[model.model] = Reliability(*parts).diagram(BINS)
        if diagrams:
            told = "; ".join(f"{name}: {_worst(one)}" for name, one in diagrams.items())
            alt = f"Reliability diagram on {title}. {told}"
            content = figures.reliability(diagrams)
            pictures.append(Picture(f"{title}, {PROTOCOLS[on.protocol]}", alt, content))
    if not pictures:
        return []
    note = f"{BINS} bins of equal width; the larger a point, the more pixels it stands for. Seeds are added up."
    return [Figure("Reliability: stated confidence against what came true", tuple(pictures), note)]


_PARTS: Final = ("pixels", "correct", "confidence")


def _worst(diagram: Diagram) -> str:
    """The bin in which most pixels times gap lie, in words."""
    gap = np.nan_to_num(diagram.confidence - diagram.accuracy) * diagram.pixels
    at = int(np.abs(gap).argmax())
    return f"of pixels with confidence {diagram.confidence[at]:.0%}, {diagram.accuracy[at]:.0%} are right"
