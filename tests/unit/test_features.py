"""The forest's features against loops over pixels, and the rules at borders and without data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropseg.core.bands import PAPER_BANDS
from cropseg.core.errors import ConfigError, InputError
from cropseg.models.forest import LARGEST_WINDOW, Features, box_sum, local_statistics

CONTEXT = ("B04", "B08", "B11", "B12")


def loop(image, features):
    """The definition, pixel by pixel."""
    valid = (image != 0).all(axis=0)
    means = [band[valid].astype(float).mean() if valid.any() else 0.0 for band in image]
    rows = []
    for row, col in np.ndindex(valid.shape):
        values = list(image[:, row, col].astype(float)) if valid[row, col] else list(means)
        for size in features.windows:
            half = size // 2
            near = np.s_[max(0, row - half) : row + half + 1, max(0, col - half) : col + half + 1]
            for name in features.context:
                band = features.bands.index(name)
                found = image[band][near][valid[near]].astype(float)
                values += [found.mean(), found.std()] if found.size else [means[band], 0.0]
        rows.append(values)
    return np.array(rows) / 10_000


@st.composite
def images(draw):
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image = random.integers(1, draw(st.sampled_from([2, 3000, 65536])), (10, height, width)).astype(np.uint16)
    share = draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    image[:, random.random((height, width)) < share] = 0
    if draw(st.booleans()):
        image[random.integers(10), random.random((height, width)) < 0.2] = 0  # one band alone lacks data
    return image


@settings(max_examples=60, deadline=None)
@given(images(), st.lists(st.sampled_from([3, 5, 11, 21]), min_size=1, max_size=2, unique=True))
def test_spatial_features_equal_the_loop(image, windows):
    features = Features(PAPER_BANDS, CONTEXT, tuple(windows))
    found = features.compute(image)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, loop(image, features), rtol=1e-6, atol=1e-7)


def test_ten_and_twenty_six_features_in_a_named_order():
    assert Features(PAPER_BANDS).names == PAPER_BANDS
    names = Features(PAPER_BANDS, CONTEXT, (5, 11)).names
    assert len(names) == 26
    assert names[:10] == PAPER_BANDS
    assert names[10:14] == ("B04_mean_5", "B04_std_5", "B08_mean_5", "B08_std_5")
    assert names[-1] == "B12_std_11"


def test_spectral_features_are_the_reflectances():
    image = np.random.default_rng(0).integers(1, 10_000, (10, 4, 6)).astype(np.uint16)
    found = Features(PAPER_BANDS).compute(image)
    assert found.shape == (24, 10)
    np.testing.assert_array_equal(found[1 * 6 + 2], image[:, 1, 2].astype(np.float32) / np.float32(10_000))


@pytest.mark.parametrize("value", [1, 3333, 65535])
def test_an_even_surrounding_deviates_by_exactly_nothing(value):
    values = np.full((40, 30), value, np.uint16)
    mean, std = local_statistics(values, np.ones((40, 30), bool), LARGEST_WINDOW, 0.0)
    assert (mean == value).all()
    assert (std == 0).all()


def test_the_largest_window_does_not_overflow():
    values = np.zeros((LARGEST_WINDOW, LARGEST_WINDOW), np.uint16)
    values[::2] = 65535
    _, std = local_statistics(values, np.ones(values.shape, bool), LARGEST_WINDOW, 0.0)
    half = LARGEST_WINDOW // 2
    assert std[half, half] == pytest.approx(values.astype(float).std(), rel=1e-12)


def test_no_data_does_not_reach_the_neighbours():
    random = np.random.default_rng(1)
    image = random.integers(1, 5000, (10, 12, 12)).astype(np.uint16)
    features = Features(PAPER_BANDS, CONTEXT, (5,))
    alone = features.compute(image[:, :, :6])
    image[:, :, 6:] = 0
    beside = features.compute(image).reshape(12, 12, -1)[:, :6]
    np.testing.assert_array_equal(beside.reshape(72, -1), alone)


def test_a_patch_without_any_data_has_zeros():
    assert (Features(PAPER_BANDS, CONTEXT, (5,)).compute(np.zeros((10, 5, 5), np.uint16)) == 0).all()


def test_box_sums_of_ones_count_the_pixels_inside():
    found = box_sum(np.ones((4, 7), np.int64), 5)
    assert found[0, 0] == 9
    assert found[2, 3] == 20
    assert found[3, 6] == 9


@pytest.mark.parametrize(
    ("context", "windows", "word"),
    [
        (("B04",), (), "come together"),
        ((), (5,), "come together"),
        (("B01",), (5,), "B01"),
        (("B04", "B04"), (5,), "repeat"),
        (("B04",), (5, 5), "repeat"),
        (("B04",), (4,), "odd"),
        (("B04",), (1,), "odd"),
        (("B04",), (LARGEST_WINDOW + 2,), "odd"),
        (("B04",), (5.0,), "whole"),
        (("B04",), ("abc",), "whole"),
        (("B04",), ([5],), "whole"),
    ],
)
def test_impossible_features_are_refused(context, windows, word):
    with pytest.raises(ConfigError, match=word):
        Features(PAPER_BANDS, context, windows)


@pytest.mark.parametrize("shape", [(9, 4, 4), (4, 4)])
def test_another_image_is_refused(shape):
    with pytest.raises(InputError, match="bands"):
        Features(PAPER_BANDS).compute(np.ones(shape, np.uint16))
