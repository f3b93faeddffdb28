"""Tables 1-14 in the paper's form, our figures beside the paper's.

Where a run lacks something, the cell says so and the note tells the command that would make it. Runs that differ in
their seed alone are shown as mean (lowest … highest).
"""

from __future__ import annotations

from collections.abc import Sequence

from cropseg.report import paper_data, paper_scores, paper_training
from cropseg.report.paper_form import PaperTable, Shown
from cropseg.runs import Run

__all__ = ["PaperTable", "paper_tables"]


def paper_tables(runs: Sequence[Run]) -> list[PaperTable]:
    """Tables 1-14 about ``runs``, in order; none for no runs.

    Args:
        runs: Finished runs of the same classes; their stored evaluations are shown and none is computed.
    """
    if not runs:
        return []
    shown = Shown(tuple(runs))
    tables = (
        paper_data.taxonomy,
        paper_data.countries,
        paper_data.composition,
        paper_data.class_weights,
        paper_training.configuration,
        paper_training.hardware,
        paper_data.dacia5,
        paper_data.pastis,
        paper_scores.sets,
        paper_scores.internal,
        paper_scores.models,
        paper_scores.regions,
        paper_scores.cross,
        paper_scores.cross_classes,
    )
    return [table(shown) for table in tables]
