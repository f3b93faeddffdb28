"""Every score, read off one confusion matrix.

Rows are truth, columns are prediction; pixels whose truth is 255 never enter the matrix. With TP, FP, FN of a class:

    IoU = TP / (TP + FP + FN)      class accuracy = TP / (TP + FN)      pixel accuracy = ΣTP / Σ

Four means of the IoU are in use in the field and differ only in what they do with a class that does not occur:

    miou             all n classes, one without truth and prediction counting 0 (the paper's "all project classes")
    miou_present     the classes with at least one truth pixel
    miou_union       the classes with a truth or a predicted pixel (torchmetrics' and scikit-learn's macro average)
    miou_foreground  the n - 1 classes other than background, on all pixels, an absent one counting 0 as in ``miou``

A mean over no class, and a ratio over no pixel, is NaN; ``miou`` and ``miou_foreground`` never are.
"""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from cropseg.core.errors import ConfigError, InputError
from cropseg.core.labels import BACKGROUND, IGNORE

Protocol = Literal["all", "crop"]
PROTOCOLS: Final = get_args(Protocol)

Confusion = npt.NDArray[np.int64]


def confusion_matrix(
    truth: npt.NDArray[Any], prediction: npt.NDArray[Any], classes: int, ignore: int = IGNORE
) -> Confusion:
    """Count pixels by truth and prediction.

    Args:
        truth: Integer class ids of any shape, each below ``classes`` or equal to ``ignore``.
        prediction: Integer class ids of the same shape, each below ``classes`` where truth is not ``ignore``.
        classes: Number of classes.
        ignore: Truth value of pixels to leave out.

    Returns:
        int64 (classes, classes), rows truth, columns prediction.

    Raises:
        InputError: Shapes differ, or a label is out of range.
    """
    if truth.shape != prediction.shape:
        raise InputError("truth and prediction differ in shape", (truth.shape, prediction.shape), "align them")
    keep = truth != ignore
    rows = truth[keep].astype(np.int64)
    cols = prediction[keep].astype(np.int64)
    for name, labels in (("truth", rows), ("prediction", cols)):
        if labels.size and (labels.min() < 0 or labels.max() >= classes):
            wrong = labels[(labels < 0) | (labels >= classes)][0]
            raise InputError(f"a {name} label is outside 0 … {classes - 1}", int(wrong), "check the taxonomy")
    counts = np.bincount(rows * classes + cols, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64, copy=False)


def scores(
    confusion: npt.NDArray[Any], protocol: Protocol = "all", background: int | None = BACKGROUND
) -> dict[str, Any]:
    """All scores of one confusion matrix.

    Args:
        confusion: Integers ≥ 0, (n, n) with n ≥ 2; rows truth, columns prediction.
        protocol: ``all`` counts every pixel of the matrix. ``crop`` leaves out the pixels whose truth is background:
            its row becomes zero, so it is not present; its column stays, so a crop predicted as background is still
            an error of that crop.
        background: Id of the background class; None if there is none (then ``crop`` is refused and every class is
            foreground).

    Returns:
        ``miou``, ``miou_present``, ``miou_union``, ``miou_foreground`` (always on all pixels, whatever the protocol),
        ``pixel_accuracy``, ``mean_class_accuracy`` (over classes present in truth): floats in 0 … 1 or NaN;
        ``iou``: list of n floats, NaN where a class has neither truth nor predicted pixels;
        ``accuracy``: list of n floats, NaN where a class has no truth pixels;
        ``support``: list of n ints, truth pixels; ``present``: list of n bools, support > 0;
        ``pixels``: int, pixels counted; ``protocol``: as given.

    Raises:
        InputError: The matrix is not square, not whole-numbered, or has negative counts.
        ConfigError: An unknown protocol or background id.
    """
    counts = checked(confusion)
    n = len(counts)
    if protocol not in PROTOCOLS:
        raise ConfigError("unknown protocol", protocol, f"choose from {', '.join(PROTOCOLS)}")
    if background is not None and not 0 <= background < n:
        raise ConfigError(f"background must be a class id below {n}", background, "give its id, or None")
    if protocol == "crop" and background is None:
        raise ConfigError("the crop protocol needs a background class", background, "give its id")

    # On all pixels by definition: with the background row gone, crops predicted on background would cost nothing.
    foreground = np.ones(n, dtype=bool)
    if background is not None:
        foreground[background] = False
    miou_foreground = _zero_filled_mean(_iou(counts)[foreground])

    if protocol == "crop":
        counts = counts.copy()
        counts[background, :] = 0
    hits = np.diagonal(counts)
    support = counts.sum(axis=1)
    present = support > 0
    iou = _iou(counts)
    accuracy = _ratio(hits, support)
    return {
        "miou": _zero_filled_mean(iou),
        "miou_present": _mean(iou[present]),
        "miou_union": _mean(iou),
        "miou_foreground": miou_foreground,
        "pixel_accuracy": float(_ratio(hits.sum(), counts.sum())),
        "mean_class_accuracy": _mean(accuracy),
        "iou": iou.tolist(),
        "accuracy": accuracy.tolist(),
        "support": support.tolist(),
        "present": present.tolist(),
        "pixels": int(counts.sum()),
        "protocol": protocol,
    }


def stack_scores(
    confusions: npt.NDArray[Any], protocol: Protocol = "all", background: int | None = BACKGROUND
) -> dict[str, npt.NDArray[np.float64]]:
    """The scores of many matrices at once, each as :func:`scores` gives it: for what draws or counts thousands of them.

    Args:
        confusions: Whole counts ≥ 0, (..., n, n) with n ≥ 2; rows truth, columns prediction. They are not looked over.
        protocol: As for :func:`scores`.
        background: As for :func:`scores`.

    Returns:
        ``miou``, ``miou_present``, ``miou_union``, ``miou_foreground``, ``pixel_accuracy``, ``mean_class_accuracy``:
        float64 (...); ``iou`` and ``accuracy``: float64 (..., n). NaN as in :func:`scores`.

    Raises:
        InputError: The matrices are not square.
        ConfigError: An unknown protocol or background id.
    """
    counts = np.asarray(confusions)
    if counts.ndim < 2 or counts.shape[-1] != counts.shape[-2] or counts.shape[-1] < 2:
        raise InputError("confusion matrices are square with at least two classes", counts.shape, "(..., n, n)")
    # The rules about protocol and background are those of one matrix.
    scores(np.eye(counts.shape[-1], dtype=np.int64), protocol, background)
    foreground = _stack_iou(counts)
    if background is not None:
        foreground = np.delete(foreground, background, axis=-1)
    if protocol == "crop":
        counts = counts.copy()
        counts[..., background, :] = 0
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    support = counts.sum(axis=-1)
    iou, accuracy = _stack_iou(counts), _ratio(hits, support)
    return {
        "miou": np.nan_to_num(iou, nan=0.0).mean(axis=-1),
        "miou_present": mean_of_known(np.where(support > 0, iou, np.nan)),
        "miou_union": mean_of_known(iou),
        "miou_foreground": np.nan_to_num(foreground, nan=0.0).mean(axis=-1),
        "pixel_accuracy": _ratio(hits.sum(axis=-1), support.sum(axis=-1)),
        "mean_class_accuracy": mean_of_known(accuracy),
        "iou": iou,
        "accuracy": accuracy,
    }


def _stack_iou(counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return _ratio(hits, counts.sum(axis=-2) + counts.sum(axis=-1) - hits)


def mean_of_known(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean over the last axis of the values that are not NaN; NaN where there are none."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1))


def checked(confusion: npt.ArrayLike) -> Confusion:
    """A confusion matrix as int64.

    Raises:
        InputError: It is not square, not whole-numbered, or has negative counts.
    """
    counts = np.asarray(confusion)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or len(counts) < 2:
        raise InputError(
            "a confusion matrix is square with at least two classes", counts.shape, "rows truth, columns prediction"
        )
    if not np.issubdtype(counts.dtype, np.integer) and not _whole(counts):
        raise InputError("a confusion matrix holds whole pixel counts", str(counts.dtype), "do not normalise it")
    if (counts < 0).any():
        raise InputError("a confusion matrix has no negative counts", counts.min().item(), "check how it was added up")
    return counts.astype(np.int64)


def _whole(counts: npt.NDArray[Any]) -> bool:
    """Whether floats are whole numbers, as JSON and torch may hand them over; fractions mean somebody normalised."""
    floats = np.issubdtype(counts.dtype, np.floating)
    return bool(floats and np.isfinite(counts).all() and (counts == np.floor(counts)).all())


def _iou(counts: Confusion) -> npt.NDArray[np.float64]:
    hits = np.diagonal(counts)
    return _ratio(hits, counts.sum(axis=0) + counts.sum(axis=1) - hits)


def _ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """``part / whole``, NaN where ``whole`` is 0."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    ratio: npt.NDArray[np.float64] = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _zero_filled_mean(values: npt.NDArray[np.float64]) -> float:
    """Mean over all values, NaN counting 0."""
    return float(np.nan_to_num(values, nan=0.0).mean())
