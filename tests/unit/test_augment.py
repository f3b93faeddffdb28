"""The symmetries: a group, the same for image and mask, and nothing but a permutation of pixels."""

import itertools

import numpy as np
import pytest
import torch

from cropseg.core.errors import InputError
from cropseg.data.augment import apply_symmetry

ALL = torch.tensor(list(itertools.product((False, True), repeat=3)))


def patch(size=5):
    return torch.arange(size * size).reshape(1, size, size)


def test_the_eight_codes_are_the_dihedral_group_of_the_square():
    found = {tuple(t.flatten().tolist()) for t in apply_symmetry(patch().expand(8, 5, 5), ALL)}
    square = patch()[0].numpy()
    expected = {tuple(np.rot90(s, k).flatten().tolist()) for s in (square, square.T) for k in range(4)}
    assert found == expected
    assert len(found) == 8


def test_each_has_its_inverse_and_two_make_a_third():
    images = {code: apply_symmetry(patch(), code[None]) for code in ALL}
    turned = [tuple(image.flatten().tolist()) for image in images.values()]
    for image in images.values():
        again = {tuple(apply_symmetry(image, code[None]).flatten().tolist()) for code in ALL}
        assert again == set(turned)  # closed, and the identity among them


def test_image_and_mask_undergo_the_same():
    random = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 11, (16, 9, 9), generator=random)
    image = torch.stack([mask * 10.0 + band for band in range(4)], dim=1)
    codes = ALL.repeat(2, 1)
    turned, truth = apply_symmetry(image, codes), apply_symmetry(mask, codes)
    for band in range(4):
        assert torch.equal(turned[:, band], truth * 10.0 + band)


def test_no_value_changes():
    image = torch.rand(8, 3, 6, 6)
    turned = apply_symmetry(image, ALL)
    assert torch.equal(turned.flatten(2).sort().values, image.flatten(2).sort().values)
    assert torch.equal(apply_symmetry(image, torch.zeros(8, 3, dtype=torch.bool)), image)


def test_patches_that_are_not_square_are_refused():
    with pytest.raises(InputError, match="square"):
        apply_symmetry(torch.rand(1, 3, 4, 5), ALL[:1])
