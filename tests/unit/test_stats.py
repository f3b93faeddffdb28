"""Tables 2 and 3, against the paper's own figures."""

import csv

import pyarrow as pa
import pytest

from cropseg.core import taxonomy
from data_prep import stats

COUNTRIES = {"AT": 29774, "DE": 13307, "FR": 9028, "SK": 8358, "CZ": 6870}
PIXELS = [1400769381, 484866662, 254469439, 1031982204, 373327263, 59995197, 93413035, 180744275, 108360177, 96355478,
          328714521]  # fmt: skip
PERCENT = [31.742, 10.987, 5.766, 23.385, 8.460, 1.360, 2.117, 4.096, 2.455, 2.183, 7.449]


def test_table_2_of_the_paper():
    found = stats.countries(pa.table({"country": [c for c, n in COUNTRIES.items() for _ in range(n)]}))
    assert found.rows == (
        ("AT", 29774, 44.216), ("DE", 13307, 19.762), ("FR", 9028, 13.407), ("SK", 8358, 12.412), ("CZ", 6870, 10.202),
        ("Total", 67337, 100.0),
    )  # fmt: skip


def test_table_3_of_the_paper():
    found = stats.classes(pa.table({"counts": [PIXELS, [0] * 11]}), taxonomy.load("eurocrops10"))
    assert [row[2] for row in found.rows] == PIXELS
    assert [row[3] for row in found.rows] == pytest.approx(PERCENT, abs=6e-4)
    assert {row[4] for row in found.rows} == {1}
    assert {row[5] for row in found.rows} == {50.0}


def test_parts_and_csv(tmp_path, capsys):
    manifest = pa.table({"id": ["a", "b", "c"], "country": ["AT"] * 3, "counts": [[1] * 11, [1] + [0] * 10, [2] * 11]})
    split = [
        {"id": i, "part": p, "group": "g"} for i, p in (("a", "train"), ("b", "train"), ("c", "test"), ("z", "val"))
    ]
    names = taxonomy.load("eurocrops10")
    found = stats.parts(manifest, split, names)
    assert found.rows[0] == ("train", 2, 66.667, 2, *[1] * 10)
    assert found.rows[1][:3] == ("test", 1, 33.333)
    stats.write_and_show([stats.countries(manifest), found], tmp_path)
    assert "Table 2" in capsys.readouterr().out
    rows = list(csv.reader((tmp_path / "parts.csv").read_text().splitlines()))
    assert rows[0][:3] == ["part", "patches", "percent"]
    assert rows[1][:3] == ["train", "2", "66.667"]


def test_an_empty_manifest():
    empty = pa.table({"country": pa.array([], pa.string()), "counts": pa.array([], pa.list_(pa.int64()))})
    assert stats.classes(empty, taxonomy.load("eurocrops10")).rows[0][2:] == (0, 0.0, 0, 0.0)
