"""Writes the kit's cases: python -m cropseg.conformance.make.

Masks and matrices stand here or are rebuilt here from the paper's tables; expected scores come from
:mod:`cropseg.conformance.exact`. The same files come out on every machine.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from cropseg.conformance import exact
from cropseg.conformance.exact import Matrix
from cropseg.conformance.kit import FOLDER, FORMAT
from cropseg.core import storage
from cropseg.core.progress import say

MOST_PIXELS = 4096
"""Matrices of fewer pixels are given as masks too, so that libraries without matrices can take them."""

TABLE_10 = (
    ("0.7352", "0.7647", 136_879_857),
    ("0.8334", "0.9404", 47_844_217),
    ("0.8161", "0.9317", 26_035_062),
    ("0.8075", "0.9225", 102_534_883),
    ("0.7045", "0.8457", 37_137_182),
    ("0.6583", "0.9042", 5_832_341),
    ("0.7887", "0.9476", 9_282_741),
    ("0.8553", "0.9507", 18_081_916),
    ("0.7700", "0.9352", 10_796_959),
    ("0.7599", "0.9364", 9_469_228),
    ("0.7021", "0.8990", 32_051_086),
)
"""IoU, class accuracy and support pixels of class 0 … 10."""

TABLE_14: Mapping[str, Mapping[int, tuple[str, str, int]]] = {
    "DACIA5": {
        1: ("0.5883", "0.7902", 2_266_208),
        2: ("0.4341", "0.4855", 543_364),
        3: ("0.5619", "0.6152", 3_344_695),
        6: ("0.0240", "0.3134", 24_024),
        7: ("0.3340", "0.3474", 1_806_784),
        8: ("0.2482", "0.3544", 461_432),
        9: ("0.0942", "0.0982", 631_207),
        10: ("0.3370", "0.5997", 574_014),
    },
    "PASTIS": {
        1: ("0.4557", "0.6891", 3_423_989),
        2: ("0.0911", "0.1163", 699_069),
        3: ("0.2967", "0.4465", 3_329_186),
        4: ("0.0679", "0.1072", 1_015_725),
        6: ("0.0063", "0.0066", 358_357),
        7: ("0.1132", "0.1334", 321_262),
        8: ("0.0117", "0.0138", 415_684),
        9: ("0.0176", "0.0325", 98_177),
        10: ("0.2473", "0.2908", 7_456_450),
    },
}
"""IoU, class accuracy and support pixels by class id, labelled crop pixels."""


def cases() -> Iterator[dict[str, Any]]:
    """Every case as plain data, in order."""
    yield from _masks()
    yield from _matrices()
    yield _matrix(
        "paper_internal",
        "Table 10 of the paper (internal test), rebuilt: one of the matrices whose IoUs, "
        "class accuracies and supports are the printed ones. miou 0.7665, pixel accuracy 0.8693; mean class "
        "accuracy 0.9071, where the paper prints 0.9072",
        internal(),
    )
    for name, table in TABLE_14.items():
        yield _matrix(
            f"paper_{name.lower()}",
            f"Table 14 of the paper, {name}, labelled crop pixels, rebuilt: crop "
            "pixels that no crop took were predicted as background. What background truth was predicted as "
            "is not known, so its row is 0, and only the crop_ scores are the paper's",
            crop(table),
        )


def _masks() -> Iterator[dict[str, Any]]:
    yield _mask("perfect", "Every pixel right, every class there", 3, "0012 0112 0122", "0012 0112 0122")
    yield _mask("all_wrong", "Every class there, no pixel right", 3, "0012 0112", "1120 1220")
    yield _mask(
        "ordinary",
        "Some right, some wrong, every class in truth and prediction",
        4,
        "0011 0012 3322 3322",
        "0011 0022 3312 3302",
    )
    yield _mask("one_pixel", "A single pixel, right", 2, "1", "1")
    yield _mask("two_classes", "The fewest classes", 2, "0011 0111", "0111 0011")
    yield _mask(
        "transposed",
        "Rows are truth: exchanged, class accuracies become precisions, IoUs stay",
        3,
        "0000 0001 1122",
        "0111 0111 1122",
    )
    yield _mask(
        "absent_class",
        "Class 2 has neither truth nor predicted pixels: miou counts it 0, miou_present and miou_union leave it out",
        4,
        "0011 0013",
        "0011 0033",
    )
    yield _mask(
        "predicted_only",
        "Class 3 is predicted but never true: IoU 0 in miou_union, not in miou_present",
        4,
        "0011 0022",
        "0011 0023",
    )
    yield _mask("truth_only", "Class 2 is true but never predicted: IoU 0 in every mean", 3, "0011 0022", "0011 0011")
    yield _mask(
        "absent_and_predicted_only",
        "Class 3 absent, class 4 predicted alone: the four means all differ",
        5,
        "0011 0122",
        "0011 0124",
    )
    yield _mask(
        "ignored",
        "x is 255 in truth: whatever is predicted there does not count",
        3,
        "00x1 x112 22xx",
        "0021 0111 2201",
    )
    yield _mask(
        "predicted_under_ignored",
        "Class 2 is predicted on ignored pixels alone: it is an absent class, not a predicted one",
        3,
        "00xx 0111",
        "0022 0011",
    )
    yield _mask("ignored_in_both", "255 in the prediction too, where truth has it", 3, "00xx 1122", "01xx 1122")
    yield _mask(
        "all_ignored",
        "No pixel counts: every ratio is 0 / 0, but miou and miou_foreground are 0 by rule",
        3,
        "xxxx",
        "0012",
    )
    yield _mask(
        "ignore_is_a_class",
        "Ignored is 2, a class id: its row is empty, its column stays, so a pixel of class 1 "
        "predicted as 2 is an error of 1 and gives 2 an IoU of 0 in miou_union",
        3,
        "0022 0111",
        "0021 0122",
        ignore=2,
    )
    yield _mask("single_class", "Truth and prediction hold class 1 alone", 3, "1111", "1111")
    yield _mask(
        "background_only",
        "Truth and prediction hold background alone: nothing is left on labelled crop pixels",
        3,
        "0000",
        "0000",
    )
    yield _mask(
        "crops_on_background",
        "Only background is true, crops are predicted: on labelled crop pixels this costs nothing",
        3,
        "0000 0000",
        "0012 0012",
    )
    yield _mask(
        "crop_as_background",
        "Crops predicted as background: errors of these crops in both protocols",
        3,
        "0011 1122",
        "0011 0002",
    )
    yield _mask(
        "both_errors",
        "Crops predicted as background and background as crops: the protocols part",
        3,
        "0000 1111 2222",
        "0012 0111 0222",
    )
    yield _case(
        "two_images",
        "Two images with different classes: scores are read off one matrix, not averaged over images",
        4,
        [_rows("0001 0001"), _rows("0033 2233")],
        [_rows("0001 0011"), _rows("0023 2233")],
    )
    yield _case(
        "uneven_images",
        "Two images, one ignored but for two pixels: no image weighs more than its pixels",
        3,
        [_rows("0000 1111"), _rows("xxxx xx22")],
        [_rows("0000 1111"), _rows("0000 0000")],
    )
    yield _drawn("drawn", "Eleven classes drawn at random, a fifth ignored", range(11), 24, 0.2)
    yield _drawn("drawn_few", "Eleven classes, of which truth holds seven", (0, 1, 2, 3, 6, 7, 10), 24, 0.2)


def _matrices() -> Iterator[dict[str, Any]]:
    yield _matrix("empty_matrix", "No pixel at all", [[0] * 3 for _ in range(3)])
    yield _matrix(
        "beyond_float32",
        "Counts beyond 2^24, above which float32 skips whole numbers",
        [[2**24 + 1, 1, 0], [0, 2**25 + 3, 2], [1, 0, 1]],
    )
    yield _matrix(
        "beyond_int32",
        "Counts beyond 2^31: a sum in int32 overflows",
        [[3 * 2**30, 2**30, 0], [2**30, 2**31 + 7, 5], [0, 2**31, 2**32 + 11]],
    )
    yield _matrix(
        "beyond_float64",
        "Counts beyond 2^53, above which float64 skips whole numbers: only supports tell",
        [[2**53 + 1, 2**52 + 1, 0], [1, 2**54 + 3, 2], [2**53, 0, 2**55 + 5]],
    )


def internal() -> Matrix:
    """A matrix that prints as Table 10, and whose mean IoU prints as the paper's 0.7665.

    The printed figures in the middle of their rounding do not close: 51,246 more pixels are missed than falsely taken.
    So every class accuracy is taken a little higher, and the IoU of two large classes lower and of four small ones
    higher, each by less than half of the last printed digit.
    """
    tilt = {0: -4, 3: -4, 5: 4, 6: 4, 8: 4, 9: 4}  # in 1e-5
    iou = [Fraction(row[0]) + Fraction(tilt.get(c, 0), 100_000) for c, row in enumerate(TABLE_10)]
    support = [row[2] for row in TABLE_10]
    # Pixels missed less those falsely taken, Σ 2S - rS(1 + 1/IoU), fall linearly in what is added to r.
    open_ = sum(2 * s - Fraction(row[1]) * s * (1 + 1 / i) for row, s, i in zip(TABLE_10, support, iou, strict=True))
    more = open_ / sum(s * (1 + 1 / i) for s, i in zip(support, iou, strict=True))
    hits = [round((Fraction(row[1]) + more) * s) for row, s in zip(TABLE_10, support, strict=True)]
    misses = [s - h for s, h in zip(support, hits, strict=True)]
    alarms = [round(h / i) - s for h, i, s in zip(hits, iou, support, strict=True)]
    alarms[0] += sum(misses) - sum(alarms)  # a few pixels of rounding
    return _closed(hits, misses, alarms)


def crop(table: Mapping[int, tuple[str, str, int]], classes: int = 11) -> Matrix:
    """A matrix that prints as a set's columns of Table 14; background takes the pixels that no crop took."""
    hits, misses, alarms = [0] * classes, [0] * classes, [0] * classes
    for c, (iou, accuracy, support) in table.items():
        hits[c] = round(Fraction(accuracy) * support)
        misses[c] = support - hits[c]
        alarms[c] = round(hits[c] / Fraction(iou)) - support
    alarms[0] = sum(misses) - sum(alarms)
    return _closed(hits, misses, alarms)


def _closed(hits: Sequence[int], misses: Sequence[int], alarms: Sequence[int]) -> Matrix:
    """A matrix with this diagonal, and with these sums off it of its rows and its columns."""
    misses, alarms = list(misses), list(alarms)
    classes = range(len(hits))
    matrix = [[hits[row] if row == col else 0 for col in classes] for row in classes]
    while sum(misses):
        # A class with much of both is served first, or it would be left with itself alone.
        heavy = max(classes, key=lambda c: misses[c] + alarms[c])
        others = [c for c in classes if c != heavy]
        if misses[heavy]:
            row, col = heavy, max(others, key=lambda c: alarms[c])
        else:
            row, col = max(others, key=lambda c: misses[c]), heavy
        step = -(-min(misses[row], alarms[col]) // 2)
        if step < 1:
            raise ValueError("these sums belong to no matrix")
        matrix[row][col] += step
        misses[row] -= step
        alarms[col] -= step
    return matrix


def _rows(text: str) -> list[list[int]]:
    return [[255 if digit == "x" else int(digit) for digit in row] for row in text.split()]


def _mask(name: str, what: str, classes: int, truth: str, prediction: str, ignore: int = 255) -> dict[str, Any]:
    return _case(name, what, classes, _rows(truth), _rows(prediction), ignore)


def _drawn(name: str, what: str, known: Sequence[int], side: int, ignored: float) -> dict[str, Any]:
    draw = random.Random(name)
    truth, prediction = [], []
    for _ in range(side):
        true = [known[int(draw.random() * len(known))] for _ in range(side)]
        prediction.append([c if draw.random() < 0.6 else int(draw.random() * 11) for c in true])
        truth.append([255 if draw.random() < ignored else c for c in true])
    return _case(name, what, 11, truth, prediction)


def _case(
    name: str, what: str, classes: int, truth: list[Any], prediction: list[Any], ignore: int = 255
) -> dict[str, Any]:
    matrix = exact.count(truth, prediction, classes, ignore)
    return _described(name, what, matrix, ignore, truth, prediction)


def _matrix(name: str, what: str, matrix: Matrix) -> dict[str, Any]:
    truth = prediction = None
    if 0 < sum(map(sum, matrix)) <= MOST_PIXELS:
        cells = [(row, col) for row, line in enumerate(matrix) for col, n in enumerate(line) for _ in range(n)]
        truth, prediction = [[row for row, _ in cells]], [[col for _, col in cells]]
    return _described(name, what, matrix, 255, truth, prediction)


def _described(name: str, what: str, matrix: Matrix, ignore: int, truth: Any, prediction: Any) -> dict[str, Any]:
    found = exact.scores(matrix)
    return {
        "format": FORMAT,
        "name": name,
        "what": what,
        "classes": len(matrix),
        "background": 0,
        "ignore": ignore,
        "truth": truth,
        "prediction": prediction,
        "confusion": matrix,
        "expected": {
            key: _each(value, lambda one: float(one) if isinstance(one, Fraction) else one)
            for key, value in found.items()
        },
        "exact": {key: _each(value, str) for key, value in found.items()},
    }


def _each(value: Any, as_what: Any) -> Any:
    if isinstance(value, list):
        return [_each(one, as_what) for one in value]
    return None if value is None else as_what(value)


def text(case: Mapping[str, Any]) -> str:
    """A case as JSON, a line a row of a mask or matrix."""
    lines = []
    for key, value in case.items():
        if key in ("truth", "prediction", "confusion") and value is not None:
            rows = json.dumps(value).replace("], [", "],\n    [")
            lines.append(f'  "{key}": {rows}')
        elif isinstance(value, dict):
            inner = ",\n".join(f"    {json.dumps(name)}: {json.dumps(one)}" for name, one in value.items())
            lines.append(f'  "{key}": {{\n{inner}\n  }}')
        else:
            lines.append(f'  "{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write(folder: Path = FOLDER) -> None:
    """Write every case, a file each, and remove files of cases that are no more."""
    made = {f"{number:02d}_{case['name']}.json": text(case) for number, case in enumerate(cases(), start=1)}
    for old in folder.glob("*.json"):
        if old.name not in made:
            old.unlink()
    for name, content in made.items():
        storage.write_bytes(folder / name, content.encode())
    say(f"{len(made)} cases in {folder}")


if __name__ == "__main__":
    write()
