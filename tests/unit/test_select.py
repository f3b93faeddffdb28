"""Choosing patches: rare crops stay, what dominates is limited, and the order of the rows is of no account."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropseg.core.errors import ConfigError
from data_prep.select import ClassAware, KeepAll, limit_patches

RARE = (3, 4)


def table(counts) -> pa.Table:
    return pa.table({"id": [f"p{i:03d}" for i in range(len(counts))], "counts": [list(map(int, c)) for c in counts]})


@st.composite
def pools(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.integers(1, 60))
    return table(random.integers(0, 100, (n, 5)) * random.integers(0, 2, (n, 5)))


@settings(max_examples=40, deadline=None)
@given(pools(), st.integers(1, 70), st.randoms(use_true_random=False))
def test_budget_limits_and_order(pool, budget, shuffler):
    chooser = ClassAware(budget=budget)
    found = chooser.select(pool, RARE)
    rows = {r["id"]: np.array(r["counts"]) for r in pool.to_pylist()}
    assert sorted([*found.kept, *(i for i, _ in found.dropped)]) == sorted(rows)
    assert len(found.kept) <= budget
    size = min(budget, len(rows))
    share = {i: c / max(c.sum(), 1) for i, c in rows.items()}
    common = [i for i in found.kept if share[i][list(RARE)].max() < 0.01]
    for crop in range(5):
        assert sum(share[i][crop] >= 0.6 for i in common) <= 0.3 * size
    rare = {i for i in rows if share[i][list(RARE)].max() >= 0.01}
    assert len(rare & set(found.kept)) == min(budget, len(rare))  # rare crops come before everything else
    order = list(range(pool.num_rows))
    shuffler.shuffle(order)
    assert chooser.select(pool.take(order), RARE) == found


def test_reasons_name_the_limit():
    pool = table([[90, 10, 0, 0, 0]] * 10 + [[0, 10, 0, 90, 0]] * 2 + [[0, 95, 5, 0, 0]] * 8)
    found = ClassAware().select(pool, RARE)
    reasons = {reason for _, reason in found.dropped}
    assert reasons == {
        "over the limit of 6 patches that background dominates", "over the limit of 6 patches that class 1 dominates",
    }  # fmt: skip
    assert len(found.kept) == 14


def test_keep_all_and_nothing():
    pool = table([[1, 0, 0, 0, 0]] * 3)
    assert KeepAll().select(pool, RARE).kept == ("p000", "p001", "p002")
    assert ClassAware().select(pool.slice(0, 0), RARE).kept == ()


@pytest.mark.parametrize("values", [{"dominance": 2}, {"max_background": -0.1}, {"budget": 0}])
def test_impossible_values(values):
    with pytest.raises(ConfigError):
        ClassAware(**values)


def patches() -> pa.Table:
    rows = [
        {"id": f"{roi}{product}{i}", "subset": "s", "roi": roi, "product": product, "nodata_fraction": 0.0,
         "scl_invalid_fraction": [0.1, float("nan"), 0.05][i], "foreground_fraction": 0.5}
        for roi in "ab" for product in "xy" for i in range(3)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def test_limits_an_roi_and_a_product_keep_the_clearest():
    assert len(limit_patches(patches(), per_roi=None, per_product=None).kept) == 12
    found = limit_patches(patches(), per_roi=2, per_product=None)
    assert found.kept == ("ax1", "ay1", "bx1", "by1")
    assert {reason for _, reason in found.dropped} == {"over the limit of 2 patches an ROI"}
    found = limit_patches(patches(), per_roi=4, per_product=1)
    assert found.kept == ("ax1", "ay1")
    with pytest.raises(ConfigError, match="per_roi"):
        limit_patches(patches(), per_roi=0, per_product=None)
