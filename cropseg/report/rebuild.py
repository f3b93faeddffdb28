"""A confusion matrix out of a table of classes: its IoU, recall and support settle how many pixels are right and wrong.

Of a class with s truth pixels, recall r and IoU i, TP = r·s, FN = s - TP and FP = TP / i - s. A printed table rounds r
and i, so the whole numbers are looked for that round to what is printed and can be of one matrix: what some classes
miss (ΣFN) is what others take (ΣFP). Which class took whose pixels the table does not tell, and no score asks: rows,
columns and diagonal settle them all.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from cropseg.core.errors import InputError
from cropseg.metrics import Confusion
from cropseg.report import paper

IOU_BEFORE_RECALL: Final = 10.0
"""How much more a rounded IoU is held to than a rounded recall, where both cannot be kept: it is the main score."""


def confusion_from_classes(
    iou: Sequence[float], recall: Sequence[float], support: Sequence[int], *, digits: int = 4, rest: int | None = None
) -> Confusion:
    """The whole-numbered confusion matrix nearest to a table of classes.

    Args:
        iou: IoU by class, 0 … 1; NaN for a class without truth and prediction.
        recall: TP / (TP + FN) by class, 0 … 1; NaN for a class without truth.
        support: Truth pixels by class.
        digits: Decimals that ``iou`` and ``recall`` are rounded to.
        rest: Class without truth pixels whose column takes what is predicted as no other class, such as background in
            the crop protocol; None where the classes share all predictions among them.

    Returns:
        int64 (n, n), rows truth, with the given supports, whose IoU and recall round to the given ones. Rows, columns
        and diagonal are settled by the table; off the diagonal the matrix is one of many.

    Raises:
        InputError: The columns differ in length, or no matrix has these figures.
    """
    truth = np.asarray(support, dtype=np.int64)
    scores = np.array([iou, recall], dtype=np.float64) if len(iou) == len(recall) == len(truth) else np.empty((2, 0))
    if scores.shape != (2, len(truth)) or len(truth) < 2:
        raise InputError("a table of classes needs IoU, recall and support of each", len(truth), "two classes or more")
    unknown = np.isnan(scores) & (truth > 0)
    if unknown.any() or (truth < 0).any() or (rest is not None and truth[rest] > 0):
        raise InputError("a class with truth pixels needs its scores, the rest has none", truth.tolist(), "correct it")
    hits, wrong = _settle(scores, truth, 0.5 * 10.0**-digits, rest)
    missed = truth - hits
    if rest is not None:
        wrong[rest] = missed.sum() - wrong.sum()
    return _spread(missed, wrong) + np.diag(hits)


def _settle(
    scores: npt.NDArray[np.float64], truth: Confusion, half: float, rest: int | None
) -> tuple[Confusion, Confusion]:
    """TP and FP by class: whole numbers within the rounding, as near to the printed figures as they get.

    Unknowns are TP, FP and how far recall and IoU lie from what is printed, in pixels, of each class.
    """
    n = len(truth)
    iou, recall = np.nan_to_num(scores)
    union = np.maximum(truth, np.where(iou > 0, recall * truth / np.maximum(iou, half), truth))
    one, zero, total = np.eye(n), np.zeros((n, n)), truth.sum()
    slack = 1e-6  # of a pixel: a figure that lies on the edge of its rounding counts as within
    top = np.where(np.isnan(scores[0]) | (np.arange(n) == rest), 0, total).astype(float)
    known = ~np.isnan(scores[0])
    rules = [
        # IoU within its rounding: |TP - iou (s + FP)| <= half (s + FP)
        LinearConstraint(np.hstack([one, -np.diag(iou - half), zero, zero]), (iou - half) * truth - slack, np.inf),
        LinearConstraint(np.hstack([one, -np.diag(iou + half), zero, zero]), -np.inf, (iou + half) * truth + slack),
        # What the distances are.
        LinearConstraint(np.hstack([one, zero, one, zero]), recall * truth, np.inf),
        LinearConstraint(np.hstack([one, zero, -one, zero]), -np.inf, recall * truth),
        LinearConstraint(np.hstack([one, -np.diag(iou), zero, one]), iou * truth, np.inf),
        LinearConstraint(np.hstack([one, -np.diag(iou), zero, -one]), -np.inf, iou * truth),
        # What is missed is taken by others; a rest takes what is left.
        LinearConstraint(
            np.concatenate([np.ones(2 * n), np.zeros(2 * n)])[None], 0 if rest is not None else total, total
        ),
        # A class takes nothing of its own misses: FN + FP <= ΣFN.
        LinearConstraint(np.hstack([np.ones((n, n)) - one, one, zero, zero]), -np.inf, (total - truth).astype(float)),
    ]
    # An absent class with predictions has at least one, which its IoU of 0 instead of none tells.
    least = ((truth == 0) & known & (np.arange(n) != rest)).astype(float)
    low = np.concatenate([np.ceil(np.maximum(0, (recall - half) * truth - slack)), least, np.zeros(2 * n)])
    high = np.concatenate([np.floor(np.minimum(truth, (recall + half) * truth + slack)), top, np.full(2 * n, np.inf)])
    cost = np.concatenate([np.zeros(2 * n), 1 / np.maximum(truth, 1), IOU_BEFORE_RECALL / np.maximum(union, 1)])
    whole = np.concatenate([np.ones(2 * n), np.zeros(2 * n)])
    found = milp(cost, integrality=whole, bounds=Bounds(low, high), constraints=rules, options={"time_limit": 30})
    if found.x is None:
        raise InputError("no confusion matrix has these figures", found.message, "check the table and its digits")
    counts = np.rint(found.x).astype(np.int64)
    return counts[:n], counts[n : 2 * n]


def _spread(rows: Confusion, columns: Confusion) -> Confusion:
    """Whole numbers off the diagonal with these sums of rows and columns."""
    n = len(rows)
    row, column = np.nonzero(~np.eye(n, dtype=bool))
    sums = np.vstack([row == k for k in range(n)] + [column == k for k in range(n)]).astype(float)
    # A transport problem: the corners of its solutions are whole.
    found = linprog(np.zeros(len(row)), A_eq=sums, b_eq=np.concatenate([rows, columns]), method="highs-ds")
    counts = np.zeros((n, n), dtype=np.int64)
    if found.x is not None:
        counts[row, column] = np.rint(found.x)
    if (counts.sum(axis=1) != rows).any() or (counts.sum(axis=0) != columns).any():
        raise InputError("no confusion matrix has these errors", [rows.tolist(), columns.tolist()], "check the table")
    return counts


@functools.cache
def internal() -> Confusion:
    """Out of Table 10, all pixels."""
    cells = [paper.TABLE_10.row(name) for name in paper.CLASSES]
    return _from_cells([cell[0] for cell in cells], [cell[1] for cell in cells], [cell[2] for cell in cells])


@functools.cache
def cross(dataset: str) -> Confusion:
    """Out of Table 14, labelled crop pixels of ``DACIA5`` or ``PASTIS``: background's row is empty, its column is not.

    The column of background also holds what was predicted as a class that the set lacks; the table does not tell them
    apart.
    """
    first, support = {"DACIA5": (0, 4), "PASTIS": (2, 5)}[dataset]
    cells = [paper.TABLE_14.row(name) for name in paper.CLASSES]
    iou, recall, pixels = ([cell[index] for cell in cells] for index in (first, first + 1, support))
    return _from_cells(iou, recall, pixels, rest=paper.CLASSES.index("background"))


def _from_cells(
    iou: Sequence[str], recall: Sequence[str], support: Sequence[str], rest: int | None = None
) -> Confusion:
    pixels = [0 if cell == paper.ABSENT else int(paper.value(cell)) for cell in support]
    matrix = confusion_from_classes(list(map(paper.value, iou)), list(map(paper.value, recall)), pixels, rest=rest)
    matrix.setflags(write=False)  # it is kept, and handed out again
    return matrix
