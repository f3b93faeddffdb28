import dataclasses

import numpy as np
import pytest
import torch
from factory import make_dataset
from fakes import Hashed, make_run, spec_for, with_predictor
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scenes import Erratic
from sklearn.ensemble import RandomForestClassifier

from cropseg.calibration import (
    BINS,
    Reliability,
    Validated,
    bins_of,
    read_validated,
    recalibrated,
    write_validated,
)
from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError, MismatchError
from cropseg.evaluate import EvaluationSet, calibrate, evaluate_runs
from cropseg.evidence import confidence_rows, interval_rows, scored
from cropseg.external import Checked
from cropseg.learners.forest import ForestPredictor
from cropseg.learners.network import NeuralPredictor, build_net
from cropseg.predictor import classify, most_probable
from cropseg.runs import open_run
from cropseg.tta import Averaged

PAIRS = st.integers(1, 300).flatmap(
    lambda n: st.tuples(hnp.arrays(np.float32, n, elements=st.floats(0, 1, width=32)), hnp.arrays(bool, n))
)


def histogram(confidence, correct):
    place = bins_of(confidence)
    counts = [np.bincount(place, weights=w, minlength=BINS).astype(np.int64) for w in (None, correct)]
    return Reliability(*counts, np.bincount(place, weights=confidence.astype(np.float64), minlength=BINS))


def ece_of(confidence, correct, bins):
    """Guo et al. (2017), equation 3, pixel by pixel: bins ((m - 1) / M, m / M]."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = (confidence > (m - 1) / bins) & (confidence <= m / bins)
        if m == 1:
            inside |= confidence == 0
        if inside.any():
            total += inside.sum() / len(confidence) * abs(correct[inside].mean() - confidence[inside].mean())
    return total


@settings(max_examples=50, deadline=None)
@given(PAIRS, st.sampled_from([1, 10, 15, 20, 25, 30, 100, BINS]))
def test_ece_and_diagram_equal_a_computation_on_the_pixels(pairs, bins):
    confidence, correct = pairs[0].astype(np.float64), pairs[1]
    found = histogram(*pairs)
    assert found.ece(bins) == pytest.approx(ece_of(confidence, correct, bins), abs=1e-9)
    diagram = found.diagram(bins)
    assert diagram.pixels.sum() == len(confidence) == found.total
    assert found.accuracy == pytest.approx(correct.mean())
    known = diagram.pixels > 0
    assert np.isnan(diagram.accuracy[~known]).all()
    assert np.isnan(diagram.confidence[~known]).all()
    slack = 1e-9
    assert (diagram.confidence[known] <= diagram.edges[1:][known] + slack).all()
    assert (diagram.confidence[known] >= diagram.edges[:-1][known] - slack).all()


def test_a_calibrated_model_has_no_error_and_an_overconfident_one_its_excess():
    confidence = np.full(1000, 0.7, np.float32)
    right = np.arange(1000) < 700
    assert histogram(confidence, right).ece() == pytest.approx(0, abs=1e-7)
    assert histogram(np.full(1000, 0.9, np.float32), right).ece() == pytest.approx(0.2, abs=1e-7)


@settings(max_examples=30, deadline=None)
@given(PAIRS)
def test_selective_accuracy_equals_sorting_the_pixels(pairs):
    confidence, correct = pairs
    coverage, accuracy = histogram(confidence, correct).selective()
    place = bins_of(confidence)
    for kept, right in zip(coverage, accuracy, strict=True):
        surest = np.argsort(-place, kind="stable")[: round(kept * len(place))]
        assert right == pytest.approx(correct[surest].mean())
    assert coverage[-1] == 1.0
    assert (np.diff(coverage) > 0).all()
    found = histogram(confidence, correct)
    assert found.accuracy_at(1.0) == pytest.approx(correct.mean())
    assert found.accuracy_at(float(coverage[0])) == pytest.approx(accuracy[0])


@settings(max_examples=20, deadline=None)
@given(PAIRS, PAIRS)
def test_recalibration_keeps_the_order_and_the_pixels(test, validation):
    before = histogram(*test)
    after = recalibrated(before, histogram(*validation))
    assert after.total == before.total
    assert after.correct.sum() == before.correct.sum()
    assert 0 <= after.confidence.sum() <= after.total + 1e-6
    # Fitted on the very same pixels, the isotonic map leaves no error where it never falls.
    assert recalibrated(before, before).ece() <= before.ece() + 1e-6


def test_recalibration_mends_what_the_validation_part_told():
    random = np.random.default_rng(0)
    claimed = random.uniform(0.3, 1, (2, 200_000)).astype(np.float32)
    right = random.random(claimed.shape) < claimed**2  # overconfident everywhere
    validation, test = (histogram(c, r) for c, r in zip(claimed, right, strict=True))
    assert test.ece() > 0.1
    mended = recalibrated(test, validation)
    assert mended.ece() < 0.01
    # Nothing of the test part decides the map: other truth there, same confidences.
    lied = histogram(claimed[1], ~right[1])
    np.testing.assert_array_equal(recalibrated(lied, validation).pixels, mended.pixels)
    assert mended.accuracy_at(0.5) == pytest.approx(test.accuracy_at(0.5), abs=0.01)


def test_impossible_histograms_and_options_are_typed_errors():
    none = Reliability(np.zeros(BINS, np.int64), np.zeros(BINS, np.int64), np.zeros(BINS))
    assert np.isnan([none.ece(), none.accuracy, none.accuracy_at(0.5)]).all()
    assert none.selective()[0].size == 0
    some = histogram(np.array([0.5], np.float32), np.array([True]))
    for wrong in (7, 0, 400):
        with pytest.raises(ConfigError, match="divisor"):
            some.diagram(wrong)
    for wrong in (0.0, 1.1):
        with pytest.raises(ConfigError, match="coverage"):
            some.accuracy_at(wrong)
    with pytest.raises(InputError, match="no pixel"):
        recalibrated(some, none)
    with pytest.raises(InputError, match="more correct"):
        Reliability(none.pixels, some.pixels, none.confidence)
    for wrong in ({}, {"pixels": [1], "correct": [1], "confidence": [1]}, {"pixels": "x", "correct": 1}):
        with pytest.raises(InputError):
            Reliability.from_dict(wrong)


def test_confidence_on_the_validation_part_is_computed_once_for_the_same_weights(tmp_path, capsys):
    data = make_dataset(tmp_path / "own", n=10, size=16)
    spec = spec_for(data)
    path = make_run(tmp_path / "r", spec, data)
    storage.write_bytes(path / "weights.pt", b"1")

    class Counting(Erratic):
        asked = 0

        def classify(self, images):
            self.asked += len(images)
            return super().classify(images)

    model = Counting(spec)
    run = with_predictor(open_run(path), model)
    assert calibrate(run) == ""
    assert model.asked == 3  # one patch to see whether there is a confidence at all, then both
    fitted = run.validated()
    assert fitted["all"].total == 2 * 16 * 16
    assert calibrate(run) == ""
    assert model.asked == 3
    storage.write_bytes(path / "weights.pt", b"2")
    assert calibrate(run) == ""
    assert model.asked == 6
    # The same data under another digest: it cannot be computed, and what was kept is of other weights.
    storage.write_bytes(path / "weights.pt", b"3")
    other = dataclasses.replace(run, spec=dataclasses.replace(spec, manifest_digest="1" * 64))
    assert "prepared again" in calibrate(with_predictor(other, model))
    assert run.validated() is None
    gone = open_run(make_run(tmp_path / "g", spec))
    assert "gone" in calibrate(with_predictor(gone, model))
    assert "without a confidence" in calibrate(with_predictor(open_run(path), Hashed(spec)))

    results = evaluate_runs([run], [EvaluationSet("internal", None, None), EvaluationSet("v", None, None, "val")])
    assert [one.key for one in results] == ["internal", "v"]
    assert set(open_run(path).evaluations) == {"internal", "v"}
    assert "recalibration" not in run.details("internal").without
    assert "fitted on" in run.details("v").without["recalibration"]
    shown = open_run(path)
    (first,), _ = confidence_rows(scored([shown], "internal"))
    (second,), (reason,) = confidence_rows(scored([shown], "v"))
    assert first[5] != "n/a"
    assert second[5] == "n/a"
    assert "fitted on" in reason
    assert "no interval below 10" in interval_rows([shown], ["internal"], brief=True)[0][-1]
    said = capsys.readouterr().out
    assert "ECE, mended" in said
    assert "confidence on v" in said


def test_kept_confidence_is_read_back_and_a_broken_file_refused(tmp_path):
    found = histogram(np.array([0.5, 0.25], np.float32), np.array([True, False]))
    path = tmp_path / "v.reliability.json"
    assert read_validated(path) is None
    write_validated(path, Validated("d", "s", "w", {"all": found, "crop": found}))
    again = read_validated(path)
    assert again.is_of("d", "s", "w")
    assert not again.is_of("d", "s", "")
    np.testing.assert_array_equal(again.reliability["crop"].pixels, found.pixels)
    storage.write_json(path, {"weights": "w"})
    with pytest.raises(InputError, match="cannot be read"):
        read_validated(path)


def test_labels_and_confidence_come_in_one_pass_and_agree(tmp_path):
    images = np.random.default_rng(0).integers(1, 9000, (3, 10, 8, 8)).astype(np.uint16)
    p = np.random.default_rng(1).dirichlet(np.ones(11), (3, 8, 8)).astype(np.float32).transpose(0, 3, 1, 2)
    labels, sure = most_probable(p)
    np.testing.assert_array_equal(labels, p.argmax(axis=1))
    np.testing.assert_array_equal(sure, p.max(axis=1))
    spec = spec_for()
    averaged = Averaged(Hashed(spec))
    labels, sure = classify(averaged, images)
    np.testing.assert_array_equal(labels, averaged.labels(images))
    np.testing.assert_allclose(sure, averaged.probabilities(images).max(axis=1))
    assert classify(Hashed(spec), images)[1] is None

    given = Checked(with_probabilities(Erratic(spec)), "theirs")
    assert given.classify(images)[1].dtype == np.float32
    assert Checked(Hashed(spec), "theirs").classify(images)[1] is None
    for wrong in (np.full((3, 8, 8), 1.5), np.full((3, 8, 8), np.nan), np.zeros((3, 8))):
        bad = with_probabilities(Erratic(spec))
        bad.classify = lambda images, wrong=wrong: (np.zeros((3, 8, 8), int), wrong)
        with pytest.raises(MismatchError, match="confidence"):
            Checked(bad, "theirs").classify(images)


def network(spec):
    spec = dataclasses.replace(spec, model={"nodata": "fill"})
    torch.manual_seed(0)
    recipe = {"_target_": "cropseg.models.unet4gn.UNet4LevelsGN", "base": 4, "groups": 2}
    return NeuralPredictor(build_net(recipe, spec.bands, 11), spec, np.eye(11, dtype=np.int64), 0)


def forest(spec):
    spec = dataclasses.replace(spec, model={"context": [], "windows": []})
    random = np.random.default_rng(0)
    x, y = random.random((200, 10)), random.choice([0, 2, 3, 9], 200)
    return ForestPredictor(RandomForestClassifier(5, max_depth=3, random_state=0).fit(x, y), spec)


@pytest.mark.parametrize("make", [network, forest])
def test_own_models_classify_as_they_label(make):
    model = make(spec_for())
    images = np.random.default_rng(0).integers(0, 9000, (3, 10, 16, 16)).astype(np.uint16)
    labels, sure = classify(model, images)
    assert (labels.dtype, sure.dtype) == (np.uint8, np.float32)
    np.testing.assert_array_equal(labels, model.labels(images))
    np.testing.assert_allclose(sure, model.probabilities(images).max(axis=1), rtol=1e-5)


def with_probabilities(model):
    model.probabilities = lambda images: np.zeros((len(images), 11, *images.shape[2:]), np.float32)
    return model
