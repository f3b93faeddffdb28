import json

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cropseg.area import Sample, allocate, estimate, sample_size
from cropseg.area_points import read_sample
from cropseg.area_report import report_areas
from cropseg.core.errors import ConfigError, InputError, MismatchError

# Olofsson et al. (2014), table 8: rows map, columns reference; deforestation, forest gain, stable forest, non-forest.
COUNTS = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])


def sample_of(counts, pixels, **changes):
    mapped, reference = (np.repeat(axis.ravel(), counts.ravel()) for axis in np.indices(counts.shape))
    inclusion = (counts.sum(axis=1) / pixels)[mapped]
    names = tuple("abcdefgh"[: len(counts)])
    values = {"classes": names, "stratum": mapped, "mapped": mapped, "reference": reference, "inclusion": inclusion}
    return Sample(**{**values, "pixel_ha": 0.09, **changes})


def half(estimates):
    return [one.high - one.value for one in estimates]


def test_worked_example_of_the_paper():
    found = estimate(sample_of(COUNTS, PIXELS))
    assert [round(one.value, 2) for one in found.users] == [0.88, 0.73, 0.93, 0.96]
    assert [round(one, 2) for one in half(found.users)] == [0.07, 0.10, 0.04, 0.02]
    assert [round(one.value, 2) for one in found.producers] == [0.75, 0.85, 0.93, 0.96]
    assert [round(one, 2) for one in half(found.producers)] == [0.21, 0.25, 0.03, 0.02]
    assert (round(found.overall.value, 2), round(half([found.overall])[0], 2)) == (0.95, 0.02)
    assert [round(one.value) for one in found.area_ha] == [21158, 11686, 285770, 581386]
    assert half(found.area_ha) == pytest.approx([6158, 3756, 15510, 16282], abs=1)
    assert found.shares.sum() == pytest.approx(1)
    assert sum(one.value for one in found.area_ha) == pytest.approx(900_000)
    assert found.mapped_ha == pytest.approx(PIXELS * 0.09)


def test_sample_size_and_allocation_of_the_paper():
    assert sample_size(PIXELS / PIXELS.sum(), [0.7, 0.6, 0.9, 0.95], 0.01) == 641
    assert allocate(PIXELS, 641, 75)[:2] == [75, 75]
    # The paper rounds the two large strata to 165 and 325.
    assert allocate(PIXELS, 641, 75)[2:] == pytest.approx([165, 325], abs=3)
    with pytest.raises(ConfigError, match="target_se"):
        sample_size([1.0], [0.9], 0)


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=8), st.integers(0, 2000), st.integers(2, 80))
def test_allocation_gives_each_stratum_its_least_and_no_more_than_it_has(pixels, total, per_class):
    got = allocate(pixels, total, per_class)
    least = [min(per_class, size) for size in pixels]
    assert all(low <= n <= size for low, n, size in zip(least, got, pixels, strict=True))
    assert sum(got) <= max(total, sum(least)) + len(pixels)
    if sum(pixels) >= total:
        assert sum(got) >= min(total, sum(pixels)) - len(pixels)


def test_estimates_are_unbiased_and_intervals_cover_by_brute_force():
    random = np.random.default_rng(5)
    mapped = random.choice(3, 60_000, p=[0.7, 0.25, 0.05])
    wrong = random.random(60_000) < np.array([0.05, 0.2, 0.3])[mapped]
    truth = np.where(wrong, random.integers(0, 3, 60_000), mapped)
    places = [np.flatnonzero(mapped == i) for i in range(3)]
    sizes = np.array([len(one) for one in places])
    n = np.array([120, 80, 50])
    target = np.bincount(truth, minlength=3) / 100
    values, ses, covered = [], [], []
    for _ in range(400):
        taken = np.concatenate([random.choice(one, k, replace=False) for one, k in zip(places, n, strict=True)])
        stratum = mapped[taken]
        sample = Sample(("a", "b", "c"), stratum, stratum, truth[taken], (n / sizes)[stratum], 0.01)
        found = estimate(sample).area_ha
        values.append([one.value for one in found])
        ses.append([one.se for one in found])
        covered.append([one.low <= goal <= one.high for one, goal in zip(found, target, strict=True)])
    spread = np.std(values, axis=0)
    np.testing.assert_allclose(np.mean(values, axis=0), target, atol=4 * (spread / 20).max())
    np.testing.assert_allclose(np.mean(ses, axis=0), spread, rtol=0.12)
    assert (np.mean(covered, axis=0) > 0.9).all()


def test_clusters_widen_the_intervals_as_their_points_agree():
    random = np.random.default_rng(2)
    errors, naive, aware = [], [], []
    for _ in range(150):
        # 40 clusters of 10 points each, all points of a cluster right or wrong together: 40 draws, not 400.
        right = np.repeat(random.random(40) < 0.8, 10)
        mapped = np.zeros(400, dtype=np.int64)
        columns = {"classes": ("a", "b"), "stratum": mapped, "mapped": mapped, "reference": 1 - right.astype(np.int64)}
        columns |= {"inclusion": np.full(400, 1e-3), "pixel_ha": 0.01}
        errors.append(right.mean() - 0.8)
        naive.append(estimate(Sample(**columns)).overall.se)
        found = estimate(Sample(**columns, cluster=np.repeat(np.arange(40), 10)))
        aware.append(found.overall.se)
    assert found.clusters == 40
    assert np.mean(aware) == pytest.approx(np.std(errors), rel=0.15)
    assert np.mean(aware) / np.mean(naive) == pytest.approx(np.sqrt(10), rel=0.05)


def test_single_points_as_clusters_change_nothing_but_the_quantile():
    sample = sample_of(COUNTS, PIXELS)
    single = estimate(sample_of(COUNTS, PIXELS, cluster=np.arange(len(sample.mapped))))
    assert single.overall.se == pytest.approx(estimate(sample).overall.se)
    assert single.overall.high > estimate(sample).overall.high
    crossing = estimate(sample_of(COUNTS, PIXELS, cluster=np.arange(len(sample.mapped)) % 60))
    assert crossing.clusters == 60
    with pytest.raises(InputError, match="too few clusters"):
        estimate(sample_of(COUNTS, PIXELS, cluster=np.arange(len(sample.mapped)) % 9))


def test_impossible_samples_are_refused():
    with pytest.raises(InputError, match="single point"):
        sample_of(np.array([[1, 0], [3, 4]]), np.array([10, 10]))
    with pytest.raises(InputError, match="inclusion"):
        sample_of(COUNTS, PIXELS, inclusion=np.zeros(COUNTS.sum()))


def points(folder, change=lambda frame: frame, name="p.gpkg"):
    """The paper's sample as a file."""
    sample = sample_of(COUNTS, PIXELS)
    names = np.array(sample.classes)
    columns = {"stratum": names[sample.stratum], "map_class": names[sample.mapped], "inclusion": sample.inclusion}
    columns |= {"reference": names[sample.reference], "pixel_m2": 900.0, "stratum_pixels": PIXELS[sample.stratum]}
    frame = gpd.GeoDataFrame(columns, geometry=gpd.points_from_xy(sample.mapped, sample.mapped), crs="EPSG:3035")
    change(frame).to_file(folder / name, layer="points")
    return folder / name


def test_a_filled_file_gives_the_same_and_is_stored(tmp_path, capsys):
    path = points(tmp_path)
    found = report_areas(path)
    assert [round(one.value) for one in found.area_ha] == [21158, 11686, 285770, 581386]
    stored = json.loads((tmp_path / "p.area.json").read_text())
    assert stored["counts"] == COUNTS.tolist()
    assert "21,157.8 ± 6,157.5" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="out is the sample itself"):
        report_areas(path, path.parent / "." / path.name)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda f: f.drop(columns="inclusion"), MismatchError, "no known inclusion probabilities"),
        (lambda f: f.drop(columns="pixel_m2"), InputError, "pixel_m2"),
        (lambda f: f.assign(reference=f["reference"].where(f.index > 2)), InputError, "3 of 640"),
        (lambda f: f.iloc[5:], InputError, "was drawn with 75 points"),
        (lambda f: f.assign(pixel_m2=np.arange(640.0)), InputError, "pixel_m2"),
    ],
)
def test_files_that_allow_no_estimate_are_refused(tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        read_sample(points(tmp_path, change))


def test_convenience_sets_are_refused_with_the_reason(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "manifest.parquet").write_bytes(b"")
    for path in (tmp_path / "set", tmp_path / "unseen.json"):
        with pytest.raises(MismatchError, match="drawn at random with known probability"):
            read_sample(path)
    with pytest.raises(InputError, match="no such file"):
        read_sample(tmp_path / "gone.gpkg")
    (tmp_path / "junk.gpkg").write_bytes(b"junk")
    with pytest.raises(InputError, match="no file of points"):
        read_sample(tmp_path / "junk.gpkg")


def test_layers_that_qgis_adds_are_passed_over(tmp_path):
    path = points(tmp_path)
    pyogrio.write_dataframe(pd.DataFrame({"styleName": ["x"]}), path, layer="layer_styles", driver="GPKG")
    assert len(read_sample(path).mapped) == 640
    gpd.read_file(path, layer="points").to_file(path, layer="more")
    with pytest.raises(InputError, match="one layer of points"):
        read_sample(path)


def test_a_class_that_no_point_has_is_not_said_to_be_absent(tmp_path, capsys):
    path = points(tmp_path, lambda f: f.assign(reference=f["reference"].replace("b", "a")))
    report_areas(path)
    out = capsys.readouterr().out
    assert "none found" in out
    assert "not that none would" in out
    with pytest.raises(ConfigError, match="sample is not set"):
        report_areas(None)


def test_what_no_spread_says_depends_on_the_value(tmp_path, capsys):
    agreed, disagreed = "1.000 ± 0.000 says that no point disagreed", "0.000 ± 0.000 says that no point agreed"
    others = "± 0.000 at other values says that the points of each stratum were alike"
    for change, said in (
        (lambda f: f, ()),
        (lambda f: f.assign(reference=f["map_class"]), (agreed,)),
        (lambda f: f.assign(reference=f["map_class"].map(dict(zip("abcd", "badc", strict=True)))), (disagreed,)),
        # All of b is of a class that is never mapped: only the overall accuracy is another value.
        (lambda f: f.assign(reference=f["map_class"].replace("b", "e")), (agreed, disagreed, others)),
        # All of b is a: of a's truth the share of its stratum is mapped so, without spread.
        (lambda f: f.assign(reference=f["map_class"].replace("b", "a")), (agreed, disagreed, others)),
    ):
        report_areas(points(tmp_path, change))
        out = " ".join(capsys.readouterr().out.split())
        assert tuple(text for text in (agreed, disagreed, others) if text in out) == said


def test_areas_that_only_points_tell_are_not_said_to_be_counted(tmp_path, capsys):
    report_areas(points(tmp_path))
    report_areas(points(tmp_path, lambda f: f.assign(map_class=f["reference"]), "crossing.gpkg"))
    out = capsys.readouterr().out.replace("\n", " ")
    assert "by the points" in out.partition("crossing.gpkg")[2]
    assert "by the points" not in out.partition("crossing.gpkg")[0]


@pytest.mark.parametrize("values", [{"sample": 5}, {"sample": ["a"]}, {"sample": "p.gpkg", "out": 5}])
def test_what_is_no_path_is_told(values):
    with pytest.raises(ConfigError, match=r"(sample|out) must be a path: (5|\['a'\])\. give the path"):
        report_areas(**values)


def by_the_equations(counts, pixels):
    """Equations 5, 6, 7 and 10 of the paper as they are printed: standard errors from the error matrix."""
    n_i, w = counts.sum(axis=1), pixels / pixels.sum()
    p = counts / n_i[:, None]
    users = np.diagonal(p)
    overall = np.sqrt((w**2 * users * (1 - users) / (n_i - 1)).sum())
    true = (pixels[:, None] * p).sum(axis=0)
    share = pixels * users / true
    producers = []
    for j in range(len(counts)):
        other = np.arange(len(counts)) != j
        own = pixels[j] ** 2 * (1 - share[j]) ** 2 * users[j] * (1 - users[j]) / (n_i[j] - 1)
        rest = share[j] ** 2 * (pixels**2 * p[:, j] * (1 - p[:, j]) / (n_i - 1))[other].sum()
        producers.append(np.sqrt(own + rest) / true[j])
    areas = np.sqrt((w[:, None] ** 2 * p * (1 - p) / (n_i - 1)[:, None]).sum(axis=0))
    return overall, np.sqrt(users * (1 - users) / (n_i - 1)), producers, areas


@given(
    st.lists(st.lists(st.integers(1, 40), min_size=4, max_size=4), min_size=4, max_size=4),
    st.lists(st.integers(10**3, 10**8), min_size=4, max_size=4),
)
def test_ratios_are_the_paper_s_equations(counts, pixels):
    counts, pixels = np.array(counts), np.array(pixels, dtype=np.float64)
    found = estimate(sample_of(counts, pixels))
    overall, users, producers, areas = by_the_equations(counts, pixels)
    assert found.overall.se == pytest.approx(overall)
    assert [one.se for one in found.users] == pytest.approx(users.tolist())
    assert [one.se for one in found.producers] == pytest.approx(producers)
    assert [one.se for one in found.area_ha] == pytest.approx((areas * pixels.sum() * 0.09).tolist())


def test_strata_need_not_be_the_classes():
    random = np.random.default_rng(8)
    region = np.repeat([0, 1, 2], [30_000, 20_000, 10_000])
    truth = (random.random(60_000) < np.array([0.1, 0.5, 0.8])[region]).astype(np.int64)
    mapped = np.where(random.random(60_000) < 0.15, 1 - truth, truth)
    goal = truth.sum() / 100, ((mapped == 1) & (truth == 1)).sum() / truth.sum()
    areas, shares = [], []
    for _ in range(300):
        taken = np.concatenate([random.choice(np.flatnonzero(region == i), 60, replace=False) for i in range(3)])
        stratum = region[taken]
        inclusion = 60 / np.array([30_000, 20_000, 10_000])[stratum]
        found = estimate(Sample(("no", "yes"), stratum, mapped[taken], truth[taken], inclusion, 0.01))
        areas.append((found.area_ha[1].value, found.area_ha[1].se))
        shares.append((found.producers[1].value, found.producers[1].se))
    for values, target in zip((np.array(areas), np.array(shares)), goal, strict=True):
        assert values[:, 0].mean() == pytest.approx(target, rel=0.02)
        assert values[:, 1].mean() == pytest.approx(values[:, 0].std(), rel=0.15)


def test_a_stratum_of_one_pixel_is_known():
    found = estimate(sample_of(np.array([[40, 10], [0, 1]]), np.array([10_000, 1])))
    assert found.users[1] is not None
    assert found.users[1].se == 0
    assert found.area_ha[1].value == pytest.approx((10_000 / 5 + 1) * 0.09)
