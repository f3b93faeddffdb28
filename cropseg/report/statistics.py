"""What the field leaves out: intervals, comparisons, drops, breakdowns, boundaries, parcels, calibration."""

from __future__ import annotations

from collections.abc import Sequence

from cropseg.report.content import Block, Missing, Section
from cropseg.runs import Run


def section(runs: Sequence[Run]) -> Section:
    """The chapter."""
    blocks: list[Block] = [Missing("Not there yet.")]
    return Section("statistics", "How sure, and where", tuple(blocks))
