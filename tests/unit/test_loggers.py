"""Each tracker in a real training, its record read back with the tracker's own reader."""

import functools
import json
import math
import os
import sqlite3
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from factory import make_dataset
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf
from training import cpu_trainer

from cropseg.core.errors import ConfigError, InputError, SourceError
from cropseg.data.datamodule import CropDataModule
from cropseg.learners import callbacks
from cropseg.learners.callbacks import Projection, Speed
from cropseg.learners.loggers import CsvLogger, TensorBoardRun, WandbRun
from cropseg.learners.mlflow_run import MlflowRun
from cropseg.learners.neural import NeuralLearner
from cropseg.learners.panels import Panels
from cropseg.learners.secrets import masked
from cropseg.learners.tracking import describe_run, iou_names, with_csv
from cropseg.losses import CrossEntropy
from cropseg.models.unet4gn import UNet4LevelsGN
from cropseg.runs import read_history

SCORES = {
    "train_loss",
    "val_loss",
    "val_miou",
    "val_miou_present",
    "val_pixel_accuracy",
    "lr",
    "patches_per_second",
    "epoch_seconds",
}
PICTURES = {"panel", "confusion_best", "confusion_last"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "tiny", n=8, size=16, nodata=True)


def run_folder(path, **config):
    """A run folder as train.py leaves it when training begins."""
    (path / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(config), path / ".hydra" / "config.yaml")
    (path / "identity.json").write_text(json.dumps({"wandb_id": "run01234"}))
    return path


def train(dataset, run, logger, *, epochs=2):
    learner = NeuralLearner(
        net=functools.partial(UNet4LevelsGN, base=8),
        loss=CrossEntropy(),
        optimizer=functools.partial(torch.optim.Adam, lr=1e-3),
        trainer=cpu_trainer(epochs),
        callbacks={
            "checkpoint": ModelCheckpoint(run / "checkpoints", "best", monitor="val_loss"),
            "speed": Speed(),
            "panels": Panels(run, patches=1, every=1),
        },
        logger=logger,
    )
    learner.fit(CropDataModule(dataset.root, batch_size=4), run)


@pytest.fixture(scope="module")
def tensorboard(dataset, tmp_path_factory):
    run = run_folder(tmp_path_factory.mktemp("tb") / "r", optimizer={"lr": 1e-3}, source={"password": "hunter2"})
    train(dataset, run, {"tensorboard": TensorBoardRun(run)})
    return run


def events(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    found.Reload()
    return found


def test_tensorboard_holds_scores_pictures_and_config(tensorboard, dataset):
    found = events(tensorboard)
    tags = found.Tags()
    assert SCORES | set(iou_names(dataset.spec.taxonomy)) <= set(tags["scalars"])
    assert set(tags["images"]) == PICTURES
    # Two steps an epoch: the last of each holds each value once.
    steps = {tag: [event.step for event in found.Scalars(tag)] for tag in (*SCORES, "epoch")}
    assert steps == {tag: [1, 3] for tag in steps}
    assert [event.step for event in found.Images("panel")] == [1, 3]
    text = found.Tensors("run/text_summary")[0].tensor_proto.string_val[0].decode()
    assert dataset.digest in text
    assert "lr: 0.001" in text
    everything = b"".join(path.read_bytes() for path in tensorboard.rglob("tensorboard/*"))
    assert b"hunter2" not in everything


def test_metrics_csv_is_written_whatever_the_trackers(tensorboard, dataset):
    history = read_history(tensorboard / "metrics.csv")
    assert history["epoch"].tolist() == [0, 1]
    assert SCORES | set(iou_names(dataset.spec.taxonomy)) <= set(history)
    assert (history["patches_per_second"] > 0).all()
    scalars = [event.value for event in events(tensorboard).Scalars("val_loss")]
    np.testing.assert_allclose(history["val_loss"], scalars, rtol=1e-6)


def test_pictures_lie_in_the_run_folder(tensorboard):
    names = {path.name for path in (tensorboard / "panels").iterdir()}
    assert names == {"epoch_001.png", "epoch_002.png", "confusion_best.png", "confusion_last.png"}


def resumed(logger, first, again):
    """Log epochs 0 to ``first``, be killed, and go on with epoch ``again`` in another process."""
    one = logger()
    for epoch in range(first + 1):
        one.log_metrics({"epoch": epoch, "val_loss": float(epoch)}, 10 * epoch + 9)
    one.save()
    two = logger()
    for epoch in range(again, first + 2):
        two.log_metrics({"epoch": epoch, "val_loss": epoch + 0.5}, 10 * epoch + 9)
        two.log_metrics({"epoch": epoch, "lr": 0.1}, 10 * epoch + 9)
    two.save()
    two.finalize("success")


def test_csv_keeps_the_rows_before_the_epoch_that_is_gone_on_with(tmp_path):
    resumed(lambda: CsvLogger(tmp_path), first=3, again=3)
    history = read_history(tmp_path / "metrics.csv")
    assert history["epoch"].tolist() == [0, 1, 2, 3, 4]
    assert history["val_loss"].tolist() == [0, 1, 2, 3.5, 4.5]
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 6


def test_a_new_run_in_an_old_folder_keeps_no_row(tmp_path):
    for value in (1.0, 2.0):
        CsvLogger(tmp_path).log_metrics({"epoch": 0, "val_loss": value}, 9)
    CsvLogger(tmp_path).save()  # nothing logged: nothing is written over
    assert (tmp_path / "metrics.csv").read_text() == "epoch,step,val_loss\n0,9,2.0\n"


def test_tensorboard_shows_no_step_twice_after_a_kill(tmp_path):
    resumed(lambda: TensorBoardRun(tmp_path), first=3, again=3)
    shown = events(tmp_path).Scalars("val_loss")
    assert [(event.step, event.value) for event in shown] == [(9, 0), (19, 1), (29, 2), (39, 3.5), (49, 4.5)]


def test_a_picture_of_a_run_that_was_only_to_be_finished_voids_no_step(tmp_path):
    one = TensorBoardRun(tmp_path)
    one.log_metrics({"epoch": 0, "val_loss": 1.0}, 9)
    one.save()
    two = TensorBoardRun(tmp_path)  # killed after its last epoch, before its end
    two.log_picture("confusion_last", np.zeros((8, 8, 3), np.uint8), 0, 9)
    two.finalize("success")
    found = events(tmp_path)
    assert [event.step for event in found.Scalars("val_loss")] == [9]
    assert [event.step for event in found.Images("confusion_last")] == [9]


def test_values_that_are_no_numbers_break_no_file(tmp_path):
    values = {"epoch": 0.0, "a": math.nan, "b": math.inf, "c": -math.inf}
    for logger in (CsvLogger(tmp_path), TensorBoardRun(tmp_path)):
        logger.log_metrics(values, 0)
        logger.log_metrics({"epoch": 1.0, "a": 1.0}, 1)
        logger.finalize("success")
    history = read_history(tmp_path / "metrics.csv")
    np.testing.assert_array_equal(history["a"], [np.nan, 1])
    np.testing.assert_array_equal(history["b"], [np.inf, np.nan])
    assert math.isnan(events(tmp_path).Scalars("a")[0].value)


@pytest.mark.parametrize(
    ("tracker", "package", "says"),
    [
        (lambda path: WandbRun(path), "wandb", "pip install wandb"),
        (lambda path: MlflowRun(path, path), "mlflow", r"pip install 'cropseg\[mlflow\]'"),
    ],
    ids=["wandb", "mlflow"],
)
def test_a_missing_package_names_what_to_install(tracker, package, says, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ConfigError, match=says):
        tracker(tmp_path)


def test_secrets_are_masked_by_name_by_address_and_by_environment(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    given = {
        "source": {"password": "a", "access_token": ["b"], "user": "me", "api_key": None},
        "uri": "https://me:pw@tracker.example/x",
        "note": "my key is 0123456789abcdef",
        "loss": {"weights": [1.0, 2.0]},
    }
    assert masked(given) == {
        "source": {"password": "***", "access_token": ["***"], "user": "me", "api_key": None},
        "uri": "https://***@tracker.example/x",
        "note": "***",
        "loss": {"weights": [1.0, 2.0]},
    }


def test_a_run_is_described_by_config_data_and_commit(dataset, tmp_path):
    found = describe_run(run_folder(tmp_path / "r", seed=3, run_dir="${hydra:runtime.output_dir}"), dataset, "location")
    assert found["config"] == {"seed": 3, "run_dir": "${hydra:runtime.output_dir}"}
    assert found["data"]["manifest_digest"] == dataset.digest
    assert set(found["git"]) == {"commit", "dirty"}
    assert describe_run(tmp_path / "elsewhere", dataset, "location")["config"] == {}


def test_csv_is_not_written_twice(tmp_path):
    mine = {"csv": CsvLogger(tmp_path)}
    assert with_csv(mine, tmp_path) == [mine["csv"]]
    assert [type(one) for one in with_csv({}, tmp_path)] == [CsvLogger]


def test_what_is_no_tracker_is_refused_before_training(dataset, tmp_path):
    for wrong, kind in ((torch.nn.Identity(), "Identity"), ({"save_dir": "x"}, "dict")):
        with pytest.raises(ConfigError, match=rf"logger\.mine is no logger: '{kind}'"):
            train(dataset, tmp_path / "run", {"csv": CsvLogger(tmp_path), "mine": wrong})
    assert not (tmp_path / "run").exists()


def trainer(**more):
    defaults = {"num_training_batches": 2, "num_val_batches": [3], "max_epochs": 10, "current_epoch": 0}
    progress = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(is_last_batch=True)))
    return SimpleNamespace(
        **{**defaults, "is_global_zero": True, "world_size": 2, "global_step": 2, "fit_loop": progress, **more}
    )


@pytest.mark.parametrize(
    ("steps", "epochs", "said"),
    [
        (2, 10, "1.00 s a step: 10 epochs of 2 steps take about 30 s"),
        (5, 10, "1.00 s a step: 10 epochs of 5 steps take about 60 s"),
        (2, 1, ""),
    ],
    ids=["all warm-up", "short", "one epoch"],
)
def test_a_run_with_short_epochs_is_projected_at_the_end_of_the_first(steps, epochs, said, monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: clock[0])
    projection = Projection(steps=20)
    now = trainer(num_training_batches=steps, max_epochs=epochs)
    for _ in range(min(epochs, 3)):
        projection.on_train_epoch_start(now, None)
        for batch in range(steps):
            clock[0] += 1.0
            projection.on_train_batch_end(now, None, None, None, batch)
        clock[0] += 50.0  # a validation
        projection.on_train_epoch_end(now, None)
    assert capsys.readouterr().out.strip() == said


def test_speed_counts_training_alone_and_all_processes(monkeypatch, tmp_path):
    clock = [0.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: clock[0])
    now, module = trainer(loggers=[CsvLogger(tmp_path)]), SimpleNamespace(device=torch.device("cpu"))
    speed = Speed()
    speed.on_train_start(now, module)
    clock[0] += 30.0  # compiling
    speed.on_train_epoch_start(now, module)
    for _ in range(2):
        clock[0] += 1.0
        speed.on_train_batch_end(now, module, None, {"row": torch.arange(4)}, 0)
    speed.on_validation_start(now, module)
    clock[0] += 100.0
    speed.on_validation_end(now, module)
    clock[0] += 100.0  # a checkpoint
    speed.on_train_epoch_end(now, module)
    found = read_history(tmp_path / "metrics.csv")
    assert found["patches_per_second"].tolist() == [8.0]  # 2 x 8 patches in 2 s
    assert found["epoch_seconds"].tolist() == [232.0]


def wandb_records(folder):
    """Every record of an offline run: LevelDB's log format after a header of 7 bytes, protocol buffers within."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("*.wandb")
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    found, place, parts = [], 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # the rest of a block that takes no more
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # full, or the last part
            found.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return found


@pytest.mark.slow
def test_wandb_offline_holds_one_row_an_epoch_and_says_how_to_send_it(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    run = run_folder(tmp_path / "r", optimizer={"lr": 1e-3}, source={"password": "hunter2"})
    train(dataset, run, {"wandb": WandbRun(run, group="mine")})
    (folder,) = run.glob("wandb/offline-run-*")
    said = capsys.readouterr()
    assert f"wandb sync {folder}" in said.out
    assert "run01234" in folder.name  # the run folder's id, which outlives a kill
    records = wandb_records(folder)
    (started,) = [record.run for record in records if record.HasField("run")]
    assert (started.run_group, started.project, started.run_id) == ("mine", "cropseg", "run01234")
    assert not started.git.commit
    rows = [
        {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert [int(row["epoch"]) for row in rows] == [0, 1]
    assert all(set(row) >= SCORES for row in rows)
    assert [row["panel._type"] for row in rows] == ['"image-file"'] * 2
    assert {"confusion_best.path", "confusion_last.path"} <= set(rows[-1])
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [0]
    for path in (one for one in run.rglob("*") if one.is_file()):
        content = path.read_bytes()
        assert b"0123456789abcdef0123456789abcdef01234567" not in content, path
        assert b"hunter2" not in content or path.parent.name == ".hydra", path
    assert "0123456789abcdef" not in said.out + said.err


@pytest.mark.slow
def test_wandb_finishes_each_run_and_marks_a_failed_one(tmp_path):
    for name, status in (("a", "success"), ("b", "failed")):
        run = run_folder(tmp_path / name)
        logger = WandbRun(run)
        logger.log_metrics({"epoch": 0, "a": math.nan, "b": math.inf}, 0)
        logger.finalize(status)
        (folder,) = run.glob("wandb/offline-run-*")
        limit = time.monotonic() + 20  # its writer is a process of its own
        while not (found := [one for one in wandb_records(folder) if one.HasField("exit")]):
            assert time.monotonic() < limit
            time.sleep(0.2)
        assert [one.exit.exit_code for one in found] == [int(status == "failed")]


@pytest.mark.slow
# MLflow's own packages warn of each other.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::PendingDeprecationWarning")
def test_mlflow_holds_the_run_in_a_local_database(dataset, tmp_path, capsys):
    from mlflow import MlflowClient

    run = run_folder(tmp_path / "r", optimizer={"lr": 1e-3}, source={"password": "hunter2"})
    store = tmp_path / "a store" / "mlflow"
    train(dataset, run, {"mlflow": MlflowRun(store, run)})
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "cropseg"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert SCORES | set(iou_names(dataset.spec.taxonomy)) <= set(found.data.metrics)
    assert [point.step for point in client.get_metric_history(found.info.run_id, "val_loss")] == [1, 3]
    assert found.data.params["data/manifest_digest"] == dataset.digest
    assert found.data.params["config/source/password"] == "***"
    assert {"run.json", "images"} <= {one.path for one in client.list_artifacts(found.info.run_id)}
    assert len(list(store.rglob("images/panel*.png"))) == 2
    assert "mlflow ui" in capsys.readouterr().out
    # Killed and gone on with: the same run, and no step twice.
    again = MlflowRun(store, run)
    again.log_hyperparams({"data": {"manifest_digest": "x"}})
    for epoch in (1, 2):
        again.log_metrics({"epoch": epoch, "val_loss": 0.5, "nan": math.nan, "inf": math.inf}, 2 * epoch + 1)
    again.finalize("success")
    (found,) = client.search_runs([experiment.experiment_id])
    assert [point.step for point in client.get_metric_history(found.info.run_id, "val_loss")] == [1, 3, 5]
    assert found.data.params["data/manifest_digest"] == dataset.digest
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert Path(found.info.artifact_uri.removeprefix("file://").replace("%20", " ")).is_relative_to(store)


OPEN = "import sys; from cropseg.learners.mlflow_run import MlflowRun; MlflowRun(sys.argv[1], sys.argv[2])"


def tables(folder):
    """Tables of whatever database is being made in a folder."""
    count = 0
    for path in [*folder.glob("*.db"), *folder.glob(".*.db")]:
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
                count = max(
                    count, *database.execute("select count(*) from sqlite_master where type = 'table'").fetchone()
                )
            database.close()
        except sqlite3.Error:
            pass  # locked, or not yet a database
    return count


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::PendingDeprecationWarning")
def test_a_kill_while_mlflow_makes_its_tables_harms_no_later_run(tmp_path):
    store = tmp_path / "mlflow"
    command = [sys.executable, "-c", OPEN, str(store), str(tmp_path / "r")]
    child = subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2])
    while tables(store) < 20:
        assert child.poll() is None
        time.sleep(0.005)
    child.kill()
    assert child.wait() == -9
    logger = MlflowRun(store, tmp_path / "r")
    logger.log_metrics({"epoch": 0, "val_loss": 1.0}, 0)
    logger.finalize("success")
    assert sorted(path.name for path in store.glob("*.db*")) == ["mlflow.db"]
    assert not list(store.glob(".*"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::PendingDeprecationWarning")
def test_what_mlflow_refuses_is_one_line(tmp_path):
    for value in (None, " "):
        with pytest.raises(ConfigError, match=r"logger\.mlflow\.experiment is no name: "):
            MlflowRun(tmp_path / "m", tmp_path, experiment=value)
    with pytest.raises(ConfigError, match=r"logger\.mlflow\.uri=foo://bar is refused: .*give http://"):
        MlflowRun(tmp_path / "m", tmp_path, uri="foo://bar")
    started = time.monotonic()
    with pytest.raises(
        SourceError, match=r"no MLflow server answers at logger\.mlflow\.uri=http://127\.0\.0\.1:9: .*start"
    ) as e:
        MlflowRun(tmp_path / "m", tmp_path, uri="http://me:hunter2@127.0.0.1:9")
    assert "hunter2" not in str(e.value)
    assert time.monotonic() - started < 15
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mlflow.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(InputError, match=r"MLflow cannot use .*mlflow\.db: .*move it away"):
        MlflowRun(tmp_path / "m", tmp_path)


def test_a_name_that_wandb_refuses_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"logger\.wandb is refused: .*Invalid project name 'a/b'"):
        WandbRun(tmp_path, project="a/b")
