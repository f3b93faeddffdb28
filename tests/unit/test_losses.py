"""Losses against PyTorch, segmentation-models-pytorch, cases by hand, finite differences and sums over whole sets."""

import json
import math
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from segmentation_models_pytorch.losses import DiceLoss, FocalLoss, LovaszLoss, TverskyLoss
from torch.nn import functional

from cropseg.core.errors import ConfigError
from cropseg.losses import CrossEntropy, Dice, Focal, Lovasz, RunningLoss, Tversky, WeightedSum

TABLE_4 = [0.25, 1.0, 1.5, 0.75, 1.0, 3.0, 2.5, 1.5, 2.0, 3.0, 1.0]


def ce_dice():
    return WeightedSum({"ce": CrossEntropy(TABLE_4), "dice": Dice()}, {"ce": 1.0, "dice": 0.4})


def everything():
    terms = {"ce": CrossEntropy(), "focal": Focal(1.5, TABLE_4), "tversky": Tversky(gamma=4 / 3), "lovasz": Lovasz()}
    return WeightedSum(terms, {"ce": 1.0, "focal": 0.5, "tversky": 0.3, "lovasz": 2.0})


ALL = {
    "ce": CrossEntropy,
    "weighted_ce": lambda: CrossEntropy(TABLE_4),
    "dice": Dice,
    "ce_dice": ce_dice,
    "focal": Focal,
    "weighted_focal": lambda: Focal(0.5, TABLE_4),
    "tversky": Tversky,
    "focal_tversky": lambda: Tversky(0.2, 0.9, gamma=4 / 3, smooth=1.0),
    "lovasz": Lovasz,
    "everything": everything,
}
every_loss = pytest.mark.parametrize("make", ALL.values(), ids=ALL)


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


@every_loss
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


@every_loss
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


@pytest.mark.parametrize("make", [ce_dice, everything])
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 7))
def test_validation_is_exact_whatever_the_batch_size(make, seed, size):
    logits, target = batch(seed, n=7, ignored=0.3)
    target[2] = 255  # an image without any label
    loss = make()
    running = RunningLoss(loss)
    for part, truth in zip(logits.split(size), target.split(size), strict=True):
        running.update(loss.sums(part, truth))
    assert running.compute() == pytest.approx(loss(logits, target).item(), rel=1e-5)
    running.reset()
    assert math.isnan(running.compute())


@every_loss
def test_perfect_logits_have_no_loss_left(make):
    target = torch.randint(0, 11, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    logits = (functional.one_hot(target, 11).permute(0, 3, 1, 2) * 100.0).requires_grad_()
    loss = make()(logits, target)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert gradients(loss, logits).isfinite().all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_summed_in_float32(make, dtype):
    logits, target = batch(n=4, size=24)
    half = (logits * 8).detach().to(dtype).requires_grad_()
    found = make()(half, target)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(make()(logits * 8, target).item(), rel=0.01)
    assert gradients(found, half).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@every_loss
def test_extreme_logits_stay_finite(make, dtype):
    logits, target = batch(seed=1)
    steep = (logits * 8000).detach().clamp(-6e4, 6e4).to(dtype).requires_grad_()  # float16 ends at 65504
    loss = make()(steep, target)
    assert loss.isfinite()
    assert gradients(loss, steep).isfinite().all()


@every_loss
def test_gradients_equal_finite_differences(make):
    logits, target = batch(seed=4, n=2, size=2, present=[0, 5])
    assert torch.autograd.gradcheck(make(), (logits.detach().double().requires_grad_(), target))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 5), st.sampled_from([None, TABLE_4]))
def test_focal_is_the_weighted_mean_of_the_formula(seed, gamma, weights):
    logits, target = batch(seed)
    w = torch.ones(11) if weights is None else torch.tensor(weights)
    keep = target != 255
    nll = functional.cross_entropy(logits, target, ignore_index=255, reduction="none")[keep]
    w = w[target[keep]]
    ours, theirs = Focal(gamma, weights)(logits, target), (w * (1 - (-nll).exp()) ** gamma * nll).sum() / w.sum()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, logits), gradients(theirs, logits))


def test_focal_without_focus_is_cross_entropy():
    logits, target = batch()
    torch.testing.assert_close(Focal(0.0, TABLE_4)(logits, target), CrossEntropy(TABLE_4)(logits, target))


def test_focal_equals_smp_for_two_classes():
    # A softmax over (0, z) is a sigmoid of z: there smp's focal loss, one sigmoid a class, is the same.
    logits, target = batch(classes=2)
    logits = torch.cat([torch.zeros_like(logits[:, :1]), logits[:, 1:]], dim=1)
    ours, theirs = Focal(2.0)(logits, target), FocalLoss("binary", ignore_index=255)(logits[:, 1], target)
    torch.testing.assert_close(ours, theirs)
    leaf = logits.detach().requires_grad_()
    pair = Focal(2.0)(leaf, target), FocalLoss("binary", ignore_index=255)(leaf[:, 1], target)
    torch.testing.assert_close(gradients(pair[0], leaf)[:, 1], gradients(pair[1], leaf)[:, 1])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 2), st.floats(0.1, 2), st.sampled_from([0.0, 10.0]))
def test_tversky_equals_smp_where_every_class_is_present(seed, alpha, beta, smooth):
    logits, target = batch(seed, size=24)
    ours = Tversky(alpha, beta, smooth=smooth)(logits, target)
    options = {"alpha": alpha, "beta": beta, "smooth": smooth, "ignore_index": 255}
    theirs = TverskyLoss("multiclass", classes=list(range(1, 11)), **options)(logits, target)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, logits), gradients(theirs, logits))


def test_tversky_of_halves_is_dice_and_of_ones_the_jaccard_loss():
    logits, target = batch(present=[0, 3, 4])
    torch.testing.assert_close(Tversky(0.5, 0.5)(logits, target), Dice()(logits, target))
    dice = torch.stack([1 - Dice(exclude=[c for c in range(11) if c != k])(logits, target) for k in (3, 4)])
    torch.testing.assert_close(Tversky(1, 1)(logits, target), (1 - dice / (2 - dice)).mean())


def test_tversky_of_a_small_case_by_hand():
    # As for Dice: TP = 0.5, FP = 0.75, FN = 0.5.
    logits = torch.log(torch.tensor([[[[0.5, 0.25]], [[0.5, 0.75]]]]))
    target = torch.tensor([[[1, 0]]])
    expected = 1 - 0.5 / (0.5 + 0.3 * 0.75 + 0.7 * 0.5)
    assert Tversky()(logits, target).item() == pytest.approx(expected)
    assert Tversky(gamma=2)(logits, target).item() == pytest.approx(expected**0.5)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([None, [0, 3], [7]]), st.floats(0, 0.9))
def test_lovasz_equals_smp_where_every_image_has_labels(seed, present, ignored):
    logits, target = batch(seed, present=present, ignored=ignored)
    ours, theirs = Lovasz()(logits, target), LovaszLoss("multiclass", per_image=True, ignore_index=255)(logits, target)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, logits), gradients(theirs, logits))


def test_lovasz_leaves_images_without_labels_out_of_the_mean():
    logits, target = batch(n=3)
    target[1] = 255
    theirs = LovaszLoss("multiclass", per_image=True, ignore_index=255)(logits[[0, 2]], target[[0, 2]])
    torch.testing.assert_close(Lovasz()(logits, target), theirs)


def test_lovasz_of_hard_predictions_is_one_minus_the_mean_jaccard_index():
    g = torch.Generator().manual_seed(2)
    target, guess = torch.randint(0, 4, (2, 1, 20, 20), generator=g)
    logits = functional.one_hot(guess, 4).permute(0, 3, 1, 2) * 100.0
    iou = [((target == c) & (guess == c)).sum() / ((target == c) | (guess == c)).sum() for c in range(4)]
    torch.testing.assert_close(Lovasz()(logits, target), 1 - torch.stack(iou).mean())


def test_lovasz_of_a_small_case_by_hand():
    # One image, p(1) = 0.5 and 0.75, truth 1 and 0. Class 1: errors 0.75 (not it), 0.5 (it): the Jaccard loss goes
    # 0 -> 1 - 1/2 -> 1. Class 0: errors 0.75 (it), 0.5 (not it): 0 -> 1 -> 1.
    logits = torch.log(torch.tensor([[[[0.5, 0.25]], [[0.5, 0.75]]]]))
    expected = ((0.75 * 0.5 + 0.5 * 0.5) + (0.75 * 1 + 0.5 * 0)) / 2
    assert Lovasz()(logits, torch.tensor([[[1, 0]]])).item() == pytest.approx(expected)


@every_loss
def test_a_loss_described_is_made_again_from_plain_data(make):
    loss = make()
    logits, target = batch()
    described = json.loads(json.dumps(loss.describe()))
    assert torch.equal(instantiate(described, _convert_="all")(logits, target), loss(logits, target))


CONF = Path(__file__).resolve().parents[2] / "conf"
ADD_LOVASZ = ("+loss@loss.terms.lovasz=lovasz", "+loss.weights.lovasz=0.5")


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("train", list(overrides)).loss, _convert_="all")


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONF / "loss").glob("*.yaml")))
def test_every_option_of_the_group_is_a_loss_with_a_gradient(option):
    loss = composed(f"loss={option}", *(ADD_LOVASZ if option == "sum" else ()))
    logits, target = batch()
    assert gradients(loss(logits, target), logits).abs().sum() > 0


def test_terms_are_added_to_a_sum_and_taken_from_it_on_the_command_line():
    logits, target = batch()
    found = composed(*ADD_LOVASZ, "~loss.terms.dice", "~loss.weights.dice", "loss.terms.ce.weights=null")
    torch.testing.assert_close(found(logits, target), CrossEntropy()(logits, target) + 0.5 * Lovasz()(logits, target))


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
    with pytest.raises(ConfigError, match="weights"):
        CrossEntropy([float("nan"), 1.0])
    with pytest.raises(ConfigError, match="smooth of Tversky"):
        Tversky(smooth=-1)
    with pytest.raises(ConfigError, match="Tversky excludes"):
        Tversky(exclude=(5,))(logits, target)
    with pytest.raises(ConfigError, match="gamma"):
        Focal(-1)
    with pytest.raises(ConfigError, match="beta above 0"):
        Tversky(beta=0)
    with pytest.raises(ConfigError, match="without a term"):
        WeightedSum({}, {})
    with pytest.raises(ConfigError, match="same names"):
        WeightedSum({"ce": CrossEntropy()}, {"dice": 1.0})


def test_a_term_that_does_not_say_its_sums_is_refused_not_left_out():
    with pytest.raises(ConfigError, match="CrossEntropyLoss"):
        WeightedSum({"ce": torch.nn.CrossEntropyLoss()}, {"ce": 1.0})


@pytest.mark.parametrize("name", ["keys", "items", "training", "forward", "a.b", "", 1])
def test_a_term_cannot_have_a_name_of_pytorchs_own(name):
    with pytest.raises(ConfigError, match=r"a term of a loss cannot have the name: .*give it another"):
        WeightedSum({name: Focal()}, {name: 1.0})


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf, "abc", None, True, [1.0]])
def test_the_weight_of_a_term_is_a_number_of_at_least_0(weight):
    with pytest.raises(ConfigError, match=r"loss\.weights\.dice must be a number of at least 0"):
        WeightedSum({"ce": CrossEntropy(), "dice": Dice()}, {"ce": 1.0, "dice": weight})


def test_a_sum_whose_weights_are_all_0_is_refused():
    with pytest.raises(ConfigError, match="all weights of a loss are 0"):
        WeightedSum({"ce": CrossEntropy(), "dice": Dice()}, {"ce": 0.0, "dice": 0})
    WeightedSum({"ce": CrossEntropy(), "dice": Dice()}, {"ce": 1, "dice": 0})


@pytest.mark.parametrize("exclude", [0, None, "0", ["a"], [0.0], [True], [None]])
@pytest.mark.parametrize("kind", [Dice, Tversky])
def test_what_a_region_loss_excludes_is_a_list_of_class_ids(kind, exclude):
    with pytest.raises(ConfigError, match=rf"exclude of {kind.__name__} must be a list of class ids"):
        kind(exclude=exclude)


def test_a_region_loss_without_a_class_is_refused_before_training():
    logits, target = batch(classes=3)
    for loss in (Dice(exclude=[0, 1, 2]), WeightedSum({"a": Tversky(exclude=[2, 1, 0, 0])}, {"a": 1.0})):
        with pytest.raises(ConfigError, match=r"excludes all 3 classes.*leave some"):
            loss.resolve([[5, 0, 2]])
        with pytest.raises(ConfigError, match="excludes all 3 classes"):
            loss(logits, target)
    with pytest.raises(ConfigError, match="Dice excludes a class that is not in 0"):
        Dice(exclude=[3]).resolve([[5, 0, 2]])


@pytest.mark.parametrize("value", [math.nan, math.inf, "abc", None, True])
def test_numbers_of_losses_are_numbers(value):
    with pytest.raises(ConfigError, match="gamma of the focal loss must be a number"):
        Focal(value)
    for kind in (Dice, Tversky):
        with pytest.raises(ConfigError, match=f"smooth of {kind.__name__} must be a number"):
            kind(smooth=value)
    for name in ("alpha", "beta", "gamma"):
        with pytest.raises(ConfigError, match="Tversky takes numbers"):
            Tversky(**{name: value})
