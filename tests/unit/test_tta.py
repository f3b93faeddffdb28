import numpy as np
import pytest
from fakes import Hashed, Nearest, spec_for
from hypothesis import given, settings
from hypothesis import strategies as st

from cropseg.core import storage
from cropseg.core.errors import ConfigError
from cropseg.tta import Averaged, augmented, symmetries, turn, turn_back


def images(height=12, width=12, n=2, seed=0):
    return np.random.default_rng(seed).integers(0, 9000, (n, 10, height, width), dtype=np.uint16)


class Rowwise(Nearest):
    """Not equivariant: the probabilities lean on the row and on the upper left neighbour."""

    def probabilities(self, images):
        height, width = images.shape[2:]
        weight = 1 + super().probabilities(images) * np.linspace(0, 3, height)[:, None]
        weight += np.roll(weight, 1, axis=3) * np.arange(width)
        return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)


def eight_by_hand(model, window):
    """Independent of rot90: transposes and flips alone."""
    results = []
    for swap in (False, True):
        for up in (False, True):
            for left in (False, True):
                view = window.transpose(0, 1, 3, 2) if swap else window
                view = view[:, :, ::-1] if up else view
                view = view[..., ::-1] if left else view
                out = model.probabilities(np.ascontiguousarray(view))
                out = out[..., ::-1] if left else out
                out = out[:, :, ::-1] if up else out
                results.append(out.transpose(0, 1, 3, 2) if swap else out)
    return np.mean(results, axis=0)


@pytest.mark.parametrize("make", [Hashed, Nearest])
@pytest.mark.parametrize("size", [(12, 12), (9, 14)])
def test_a_model_that_does_not_care_how_a_field_lies_is_unchanged(make, size):
    model, window = make(spec_for()), images(*size)
    np.testing.assert_array_equal(Averaged(model).probabilities(window), model.probabilities(window))
    np.testing.assert_array_equal(Averaged(model).labels(window), model.labels(window))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_probabilities_are_the_mean_over_eight_views_made_by_hand(height, width, seed):
    model, window = Rowwise(spec_for()), images(height, width, seed=seed)
    found = Averaged(model).probabilities(window)
    assert found.dtype == np.float32
    assert found.shape == (2, 11, height, width)
    np.testing.assert_allclose(found, eight_by_hand(model, window), atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(Averaged(model).labels(window), found.argmax(axis=1))


def test_the_average_is_equivariant_whatever_the_model():
    model, window = Averaged(Rowwise(spec_for())), images(8, 11)
    straight = model.probabilities(window)
    for turns, mirrored in symmetries():
        turned = model.probabilities(turn(window, turns, mirrored))
        np.testing.assert_allclose(turn_back(turned, turns, mirrored), straight, atol=1e-6)


def test_the_eight_symmetries_differ_and_are_turned_back():
    window = np.arange(12).reshape(3, 4)
    views = [turn(window, *one) for one in symmetries()]
    assert len({(view.shape, view.tobytes()) for view in views}) == 8
    for one, view in zip(symmetries(), views, strict=True):
        np.testing.assert_array_equal(turn_back(view, *one), window)


def test_what_is_saved_is_the_model(tmp_path):
    model = Averaged(Nearest(spec_for()))
    model.save(tmp_path)
    assert storage.read_json(tmp_path / "spec.json")["dataset"] == "tiny"
    assert (model.validation_score, model.spec) == (0.5, spec_for())


def test_the_option():
    model = Nearest(spec_for())
    assert augmented(model, None) is model
    assert isinstance(augmented(model, "d4"), Averaged)
    with pytest.raises(ConfigError, match="d4 or null"):
        augmented(model, "d8")
