"""A training that was killed goes on and ends as if it had not been; a finished one is not trained again."""

import functools
import itertools

import lightning as L
import pytest
import torch
from factory import make_dataset
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint

from cropseg.data.datamodule import CropDataModule
from cropseg.learners.checkpoints import LastEpoch
from cropseg.learners.loggers import CsvLogger
from cropseg.learners.neural import NeuralLearner
from cropseg.losses import CrossEntropy
from cropseg.models.unet4gn import UNet4LevelsGN

EPOCHS = 4


class Killed(BaseException):
    """Stands for kill -9: nothing that a program does about errors is done."""


class Kill(Callback):
    """Raises at one point of one epoch."""

    def __init__(self, hook, epoch):
        self.hook, self.epoch, self.calls = hook, epoch, itertools.count()

    def _at(self, hook, trainer):
        if self.hook == hook and trainer.current_epoch == self.epoch:
            raise Killed

    def on_train_batch_end(self, trainer, *args):
        self._at("batch", trainer)

    def on_validation_batch_end(self, trainer, *args):
        self._at("validation", trainer)

    def on_validation_end(self, trainer, *args):
        self._at("validated", trainer)

    def on_train_epoch_end(self, trainer, *args):
        self._at("epoch_end", trainer)

    def on_train_epoch_start(self, trainer, *args):
        self._at("epoch_start", trainer)


SCHEDULES = {
    "plateau": functools.partial(torch.optim.lr_scheduler.ReduceLROnPlateau, factor=0.5, patience=0),
    "cosine": functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=EPOCHS),
    "constant": None,
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
        net=functools.partial(UNet4LevelsGN, base=8, bottleneck_dropout=0.2),
        loss=CrossEntropy(),
        optimizer=functools.partial(torch.optim.AdamW, lr=lr),
        scheduler=SCHEDULES[schedule],
        trainer=functools.partial(
            L.Trainer,
            max_epochs=epochs,
            accelerator="cpu",
            num_sanity_val_steps=0,
            enable_model_summary=False,
            log_every_n_steps=1,
        ),
        callbacks=callbacks | ({"kill": kill} if kill else {}),
        logger={"csv": CsvLogger(run)},
        resume=resume,
    )
    return learner.fit(CropDataModule(root, batch_size=2, train_crop=16, **data), run)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "tiny", n=8, size=24, nodata=True).root


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
    "ema": lambda: {"ema": EMAWeightAveraging(decay=0.5)},
    "stop": lambda: {"stop": EarlyStopping("val_loss", patience=1, min_delta=10.0)},
}


def assert_equal(run, other):
    states = [torch.load(folder / "weights.pt", weights_only=True) for folder in (run, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    for name in ("validation.json", "spec.json", "metrics.csv"):
        assert (run / name).read_text() == (other / name).read_text(), name


@pytest.mark.parametrize(
    ("schedule", "extra", "hook", "epoch"),
    [
        ("plateau", "none", "batch", 2),
        ("plateau", "none", "validation", 3),
        ("plateau", "none", "validated", 1),
        ("plateau", "none", "epoch_end", 2),
        ("plateau", "none", "epoch_start", 2),
        ("plateau", "none", "batch", 0),
        ("cosine", "none", "batch", 1),
        ("constant", "none", "validation", 2),
        ("plateau", "ema", "batch", 2),
        ("plateau", "stop", "validation", 1),
    ],
)
def test_a_killed_training_ends_with_the_same_bits(root, whole, tmp_path, schedule, extra, hook, epoch):
    with pytest.raises(Killed):
        train(root, tmp_path, schedule=schedule, kill=Kill(hook, epoch), extra=EXTRA[extra]())
    assert not (tmp_path / "weights.pt").exists()
    torch.manual_seed(99)  # another process has drawn otherwise
    train(root, tmp_path, schedule=schedule, resume=True, extra=EXTRA[extra]())
    assert_equal(tmp_path, whole(schedule, extra))
