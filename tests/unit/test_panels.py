"""Pictures while a network learns: which patches, what stands in them, and that learning is not touched."""

import functools

import numpy as np
import pytest
import torch
from factory import make_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from training import cpu_trainer

from cropseg import pictures
from cropseg.core.errors import ConfigError
from cropseg.data.datamodule import CropDataModule
from cropseg.learners.neural import NeuralLearner
from cropseg.learners.panels import Panels
from cropseg.losses import CrossEntropy
from cropseg.models.unet4gn import UNet4LevelsGN


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "tiny", n=10, size=16, nodata=True, ignored=True)


def fit(dataset, run, panels, epochs=4):
    learner = NeuralLearner(
        net=functools.partial(UNet4LevelsGN, base=8),
        loss=CrossEntropy(),
        optimizer=functools.partial(torch.optim.Adam, lr=1e-3),
        trainer=cpu_trainer(epochs),
        callbacks={"panels": panels} if panels else {},
    )
    return learner.fit(CropDataModule(dataset.root, batch_size=4), run)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, fit(dataset, folder, Panels(folder, patches=2, every=3))


def test_every_third_epoch_and_the_last_are_drawn(run):
    # Without checkpoints there is no best, only a last.
    names = {path.name for path in (run[0] / "panels").iterdir()}
    assert names == {"epoch_003.png", "epoch_004.png", "confusion_last.png"}


def test_learning_is_the_same_with_and_without_panels(run, dataset, tmp_path):
    plain = fit(dataset, tmp_path, None).net.state_dict()
    drawn = run[1].net.state_dict()
    assert all(torch.equal(plain[key], drawn[key]) for key in plain)
    assert not (tmp_path / "panels").exists()


def test_the_panel_shows_what_the_finished_network_predicts(run, dataset):
    folder, predictor = run
    rows = pictures.choose_patches(dataset, dataset.parts("location")["val"].tolist(), 2)
    labels = np.stack([predictor.labels(dataset.image(row)[None])[0] for row in rows])
    drawn = np.asarray(Image.open(folder / "panels" / "epoch_004.png"))
    np.testing.assert_array_equal(drawn, pictures.panel(dataset, rows, labels, "epoch 4"))
    # Each third of the first strip is its patch, enlarged, in the taxonomy's colours.
    side = 16 * (pictures.SIDE // 16)
    top = 8 + 2 * pictures.LINE
    strip = drawn[top : top + side, 8:-8]
    shown = np.where((dataset.image(rows[0]) == 0).any(axis=0), 255, labels[0]).astype(np.uint8)
    factor = side // 16
    for place, mask in ((1, dataset.mask(rows[0])), (2, shown)):
        left = place * (side + 8)
        small = strip[:, left : left + side][::factor, ::factor]
        np.testing.assert_array_equal(small, pictures.paint(mask, dataset.spec.taxonomy))


def test_patches_are_chosen_by_labels_and_places_alone(dataset):
    rows = list(range(len(dataset)))
    chosen = pictures.choose_patches(dataset, rows, 3)
    assert chosen == pictures.choose_patches(dataset, rows[::-1], 3)
    places = [dataset.manifest["roi"][row].as_py() for row in chosen]
    assert len(set(places)) == 3
    assert pictures.choose_patches(dataset, rows[:2], 9) == sorted(
        rows[:2], key=lambda row: -np.count_nonzero(dataset.manifest["counts"][row].as_py())
    )


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 14), st.integers(0, 2**32 - 1))
def test_a_confusion_matrix_is_drawn_row_by_row(classes, seed):
    matrix = np.random.default_rng(seed).integers(0, 10**9, (classes, classes))
    matrix[-1] = 0  # a class without truth
    drawn = pictures.confusion(matrix, [f"class {i}" for i in range(classes)], "t")
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    left, top, cell = 20 + 7 * max(len(f"class {i}") for i in range(classes)), 2 * pictures.LINE + 8, 40
    for i in range(classes):
        for j in range(classes):
            colour = drawn[top + i * cell + 3, left + j * cell + 3].tolist()
            assert colour == [int(255 + share[i, j] * (end - 255)) for end in (0, 68, 27)]


def test_a_large_patch_is_not_enlarged_and_names_in_any_language_are_drawn(tmp_path):
    dataset = make_dataset(tmp_path / "d", n=2, size=200, parts={"val": 1.0})
    drawn = pictures.panel(dataset, [0], dataset.mask(0)[None], "Zuckerrübe, épeautre, żyto")
    assert drawn.shape[1] == 3 * 200 + 4 * pictures.GAP
    pictures.write_png(tmp_path / "a" / "b.png", drawn)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a" / "b.png")), drawn)


@pytest.mark.parametrize("options", [{"patches": -1}, {"every": 0}, {"every": "abc"}, {"every": 2.5}])
def test_impossible_numbers_are_refused(options, tmp_path):
    with pytest.raises(ConfigError, match=r"callbacks\.panels"):
        Panels(tmp_path, **options)


def test_no_patches_no_panels(dataset, tmp_path):
    fit(dataset, tmp_path, Panels(tmp_path, patches=0), epochs=1)
    assert {path.name for path in (tmp_path / "panels").iterdir()} == {"confusion_last.png"}
