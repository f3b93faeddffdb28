"""A training that was killed goes on and ends as if it had not been; a finished one is not trained again."""

import csv
import functools
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from factory import make_dataset
from filelock import FileLock
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from omegaconf import OmegaConf
from training import cpu_trainer

from cropseg import resume
from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError, MismatchError
from cropseg.data.datamodule import CropDataModule
from cropseg.learners.callbacks import Ema
from cropseg.learners.checkpoints import LastEpoch
from cropseg.learners.loggers import CsvLogger
from cropseg.learners.neural import NeuralLearner
from cropseg.losses import CrossEntropy
from cropseg.models.unet4gn import UNet4LevelsGN
from data_prep.ensure import ensure

EPOCHS = 4


class Killed(BaseException):
    """Stands for kill -9: nothing that a program does about errors is done."""


class Kill(Callback):
    """Raises at one point of one epoch."""

    def __init__(self, hook, epoch):
        self.hook, self.epoch = hook, epoch

    def _at(self, hook, trainer):
        if self.hook == hook and trainer.current_epoch == self.epoch:
            raise Killed

    def on_train_batch_end(self, trainer, *args):
        self._at("batch", trainer)

    def on_validation_batch_end(self, trainer, *args):
        self._at("validation", trainer)

    def on_validation_end(self, trainer, *args):
        self._at("validated", trainer)


SCHEDULES = {
    "plateau": functools.partial(torch.optim.lr_scheduler.ReduceLROnPlateau, factor=0.5, patience=0, threshold=9),
    "cosine": functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=EPOCHS),
}


def train(root, run, *, schedule="plateau", resume=False, kill=None, extra=None, epochs=EPOCHS, lr=3e-2, **data):
    keep = functools.partial(ModelCheckpoint, run / "checkpoints", enable_version_counter=False)
    callbacks = {
        "last": LastEpoch(run / "checkpoints"),
        "best": keep(filename="best", monitor="val_loss"),
        "best_miou": keep(filename="best_miou", monitor="val_miou_present", mode="max"),
        **(extra or {}),
    }
    learner = NeuralLearner(
        net=functools.partial(UNet4LevelsGN, base=4, groups=4, bottleneck_dropout=0.2),
        loss=CrossEntropy(),
        optimizer=functools.partial(torch.optim.AdamW, lr=lr),
        scheduler=SCHEDULES[schedule],
        trainer=cpu_trainer(epochs, num_sanity_val_steps=0),
        callbacks=callbacks | ({"kill": kill} if kill else {}),
        logger={"csv": CsvLogger(run)},
        resume=resume,
    )
    return learner.fit(CropDataModule(root, batch_size=2, train_crop=16, **data), run)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "tiny", n=6, size=24, nodata=True).root


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    """Gives the folder of an uninterrupted run, made once for each set of options."""

    @functools.cache
    def made(schedule, extra):
        run = tmp_path_factory.mktemp("whole")
        train(root, run, schedule=schedule, extra=EXTRA[extra]())
        return run

    return made


EXTRA = {
    "none": dict,
    "ema": lambda: {"ema": Ema(decay=0.5)},
    "stop": lambda: {"stop": EarlyStopping("val_loss", patience=2, min_delta=10.0)},
}


def assert_equal(run, other):
    states = [torch.load(folder / "weights.pt", weights_only=True) for folder in (run, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    for name in ("validation.json", "metrics.csv"):
        assert (run / name).read_text() == (other / name).read_text(), name
    specs = [storage.read_json(folder / "spec.json") | {"versions": None} for folder in (run, other)]
    assert specs[0] == specs[1]


@pytest.mark.parametrize(
    ("schedule", "extra", "hook", "epoch"),
    [
        ("plateau", "none", "batch", 2),
        ("plateau", "none", "validated", 1),
        ("plateau", "none", "batch", 0),
        ("cosine", "none", "batch", 1),
        ("plateau", "ema", "batch", 2),
        ("plateau", "stop", "validation", 2),
    ],
)
def test_a_killed_training_ends_with_the_same_bits(root, whole, tmp_path, schedule, extra, hook, epoch):
    with pytest.raises(Killed):
        train(root, tmp_path, schedule=schedule, kill=Kill(hook, epoch), extra=EXTRA[extra]())
    assert not (tmp_path / "weights.pt").exists()
    torch.manual_seed(99)  # another process has drawn otherwise
    train(root, tmp_path, schedule=schedule, resume=True, extra=EXTRA[extra]())
    assert_equal(tmp_path, whole(schedule, extra))


@pytest.mark.parametrize(
    ("extra", "name", "count", "done"),
    [
        ("none", "last.ckpt", 2, False),
        ("none", "last.ckpt", 2, True),
        ("none", "best.ckpt", 2, False),
        ("none", "weights.pt", 1, False),
        ("none", "spec.json", 1, False),
        ("stop", "weights.pt", 1, True),
    ],
)
def test_a_kill_while_a_file_is_written_harms_nothing(root, whole, tmp_path, monkeypatch, extra, name, count, done):
    written, left = storage.write_bytes, [count]

    def write(path, content):
        left[0] -= path.name == name
        if left[0] == 0 and not done:
            (path.parent / f".{path.stem}.1.part{path.suffix}").write_bytes(content[:9])  # what a kill leaves there
            raise Killed
        written(path, content)
        if left[0] == 0:
            raise Killed

    (tmp_path / "before").mkdir()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(storage, "write_bytes", write)
        train(root, tmp_path / "before", extra=EXTRA[extra]())
    # The disk may be mounted elsewhere by then.
    run = (tmp_path / "before").rename(tmp_path / "after")
    train(root, run, resume=True, extra=EXTRA[extra]())
    assert_equal(run, whole("plateau", extra))


def test_what_is_kept_is_plain_and_the_schedule_has_moved_on(whole):
    run = whole("plateau", "none")
    kept = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert (kept["epoch"], kept["ended"]) == (EPOCHS, True)
    assert kept["lr_schedulers"][0]["last_epoch"] == EPOCHS
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert [float(row["lr"]) for row in rows] == pytest.approx([3e-2 / 2**epoch for epoch in range(EPOCHS)])
    assert b"omegaconf" not in (run / "checkpoints" / "last.ckpt").read_bytes()
    assert len(list(csv.DictReader((whole("plateau", "stop") / "metrics.csv").read_text().splitlines()))) == 3


def test_a_broken_checkpoint_or_another_dataset_is_a_typed_error(root, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole("plateau", "none"), run)
    other = make_dataset(tmp_path / "other", n=6, size=24, seed=1).root
    with pytest.raises(MismatchError, match="the dataset is not the one"):
        train(other, run, resume=True)
    (run / "checkpoints" / "last.ckpt").write_bytes(b"half a file")
    with pytest.raises(InputError, match="is not a checkpoint"):
        train(root, run, resume=True)


@pytest.fixture(autouse=True)
def unlocked():
    yield
    resume.release()


def config(tmp_path, words=(), run="new"):
    """A composed config in small, and the folder that Hydra makes for it."""
    cfg = OmegaConf.create(
        {
            "seed": 0,
            "scheduler": {"_target_": "plateau", "patience": 8},
            "dataset": {"root": str(tmp_path / "data"), "seed": "${seed}"},
            "paths": {"runs": str(tmp_path / "runs"), "cache": "/cache"},
            "resume": None,
            "run_dir": str(tmp_path / "runs" / run),
        }
    )
    if "scheduler=cosine" in words:
        cfg.scheduler = {"_target_": "cosine", "T_max": 3}
    cfg.merge_with_dotlist([word for word in words if word != "scheduler=cosine"])
    folder = tmp_path / "runs" / run / ".hydra"
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / "config.yaml")
    return cfg


def begun(tmp_path, words=(), run="2026-01-01_00-00-00_unet4gn"):
    cfg = config(tmp_path, words, run)
    assert resume.begin(cfg) is None
    return cfg


def test_the_identity_is_of_what_is_learned_and_not_of_where_it_lies(tmp_path):
    one = resume.identity(config(tmp_path))
    assert one == resume.identity(config(tmp_path, ["resume=auto", "paths.cache=/elsewhere"], "other"))
    assert one != resume.identity(config(tmp_path, ["seed=1"]))
    assert one != resume.identity(config(tmp_path, ["scheduler=cosine"]))


def test_a_begun_run_goes_on_in_its_folder_whatever_the_time_stamp(tmp_path):
    old = begun(tmp_path, run="1999-01-01_job")
    begun(tmp_path, ["seed=1"], "2030-01-01_another")
    (tmp_path / "runs" / "1999-01-01_job" / "checkpoints").mkdir()
    (tmp_path / "runs" / "1999-01-01_job" / "checkpoints" / "last.ckpt").touch()
    half = tmp_path / "runs" / "1999-01-01_job" / "checkpoints" / ".last.77.part.ckpt"
    half.touch()
    resume.release()
    cfg = config(tmp_path, ["resume=auto"])
    assert resume.begin(cfg) is None
    assert not half.exists()
    assert (cfg.run_dir, cfg.resume) == (old.run_dir, True)
    assert not (tmp_path / "runs" / "new").exists()  # what Hydra made is gone
    assert (tmp_path / "runs" / "1999-01-01_job" / "checkpoints" / "last.ckpt").exists()


def test_what_hydra_writes_for_another_task_of_srun_stays(tmp_path, monkeypatch):
    begun(tmp_path)
    resume.release()
    monkeypatch.setenv("SLURM_NTASKS", "2")
    cfg = config(tmp_path, ["resume=auto"])
    assert resume.begin(cfg) is None
    assert cfg.resume
    assert (tmp_path / "runs" / "new" / ".hydra" / "config.yaml").exists()


def test_null_is_always_anew_and_leaves_nothing_to_go_on_from(tmp_path):
    begun(tmp_path, run="same")
    last = tmp_path / "runs" / "same" / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.touch()
    cfg = begun(tmp_path, run="same")
    assert not cfg.resume
    assert not last.exists()


@pytest.mark.parametrize("score", [0.25, math.nan])
def test_a_finished_run_gives_its_score_even_in_a_sweep(tmp_path, score):
    cfg = begun(tmp_path, run="sweep/3_job")
    resume.finish(cfg, score)
    again = config(tmp_path, ["resume=auto"])
    assert resume.begin(again) is None  # spec.json, which is written last, is not there
    resume.release()
    storage.write_json(Path(cfg.run_dir) / "spec.json", {"manifest_digest": "0"})
    again = config(tmp_path, ["resume=auto"])
    np.testing.assert_equal(resume.begin(again), score)
    assert not (tmp_path / "runs" / "new").exists()
    named = config(tmp_path, [f"resume={cfg.run_dir}"])
    np.testing.assert_equal(resume.begin(named), score)


@pytest.mark.parametrize(
    ("kept", "here", "remark"),
    [
        ("a" * 40, "a" * 40, ""),
        ("a" * 40, "b" * 40, "by another commit of cropseg, aaaaaaaa"),
        ("unknown", "b" * 40, ""),
    ],
)
def test_a_finished_run_of_another_commit_counts_and_is_told(tmp_path, monkeypatch, capsys, kept, here, remark):
    cfg = begun(tmp_path)
    storage.write_json(Path(cfg.run_dir) / "spec.json", {"manifest_digest": "0", "versions": {"commit": kept}})
    resume.finish(cfg, 0.5)
    monkeypatch.setattr(resume, "git_state", lambda: {"commit": here})
    assert resume.begin(config(tmp_path, ["resume=auto"])) == 0.5
    said = " ".join(capsys.readouterr().out.split())
    assert remark in said
    assert ("another commit" in said) == bool(remark)


def test_a_finished_run_on_another_dataset_is_no_answer(tmp_path):
    cfg = begun(tmp_path)
    storage.write_json(Path(cfg.run_dir) / "spec.json", {"manifest_digest": "0"})
    resume.finish(cfg, 0.5)
    storage.write_bytes(tmp_path / "data" / "manifest.parquet", b"other")
    cfg = config(tmp_path, ["resume=auto"])
    assert resume.begin(cfg) is None
    assert cfg.run_dir.endswith("new")


def test_a_run_of_another_config_is_refused_by_its_keys(tmp_path):
    old = begun(tmp_path, ["seed=1", "scheduler=cosine"])
    with pytest.raises(ConfigError, match=r"seed: 1 -> 0") as refused:
        resume.begin(config(tmp_path, [f"resume={old.run_dir}"]))
    assert "scheduler.T_max: 3 -> not set" in str(refused.value)
    assert "scheduler.patience: not set -> 8" in str(refused.value)
    with pytest.raises(InputError, match="no run to go on with"):
        resume.begin(config(tmp_path, [f"resume={tmp_path}"]))


def test_two_processes_do_not_train_into_one_folder(tmp_path, monkeypatch):
    cfg = begun(tmp_path)
    resume.release()
    monkeypatch.setattr(resume, "PATIENCE", 0.05)
    with FileLock(Path(cfg.run_dir) / "run.lock"), pytest.raises(ConfigError, match="another process"):
        resume.begin(config(tmp_path, ["resume=auto"]))


def test_an_embedded_dataset_is_not_prepared_for_a_split_that_it_would_not_have(tmp_path):
    with pytest.raises(InputError, match="prepare_as=paper"):
        ensure(tmp_path / "embedded", split="random")
    assert list(tmp_path.iterdir()) == []
