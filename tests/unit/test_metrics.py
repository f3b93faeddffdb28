"""Scores against the paper's own tables, torchmetrics and scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, jaccard_score
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from cropseg.core.errors import ConfigError, InputError
from cropseg.metrics import confusion_matrix, scores

# Table 10: IoU, class accuracy, support pixels, by class id.
TABLE_10 = [
    (0.7352, 0.7647, 136_879_857),
    (0.8334, 0.9404, 47_844_217),
    (0.8161, 0.9317, 26_035_062),
    (0.8075, 0.9225, 102_534_883),
    (0.7045, 0.8457, 37_137_182),
    (0.6583, 0.9042, 5_832_341),
    (0.7887, 0.9476, 9_282_741),
    (0.8553, 0.9507, 18_081_916),
    (0.7700, 0.9352, 10_796_959),
    (0.7599, 0.9364, 9_469_228),
    (0.7021, 0.8990, 32_051_086),
]
# Table 14: class id -> IoU, class accuracy, support pixels.
DACIA5 = {
    1: (0.5883, 0.7902, 2_266_208),
    2: (0.4341, 0.4855, 543_364),
    3: (0.5619, 0.6152, 3_344_695),
    6: (0.0240, 0.3134, 24_024),
    7: (0.3340, 0.3474, 1_806_784),
    8: (0.2482, 0.3544, 461_432),
    9: (0.0942, 0.0982, 631_207),
    10: (0.3370, 0.5997, 574_014),
}
PASTIS = {
    1: (0.4557, 0.6891, 3_423_989),
    2: (0.0911, 0.1163, 699_069),
    3: (0.2967, 0.4465, 3_329_186),
    4: (0.0679, 0.1072, 1_015_725),
    6: (0.0063, 0.0066, 358_357),
    7: (0.1132, 0.1334, 321_262),
    8: (0.0117, 0.0138, 415_684),
    9: (0.0176, 0.0325, 98_177),
    10: (0.2473, 0.2908, 7_456_450),
}


def transport(misses, alarms):
    """Integers (n, n), zero diagonal, whose rows add up to ``misses`` and columns to ``alarms`` (totals equal)."""
    misses, alarms = list(misses), list(alarms)
    n = len(misses)
    moved = np.zeros((n, n), dtype=np.int64)
    while any(misses):
        # The class with the largest sum of both must be served first, or it is left with itself alone.
        row = max(range(n), key=lambda i: (misses[i] > 0, misses[i] + alarms[i]))
        heavy = max(range(n), key=lambda i: misses[i] + alarms[i])
        if misses[heavy] == 0:
            row = max((i for i in range(n) if i != heavy), key=lambda i: misses[i])
            col = heavy
        else:
            row = heavy
            col = max((i for i in range(n) if i != row), key=lambda i: alarms[i])
        step = max(1, min(misses[row], alarms[col]) // 2)
        moved[row, col] += step
        misses[row] -= step
        alarms[col] -= step
    return moved


def rebuild(table, n=11, sink=None):
    """A confusion matrix with a table's IoU, recall and support; what is left over goes to class ``sink``."""
    iou, recall, support = (np.zeros(n) for _ in range(3))
    for row in table:
        iou[row], recall[row], support[row] = table[row]
    support = support.astype(np.int64)
    hits = np.round(recall * support).astype(np.int64)
    misses = support - hits
    with np.errstate(divide="ignore", invalid="ignore"):
        alarms = np.where(iou > 0, np.round(hits / iou), support).astype(np.int64) - support
    # Figures printed with four digits do not close exactly: the difference is spread, or falls to the sink.
    rest = int(misses.sum() - alarms.sum())
    if sink is None:
        alarms += rest // n
        alarms[0] += rest - (rest // n) * n
    else:
        assert rest > 0
        alarms[sink] += rest
    return np.diag(hits) + transport(misses, alarms)


def test_table_10_is_rebuilt_from_its_own_figures():
    table = dict(enumerate(TABLE_10))
    counts = rebuild(table)
    found = scores(counts)
    assert counts.sum() == 435_945_472 == 6652 * 65536
    np.testing.assert_allclose(found["iou"], [row[0] for row in TABLE_10], atol=2e-3)
    np.testing.assert_allclose(found["accuracy"], [row[1] for row in TABLE_10], atol=1e-6)
    assert found["support"] == [row[2] for row in TABLE_10]
    assert found["pixel_accuracy"] == pytest.approx(0.8693, abs=5e-5)
    assert found["miou"] == found["miou_present"] == found["miou_union"] == pytest.approx(0.7665, abs=1e-3)
    # The paper prints 0.9072; its own recalls average to 0.9071.
    assert round(found["mean_class_accuracy"], 4) == 0.9071


def test_table_10_mean_of_printed_ious_is_the_printed_miou():
    assert np.mean([row[0] for row in TABLE_10]) == pytest.approx(0.76645, abs=5e-6)


@pytest.mark.parametrize(
    ("table", "miou", "miou_present", "accuracy"),
    [(DACIA5, 0.2383, 0.3277, 0.5509), (PASTIS, 0.1189, 0.1453, 0.3656)],
    ids=["dacia5", "pastis"],
)
def test_table_13_crop_rows_follow_from_table_14(table, miou, miou_present, accuracy):
    counts = rebuild(table, sink=0)  # the crop pixels that no other crop took were predicted as background
    counts[0] = np.random.default_rng(0).integers(0, 10**6, 11)  # background truth: must not matter
    found = scores(counts, protocol="crop")
    assert round(found["miou"], 4) == pytest.approx(miou, abs=1.01e-4)
    assert round(found["miou_present"], 4) == pytest.approx(miou_present, abs=1.01e-4)
    assert round(found["pixel_accuracy"], 4) == pytest.approx(accuracy, abs=1.01e-4)
    assert found["present"] == [i in table for i in range(11)]
    assert found["support"][0] == 0


def labels(draw_seed, n, absent, ignored):
    rng = np.random.default_rng(draw_seed)
    known = [c for c in range(n) if c not in absent]
    truth = rng.choice(known, 400).astype(np.uint8)
    prediction = np.where(rng.random(400) < 0.5, truth, rng.integers(0, n, 400)).astype(np.uint8)
    truth[rng.random(400) < ignored] = 255
    return truth, prediction


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 13), st.data())
def test_equals_torchmetrics_and_sklearn_where_definitions_agree(seed, n, data):
    absent = data.draw(st.sets(st.integers(0, n - 1), max_size=n - 1))
    truth, prediction = labels(seed, n, absent, ignored=0.2)
    counts = confusion_matrix(truth, prediction, n)
    found = scores(counts)
    keep = truth != 255
    t, p = truth[keep], prediction[keep]
    assert found["pixel_accuracy"] == pytest.approx(accuracy_score(t, p))
    union, present = sorted(set(t) | set(p)), sorted(set(t))
    assert found["miou_union"] == pytest.approx(jaccard_score(t, p, labels=union, average="macro"))
    assert found["miou_present"] == pytest.approx(jaccard_score(t, p, labels=present, average="macro", zero_division=0))
    recalls = [np.mean(p[t == c] == c) for c in present]
    assert found["mean_class_accuracy"] == pytest.approx(np.mean(recalls))
    if set(p) <= set(t):
        assert found["mean_class_accuracy"] == pytest.approx(balanced_accuracy_score(t, p))
    target, guess = torch.from_numpy(truth.astype(np.int64)), torch.from_numpy(prediction.astype(np.int64))
    jaccard = MulticlassJaccardIndex(n, ignore_index=255)(guess, target)
    assert found["miou_union"] == pytest.approx(float(jaccard), abs=1e-6)
    accuracy = MulticlassAccuracy(n, average="micro", ignore_index=255)(guess, target)
    assert found["pixel_accuracy"] == pytest.approx(float(accuracy), abs=1e-6)
    per_class = [
        float(np.sum((t == c) & (p == c)) / np.sum((t == c) | (p == c))) if c in union else 0 for c in range(n)
    ]
    assert found["miou"] == pytest.approx(sum(per_class) / n)
    assert found["miou_foreground"] == pytest.approx(sum(per_class[1:]) / (n - 1))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_crop_protocol_equals_leaving_background_pixels_out(seed, n):
    truth, prediction = labels(seed, n, set(), ignored=0.1)
    counts = confusion_matrix(truth, prediction, n)
    without = confusion_matrix(np.where(truth == 0, 255, truth), prediction, n)
    crop, direct = scores(counts, protocol="crop"), scores(without)
    for key in ("miou", "miou_present", "miou_union", "pixel_accuracy", "mean_class_accuracy"):
        assert crop[key] == pytest.approx(direct[key], nan_ok=True)
    assert crop["miou_foreground"] == scores(counts)["miou_foreground"]
    assert not crop["present"][0]


def test_a_crop_predicted_as_background_stays_an_error_of_that_crop():
    counts = np.array([[5, 0], [3, 1]])
    assert scores(counts, protocol="crop")["iou"] == [0.0, 0.25]
    assert scores(counts, protocol="crop")["pixel_accuracy"] == 0.25


def test_background_may_be_another_class_or_none():
    counts = np.array([[4, 1, 0], [0, 5, 0], [2, 0, 7]])
    assert scores(counts, protocol="crop", background=2)["support"] == [5, 5, 0]
    assert scores(counts, background=None)["miou_foreground"] == pytest.approx(scores(counts)["miou"])
    with pytest.raises(ConfigError, match="background"):
        scores(counts, protocol="crop", background=None)


def test_an_empty_matrix_gives_nan_and_zero_not_an_error():
    found = scores(np.zeros((11, 11), dtype=np.int64))
    assert found["miou"] == found["miou_foreground"] == 0
    for key in ("miou_present", "miou_union", "pixel_accuracy", "mean_class_accuracy"):
        assert np.isnan(found[key])
    assert found["pixels"] == 0


def test_a_class_predicted_but_absent_counts_in_union_and_not_in_present():
    found = scores(np.array([[3, 1], [0, 0]]))
    assert found["iou"] == [0.75, 0.0]
    assert np.isnan(found["accuracy"][1])
    assert (found["miou_present"], found["miou_union"], found["miou"]) == (0.75, 0.375, 0.375)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((2, 3), int), np.zeros((1, 1), int), np.zeros(4, int), np.full((2, 2), 0.5), np.full((2, 2), np.nan)],
)
def test_what_is_no_confusion_matrix_is_refused(wrong):
    with pytest.raises(InputError):
        scores(wrong)


def test_negative_counts_protocol_and_background_are_checked():
    with pytest.raises(InputError, match="negative"):
        scores(np.array([[1, -1], [0, 1]]))
    with pytest.raises(ConfigError, match="protocol"):
        scores(np.eye(2, dtype=int), protocol="every")
    with pytest.raises(ConfigError, match="background"):
        scores(np.eye(2, dtype=int), background=2)


def test_whole_floats_and_tensors_are_taken():
    counts = np.array([[3, 1], [2, 4]])
    assert scores(counts.astype(float)) == scores(counts) == scores(torch.from_numpy(counts))


def test_confusion_matrix_refuses_labels_out_of_range():
    truth = np.array([0, 1, 255], np.uint8)
    assert confusion_matrix(truth, np.array([1, 1, 200]), 2).tolist() == [[0, 1], [0, 1]]
    with pytest.raises(InputError, match="prediction label"):
        confusion_matrix(truth, np.array([0, 2, 0]), 2)
    with pytest.raises(InputError, match="truth label"):
        confusion_matrix(np.array([7]), np.array([0]), 2)
    with pytest.raises(InputError, match="shape"):
        confusion_matrix(truth, truth[:2], 2)
