"""Mechanism on the embedded region: labels that lie some pixels beside their ground cost score."""

import shutil

import numpy as np
import pytest
from embedded import tiny_data
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

from cropseg.core import storage
from cropseg.core.manifest import open_dataset
from cropseg.evaluate import EvaluationSet, evaluate

SHIFT = 6  # pixels, 60 m: a good part of a field of the embedded region


class Shifted:
    """A model that sees each patch moved by some pixels down and right, as if the image were registered wrongly."""

    def __init__(self, predictor, pixels):
        self.predictor, self.spec, self.pixels = predictor, predictor.spec, pixels

    def labels(self, images):
        return self.predictor.labels(np.roll(images, (self.pixels, self.pixels), axis=(2, 3)))


def forest(repo, root, folder):
    GlobalHydra.instance().clear()
    options = [
        "model=rf_spectral",
        "model.forest.n_estimators=10",
        "model.sampling.per_class=3000",
        "logger=none",
        f"run_dir={folder}",
    ]
    with initialize_config_dir(str(repo / "conf"), version_base="1.3"):
        cfg = compose("train", [*options, "dataset=folder", f"dataset.root={root}"])
    return instantiate(cfg.model).fit(instantiate(cfg.dataset), folder)


def score(model, root, name="embedded"):
    result = evaluate(model, EvaluationSet(name, str(root), "location"))
    return result.scores("all")["miou_present"]


@pytest.fixture(scope="module")
def trained(repo, tmp_path_factory):
    return forest(repo, tiny_data() / "embedded", tmp_path_factory.mktemp("straight"))


def test_an_injected_shift_of_the_image_lowers_the_score_and_a_larger_one_more(trained):
    scores = [score(Shifted(trained, pixels), tiny_data() / "embedded") for pixels in (0, SHIFT // 2, SHIFT)]
    assert scores[0] == score(trained, tiny_data() / "embedded")
    assert scores[0] > scores[1] > scores[2]
    assert scores[2] < 0.8 * scores[0]


@pytest.mark.slow
def test_a_shift_of_the_truth_that_a_model_learned_from_lowers_its_score(repo, trained, tmp_path):
    shutil.copytree(tiny_data() / "embedded", tmp_path / "moved")
    moved = open_dataset(tmp_path / "moved")
    for row in moved.parts("location")["train"]:
        path = moved.root / moved.manifest["mask"][int(row)].as_py()
        storage.write_array(path, np.roll(moved.mask(int(row)), (SHIFT, SHIFT), axis=(0, 1)))
    learned = forest(repo, moved.root, tmp_path / "run")
    straight = tiny_data() / "embedded"
    assert score(learned, straight) < score(trained, straight)
