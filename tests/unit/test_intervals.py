"""Intervals over places against a loop that draws places one by one, and against ground that is made anew."""

import time

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from cropseg.core.errors import ConfigError, InputError
from cropseg.intervals import FITTED_ONLY, bootstrap, compare, compare_all, drop, holm, intervals
from cropseg.metrics import scores, stack_scores
from cropseg.redraw import SCORES


def ground(random, places=30, classes=4, right=0.7, spread=0.1, pixels=200):
    """A confusion matrix a place; how often a model is right differs from place to place."""
    found = {}
    for place in range(places):
        share = np.clip(random.normal(right, spread), 0.01, 0.99)
        truth = random.multinomial(pixels, np.full(classes, 1 / classes))
        matrix = np.zeros((classes, classes), np.int64)
        for row, count in enumerate(truth):
            chances = np.full(classes, (1 - share) / (classes - 1))
            chances[row] = share
            matrix[row] = random.multinomial(count, chances)
        found[f"p{place:03}"] = matrix
    return found


@pytest.mark.parametrize("protocol", ["all", "crop"])
@pytest.mark.parametrize("score", ["miou", "miou_present", "pixel_accuracy"])
def test_equals_a_loop_over_places(score, protocol):
    places = ground(np.random.default_rng(1), places=12)
    found = bootstrap(places, score, protocol, draws=300, level=0.9, seed=5)
    names = sorted(places)
    drawn = []
    for counts in np.random.default_rng(5).multinomial(12, np.full(12, 1 / 12), size=300):
        total = sum(int(n) * places[name] for n, name in zip(counts, names, strict=True))
        drawn.append(scores(total, protocol)[score])
    assert found.value == scores(sum(places.values()), protocol)[score]
    reach = scipy.stats.t.ppf(0.95, 11) * np.std(drawn, ddof=1) * np.sqrt(12 / 11)
    assert (found.low, found.high) == pytest.approx((found.value - reach, found.value + reach))
    assert (found.clusters, found.level) == (12, 0.9)
    assert found.low <= found.value <= found.high


def test_holds_the_truth_about_as_often_as_it_says():
    """Ground is made anew many times; the score of much ground is the truth."""
    random = np.random.default_rng(3)
    truth = scores(sum(ground(random, places=4000).values()), "all")["pixel_accuracy"]
    inside = 0
    for _ in range(40):
        one = bootstrap(ground(random, places=40), "pixel_accuracy", draws=100)
        inside += one.low <= truth <= one.high
    assert 33 <= inside <= 40


def test_order_of_places_and_their_splitting_into_dates_do_not_matter():
    places = ground(np.random.default_rng(0))
    backwards = dict(reversed(places.items()))
    assert bootstrap(places, draws=200) == bootstrap(backwards, draws=200)


def test_few_places_are_refused():
    places = ground(np.random.default_rng(0), places=9)
    with pytest.raises(InputError, match="too few places for an interval: 9"):
        bootstrap(places)
    with pytest.raises(InputError, match="too few places"):
        compare([places], [places])


@pytest.mark.parametrize(
    "options", [{"draws": 0}, {"level": 1.0}, {"level": 0.0}, {"score": "iou"}, {"score": "nonsense"}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        bootstrap(ground(np.random.default_rng(0)), **options)


def test_places_without_a_pixel_that_counts_are_not_counted():
    some = ground(np.random.default_rng(0), places=12)
    assert bootstrap({**some, "empty": np.zeros((4, 4), np.int64)}, draws=100).clusters == 12
    for name in sorted(some)[:3]:
        some[name][1:] = 0  # background alone
    assert bootstrap(some, draws=100).clusters == 12
    with pytest.raises(InputError, match="too few places for an interval: 9"):
        bootstrap(some, protocol="crop", draws=100)


def test_pairing_sees_a_small_difference_that_two_intervals_hide():
    """Both models find the same places hard; one is right a little more often everywhere."""
    random = np.random.default_rng(4)
    worse = ground(random, places=40, spread=0.2, pixels=1000)
    better = {}
    for name, matrix in worse.items():
        moved = (matrix * ~np.eye(4, dtype=bool) * 0.15).astype(np.int64)
        better[name] = matrix - moved + np.diag(moved.sum(axis=1))
    one, other = (bootstrap(places, "pixel_accuracy", draws=200) for places in (better, worse))
    assert one.low < other.high
    found = compare([better], [worse], "pixel_accuracy", draws=200)
    assert found.low > 0
    assert found.p < 0.05
    assert found.label == FITTED_ONLY
    turned = compare([worse], [better], "pixel_accuracy", draws=200)
    assert (turned.difference, turned.low, turned.high) == pytest.approx((-found.difference, -found.high, -found.low))


def test_seeds_widen_the_interval_and_change_what_may_be_said():
    runs = [ground(np.random.default_rng(9), right=right) for right in (0.6, 0.7, 0.8)]
    others = [ground(np.random.default_rng(9), right=right) for right in (0.62, 0.71, 0.79)]
    found = compare(runs, others, "pixel_accuracy", draws=200)
    assert found.label != FITTED_ONLY
    assert found.seeds == (3, 3)
    assert found.low < 0 < found.high
    alone = compare(runs[:1], others[:1], "pixel_accuracy", draws=200)
    assert found.high - found.low > alone.high - alone.low


def test_the_same_model_has_no_difference():
    places = ground(np.random.default_rng(0))
    found = compare([places], [places], draws=200)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_other_places_are_refused_by_name():
    places = ground(np.random.default_rng(0))
    less = {name: matrix for name, matrix in places.items() if name != "p003"}
    with pytest.raises(InputError, match="p003"):
        compare([places], [less])
    with pytest.raises(ConfigError, match="at least one run"):
        compare([places], [])


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(min_size=1), st.floats(0, 1), max_size=8))
def test_holm_equals_its_definition(p_values):
    found = holm(p_values)
    assert list(found) == list(p_values)
    ordered = sorted(p_values.values())
    for name, p in p_values.items():
        # The largest of (m - j + 1) p_(j) over all that are not larger, at most 1.
        m = len(ordered)
        wanted = max(min(1.0, (m - j) * q) for j, q in enumerate(ordered) if q <= p)
        assert found[name] == pytest.approx(wanted)


def test_holm_refuses_what_is_no_probability():
    with pytest.raises(ConfigError, match=r"1\.2"):
        holm({"a": 0.1, "b": 1.2})


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([2, 3, 6]).flatmap(
        lambda n: st.lists(
            st.lists(st.integers(0, 3) | st.integers(0, 2**40), min_size=n * n, max_size=n * n), min_size=1, max_size=4
        ).map(lambda rows: np.array(rows, dtype=np.int64).reshape(-1, n, n))
    ),
    st.sampled_from(["all", "crop"]),
)
def test_scores_of_a_stack_are_those_of_each_matrix(stack, protocol):
    for whole in (stack, stack.astype(np.float64), stack[:, None]):
        found = stack_scores(whole, protocol)
        for i, matrix in enumerate(stack):
            one = scores(matrix, protocol)
            for key in (*SCORES, "iou", "accuracy"):
                assert found[key][i].ravel() == pytest.approx(np.ravel(one[key]), abs=1e-12, nan_ok=True), key


def test_a_stack_without_background_and_broken_ones():
    stack = np.random.default_rng(0).integers(0, 9, (5, 3, 3))
    found = stack_scores(stack, background=None)
    assert found["miou_foreground"] == pytest.approx([scores(one, background=None)["miou_foreground"] for one in stack])
    with pytest.raises(InputError, match="square"):
        stack_scores(np.zeros((4, 3, 2)))
    with pytest.raises(ConfigError, match="protocol"):
        stack_scores(stack, "some")
    with pytest.raises(ConfigError, match="needs a background"):
        stack_scores(stack, "crop", background=None)


@pytest.mark.parametrize("protocol", ["all", "crop"])
def test_every_mean_and_every_class_at_once(protocol):
    places = ground(np.random.default_rng(2), places=14)
    places["p000"][:, 0] += 3
    for name in sorted(places)[:5]:
        places[name][3] = 0  # a class on nine places: too few for an interval of its own
    found = intervals([places], protocol, draws=150)
    for key in SCORES:
        assert found.means[key] == bootstrap(places, key, protocol, draws=150)
    whole = scores(sum(places.values()), protocol)
    assert [one.value for one in found.iou] == pytest.approx(whole["iou"])
    assert [one.clusters for one in found.iou] == [14 if protocol == "all" else 0, 14, 14, 9]
    assert np.isnan([found.iou[3].low, found.iou[3].high]).all()
    drawn = []
    for counts in np.random.default_rng(0).multinomial(14, np.full(14, 1 / 14), size=150):
        total = sum(int(n) * places[name] for n, name in zip(counts, sorted(places), strict=True))
        drawn.append(scores(total, protocol)["iou"][2])
    reach = scipy.stats.t.ppf(0.975, 13) * np.std(drawn, ddof=1) * np.sqrt(14 / 13)
    assert found.iou[2].high - found.iou[2].value == pytest.approx(reach)


def test_huge_counts_and_many_places_in_pieces_change_nothing(monkeypatch):
    places = ground(np.random.default_rng(2), places=12)
    expected = bootstrap(places, draws=130)
    monkeypatch.setattr("cropseg.redraw.AT_ONCE", 100)
    assert bootstrap(places, draws=130) == expected
    huge = {name: matrix * 10**13 for name, matrix in places.items()}  # beyond what floats hold exactly
    found = bootstrap(huge, draws=130)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_a_drop_is_the_difference_of_two_independent_draws():
    inner = ground(np.random.default_rng(1), places=20, right=0.8)
    outer = {f"q{name}": matrix for name, matrix in ground(np.random.default_rng(2), places=15, right=0.6).items()}
    found = drop([inner], [outer], draws=800)
    one, other = (bootstrap(places, "pixel_accuracy", draws=800) for places in (inner, outer))
    fall = found.means["pixel_accuracy"]
    assert fall.value == pytest.approx(one.value - other.value)
    assert fall.clusters == 15
    assert fall.low > 0
    assert found.means["common"].value == pytest.approx(found.means["miou"].value)
    # Variances of independent draws add up.
    assert fall.high - fall.low == pytest.approx(np.hypot(one.high - one.low, other.high - other.low), rel=0.15)
    for matrix in outer.values():
        matrix[2] = 0
    found = drop([inner], [outer], draws=200)
    gaps = [found.iou[i].value for i in (0, 1, 3)]
    assert found.means["common"].value == pytest.approx(np.mean(gaps))
    assert found.means["common"].low < np.mean(gaps) < found.means["common"].high
    assert found.iou[2].clusters == 0
    with pytest.raises(ConfigError, match="same seeds"):
        drop([inner], [outer, outer])
    with pytest.raises(InputError, match="same classes"):
        drop([inner], [ground(np.random.default_rng(2), classes=3)])


def test_three_seeds_widen_the_interval_of_a_model_and_two_do_not():
    runs = [ground(np.random.default_rng(9), right=right) for right in (0.5, 0.7, 0.9)]
    alone = intervals(runs[:1], draws=200).means["pixel_accuracy"]
    two, three = (intervals(runs[:n], draws=200).means["pixel_accuracy"] for n in (2, 3))
    assert (alone.seeds, two.seeds, three.seeds) == (1, 2, 3)
    assert three.high - three.low > 2 * (two.high - two.low)
    assert three.value == pytest.approx(np.mean([scores(sum(run.values()))["pixel_accuracy"] for run in runs]))


def test_scatter_of_seeds_and_of_places_are_put_together_by_satterthwaite():
    """Welch's test is the case of equal places: then the seeds alone scatter."""
    one = ground(np.random.default_rng(1), places=10, spread=0.0, pixels=100)
    alike = {name: one["p000"] for name in one}
    sides = []
    for moved in ((0, 4, 9), (14, 15, 22, 31)):
        side = []
        for right in moved:
            matrix = one["p000"].copy()
            matrix[0] += [right, 40 - right, 0, 0]
            side.append(dict.fromkeys(alike, matrix))
        sides.append(side)
    found = compare(*sides, "pixel_accuracy", draws=100)
    values = [[scores(run["p000"])["pixel_accuracy"] for run in side] for side in sides]
    welch = scipy.stats.ttest_ind(*values, equal_var=False)
    assert found.p == pytest.approx(welch.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(welch.confidence_interval()))


def test_ends_stay_where_a_score_can_lie():
    places = ground(np.random.default_rng(0), places=10, right=0.99, spread=0.0, pixels=30)
    found = intervals([places], draws=200)
    ends = [end for one in (*found.means.values(), *found.iou) for end in (one.low, one.high)]
    assert 0 <= min(ends) <= max(ends) <= 1


def test_all_pairs_at_once_are_the_pairs_one_by_one():
    models = [[ground(np.random.default_rng(9), right=right)] for right in (0.6, 0.65, 0.7)]
    found = compare_all(models, draws=150)
    assert set(found) == {(0, 1), (0, 2), (1, 2)}
    for (i, j), one in found.items():
        assert one == compare(models[i], models[j], draws=150)


def test_two_thousand_draws_of_five_hundred_places_take_no_time():
    random = np.random.default_rng(0)
    places = {f"p{n}": random.integers(0, 60_000, (11, 11)) for n in range(500)}
    begun = time.process_time()
    intervals([places], draws=2000)
    assert time.process_time() - begun < 2.0
