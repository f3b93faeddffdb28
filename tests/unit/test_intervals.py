"""Intervals over places against a loop that draws places one by one, and against ground that is made anew."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropseg.core.errors import ConfigError, InputError
from cropseg.intervals import FITTED_ONLY, bootstrap, compare, holm
from cropseg.metrics import scores


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
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.05, 0.95])))
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


def test_a_score_that_does_not_exist_gives_no_interval():
    nothing = {f"p{n}": np.zeros((3, 3), np.int64) for n in range(10)}
    found = bootstrap(nothing, "miou_present", draws=100)
    assert np.isnan([found.value, found.low, found.high]).all()


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
