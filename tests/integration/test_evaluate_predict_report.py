"""The commands after training, on a run that train.py made: evaluate.py, predict.py, report.py."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import safe_factory
from factory import make_dataset
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf

from cropseg.core import storage
from cropseg.core.bands import PAPER_BANDS
from cropseg.core.errors import InputError
from cropseg.core.tiling import Window
from cropseg.runs import open_run
from cropseg.scores import SIMULATED_NOTE
from data_prep.align import AlignedProduct

TEST_ONLY = {"train": 0.0, "val": 0.0, "test": 1.0}


def composed(repo, script, *overrides):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(repo / "conf"), version_base="1.3"):
        return compose(script, list(overrides))


def call(repo, script, *overrides):
    """Run a root script's main on its composed config, in this process: starting Python anew costs seconds."""
    cfg = composed(repo, script, *overrides)
    spec = importlib.util.spec_from_file_location(f"root_{script}", repo / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main.__wrapped__(cfg)


def shell(repo, *command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=repo, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    make_dataset(folder / "data" / "own", n=15, size=32, nodata=True, noise=50)
    make_dataset(
        folder / "data" / "embedded_unseen", n=3, size=32, seed=3, parts=TEST_ONLY, split="test", name="unseen"
    )
    return folder


@pytest.fixture(scope="module")
def run_dir(repo, place):
    path = place / "runs" / "debug"
    done = shell(
        repo,
        "train.py",
        "experiment=debug",
        "dataset=folder",
        f"dataset.root={place / 'data' / 'own'}",
        f"hydra.run.dir={path}",
    )
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def where(place):
    return [f"paths.data={place / 'data'}", f"paths.runs={place / 'runs'}", f"paths.root={place}"]


def test_a_trained_run_is_evaluated_mapped_and_reported(repo, place, run_dir, where, capsys):
    call(repo, "evaluate", *where, "run=latest", "evaluation=[internal,unseen]", "batch_size=2", "devices=2")
    shown = capsys.readouterr().out
    assert "unseen" in shown
    assert "simulated" in shown
    run = open_run(run_dir)
    assert set(run.evaluations) == {"internal", "unseen"}
    assert run.evaluations["internal"].patches == 3
    assert run.evaluations["unseen"].confusion.sum() + run.evaluations["unseen"].without_label == 3 * 32 * 32

    safe = safe_factory.product(place / "products", 1, size=96)
    out = place / "map.tif"
    options = ["map.window=48", "map.overlap=16", "map.blend=false", "map.confidence=true", "devices=2"]
    call(repo, "predict", *where, f"run={run_dir}", f"product={safe.folder}", f"out={out}", *options)
    with AlignedProduct(safe, PAPER_BANDS) as scene, rasterio.open(out) as dataset:
        image = scene.read(Window(0, 0, scene.grid.height, scene.grid.width))
        labels = dataset.read(1)
        invalid = composed(repo, "prepare").quality.scl_invalid
        clouds = np.isin(scene.scl(Window(0, 0, scene.grid.height, scene.grid.width)), list(invalid))
        empty = (image == 0).any(axis=0)
        assert (clouds & ~empty).any()
        np.testing.assert_array_equal(labels == 255, empty | clouds)
        assert (labels[labels != 255] < 11).all()
        assert dataset.tags()["MODEL"] == "unet4gn_small"
        assert dataset.tags()["NOTE"] == SIMULATED_NOTE
        # The first window's kept part is what the model says of that window alone.
        corner = run.predictor.labels(image[None, :, :48, :48])[0]
        valid = labels[:40, :40] != 255
        np.testing.assert_array_equal(labels[:40, :40][valid], corner[:40, :40][valid])

    page = place / "report.html"
    call(repo, "report", *where, f"run=[{run_dir}]", f"out={page}")
    text = page.read_text()
    assert "unet4gn_small" in text
    assert "Validation mIoU, present classes" in text
    assert SIMULATED_NOTE in text
    assert run.spec.manifest_digest in text


def test_a_forest_goes_the_same_way(repo, place, where):
    path = place / "runs" / "forest"
    own = place / "data" / "own"
    options = ["model=rf_spectral", "model.forest.n_estimators=5", "dataset=folder", "logger=none"]
    cfg = composed(repo, "train", *options, f"dataset.root={own}", f"run_dir={path}")
    instantiate(cfg.model).fit(instantiate(cfg.dataset), path)
    config = OmegaConf.to_yaml(OmegaConf.create({"dataset": {"root": str(own)}}))
    storage.write_bytes(path / ".hydra" / "config.yaml", config.encode())
    call(repo, "evaluate", *where, f"run={path}", "evaluation=internal")
    # Fields of one spectrum and little noise: a forest tells them apart.
    assert open_run(path).evaluations["internal"].scores("all")["pixel_accuracy"] > 0.9
    page = place / "forest.html"
    call(repo, "report", *where, f"run={path}", f"out={page}")
    assert "Feature importances" in page.read_text()


def test_a_wrong_path_is_one_clear_line_and_a_failing_exit(repo, tmp_path):
    done = shell(repo, "evaluate.py", "run=no/such", f"hydra.run.dir={tmp_path / 'logs'}")
    assert done.returncode == 2
    assert "no such run" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    for script in ("predict", "report"):
        with pytest.raises(InputError, match="no finished run"):
            call(repo, script, f"paths.runs={tmp_path}")
