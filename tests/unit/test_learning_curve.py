"""Score against labelled parcels: what is a line, a point, and what is refused."""

import csv

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from cropseg import learning_curve
from cropseg.core import storage, taxonomy
from cropseg.core.errors import ConfigError, InputError, MismatchError
from cropseg.learning_curve import draw, points
from cropseg.predictor import ModelSpec
from cropseg.runs import open_runs
from cropseg.scores import Evaluation

CLASSES = len(taxonomy.load("eurocrops10"))


def matrix(right):
    """Two classes of ten pixels each, ``right`` of them right."""
    found = np.zeros((CLASSES, CLASSES), np.int64)
    found[1, 1] = found[2, 2] = right
    found[1, 2] = found[2, 1] = 10 - right
    return found


def present(right):
    return right / (20 - right)


def run(sweep, number, fraction, seed, right, *, parcels=None, model="unet4gn", init=None, test=None, **spec):
    """A finished job of a sweep."""
    folder = sweep / f"{number}_{model}"
    labels = {} if fraction is None else {"fraction": fraction, "parcels": parcels, "all_parcels": 1000}
    begun = {} if init is None else {"run": init, "folder": init, "frozen": False, "trained_on": []}
    written = ModelSpec(
        **{
            "loader": "cropseg.learners.network.load",
            "model": {},
            "bands": ("B02",),
            "taxonomy": taxonomy.load("eurocrops10"),
            "resolution": 10.0,
            "patch_size": 32,
            "simulated": True,
            "dataset": "tiny",
            "manifest_digest": "d" * 64,
            "split": "location",
            "labels": labels,
            "init_from": begun,
            **spec,
        }
    )
    storage.write_json(folder / "spec.json", written.to_dict())
    storage.write_json(folder / "validation.json", {"confusion": matrix(right).tolist(), "epoch": 0, "protocol": "all"})
    (folder / ".hydra").mkdir()
    config = {"seed": seed, "dataset": {"fraction": fraction}, "init_from": init, "model": {"kind": model}}
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    OmegaConf.save({"hydra": {"runtime": {"choices": {"model": model}}}}, folder / ".hydra" / "hydra.yaml")
    if test is not None:
        evaluation = Evaluation(
            set="internal",
            dataset="tiny",
            root="x",
            split="location",
            part="test",
            manifest_digest="d" * 64,
            simulated=True,
            trained_on_simulated=True,
            protocol="crop",
            patches=1,
            patch_size=32,
            training_patch_size=32,
            classes=tuple(taxonomy.load("eurocrops10").names),
            confusion=matrix(test),
        )
        storage.write_json(folder / "evaluation" / "internal.json", evaluation.to_dict())


@pytest.fixture
def sweep(tmp_path):
    """Two fractions, two seeds, from scratch and from another run."""
    number = 0
    for init, gain in ((None, 0), ("older", 2)):
        for fraction, parcels in ((0.1, (90, 110)), (1.0, (1000, 1000))):
            for seed in (0, 1):
                right = 4 + gain + 2 * (fraction == 1) + seed
                test = right - 1 if init is None and fraction == 1 else None
                run(tmp_path / "sweep", number, fraction, seed, right, parcels=parcels[seed], init=init, test=test)
                number += 1
    return tmp_path / "sweep"


def test_points_are_means_and_ranges_over_seeds(sweep):
    found = points(open_runs(sweep, sweep))
    where = [(one.line, one.set, one.fraction, one.seeds, one.parcels.mean) for one in found]
    assert where == [
        ("unet4gn", "validation", 0.1, 2, 100),
        ("unet4gn", "validation", 1.0, 2, 1000),
        ("unet4gn from older", "validation", 0.1, 2, 100),
        ("unet4gn from older", "validation", 1.0, 2, 1000),
        ("unet4gn", "internal", 1.0, 2, 1000),
    ]
    assert (found[0].parcels.low, found[0].parcels.high) == (90, 110)
    assert found[0].score.low == pytest.approx(present(4))
    assert found[0].score.high == pytest.approx(present(5))
    assert found[0].score.mean == pytest.approx((present(4) + present(5)) / 2)
    assert found[-1].score.low == pytest.approx(present(5))
    accuracy = points(open_runs(sweep, sweep), "pixel_accuracy")
    assert accuracy[0].score.low == pytest.approx(0.4)


def test_picture_and_table_are_written_the_same_each_time(sweep, tmp_path, capsys):
    runs = open_runs(sweep, sweep)
    picture, file = draw(runs, tmp_path / "out" / "curve.v1")
    assert (picture.name, file.name) == ("curve.v1.png", "curve.v1.csv")
    with Image.open(picture) as image:
        assert min(image.size) > 300
    with file.open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert tuple(rows[0]) == learning_curve.COLUMNS
    assert len(rows) == 5
    assert (rows[0]["parcels"], rows[0]["parcels_lowest"]) == ("100", "90")
    assert float(rows[0]["score"]) == points(runs)[0].score.mean
    said = capsys.readouterr().out
    assert "100 (90 … 110)" in said
    assert "learning curve of 8 runs" in said
    again = draw(runs, tmp_path / "again")
    assert [one.read_bytes() for one in again] == [picture.read_bytes(), file.read_bytes()]


def test_lines_of_the_same_name_are_told_apart(sweep):
    run(sweep, 20, 0.1, 0, 3, parcels=90)
    path = sweep / "20_unet4gn" / ".hydra" / "config.yaml"
    config = OmegaConf.load(path)
    config.optimizer = {"lr": 1}
    OmegaConf.save(config, path)
    names = {one.line for one in points(open_runs(sweep, sweep))}
    assert len(names) == 3
    assert sum(name.startswith("unet4gn (") for name in names) == 2


def test_what_is_wrong_is_said(sweep, tmp_path):
    with pytest.raises(ConfigError, match="no such score"):
        points(open_runs(sweep, sweep), "kappa")
    run(tmp_path / "uncounted", 0, None, 0, 5)
    with pytest.raises(InputError, match=r"number of labelled parcels.*dataset\.fraction=1"):
        points(open_runs(tmp_path / "uncounted", sweep))
    run(tmp_path / "elsewhere", 0, 1, 0, 5, parcels=9, manifest_digest="e" * 64)
    with pytest.raises(MismatchError, match="different datasets"):
        points(open_runs([sweep, tmp_path / "elsewhere"], sweep))
    (sweep / "0_unet4gn" / "validation.json").unlink()
    with pytest.raises(InputError, match=r"no validation\.json"):
        points(open_runs(sweep, sweep))
