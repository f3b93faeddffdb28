"""Learning by mechanism, and what a run leaves behind."""

import functools
import json
import math
import shutil
import signal
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from factory import make_dataset
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from training import cpu_trainer

from cropseg.core.errors import ConfigError, InputError
from cropseg.data.datamodule import CropDataModule
from cropseg.learners.callbacks import EpochLine, Projection, human
from cropseg.learners.loggers import CsvLogger
from cropseg.learners.network import build_net, load
from cropseg.learners.neural import NeuralLearner
from cropseg.learners.options import PACKAGE, refused_by_library
from cropseg.losses import CrossEntropy, Dice, WeightedSum
from cropseg.metrics import confusion_matrix, scores
from cropseg.models.unet4gn import UNet4LevelsGN
from cropseg.predictor import ModelSpec


def learner(run_dir, *, epochs=2, lr=3e-3, dropout=0.1, base=8, callbacks=None, loss=None, **options):
    checkpoint = ModelCheckpoint(run_dir / "checkpoints", "best", monitor="val_loss", save_last=True)
    return NeuralLearner(
        net=functools.partial(UNet4LevelsGN, base=base, bottleneck_dropout=dropout),
        loss=loss or WeightedSum({"ce": CrossEntropy(), "dice": Dice()}, {"ce": 1.0, "dice": 0.4}),
        optimizer=functools.partial(torch.optim.Adam, lr=lr),
        scheduler=functools.partial(torch.optim.lr_scheduler.ReduceLROnPlateau, factor=0.5),
        trainer=cpu_trainer(epochs, num_sanity_val_steps=0),
        callbacks={"checkpoint": checkpoint} if callbacks is None else callbacks,
        logger={"csv": CsvLogger(run_dir)},
        **options,
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "tiny", n=10, size=32, nodata=True, ignored=True)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    predictor = learner(folder, epochs=3).fit(CropDataModule(dataset.root, batch_size=4), folder)
    return folder, predictor


def test_a_handful_of_patches_can_be_overfitted(tmp_path):
    made = make_dataset(tmp_path / "few", n=4, size=32, parts={"train": 1.0})
    data = CropDataModule(made.root, batch_size=4, augment=False)
    data.setup()
    # Validation on the very patches that are learned by heart; each comes 20 times an epoch.
    data.parts = {"train": np.tile(np.arange(4), 20), "val": np.arange(4), "test": np.arange(0)}
    predictor = learner(tmp_path, epochs=10, lr=1e-2, dropout=0.0, loss=CrossEntropy()).fit(data, tmp_path)
    assert predictor.validation_score > 0.99


def test_with_shuffled_labels_it_scores_at_chance(tmp_path):
    made = make_dataset(tmp_path / "shuffled", n=15, size=32, shuffle_labels=True)
    predictor = learner(tmp_path, epochs=8).fit(CropDataModule(made.root, batch_size=4), tmp_path)
    confusion = predictor.confusion
    majority = confusion.sum(axis=1).max() / confusion.sum()
    found = scores(confusion)
    assert found["pixel_accuracy"] < majority + 0.03
    assert found["miou_present"] < 1 / found["present"].count(True)


def test_it_beats_the_majority_class_on_held_out_patches(tmp_path):
    made = make_dataset(tmp_path / "plain", n=20, size=32)
    predictor = learner(tmp_path, epochs=10, lr=1e-2).fit(CropDataModule(made.root, batch_size=2), tmp_path)
    confusion = predictor.confusion
    assert scores(confusion)["pixel_accuracy"] > confusion.sum(axis=1).max() / confusion.sum() + 0.1
    # Truth moved by a few pixels against the image costs score, the more the further.
    rows = CropDataModule(made.root, batch_size=2)
    rows.setup()
    held_out = rows.parts["test"]
    predicted = predictor.labels(np.stack([made.image(int(row)) for row in held_out]))
    truth = np.stack([made.mask(int(row)) for row in held_out])
    shifted = [
        scores(confusion_matrix(np.roll(truth, pixels, axis=2), predicted, len(made.spec.taxonomy)))["miou_present"]
        for pixels in (0, 2, 6)
    ]
    assert shifted[0] > shifted[1] > shifted[2]


def test_equal_seeds_give_equal_weights_and_others_do_not(dataset, tmp_path):
    states = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(states))  # what was drawn before must not matter
        data = CropDataModule(dataset.root, batch_size=3, train_crop=16, seed=seed)
        states.append(learner(tmp_path / name, seed=seed).fit(data, tmp_path / name).net.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


def test_a_run_is_complete_and_loads_to_the_same_answers(run, dataset):
    folder, predictor = run
    spec = ModelSpec.from_dict(json.loads((folder / "spec.json").read_text()))
    assert spec == predictor.spec
    assert spec.loader == "cropseg.learners.network.load"
    assert (spec.bands, spec.manifest_digest, spec.simulated) == (dataset.spec.bands, dataset.digest, True)
    assert spec.model["net"]["_target_"] == "cropseg.models.unet4gn.UNet4LevelsGN"
    assert {"commit", "torch", "python"} <= set(spec.versions)
    loaded = load(folder, spec)
    images = np.stack([dataset.image(row) for row in range(3)])
    np.testing.assert_array_equal(loaded.probabilities(images), predictor.probabilities(images))
    assert loaded.validation_score == predictor.validation_score
    state = torch.load(folder / "weights.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert not any(key.startswith("net.") for key in state)


def test_validation_json_is_the_best_checkpoints_own_matrix(run, dataset):
    folder, predictor = run
    kept = json.loads((folder / "validation.json").read_text())
    rows = dataset.parts("location")["val"]
    total = np.zeros((11, 11), np.int64)
    for row in rows:
        image, truth = dataset.image(row), dataset.mask(row).copy()
        truth[(image == 0).any(axis=0)] = 255  # no-data pixels are in no score
        total += confusion_matrix(truth, predictor.labels(image[None])[0], 11)
    assert kept["confusion"] == total.tolist()
    assert kept["miou_present"] == predictor.validation_score == scores(total)["miou_present"]
    lines = (folder / "metrics.csv").read_text().splitlines()
    table = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    losses = [float(row["val_loss"]) for row in table]
    assert [int(row["epoch"]) for row in table] == [0, 1, 2]
    assert kept["epoch"] == int(np.argmin(losses))
    best = table[kept["epoch"]]
    assert float(best["val_miou_present"]) == pytest.approx(kept["miou_present"])
    assert float(best["val_jaccard_torchmetrics"]) == pytest.approx(scores(total)["miou_union"], abs=1e-6)
    assert {"train_loss", "lr", "val_pixel_accuracy", "val_iou_sugar_beet"} <= set(best)


def test_checkpoints_load_without_pickle(run):
    folder, _ = run
    for name in ("best", "last"):
        kept = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert all(key.startswith("net.") for key in kept["state_dict"])


def test_validation_loss_does_not_depend_on_the_batch_size(dataset, tmp_path):
    found = []
    for size in (1, 2):
        data = CropDataModule(dataset.root, batch_size=size)
        data.setup()
        data.parts["train"] = data.parts["train"][:1]
        folder = tmp_path / str(size)
        # One step of rate 0: the same weights for both.
        learner(folder, epochs=1, lr=0.0).fit(data, folder)
        lines = (folder / "metrics.csv").read_text().splitlines()
        found.append(float(dict(zip(lines[0].split(","), lines[1].split(","), strict=True))["val_loss"]))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_predictions_are_probabilities_and_labels_their_argmax(run):
    _, predictor = run
    images = np.random.default_rng(0).integers(0, 9000, (2, 10, 33, 47)).astype(np.uint16)
    p = predictor.probabilities(images)
    assert (p.dtype, p.shape) == (np.float32, (2, 11, 33, 47))
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    labels = predictor.labels(images)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, p.argmax(axis=1))
    assert np.isfinite(predictor.probabilities(np.zeros((1, 10, 16, 16), np.uint16))).all()
    with pytest.raises(InputError, match="10, height"):
        predictor.labels(images[:, :9])


def test_zeros_in_no_data_reach_the_net_only_if_asked(run, dataset):
    _, predictor = run
    image = next(i for i in map(dataset.image, range(len(dataset))) if (i == 0).any())[None]
    filled = predictor.probabilities(image)
    predictor.spec.model["nodata"] = "zero"
    try:
        assert not np.array_equal(filled, predictor.probabilities(image))
    finally:
        predictor.spec.model["nodata"] = "fill"


@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_broken_weights_are_a_typed_error(run, tmp_path, content):
    predictor = run[1]
    if content is not None:
        (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.pt"):
        load(tmp_path, predictor.spec)


def test_weights_that_hold_code_are_refused(run, tmp_path):
    torch.save({"head.weight": functools.partial(print, "called")}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="does not hold"):
        load(tmp_path, run[1].spec)


@pytest.mark.parametrize(
    "name", ["os.system", "shutil.rmtree", "pathlib.Path", "no.such.Net", "torch.nn.Nothing", "Net", ""]
)
def test_only_networks_are_built_from_a_file(name):
    with pytest.raises(ConfigError, match=r"network|Module"):
        build_net({"_target_": name}, 10, 11)


def test_a_network_that_does_not_take_its_arguments_is_refused():
    with pytest.raises(ConfigError, match="arguments"):
        build_net({"_target_": "cropseg.models.unet4gn.UNet4LevelsGN", "depth": 9}, 10, 11)


def test_any_network_of_a_library_works_by_its_class(dataset, tmp_path):
    import segmentation_models_pytorch as smp

    net = functools.partial(smp.Unet, encoder_name="resnet18", encoder_weights=None)
    made = learner(tmp_path, epochs=1)
    made.net = net
    predictor = made.fit(CropDataModule(dataset.root, batch_size=3), tmp_path)
    again = load(tmp_path, predictor.spec)
    image = dataset.image(0)[None]
    np.testing.assert_array_equal(again.labels(image), predictor.labels(image))


def test_without_checkpoints_the_last_epoch_is_the_run(dataset, tmp_path):
    predictor = learner(tmp_path, epochs=2, callbacks={}).fit(CropDataModule(dataset.root, batch_size=4), tmp_path)
    assert predictor.epoch == 1
    assert not math.isnan(predictor.validation_score)


def test_projection_and_epoch_lines_are_said(dataset, tmp_path, capsys):
    callbacks = {"projection": Projection(steps=4, hint="a smaller one: experiment=demo"), "lines": EpochLine()}
    made = learner(tmp_path, epochs=3, callbacks=callbacks, note="not the paper's size")
    made.fit(CropDataModule(dataset.root, batch_size=2), tmp_path)
    said = capsys.readouterr().out
    assert "not the paper's size" in said
    assert "3 epochs of 3 steps take about" in said
    assert "experiment=demo" in said
    assert "epoch 3/3  train_loss" in said
    assert "parameters) on 6 patches of tiny, validating on 2" in said


def test_an_epoch_without_a_validation_shows_no_scores_of_an_earlier_one(dataset, tmp_path, capsys):
    made = learner(tmp_path, callbacks={"lines": EpochLine()})
    made.trainer = cpu_trainer(4, num_sanity_val_steps=0, check_val_every_n_epoch=2)
    made.fit(CropDataModule(dataset.root, batch_size=4), tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert ["val_loss" in line for line in lines] == [False, True, False, True]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "0.5 s"), (42, "42 s"), (210, "3.5 min"), (45000, "12 h"), (400000, "4.6 days")]
)
def test_durations_are_for_people(seconds, text):
    assert human(seconds) == text


def test_a_trial_batch_leaves_no_run_that_counts_as_finished(dataset, tmp_path):
    made = learner(tmp_path)
    made.trainer = cpu_trainer(1, fast_dev_run=True)
    with pytest.raises(ConfigError, match="experiment=debug"):
        made.fit(CropDataModule(dataset.root, batch_size=4), tmp_path)
    assert not (tmp_path / "spec.json").exists()


def test_what_is_wrong_is_said(dataset, tmp_path):
    with pytest.raises(ConfigError, match="without data"):
        learner(tmp_path, nodata="ignore")
    with pytest.raises(ConfigError, match="sums"):
        learner(tmp_path, loss=torch.nn.CrossEntropyLoss())
    made = learner(tmp_path)
    made.net = UNet4LevelsGN
    with pytest.raises(ConfigError, match="_partial_"):
        made.fit(CropDataModule(dataset.root), tmp_path)


SHORT = functools.partial(
    functools.partial, L.Trainer, accelerator="cpu", max_epochs=1, log_every_n_steps=1, num_sanity_val_steps=0
)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"optimizer": functools.partial(torch.optim.Adam, lr=-1.0)}, "optimizer is refused: .*learning rate"),
        ({"scheduler": functools.partial(torch.optim.lr_scheduler.ReduceLROnPlateau, factor=2)}, "scheduler is ref"),
        (
            {"trainer": functools.partial(L.Trainer, accelerator="cpu", precision="64-true")},
            r"trainer\.precision: '64-true'",
        ),
        ({"trainer": functools.partial(L.Trainer, accelerator="no_such")}, "trainer is refused: .*no_such"),
        ({"trainer": functools.partial(L.Trainer, accelerator="cpu", max_epochs="abc")}, "whole number"),
        ({"trainer": functools.partial(L.Trainer, accumulate_grad_batches=0)}, "accumulate_grad_batches .* at least 1"),
        ({"callbacks": {"projection": {"steps": 4}}}, r"callbacks\.projection has options and no _target_"),
        ({"callbacks": {"stop": EarlyStopping("val_los")}}, "training is refused: .*val_los"),
        ({"callbacks": {"stop": EarlyStopping("val_loss", patience=-1)}}, r"callbacks\.stop\.patience: -1"),
        ({"trainer": functools.partial(L.Trainer, gradient_clip_val=-1)}, r"trainer\.gradient_clip_val: -1"),
        (
            {"trainer": SHORT(val_check_interval=99)},
            "training is refused: .*99",
        ),
        ({"optimizer": functools.partial(torch.optim.Adam, betas=[0.9])}, "optimizer is refused: .*range"),
    ],
    ids=[
        "rate",
        "factor",
        "precision",
        "accelerator",
        "epochs",
        "accumulation",
        "callback",
        "early stopping",
        "patience",
        "clipping",
        "interval",
        "betas",
    ],
)
def test_values_that_a_library_refuses_are_named_by_their_group(dataset, tmp_path, change, says):
    made = learner(tmp_path)
    vars(made).update(change)
    with pytest.raises(ConfigError, match=says):
        made.fit(CropDataModule(dataset.root), tmp_path)


@pytest.mark.parametrize(
    ("way", "refused"),
    [
        (("neural.py",), True),
        (("neural.py", "module.py"), False),  # a wrong call of ours on the way
        (("module.py",), False),
        ((), False),
    ],
)
def test_our_own_wrong_calls_are_no_refused_options(way, refused):
    call = functools.partial(torch.optim.Adam, [torch.zeros(1, requires_grad=True)], lr=-1)
    for name in reversed(way):
        own = {}
        exec(compile("def through(call): call()", str(PACKAGE / "learners" / name), "exec"), own)
        call = functools.partial(own["through"], call)
    with pytest.raises(ValueError, match="learning rate") as error:
        call()
    assert refused_by_library(error.value, str(PACKAGE / "learners" / "neural.py")) is refused


class Broken(L.Callback):
    def on_train_start(self, trainer, module):
        raise ValueError("a defect of a callback")


def test_a_defect_in_a_callback_of_anybody_keeps_its_traceback(dataset, tmp_path):
    made = learner(tmp_path)
    made.callbacks = {"broken": Broken()}
    with pytest.raises(ValueError, match="a defect of a callback"):
        made.fit(CropDataModule(dataset.root), tmp_path)


def test_a_plateau_waits_for_validations_that_come_every_other_epoch(dataset, tmp_path):
    made = learner(tmp_path, epochs=4)
    made.trainer.keywords["check_val_every_n_epoch"] = 2
    assert made.fit(CropDataModule(dataset.root, batch_size=4), tmp_path).epoch in (1, 3)
    made = learner(tmp_path / "never", epochs=1)
    made.trainer.keywords["check_val_every_n_epoch"] = 2
    with pytest.raises(ConfigError, match="without a validation"):
        made.fit(CropDataModule(dataset.root, batch_size=4), tmp_path)


def test_the_window_that_is_remembered_is_the_one_trained_on(dataset, tmp_path):
    whole = learner(tmp_path / "whole", epochs=1).fit(CropDataModule(dataset.root), tmp_path / "whole")
    crops = learner(tmp_path / "crops", epochs=1).fit(CropDataModule(dataset.root, train_crop=16), tmp_path / "crops")
    assert (whole.spec.patch_size, crops.spec.patch_size) == (32, 16)


def test_an_earlier_model_of_the_same_folder_is_not_passed_off_as_the_new_one(run, dataset, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(run[0], folder)
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "internal.json").write_text("{}")
    made = learner(folder)
    made.optimizer = functools.partial(torch.optim.Adam, lr=-1.0)
    with pytest.raises(ConfigError):
        made.fit(CropDataModule(dataset.root), folder)
    assert not (folder / "spec.json").exists()
    assert list((folder / "evaluation").iterdir()) == []


def test_stopping_by_hand_says_what_comes_next(dataset, tmp_path):
    class CtrlC(Callback):
        def on_train_batch_end(self, *args):
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt, match="training starts anew next time"):
            learner(tmp_path, callbacks={"stop": CtrlC()}).fit(CropDataModule(dataset.root), tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored
    assert not (tmp_path / "spec.json").exists()


def test_what_lies_between_epochs_is_no_step(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr("cropseg.learners.callbacks.time.perf_counter", lambda: clock[0])
    trainer = SimpleNamespace(num_training_batches=2, num_val_batches=[3], max_epochs=10, is_global_zero=True)
    projection = Projection(steps=6)
    for _ in range(3):
        projection.on_train_epoch_start(trainer, None)
        for batch in range(2):
            clock[0] += 1.0
            projection.on_train_batch_end(trainer, None, None, None, batch)
        clock[0] += 100.0  # a validation
    # 10 epochs of 2 training steps of 1 s and 3 validation steps of a third of that
    assert capsys.readouterr().out.strip() == "1.00 s a step: 10 epochs of 2 steps take about 30 s"


def test_weights_of_an_encoder_are_not_fetched_for_a_trained_run():
    recipe = {"_target_": "cropseg.models.smp.SmpNet", "encoder_name": "resnet18", "encoder_weights": "imagenet"}
    assert build_net(recipe, 10, 11, pretrained=False)
    assert recipe["encoder_weights"] == "imagenet"


@pytest.mark.parametrize("kept", ["{}", "[]", '{"confusion": [[1]], "epoch": 0}', '{"confusion": "x", "epoch": 0}'])
def test_a_broken_validation_is_a_typed_error(run, tmp_path, kept):
    (tmp_path / "weights.pt").write_bytes((run[0] / "weights.pt").read_bytes())
    (tmp_path / "validation.json").write_text(kept)
    with pytest.raises(InputError, match=r"validation\.json"):
        load(tmp_path, run[1].spec)


def test_the_rate_that_is_logged_is_the_one_its_epoch_was_trained_with(dataset, tmp_path):
    made = learner(tmp_path, epochs=3, lr=1e-3)
    made.scheduler = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.1)
    made.fit(CropDataModule(dataset.root, batch_size=4), tmp_path)
    lines = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    rates = [float(line[lines[0].index("lr")]) for line in lines[1:]]
    assert rates == pytest.approx([1e-3, 1e-4, 1e-5])
