"""Losses against PyTorch, segmentation-models-pytorch and sums over whole sets."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segmentation_models_pytorch.losses import DiceLoss
from torch.nn import functional

from cropseg.core.errors import ConfigError
from cropseg.losses import CrossEntropy, Dice, RunningLoss, WeightedSum

TABLE_4 = [0.25, 1.0, 1.5, 0.75, 1.0, 3.0, 2.5, 1.5, 2.0, 3.0, 1.0]


def ce_dice():
    return WeightedSum({"ce": CrossEntropy(TABLE_4), "dice": Dice()}, {"ce": 1.0, "dice": 0.4})


def batch(seed=0, n=3, classes=11, size=12, ignored=0.2, present=None):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, size, size, generator=g) * 2
    ids = torch.tensor(sorted(present) if present else range(classes))
    target = ids[torch.randint(0, len(ids), (n, size, size), generator=g)]
    target[torch.rand(n, size, size, generator=g) < ignored] = 255
    return logits.requires_grad_(), target


def gradients(loss, logits):
    (found,) = torch.autograd.grad(loss, logits)
    return found


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([None, TABLE_4]))
def test_cross_entropy_equals_torch_in_value_and_gradient(seed, weights):
    logits, target = batch(seed)
    w = None if weights is None else torch.tensor(weights)
    ours, theirs = CrossEntropy(weights)(logits, target), functional.cross_entropy(logits, target, w, ignore_index=255)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, logits), gradients(theirs, logits))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 1.0, 100.0]))
def test_dice_equals_smp_where_every_class_is_present(seed, smooth):
    logits, target = batch(seed, size=24)
    ours = Dice(exclude=(0,), smooth=smooth)(logits, target)
    # smp adds its smoothing to the overlap counted once, the usual formula to the overlap counted twice.
    theirs = DiceLoss("multiclass", classes=list(range(1, 11)), smooth=smooth / 2, ignore_index=255)(logits, target)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, logits), gradients(theirs, logits))


def test_dice_of_a_small_case_by_hand():
    # Two pixels, classes 0 and 1; p(1) = 0.5 and 0.75; the first is class 1, the second background.
    logits = torch.log(torch.tensor([[[[0.5, 0.25]], [[0.5, 0.75]]]]))
    target = torch.tensor([[[1, 0]]])
    assert Dice()(logits, target).item() == pytest.approx(1 - 2 * 0.5 / (0.5 + 0.75 + 1))


def test_dice_leaves_classes_absent_from_the_batch_out_of_the_mean():
    logits, target = batch(present=[0, 1, 4])
    found = Dice()(logits, target)
    one = [Dice(exclude=[c for c in range(11) if c != k])(logits, target) for k in (1, 4)]
    torch.testing.assert_close(found, torch.stack(one).mean())
    # smp divides by all asked classes, absent ones counting 0.
    theirs = DiceLoss("multiclass", classes=list(range(1, 11)), ignore_index=255)(logits, target)
    torch.testing.assert_close(found * 2 / 10, theirs)


@pytest.mark.parametrize("make", [CrossEntropy, lambda: CrossEntropy(TABLE_4), Dice, ce_dice])
def test_ignored_pixels_change_neither_value_nor_gradient(make):
    logits, target = batch(ignored=0.4)
    other = logits.detach().clone()
    ignored = (target == 255)[:, None].expand_as(other)
    other[ignored] = torch.randn(int(ignored.sum())) * 5
    other.requires_grad_()
    a, b = make()(logits, target), make()(other, target)
    torch.testing.assert_close(a, b)
    grad = gradients(b, other)
    assert (grad[ignored] == 0).all()
    torch.testing.assert_close(gradients(a, logits), grad)


@pytest.mark.parametrize("make", [CrossEntropy, lambda: CrossEntropy(TABLE_4), Dice, ce_dice])
def test_a_batch_without_labels_gives_zero_and_a_zero_gradient(make):
    logits, target = batch()
    loss = make()(logits, torch.full_like(target, 255))
    assert loss.item() == 0
    assert (gradients(loss, logits) == 0).all()


def test_a_batch_of_background_alone_gives_dice_zero_with_a_gradient():
    logits, target = batch()
    loss = Dice()(logits, torch.zeros_like(target))
    assert loss.item() == 0
    assert (gradients(loss, logits) == 0).all()


def test_ce_dice_is_weighted_cross_entropy_plus_0_4_dice():
    logits, target = batch()
    expected = CrossEntropy(TABLE_4)(logits, target) + 0.4 * Dice()(logits, target)
    torch.testing.assert_close(ce_dice()(logits, target), expected)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 7))
def test_validation_is_exact_whatever_the_batch_size(seed, size):
    logits, target = batch(seed, n=7, ignored=0.3)
    target[2] = 255  # an image without any label
    loss = ce_dice()
    running = RunningLoss(loss)
    for part, truth in zip(logits.split(size), target.split(size), strict=True):
        running.update(loss.sums(part, truth))
    assert running.compute() == pytest.approx(loss(logits, target).item(), rel=1e-5)
    running.reset()
    assert math.isnan(running.compute())


def test_perfect_logits_have_no_loss_left():
    target = torch.randint(0, 11, (2, 16, 16), generator=torch.Generator().manual_seed(0))
    logits = functional.one_hot(target, 11).permute(0, 3, 1, 2) * 100.0
    assert ce_dice()(logits, target).item() == pytest.approx(0, abs=1e-6)


def test_half_precision_logits_are_summed_in_float32():
    logits, target = batch(n=8, size=64)
    found = ce_dice()(logits.bfloat16(), target)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(ce_dice()(logits, target).item(), rel=0.01)


def test_what_does_not_fit_is_refused():
    logits, target = batch(classes=5)
    with pytest.raises(ConfigError, match="weights for 11 classes"):
        CrossEntropy(TABLE_4)(logits, target)
    with pytest.raises(ConfigError, match="excludes"):
        Dice(exclude=(5,))(logits, target)
    with pytest.raises(ConfigError, match="weights"):
        CrossEntropy([-1.0, 1.0])
    with pytest.raises(ConfigError, match="smooth"):
        Dice(smooth=-1)
    with pytest.raises(ConfigError, match="same names"):
        WeightedSum({"ce": CrossEntropy()}, {"dice": 1.0})


def test_a_term_that_does_not_say_its_sums_is_refused_not_left_out():
    with pytest.raises(ConfigError, match="CrossEntropyLoss"):
        WeightedSum({"ce": torch.nn.CrossEntropyLoss()}, {"ce": 1.0})
