"""The definitions once more, in whole numbers and fractions, and in nothing that :mod:`cropseg.metrics` uses.

Slow and plain on purpose: it is what expected values of the conformance kit come from. None stands for 0 / 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

Matrix = list[list[int]]
Share = Fraction | None
Score = Share | list[Share] | list[int]

MEANS = ("miou", "miou_present", "miou_union", "miou_foreground", "pixel_accuracy", "mean_class_accuracy")
"""Scores that are one number."""

LISTS = ("iou", "accuracy", "support")
"""Scores that are a number a class."""


def flat(nested: object) -> Iterable[int]:
    """The whole numbers of nested lists, in order."""
    if isinstance(nested, list):
        for one in nested:
            yield from flat(one)
    else:
        yield int(nested)  # type: ignore[call-overload]


def count(truth: object, prediction: object, classes: int, ignore: int) -> Matrix:
    """Confusion matrix of two masks as nested lists: rows truth, columns prediction.

    Pixels whose truth is ``ignore`` are left out, whatever was predicted there.
    """
    matrix = [[0] * classes for _ in range(classes)]
    for true, predicted in zip(flat(truth), flat(prediction), strict=True):
        if true != ignore:
            matrix[true][predicted] += 1
    return matrix


def scores(matrix: Matrix, background: int = 0) -> dict[str, Score]:
    """Every score of both protocols; those of labelled crop pixels begin with ``crop_``.

    ``crop_miou_foreground`` does not exist: that mean is on all pixels by definition.
    """
    without = [[0] * len(matrix) if c == background else list(row) for c, row in enumerate(matrix)]
    crop = _of(without, background)
    return {**_of(matrix, background), **{f"crop_{k}": v for k, v in crop.items() if k != "miou_foreground"}}


def _of(matrix: Matrix, background: int) -> dict[str, Score]:
    classes = range(len(matrix))
    hits = [matrix[c][c] for c in classes]
    truth = [sum(matrix[c]) for c in classes]
    predicted = [sum(matrix[row][c] for row in classes) for c in classes]
    iou = [_ratio(hits[c], truth[c] + predicted[c] - hits[c]) for c in classes]
    accuracy = [_ratio(hits[c], truth[c]) for c in classes]
    return {
        "miou": _mean([one or Fraction(0) for one in iou]),
        "miou_present": _mean([one for c, one in enumerate(iou) if truth[c]]),
        "miou_union": _mean([one for one in iou if one is not None]),
        "miou_foreground": _mean([one or Fraction(0) for c, one in enumerate(iou) if c != background]),
        "pixel_accuracy": _ratio(sum(hits), sum(truth)),
        "mean_class_accuracy": _mean([one for one in accuracy if one is not None]),
        "iou": iou,
        "accuracy": accuracy,
        "support": truth,
    }


def _ratio(part: int, whole: int) -> Share:
    return Fraction(part, whole) if whole else None


def _mean(values: Sequence[Share]) -> Share:
    known = [one for one in values if one is not None]
    return sum(known, Fraction(0)) / len(known) if known else None
