"""The paper's own figures, and what can be rebuilt of them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cropseg import metrics
from cropseg.core import taxonomy
from cropseg.core.errors import InputError
from cropseg.report import paper, rebuild


def column(table, index):
    return [paper.value(row[index]) for row in table.rows]


def test_the_taxonomy_is_table_1_verbatim():
    shipped = taxonomy.load("eurocrops10")
    assert shipped.names == paper.CLASSES
    for crop in shipped.classes[1:]:
        include, exclude = paper.TABLE_1.row(crop.name)
        assert include == ", ".join(crop.include)
        assert exclude == (", ".join(crop.exclude) or paper.ABSENT)


@pytest.mark.parametrize("table", paper.TABLES, ids=lambda table: f"table_{table.number}")
def test_tables_are_whole(table):
    assert paper.TABLES[table.number - 1] is table
    assert all(len(row) == len(table.columns) for row in table.rows)
    if table.columns[0] == "class" and table.number in (1, 3, 4, 10):
        assert tuple(row[0] for row in table.rows) == paper.CLASSES


def test_sums_and_shares_are_the_papers():
    patches = column(paper.TABLE_2, 1)
    assert sum(patches[:-1]) == patches[-1] == 67_337
    assert [f"{n / 67_337:.3%}" for n in patches] == [row[2] for row in paper.TABLE_2.rows]
    pixels = column(paper.TABLE_3, 1)
    total = int(paper.value(paper.LABELLED_PIXELS))
    assert sum(pixels) == total == 67_337 * 256**2
    assert [f"{n / total:.3%}" for n in pixels] == [row[2] for row in paper.TABLE_3.rows]
    assert [f"{n / 67_337:.3%}" for n in column(paper.TABLE_3, 3)] == [row[4] for row in paper.TABLE_3.rows]
    assert sum(column(paper.TABLE_10, 3)) == 435_945_472 == int(column(paper.TABLE_9, 3)[0]) * 256**2
    assert column(paper.TABLE_4, 1) == [0.25, 1, 1.5, 0.75, 1, 3, 2.5, 1.5, 2, 3, 1]


def test_a_row_that_the_paper_lacks_is_all_dashes():
    assert paper.TABLE_14.row("oats") == (paper.ABSENT,) * 6
    assert math.isnan(paper.value(paper.ABSENT))


def as_printed(found):
    return [f"{value:.4f}" for value in found]


def test_table_10_is_rebuilt():
    found = metrics.scores(rebuild.internal())
    assert found["miou"] == pytest.approx(0.76645, abs=5e-6)
    recalls = np.dot(column(paper.TABLE_10, 2), column(paper.TABLE_10, 3)) / 435_945_472
    assert recalls == pytest.approx(0.86927, abs=5e-6)
    assert found["pixel_accuracy"] == pytest.approx(recalls, abs=5e-5)
    assert as_printed([found["miou"], found["pixel_accuracy"]]) == ["0.7665", "0.8693"]
    assert as_printed([found["mean_class_accuracy"]]) == ["0.9071"]  # the paper prints 0.9072
    assert found["support"] == column(paper.TABLE_10, 3)
    assert found["pixels"] == 435_945_472
    np.testing.assert_allclose(found["iou"], column(paper.TABLE_10, 1), atol=5.1e-5)
    np.testing.assert_allclose(found["accuracy"], column(paper.TABLE_10, 2), atol=5.1e-5)


@pytest.mark.parametrize(
    ("dataset", "row", "total", "classes"),
    [("DACIA5", "DACIA5, labelled crop pixels", 2.6217, 8), ("PASTIS", "PASTIS, labelled crop pixels", 1.3075, 9)],
)
def test_the_crop_rows_of_table_13_are_rebuilt_from_table_14(dataset, row, total, classes):
    matrix = rebuild.cross(dataset)
    found = metrics.scores(matrix, "crop")
    assert np.nansum(found["iou"]) == pytest.approx(total, abs=1e-4)
    assert sum(found["present"]) == classes
    assert as_printed([found["miou"], found["miou_present"], found["pixel_accuracy"]]) == list(
        paper.TABLE_13.row(row)[1:]
    )
    assert matrix[0].sum() == 0 < matrix[:, 0].sum()  # no truth pixel of background, but predictions of it


def table_of(matrix, protocol):
    found = metrics.scores(matrix, protocol)
    return found, [[round(value, 4) for value in found[key]] for key in ("iou", "accuracy")]


@given(
    arrays(np.int64, st.integers(2, 6).map(lambda n: (n, n)), elements=st.integers(0, 30) | st.integers(0, 3_000_000)),
    st.sampled_from(["all", "crop"]),
)
@settings(max_examples=40, deadline=None)
def test_any_table_that_came_from_a_matrix_is_rebuilt_to_the_same_scores(matrix, protocol):
    found, (iou, recall) = table_of(matrix, protocol)
    again = rebuild.confusion_from_classes(iou, recall, found["support"], rest=0 if protocol == "crop" else None)
    rebuilt = metrics.scores(again, protocol)
    assert rebuilt["support"] == found["support"]
    skipped = int(protocol == "crop")  # whether anything was predicted as background the table leaves open
    for key in ("iou", "accuracy"):
        np.testing.assert_allclose(rebuilt[key][skipped:], found[key][skipped:], atol=1.01e-4)
    for key in ("miou", "miou_present", "pixel_accuracy", "mean_class_accuracy"):
        np.testing.assert_allclose(rebuilt[key], found[key], atol=1.01e-4)


@pytest.mark.parametrize(
    ("iou", "recall", "support", "rest"),
    [
        ([0.5, 0.5], [0.9, 0.9], [100, 100], None),  # no matrix: each would take more than the other misses
        ([0.5, math.nan], [0.9, 0.9], [100, 100], None),
        ([0.5], [0.9], [100], None),
        ([0.5, 0.5], [0.9, 0.9], [100], None),
        ([0.5, 0.5], [0.9, 0.9], [100, 100], 0),
        ([0.5, 0.5], [0.9, 0.9], [100, -1], None),
    ],
)
def test_figures_of_no_matrix_are_refused(iou, recall, support, rest):
    with pytest.raises(InputError):
        rebuild.confusion_from_classes(iou, recall, support, rest=rest)
