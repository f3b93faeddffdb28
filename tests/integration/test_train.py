"""train.py as a user types it, on tiny data."""

import ast
import csv
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from factory import make_dataset

from cropseg.runs import open_run

SCRIPT = Path(__file__).resolve().parents[2] / "train.py"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "tiny", n=10, size=32)


@pytest.fixture
def train(dataset, tmp_path, monkeypatch):
    """Call train.py's main with words of a command line; gives the run folders that are there afterwards."""
    spec = importlib.util.spec_from_file_location("train_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CROPSEG_DATA", str(tmp_path / "data"))

    def call(*words, data=("dataset=folder", f"dataset.root={dataset.root}")):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *data, f"paths.runs={tmp_path / 'runs'}", *words])
        script.main()
        return sorted(path.parent for path in (tmp_path / "runs").rglob("spec.json"))

    return call


def test_debug_experiment_leaves_a_finished_run(train, capsys):
    (run,) = train("experiment=debug", "logger=[csv,tensorboard]", "trainer=cpu")
    names = {path.name for path in run.iterdir()}
    assert {
        ".hydra",
        "weights.pt",
        "spec.json",
        "validation.json",
        "metrics.csv",
        "hardware.json",
        "checkpoints",
        "tensorboard",
    } <= names
    assert {"best.ckpt", "best_miou.ckpt", "last.ckpt"} == {path.name for path in (run / "checkpoints").iterdir()}
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert run.name.endswith("_unet4gn_small")
    assert yaml.safe_load((run / ".hydra" / "config.yaml").read_text())["epochs"] == 2
    assert "Its scores mean nothing" in capsys.readouterr().out


def test_the_readmes_own_words_with_the_real_net(train, dataset, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "embedded").symlink_to(dataset.root)
    words = ("model=unet4gn", "loss=ce_dice", "epochs=1", "trainer.accelerator=cpu", "callbacks.projection.steps=4")
    (run,) = train(*words, data=("dataset.batch_size=1",))
    said = capsys.readouterr().out
    assert "17,660,027 parameters" in said
    assert "1 epochs of 6 steps take about" in said
    assert "experiment=demo" in said
    size = (run / "weights.pt").stat().st_size
    assert size == pytest.approx(70.66e6, rel=0.001)


def test_a_sweep_over_nets_and_forests_and_seeds(train):
    runs = train("model=unet4gn_small,rf_spectral", "-m", "seed=1,2", "epochs=1")
    assert [run.name for run in runs] == ["0_unet4gn_small", "1_unet4gn_small", "2_rf_spectral", "3_rf_spectral"]
    found = [json.loads((run / "spec.json").read_text())["loader"] for run in runs]
    assert found == ["cropseg.learners.network.load"] * 2 + ["cropseg.learners.forest.load"] * 2
    scores = [json.loads((run / "validation.json").read_text())["miou_present"] for run in runs]
    assert scores[0] != scores[1]  # the seed matters


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("model=rf_spectral", "loss=ce_dice"), "loss is set but model does not use it"),
        (("model=rf_spectral", "experiment=debug"), "is set but model does not use it"),
        (("model=rf_spectral", "optimizer=adamw"), "optimizer"),
        (("model=no_such",), "no_such"),
        (("los=ce",), "los"),
        (("experiment=debug", "dataset.root=/nowhere/at/all"), "no dataset at /nowhere/at/all"),
        (("experiment=debug", "dataset.split=country"), "no split"),
        (("experiment=debug", "dataset.train_crop=999"), "train_crop"),
        (("experiment=debug", "loss=ce", "loss.weights=[1,2]"), "class weights for 2 classes"),
        (("experiment=debug", "model.net.base=10"), "multiple of groups=4"),
        (("experiment=debug", "model.net.depth=3"), "depth"),
        (("dataset.train_crop=8", "epochs=1"), "at least 16"),
        (("experiment=debug", "seed=-1"), "seed in 0"),
        (("experiment=debug", "optimizer.lr=-1"), "optimizer is refused"),
        (("experiment=debug", "trainer.precision=foo"), "trainer.precision: 'foo'. choose 32-true"),
        (("experiment=debug", "dataset.batch_size=1.5"), "option dataset.batch_size: 1.5. give a whole number"),
        (("experiment=debug", "callbacks.checkpoint.mode=foo"), "foo"),
        (("experiment=debug", "run_dir=null"), "option run_dir"),
        (("experiment=debug", "logger=[csv,nope]"), "choose from"),
        (("experiment=debug", "callbacks=none"), "callbacks.projection has options and no _target_"),
        (("scheduler=null",), "not null"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_one_line_and_a_non_zero_exit(train, capsys, words, says):
    with pytest.raises(SystemExit) as stopped:
        train(*words)
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert says in said[-1]
    assert said[-1].startswith("error:")


def test_offline_wandb_says_where_it_lies(train, capsys):
    (run,) = train("experiment=debug", "logger=wandb")
    assert list((run / "wandb").glob("offline-run-*/run-*.wandb"))
    assert "wandb sync" in capsys.readouterr().out


def test_a_finished_forest_gives_its_score_and_a_begun_one_starts_anew(train, capsys):
    (run,) = train("model=rf_spectral", "resume=auto")
    capsys.readouterr()
    assert train("model=rf_spectral", "resume=auto") == [run]
    assert "this run is finished" in capsys.readouterr().out
    assert [path for path in run.parent.iterdir() if path.is_dir()] == [run]
    (run / "spec.json").unlink()
    assert train("model=rf_spectral", "resume=auto") == [run]
    assert "going on in" in capsys.readouterr().out


SMALL = ("experiment=fast", "epochs=1", "model.net.base=8", "dataset.batch_size=4", "trainer.precision=32-true")


def test_the_fast_experiment_runs_on_a_processor(train):
    (run,) = train(*SMALL, "model.compile=false", "trainer=cpu")
    assert yaml.safe_load((run / ".hydra" / "config.yaml").read_text())["model"]["channels_last"] is True


@pytest.mark.slow
def test_the_fast_experiment_compiles_and_its_weights_load_anywhere(train):
    (run,) = train(*SMALL, "trainer=cpu")
    assert yaml.safe_load((run / ".hydra" / "config.yaml").read_text())["model"]["compile"] is True
    predictor = open_run(run).predictor
    images = np.full((1, 10, 32, 32), 3000, dtype=np.uint16)
    assert predictor.labels(images).shape == (1, 32, 32)


def test_library_net_trains_from_its_yaml(train):
    (run,) = train("experiment=debug", "model=smp_unet", "loss=dice", "optimizer=adamw", "scheduler=cosine")
    assert json.loads((run / "spec.json").read_text())["model"]["net"]["arch"] == "unet"


def test_the_script_is_short_and_training_needs_no_map_library():
    """Machines that only train may lack these; what is imported inside functions is asked for by an option."""
    assert len(SCRIPT.read_text().splitlines()) < 30
    needed = [SCRIPT, *(SCRIPT.parent / "cropseg").glob("*.py")]
    for package in ("core", "data", "models", "learners"):
        needed += (SCRIPT.parent / "cropseg" / package).glob("*.py")
    own = {
        "evaluate.py",
        "predict.py",
        "runs.py",
        "forest.py",
        "map_file.py",
        "maps.py",
        "area.py",
        "area_points.py",
        "area_report.py",
    }
    for path in needed:
        if path.name in own:
            continue
        tops = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {a.name if isinstance(n, ast.Import) else n.module or "" for n in tops for a in n.names}
        missing = {"rasterio", "geopandas", "pyogrio", "wandb", "rich", "skops", "segmentation_models_pytorch"}
        assert not {name.split(".")[0] for name in names} & missing, path
