"""What other libraries' calls mean: each held against every definition of the kit.

Pixels with truth 255 are dropped before a call that cannot ignore a value; everything else is the libraries' own. They
are imported when called.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cropseg.conformance.exact import MEANS
from cropseg.conformance.kit import FAILURES, Case, Mask, same
from cropseg.core.errors import InputError

Call = Callable[[Mask, Mask, int, int], Any]

BEGIN: Final = "<!-- made by: python -m cropseg.conformance libraries --write docs/conformance.md -->"
END: Final = "<!-- end -->"

MOST_NAMED: Final = 8
"""A call that parts from a definition on more cases than this means something else."""


def cropseg(truth: Mask, prediction: Mask, classes: int, ignore: int) -> dict[str, Any]:
    """This project's scores of two masks, by the kit's names."""
    from cropseg.metrics import confusion_matrix

    return cropseg_confusion(confusion_matrix(truth, prediction, classes, ignore))


def cropseg_confusion(confusion: npt.NDArray[np.int64]) -> dict[str, Any]:
    """This project's scores of a confusion matrix, by the kit's names."""
    from cropseg.metrics import scores

    keys = (*MEANS, "iou", "accuracy", "support")
    crop = {f"crop_{key}": value for key, value in scores(confusion, protocol="crop").items() if key in keys}
    crop.pop("crop_miou_foreground")
    return {**{key: value for key, value in scores(confusion).items() if key in keys}, **crop}


def torchmetrics(truth: Mask, prediction: Mask, classes: int, ignore: int) -> dict[str, Any]:
    """What torchmetrics' calls come closest to."""
    jaccard, accuracy = _torchmetrics_jaccard, _torchmetrics_accuracy
    return {
        "miou_union": jaccard(truth, prediction, classes, ignore, average="macro"),
        "pixel_accuracy": accuracy(truth, prediction, classes, ignore, average="micro"),
        "mean_class_accuracy": accuracy(truth, prediction, classes, ignore, average="macro"),
        "iou": jaccard(truth, prediction, classes, ignore, average="none"),
        "accuracy": accuracy(truth, prediction, classes, ignore, average="none"),
    }


def sklearn(truth: Mask, prediction: Mask, classes: int, ignore: int) -> dict[str, Any]:
    """What scikit-learn's calls come closest to."""
    return {
        "miou": _sklearn_jaccard_all(truth, prediction, classes, ignore),
        "miou_union": _sklearn_jaccard(truth, prediction, classes, ignore, average="macro"),
        "pixel_accuracy": _sklearn_accuracy(truth, prediction, classes, ignore),
        "mean_class_accuracy": _sklearn_balanced(truth, prediction, classes, ignore),
    }


def _torchmetrics_jaccard(truth: Mask, prediction: Mask, classes: int, ignore: int, average: Any) -> Any:
    from torchmetrics.functional.classification import multiclass_jaccard_index

    guess, target = _tensors(prediction, truth)
    return multiclass_jaccard_index(guess, target, classes, average=average, ignore_index=ignore)


def _torchmetrics_accuracy(truth: Mask, prediction: Mask, classes: int, ignore: int, average: Any) -> Any:
    from torchmetrics.functional.classification import multiclass_accuracy

    guess, target = _tensors(prediction, truth)
    return multiclass_accuracy(guess, target, classes, average=average, ignore_index=ignore)


def _torchmetrics_mean_iou(truth: Mask, prediction: Mask, classes: int, ignore: int) -> Any:
    """It knows no value to ignore, and averages over images."""
    from torchmetrics.functional.segmentation import mean_iou

    if (truth == ignore).any():
        raise ValueError("no value to ignore")
    guess, target = _tensors(*_images(prediction, truth))
    return mean_iou(guess, target, num_classes=classes, input_format="index").mean()


def _sklearn_jaccard(truth: Mask, prediction: Mask, classes: int, ignore: int, average: str) -> Any:
    from sklearn.metrics import jaccard_score

    return jaccard_score(*_kept(truth, prediction, ignore), average=average)


def _sklearn_jaccard_all(truth: Mask, prediction: Mask, classes: int, ignore: int) -> Any:
    from sklearn.metrics import jaccard_score

    return jaccard_score(*_kept(truth, prediction, ignore), average="macro", labels=range(classes), zero_division=0)


def _sklearn_accuracy(truth: Mask, prediction: Mask, classes: int, ignore: int) -> Any:
    from sklearn.metrics import accuracy_score

    return accuracy_score(*_kept(truth, prediction, ignore))


def _sklearn_balanced(truth: Mask, prediction: Mask, classes: int, ignore: int) -> Any:
    from sklearn.metrics import balanced_accuracy_score

    return balanced_accuracy_score(*_kept(truth, prediction, ignore))


def _smp_iou(truth: Mask, prediction: Mask, classes: int, ignore: int, reduction: str, zero: Any = 1.0) -> Any:
    from segmentation_models_pytorch import metrics

    images = _tensors(*_images(prediction, truth))
    counts = metrics.get_stats(*images, mode="multiclass", num_classes=classes, ignore_index=ignore)
    return metrics.iou_score(*counts, reduction=reduction, zero_division=zero)


def _tensors(*masks: Mask) -> list[Any]:
    import torch

    return [torch.from_numpy(mask.astype(np.int64)) for mask in masks]


def _images(*masks: Mask) -> list[Mask]:
    """Masks with an axis for images."""
    return [mask if mask.ndim == 3 else mask[None] for mask in masks]


def _kept(truth: Mask, prediction: Mask, ignore: int) -> tuple[Mask, Mask]:
    keep = truth != ignore
    return truth[keep], prediction[keep]


CALLS: Final[Mapping[str, Call]] = {
    "torchmetrics `MulticlassJaccardIndex(n, average=\"macro\", ignore_index=i)`": partial(
        _torchmetrics_jaccard, average="macro"
    ),
    "torchmetrics `MulticlassJaccardIndex(…, average=\"weighted\")`": partial(
        _torchmetrics_jaccard, average="weighted"
    ),
    "torchmetrics `MulticlassJaccardIndex(…, average=\"micro\")`": partial(_torchmetrics_jaccard, average="micro"),
    "torchmetrics `segmentation.MeanIoU(n, input_format=\"index\")`": _torchmetrics_mean_iou,
    "torchmetrics `MulticlassAccuracy(n, average=\"micro\", ignore_index=i)`": partial(
        _torchmetrics_accuracy, average="micro"
    ),
    "torchmetrics `MulticlassAccuracy(n, average=\"macro\", ignore_index=i)`": partial(
        _torchmetrics_accuracy, average="macro"
    ),
    "scikit-learn `jaccard_score(t, p, average=\"macro\")`": partial(_sklearn_jaccard, average="macro"),
    "scikit-learn `jaccard_score(…, labels=range(n), zero_division=0)`": _sklearn_jaccard_all,
    "scikit-learn `jaccard_score(…, average=\"weighted\")`": partial(_sklearn_jaccard, average="weighted"),
    "scikit-learn `accuracy_score(t, p)`": _sklearn_accuracy,
    "scikit-learn `balanced_accuracy_score(t, p)`": _sklearn_balanced,
    "smp `iou_score(*get_stats(…, ignore_index=i), reduction=\"macro\")`": partial(_smp_iou, reduction="macro"),
    "smp `iou_score(…, reduction=\"macro\", zero_division=0)`": partial(_smp_iou, reduction="macro", zero=0.0),
    "smp `iou_score(…, reduction=\"macro-imagewise\")`": partial(_smp_iou, reduction="macro-imagewise"),
    "smp `iou_score(…, reduction=\"micro\")`": partial(_smp_iou, reduction="micro"),
}  # fmt: skip
"""Calls that give one number. t and p are labels without the ignored pixels, n is the number of classes."""


@dataclass(frozen=True)
class Meaning:
    """What a library's call turned out to be.

    Attributes:
        call: The call.
        agrees: Cases on which each definition agrees, by its name.
        cases: Cases it was asked about.
        closest: The definition that agrees most often; of equals the first of :data:`~exact.MEANS`.
        parts: Cases on which it parts from that definition, with its value, or why there is none.
    """

    call: str
    agrees: Mapping[str, int]
    cases: int
    closest: str
    parts: Mapping[str, str]


def meaning(name: str, call: Call, cases: Sequence[Case]) -> Meaning:
    """Ask a call about every case with masks, and find the definition it comes closest to."""
    answers: dict[str, Any] = {}
    for case in cases:
        if case.masks is None:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # scikit-learn's about classes without truth: a value follows
                answers[case.name] = float(call(*case.masks, case.classes, case.ignore))
        except FAILURES:
            answers[case.name] = "error"
    asked = [case for case in cases if case.name in answers]
    agrees = {score: sum(_agree(answers[case.name], case.expected[score]) for case in asked) for score in MEANS}
    closest = max(MEANS, key=lambda score: agrees[score])
    parts = {
        case.name: _value(answers[case.name])
        for case in asked
        if not _agree(answers[case.name], case.expected[closest])
    }
    return Meaning(name, agrees, len(asked), closest, parts)


def _agree(answer: Any, expected: Any) -> bool:
    return not isinstance(answer, str) and same(answer, expected)


def _value(answer: Any) -> str:
    return answer if isinstance(answer, str) else "NaN" if np.isnan(answer) else f"{answer:.4g}"


def markdown(cases: Sequence[Case]) -> str:
    """Two Markdown tables: on how many cases each call agrees with each definition, and where it parts from its own."""
    found = [meaning(name, call, cases) for name, call in CALLS.items()]
    of = {case.name: case for case in cases}
    lines = [f"| call | {' | '.join(f'`{score}`' for score in MEANS)} |", "| --- " * (len(MEANS) + 1) + "|"]
    for one in found:
        cells = [f"**{n} of {one.cases}**" if n == one.cases else str(n) for n in one.agrees.values()]
        lines.append(f"| {one.call} | {' | '.join(cells)} |")
    lines += ["", "| call | comes closest to | parts from it on (its value, expected) |", "| --- | --- | --- |"]
    for one in found:
        parts = [f"`{case}` ({value}, {_expected(of[case], one.closest)})" for case, value in one.parts.items()]
        text = ", ".join(parts) or "nowhere"
        if len(parts) > MOST_NAMED:
            text = f"{len(parts)} of {one.cases} cases, such as {', '.join(parts[:3])}: none of these definitions"
        lines.append(f"| {one.call} | `{one.closest}` | {text} |")
    return "\n".join(lines)


def _expected(case: Case, score: str) -> str:
    value = case.expected[score]
    return "0/0" if value is None else f"{value:.4g}"


def replaced(page: str, content: str) -> str:
    """A page with what stands between its two marks replaced.

    Raises:
        InputError: The page lacks them.
    """
    before, mark, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise InputError("the page lacks the marks that the tables stand between", None, f"give it {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{content}\n\n{END}{after}"
