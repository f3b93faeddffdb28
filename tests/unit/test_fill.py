"""The no-data rule against a pixel-by-pixel reading of its own words."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cropseg.data.fill import fill_nodata, model_input


def line_source(valid, at):
    """Where pixel ``at`` of one line takes its value from, or None; straight from the docstring."""
    width = len(valid)
    left = [e for e in range(at) if valid[e]]
    right = [e for e in range(at + 1, width) if valid[e]]
    candidates = []
    if left:
        candidates.append((at - left[-1], 0, 2 * left[-1] + 1 - at))
    if right:
        candidates.append((right[0] - at, 1, 2 * right[0] - 1 - at))
    for _, _, source in sorted(candidates):
        if 0 <= source < width and valid[source]:
            return source
    return None


def fill_slowly(image):
    valid = (image > 0).all(axis=0)
    filled = image.astype(np.float64)
    mean = filled[:, valid].mean(axis=1) if valid.any() else np.zeros(len(image))
    for r, c in zip(*np.nonzero(~valid), strict=True):
        by_row, by_col = line_source(valid[r], c), line_source(valid[:, c], r)
        if by_row is not None:
            filled[:, r, c] = image[:, r, by_row]
        elif by_col is not None:
            filled[:, r, c] = image[:, by_col, c]
        else:
            filled[:, r, c] = mean
    return filled, valid


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.floats(0, 1))
def test_equals_the_rule_read_pixel_by_pixel(seed, height, width, share):
    random = np.random.default_rng(seed)
    images = random.integers(1, 10000, (2, 3, height, width)).astype(np.uint16)
    images[:, :, random.random((height, width)) < share] = 0
    images[0, 1, random.random((height, width)) < 0.1] = 0  # one band alone
    filled, valid = fill_nodata(torch.from_numpy(images))
    for i in range(2):
        expected, truth = fill_slowly(images[i])
        np.testing.assert_array_equal(valid[i].numpy(), truth)
        np.testing.assert_allclose(filled[i].numpy(), expected, rtol=1e-5)
    told, _ = fill_nodata(torch.from_numpy(images), complete=bool(images.min()))
    assert torch.equal(told, filled)


def test_a_swath_edge_is_mirrored():
    row = torch.tensor([0, 0, 5, 6, 7, 8], dtype=torch.int32).to(torch.uint16)
    filled, _ = fill_nodata(row.reshape(1, 1, 1, 6))
    assert filled.flatten().tolist() == [6, 5, 5, 6, 7, 8]


def test_nothing_changes_where_all_is_valid_and_nothing_is_nan_where_all_is_not():
    full = torch.randint(1, 10000, (2, 10, 16, 16)).to(torch.uint16)
    for complete in (None, True, False):
        assert torch.equal(fill_nodata(full, complete)[0], full.float())
    filled, valid = fill_nodata(torch.zeros_like(full))
    assert (filled == 0).all()
    assert not valid.any()


def test_images_of_a_batch_do_not_touch_each_other():
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 4, (6, 2, 8, 8)).astype(np.uint16))
    together, _ = fill_nodata(images)
    for i in range(6):
        torch.testing.assert_close(together[i : i + 1], fill_nodata(images[i : i + 1])[0])


def test_model_input_is_reflectance_and_the_papers_zeros_stay_zeros():
    images = torch.tensor([[[[0, 10000]]]], dtype=torch.int32).to(torch.uint16)
    assert model_input(images)[0].flatten().tolist() == [1.0, 1.0]
    x, valid = model_input(images, "zero")
    assert x.flatten().tolist() == [0.0, 1.0]
    assert valid.flatten().tolist() == [False, True]
