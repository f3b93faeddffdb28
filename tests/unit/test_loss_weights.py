"""Class weights by formulas: against scikit-learn, cases by hand, and what a class without pixels gets."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from cropseg.core.errors import ConfigError, InputError
from cropseg.losses import (
    CrossEntropy,
    Dice,
    Focal,
    WeightedSum,
    effective_number,
    inverse_frequency,
    inverse_sqrt_frequency,
    median_frequency,
)
from cropseg.losses.weights import FORMULAS, compute

COUNTS = [[60, 40, 0, 0], [0, 10, 90, 0], [50, 0, 0, 0]]  # three patches, four classes, the last without a pixel


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=2, max_size=6))
def test_inverse_frequency_is_scikit_learns_balanced(n):
    labels = np.repeat(np.arange(len(n)), n)
    expected = compute_class_weight("balanced", classes=np.arange(len(n)), y=labels)
    np.testing.assert_allclose(compute(inverse_frequency, n), expected)
    np.testing.assert_allclose(compute(inverse_sqrt_frequency, n), np.sqrt(expected))


def test_median_frequency_counts_only_patches_that_hold_the_class():
    # Frequencies 110/150, 50/200, 90/100: the median is 110/150.
    frequency = np.array([110 / 150, 50 / 200, 90 / 100])
    np.testing.assert_allclose(compute(median_frequency, COUNTS), [*(110 / 150 / frequency), 0])
    # Of the whole part alone it is the ratio of counts.
    np.testing.assert_allclose(compute(median_frequency, [10, 20, 40]), [2, 1, 0.5])


def test_effective_number_by_its_formula_and_at_both_ends():
    n, beta = np.array([5, 20, 100]), 0.9
    expected = (1 - beta) / (1 - beta**n)
    np.testing.assert_allclose(compute(partial(effective_number, beta=beta), n), expected * 3 / expected.sum())
    np.testing.assert_allclose(compute(partial(effective_number, beta=0), n), [1, 1, 1])
    inverse = np.array(compute(inverse_frequency, n))
    close = compute(partial(effective_number, beta=1 - 1e-12), n)
    np.testing.assert_allclose(close, inverse * 3 / inverse.sum(), rtol=1e-3)
    assert np.isfinite(compute(effective_number, [1, 10**10])).all()


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_rarer_is_heavier_and_a_class_without_pixels_weighs_nothing(formula):
    weights = compute(formula, [[1000, 0, 10, 5000]])
    assert weights[1] == 0
    assert weights[2] > weights[0] > weights[3] > 0
    assert compute(formula, [[1000, 10, 5000]]) == [weight for weight in weights if weight]  # as if it were not there


@pytest.mark.parametrize("name", FORMULAS)
def test_a_loss_computes_its_weights_once_it_knows_the_training_part(name, capsys):
    loss = WeightedSum({"ce": CrossEntropy(name), "dice": Dice()}, {"ce": 1, "dice": 1})
    loss.resolve(COUNTS)
    weights = compute(FORMULAS[name], COUNTS)
    np.testing.assert_allclose(loss.describe()["terms"]["ce"]["weights"], weights, rtol=1e-6)
    said = capsys.readouterr().out
    assert f"class weights of CrossEntropy, {name} of the training part: {weights[0]:.3g}, " in said
    assert said.strip().endswith("0 for classes without a pixel there: 3")
    assert said.count("\n") == 1


def test_resolved_weights_are_used():
    g = torch.Generator().manual_seed(0)
    logits, target = torch.randn(2, 4, 5, 5, generator=g), torch.randint(0, 4, (2, 5, 5), generator=g)
    for kind in (CrossEntropy, Focal):
        named, given_ = kind(weights="median_frequency"), kind(weights=compute(median_frequency, COUNTS))
        with pytest.raises(ConfigError, match=r"call loss\.resolve"):
            named(logits, target)
        named.resolve(COUNTS)
        assert torch.equal(named(logits, target), given_(logits, target))


def test_given_weights_stay_and_nothing_is_said(capsys):
    loss = CrossEntropy([1, 2, 3, 4])
    loss.resolve(COUNTS)
    assert loss.describe()["weights"] == [1, 2, 3, 4]
    assert capsys.readouterr().out == ""


def test_options_bound_to_a_formula_are_said(capsys):
    CrossEntropy(partial(effective_number, beta=0.5)).resolve(COUNTS)
    assert "effective_number(beta=0.5)" in capsys.readouterr().out


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="inverse_frequency, inverse_sqrt_frequency, median_frequency, effective"):
        CrossEntropy("balanced")
    with pytest.raises(ConfigError, match="beta"):
        CrossEntropy(partial(effective_number, beta=1.0)).resolve(COUNTS)
    with pytest.raises(ConfigError, match="above 0"):
        CrossEntropy(lambda counts: -counts.sum(axis=0).astype(float)).resolve(COUNTS)
    with pytest.raises(InputError, match="no labelled pixel"):
        CrossEntropy("median_frequency").resolve([[0, 0], [0, 0]])


@pytest.mark.parametrize("weights", [3, True, 0.5])
def test_class_weights_are_a_list(weights):
    with pytest.raises(ConfigError, match=r"class weights of a loss must be a list: .*inverse_frequency"):
        CrossEntropy(weights)


@pytest.mark.parametrize("wrong", ["abc", None, True])
def test_class_weights_and_beta_are_numbers(wrong):
    with pytest.raises(ConfigError, match="class weights must be numbers of at least 0"):
        Focal(weights=[1.0, wrong])
    with pytest.raises(ConfigError, match="beta of effective_number must be a number"):
        compute(partial(effective_number, beta=wrong), [1, 2])
