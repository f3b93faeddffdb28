"""Drawing of patches: frequencies against brute force, and what depends on what."""

import numpy as np
import pytest
from factory import make_dataset
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.ensemble import RandomForestClassifier

from cropseg.core.errors import ConfigError, InputError
from cropseg.data.datamodule import CropDataModule
from cropseg.data.dataset import EpochSampler
from cropseg.data.sampling import ClassBalanced, EachOnce, RareClass
from cropseg.learners.forest_learner import ForestLearner
from cropseg.models.forest import Sampling

COUNTS = np.array([[90, 10, 0, 0], [50, 0, 50, 0], [100, 0, 0, 0], [0, 99, 1, 0], [0, 0, 0, 0], [0, 100, 0, 0]])


def counts_strategy():
    return arrays(np.int64, st.tuples(st.integers(1, 12), st.integers(2, 6)), elements=st.integers(0, 40))


def drawn_pixel_by_pixel(counts, first):
    """Probability of each patch, by listing every pixel of every class."""
    classes = [c for c in range(first, counts.shape[1]) if counts[:, c].any()]
    found = np.zeros(len(counts))
    for c in classes:
        pixels = [patch for patch, n in enumerate(counts[:, c]) for _ in range(n)]
        for patch in pixels:
            found[patch] += 1 / len(classes) / len(pixels)
    return found


@given(counts_strategy(), st.booleans())
def test_class_balanced_is_a_class_then_a_pixel(counts, background):
    weights = ClassBalanced(background).weights(counts)
    np.testing.assert_allclose(weights, drawn_pixel_by_pixel(counts, 0 if background else 1), atol=1e-12)
    labelled = counts[:, 0 if background else 1 :].any(axis=1)
    assert ((weights > 0) == labelled).all()


@given(counts_strategy(), st.floats(0.01, 1), st.floats(0.01, 1))
def test_rare_class_is_the_formula_of_lvis(counts, threshold, share):
    weights = RareClass(threshold, share).weights(counts)
    for patch, row in enumerate(counts):
        factors = [1.0]
        for c, n in enumerate(row):
            if n and n >= share * row.sum():
                holding = sum(1 for other in counts if other[c] and other[c] >= share * other.sum())
                factors.append(max(1.0, (threshold / (holding / len(counts))) ** 0.5))
        assert weights[patch] == pytest.approx(max(factors))


def test_known_weights_absent_classes_and_patches_without_label():
    np.testing.assert_allclose(
        ClassBalanced().weights(COUNTS) * 3,
        [90 / 240 + 10 / 209, 50 / 240 + 50 / 51, 100 / 240, 99 / 209 + 1 / 51, 0, 100 / 209],
    )
    np.testing.assert_allclose(ClassBalanced(background=False).weights(COUNTS)[[2, 4]], 0)
    few = np.sqrt(0.5 / (2 / 6))  # class 2 stands in two of six patches, the others in half
    np.testing.assert_allclose(RareClass(0.5, share=0.01).weights(COUNTS), [1, few, 1, few, 1, 1])
    fewer = np.sqrt(0.5 / (1 / 6))  # and is a tenth of one alone
    np.testing.assert_allclose(RareClass(0.5).weights(COUNTS), [1, fewer, 1, 1, 1, 1])
    assert EachOnce().weights(COUNTS) is None


@pytest.mark.parametrize("rule", [ClassBalanced(), RareClass(0.6)])
def test_patches_come_as_often_as_their_weights_say(rule):
    weights = rule.weights(COUNTS)
    rows = np.array([3, 5, 7, 11, 13, 17])
    sampler = EpochSampler(rows, shuffle=True, seed=4, weights=weights)
    epochs = 4000
    found = dict.fromkeys(rows.tolist(), 0)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert len(set(keys)) == len(keys) == len(rows)
        for row, *_ in keys:
            found[row] += 1
    share = np.array([found[row] for row in rows.tolist()]) / epochs / len(rows)
    expected = weights / weights.sum()
    # Five standard deviations of a binomial share.
    assert (np.abs(share - expected) <= 5 * np.sqrt(expected * (1 - expected) / epochs / len(rows))).all()


def test_class_balanced_draws_hold_each_class_equally_often_where_patches_hold_one():
    counts = np.diag([900, 30, 5])[[0, 0, 0, 0, 1, 2, 2]]
    weights = ClassBalanced().weights(counts)
    np.testing.assert_allclose([weights[:4].sum(), weights[4], weights[5:].sum()], 1 / 3)


def test_draws_follow_seed_and_epoch_and_a_patch_drawn_again_is_augmented_anew():
    weights = np.array([5.0, 1, 1, 1])
    one, other = (EpochSampler(range(4), shuffle=True, seed=s, weights=weights) for s in (0, 1))
    orders = []
    for epoch in range(5):
        one.set_epoch(epoch)
        other.set_epoch(epoch)
        assert list(one) == list(one)
        orders += [list(one), list(other)]
        for row, at, *again in one:
            assert at == epoch
            assert row in range(4)
            assert again in ([], [1], [2], [3])
    assert len({str([row for row, *_ in order]) for order in orders}) > 5
    assert any(len(key) == 3 for order in orders for key in order)


def test_batches_of_drawn_patches_are_the_same_with_any_number_of_workers(tmp_path):
    make_dataset(tmp_path / "tiny", n=20, size=24)
    seen = []
    for workers in (0, 2):
        data = CropDataModule(
            tmp_path / "tiny", train_crop=12, batch_size=3, num_workers=workers, sampling=ClassBalanced()
        )
        data.setup()
        loader = data.train_dataloader()
        loader.sampler.set_epoch(3)
        seen.append([{name: tensor.numpy() for name, tensor in batch.items()} for batch in loader])
    assert len(seen[0]) == len(seen[1]) == 4
    for alone, helped in zip(*seen, strict=True):
        for name in alone:
            np.testing.assert_array_equal(alone[name], helped[name])
    rows = np.concatenate([batch["row"] for batch in seen[0]])
    assert len(set(rows.tolist())) < len(rows)  # drawn with replacement


def test_a_forest_refuses_a_rule_for_patches(tmp_path):
    make_dataset(tmp_path / "tiny", n=5, size=16)
    learner = ForestLearner(RandomForestClassifier(2), Sampling(10, 10, 0))
    with pytest.raises(ConfigError, match="a forest draws its pixels class by class"):
        learner.fit(CropDataModule(tmp_path / "tiny", sampling=RareClass()), tmp_path / "run")


def test_what_is_wrong_is_said(tmp_path):
    for threshold, share in ((0.0, 0.1), (1.1, 0.1), (0.5, 0.0), (0.5, 1.5)):
        with pytest.raises(ConfigError, match="rare-class"):
            RareClass(threshold, share)
    for name in ("threshold", "share"):
        for value in ("abc", float("nan"), None, True):
            with pytest.raises(ConfigError, match=rf"sampling\.{name} of rare-class sampling must be a number"):
                RareClass(**{name: value})
    for value in ("abc", 1, None):
        with pytest.raises(ConfigError, match=r"sampling\.background must be true or false"):
            ClassBalanced(value)
    make_dataset(tmp_path / "tiny", n=5, size=16)
    data = CropDataModule(tmp_path / "tiny", sampling=ClassBalanced())
    data.setup()
    data.train_counts = lambda: np.zeros((3, 11), np.int64)
    with pytest.raises(InputError, match="no labelled pixel to draw"):
        data.train_dataloader()
