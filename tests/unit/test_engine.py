"""What a training step and a validation are, in one process and in two; the engine's options take effect."""

import functools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from factory import make_dataset
from gloo_worker import CLASSES, gradient_of, loss_of, tiny_net
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn

from cropseg.core import processes
from cropseg.core.errors import ConfigError, TrainingError
from cropseg.core.taxonomy import load as load_taxonomy
from cropseg.data.datamodule import CropDataModule
from cropseg.data.fill import model_input
from cropseg.learners import finite, joint
from cropseg.learners.callbacks import Ema
from cropseg.learners.checkpoints import AtomicCheckpoints, LastEpoch
from cropseg.learners.module import SegmentationModule
from cropseg.learners.network import NeuralPredictor
from cropseg.metrics import confusion_matrix
from cropseg.predictor import ModelSpec

REPO = Path(__file__).resolve().parents[2]
# NeuralLearner silences it: the module turns raw pixels into what its network sees.
pytestmark = pytest.mark.filterwarnings("ignore:You have overridden `on_(before|after)_batch_transfer`")


def module_of(**options):
    options = {"optimizer": functools.partial(torch.optim.SGD, lr=0.1), **options}
    return SegmentationModule(
        options.pop("net", None) or tiny_net(), loss_of(), load_taxonomy("eurocrops10"), **options
    )


def train(module, data, folder, *, callbacks=(), epochs=1, ckpt=None, **options):
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt, weights_only=True)
    return trainer


def vector(net):
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "tiny", n=8, size=16, nodata=True, ignored=True)


# What a batch becomes on its device ---------------------------------------------------------------------------------


def test_image_and_mask_are_turned_together_and_scaled_once():
    rng = np.random.default_rng(0)
    mask = rng.integers(0, CLASSES, (8, 6, 6)).astype(np.uint8)
    image = np.repeat(mask[:, None].astype(np.uint16) * 100 + 100, 10, axis=1)  # a pixel's value says its class
    symmetry = np.array([[bool(i & 4), bool(i & 2), bool(i & 1)] for i in range(8)])
    batch = {
        "image": torch.from_numpy(image),
        "mask": torch.from_numpy(mask),
        "symmetry": torch.from_numpy(symmetry),
        "row": torch.arange(8),
        "complete": True,
    }
    module = module_of().train()
    seen = module.on_after_batch_transfer(batch, 0)
    assert seen["x"].dtype == torch.float32
    torch.testing.assert_close(seen["x"][:, 0] * 10000, seen["target"] * 100.0 + 100)  # still the same pixels
    turned = {tuple(patch.flatten().tolist()) for patch in seen["target"]}
    assert len(turned) == 8
    for index in range(8):
        views = [np.rot90(side, k) for side in (mask[index], mask[index].T) for k in range(4)]
        assert any(np.array_equal(seen["target"][index].numpy(), view) for view in views)
    kept = module.eval().on_after_batch_transfer(batch, 0)  # validation is not turned
    np.testing.assert_array_equal(kept["target"].numpy(), mask)


@pytest.mark.parametrize("turned", [False, True])
def test_a_step_asks_the_device_for_no_value(dataset, monkeypatch, turned):
    """What stands for it on a processor: no tensor becomes a number between the transfer and the loss."""
    data = CropDataModule(dataset.root, batch_size=8, augment=turned)
    data.setup("fit")
    module = module_of().train()
    batches = [module.on_before_batch_transfer(batch, 0) for batch in data.train_dataloader()]
    assert {batch["complete"] for batch in batches} == {False}  # one of the patches lacks data
    for complete in (True, False):
        batch = {**batches[0], "complete": complete}
        with monkeypatch.context() as patch:
            for name in ("__bool__", "__float__", "__int__", "item", "tolist", "cpu", "numpy"):
                patch.setattr(torch.Tensor, name, refused)
            seen = module.on_after_batch_transfer(batch, 0)
            module.loss.value(module.loss.sums(module(seen["x"]), seen["target"])).backward()


def refused(*args):
    raise AssertionError("the processor would wait for the device")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 2**16))
def test_validation_is_exact_however_its_patches_are_batched(sizes, seed):
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    x = torch.from_numpy(rng.uniform(0, 0.6, (n, 10, 6, 6)).astype(np.float32))
    target = torch.from_numpy(rng.choice([*range(CLASSES), 255], (n, 6, 6)))
    target[0, 0, 0] = 1  # at least one labelled pixel
    module = module_of().eval()
    with torch.inference_mode():
        whole = loss_of().double()
        expected = float(whole.value(whole.sums(module(x).double(), target)))
        valid = torch.ones_like(target, dtype=torch.bool)
        for part in zip(x.split(sizes), target.split(sizes), valid.split(sizes), strict=True):
            module.validation_step(dict(zip(("x", "target", "valid"), part, strict=True)), 0)
        labels = module(x).argmax(1).numpy()
    assert module._val_loss.compute() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(
        module._confusion.compute().numpy(),
        confusion_matrix(target.numpy().astype(np.uint8), labels.astype(np.uint8), CLASSES),
    )


@pytest.mark.parametrize("nodata", ["fill", "zero"])
def test_scores_leave_out_pixels_without_data_and_the_papers_loss_does_not(dataset, tmp_path, nodata):
    module = module_of(nodata=nodata)
    data = CropDataModule(dataset.root, batch_size=2)
    train(module, data, tmp_path)
    predictor = NeuralPredictor(
        module.net, ModelSpec.of(dataset, "location", loader="", model={"nodata": nodata}, versions={}), None, 0
    )
    labelled, total = 0, np.zeros((CLASSES, CLASSES), np.int64)
    logits, targets = [], []
    for row in data.parts["val"]:
        image, truth = dataset.image(int(row)), dataset.mask(int(row)).copy()
        empty = (image == 0).any(axis=0)
        kept = np.where(empty, 255, truth).astype(np.uint8)
        labelled += int((empty & (truth != 255)).sum())
        total += confusion_matrix(kept, predictor.labels(image[None])[0], CLASSES)
        with torch.no_grad():
            logits.append(predictor.net(model_input(torch.from_numpy(image[None]), nodata)[0]))
        targets.append(torch.from_numpy(kept if nodata == "fill" else truth)[None].long())
    assert labelled  # or there is nothing to leave out
    np.testing.assert_array_equal(module.validation, total)
    expected = float(loss_of()(torch.cat(logits), torch.cat(targets)))
    assert float(module.trainer.callback_metrics["val_loss"]) == pytest.approx(expected, rel=1e-5)


# A loss that is no number -------------------------------------------------------------------------------------------


class Poison(Callback):
    """Spoils a weight before one batch."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == self.batch:
            with torch.no_grad():
                next(module.net.parameters()).fill_(float("nan"))


@pytest.mark.parametrize("every", [1, 50], ids=["each step", "at the epoch's end"])
def test_a_loss_that_is_no_number_stops_and_names_its_patches(tmp_path, monkeypatch, every):
    made = make_dataset(tmp_path / "data", n=8, size=16)
    if every > 1:  # as on a GPU, where the losses are looked at every so often
        monkeypatch.setattr(finite, "_every", lambda loss: every)
    best = ModelCheckpoint(tmp_path / "run", "best", monitor="val_loss", save_on_exception=False)
    data = CropDataModule(made.root, batch_size=1)
    with pytest.raises(TrainingError, match=r"nan in epoch 1, step 3, at patches: \['xx_2021/.*gradient_clip_val"):
        train(module_of(), data, tmp_path / "run", callbacks=[Poison(2), best])
    kept = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    order = [row for row, _ in data.train_dataloader().sampler]
    assert (kept["epoch"], kept["batch"], kept["loss"]) == (0, 2, "nan")
    assert (kept["rows"], kept["rows_before"]) == ([order[2]], [order[1]])
    assert kept["ids"] == [made.manifest["id"][order[2]].as_py()]
    assert not list((tmp_path / "run").glob("*.ckpt"))  # spoilt weights are not kept


def test_a_validation_loss_that_is_no_number_stops_before_any_checkpoint(dataset, tmp_path):
    class SpoilLast(Callback):
        """Spoils the weights after the last step, whose own loss was a number."""

        def on_validation_start(self, trainer, module):
            with torch.no_grad():
                next(module.net.parameters()).fill_(float("nan"))

    callbacks = [SpoilLast(), ModelCheckpoint(tmp_path, "best", monitor="val_loss"), LastEpoch(tmp_path)]
    with pytest.raises(TrainingError, match=r"the validation loss of epoch 1 is: nan\. lower optimizer\.lr"):
        train(module_of(), CropDataModule(dataset.root, batch_size=2), tmp_path, callbacks=callbacks)
    assert not list(tmp_path.glob("*.ckpt"))


def test_one_look_reads_many_losses(tmp_path):
    guard = finite.FiniteLoss()
    trainer = SimpleNamespace(default_root_dir=tmp_path, strategy=SimpleNamespace(barrier=lambda: None))
    for batch, loss in enumerate([1.0, 2.0, float("inf"), float("nan")]):
        guard._steps.append(finite.Step(4, batch, torch.tensor(loss), torch.tensor([10 + batch])))
    with pytest.raises(TrainingError, match=r"inf in epoch 5, step 3, at patches: \[12\]"):
        guard.look(trainer)
    assert json.loads((tmp_path / "nonfinite.json").read_text())["rows_before"] == [11]
    guard.look(trainer)  # nothing since


# Options of the engine ----------------------------------------------------------------------------------------------


def test_clipping_bounds_the_step(dataset, tmp_path):
    moved = {}
    for clip in (None, 1e-3):
        module = module_of(optimizer=functools.partial(torch.optim.SGD, lr=1.0))
        before = vector(module.net)
        train(module, CropDataModule(dataset.root, batch_size=8), tmp_path, gradient_clip_val=clip)
        moved[clip] = float((vector(module.net) - before).norm())
    assert moved[None] > 0.01
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-3)


def test_an_accumulated_step_is_the_mean_of_its_batches(dataset, tmp_path):
    data = CropDataModule(dataset.root, batch_size=2)
    module = module_of()
    seen = []
    hook = module.on_after_batch_transfer

    def keep(batch, index):
        ready = hook(batch, index)
        if module.training:
            seen.append(ready)
        return ready

    module.on_after_batch_transfer = keep
    train(module, data, tmp_path, accumulate_grad_batches=2, limit_train_batches=2)
    assert [len(batch["x"]) for batch in seen] == [2, 2]
    net, loss = tiny_net(), loss_of()
    sum(loss(net(batch["x"]), batch["target"]) / 2 for batch in seen).backward()
    expected = vector(net) - 0.1 * gradient_of(net)
    torch.testing.assert_close(vector(module.net), expected)


class Weights(Callback):
    """Keeps the weights after each step, and those that are validated."""

    def __init__(self):
        self.steps, self.validated = [], []

    def on_train_batch_end(self, trainer, module, *args):
        self.steps.append(vector(module.net))

    def on_validation_batch_start(self, trainer, module, *args):
        self.validated.append(vector(module.net))


def test_the_moving_average_is_what_is_validated_and_kept(dataset, tmp_path):
    weights, decay = Weights(), 0.8
    best = ModelCheckpoint(tmp_path, "best", monitor="val_loss")
    module = module_of()
    callbacks = [weights, best, Ema(decay=decay)]
    train(module, CropDataModule(dataset.root, batch_size=2), tmp_path, callbacks=callbacks)
    expected = weights.steps[0]
    for step in weights.steps[1:]:
        expected = decay * expected + (1 - decay) * step
    torch.testing.assert_close(weights.validated[-1], expected)
    torch.testing.assert_close(vector(module.net), expected)
    kept = torch.load(tmp_path / "best.ckpt", weights_only=True)
    net = tiny_net()
    net.load_state_dict({name.removeprefix("net."): value for name, value in kept["state_dict"].items()})
    torch.testing.assert_close(vector(net), expected)
    assert not torch.allclose(weights.steps[-1], expected)


@pytest.mark.parametrize(
    "options",
    [
        *({"decay": value} for value in (2, -1, 1, math.nan, "abc", None)),
        *({"update_every_n_steps": value} for value in (0, -1, 1.5, "abc", None)),
        {"update_starting_at_step": -1},
        {"update_starting_at_epoch": "abc"},
    ],
    ids=str,
)
def test_impossible_moving_averages_are_refused(options):
    (name,) = options
    with pytest.raises(ConfigError, match=rf"callbacks\.ema\.{name} must be"):
        Ema(**options)


def test_a_moving_average_that_would_never_begin_is_refused(dataset, tmp_path):
    data = functools.partial(CropDataModule, dataset.root, batch_size=2)
    never = (
        {"update_starting_at_step": 1000},
        {"update_every_n_steps": 1000},  # the first step alone
        {"update_starting_at_step": 2, "update_every_n_steps": 1000},
        {"update_starting_at_step": 1000, "update_starting_at_epoch": 1000},
    )
    for options in never:
        with pytest.raises(ConfigError, match=r"callbacks\.ema: no update after the first step"):
            train(module_of(), data(), tmp_path, callbacks=[Ema(decay=0.8, **options)])
    train(module_of(), data(), tmp_path, callbacks=[Ema(decay=0.8, update_starting_at_step=1)])


class Kill(Callback):
    """Ends a training in the middle of its second epoch."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, 1):
            raise RuntimeError("killed")


def test_a_moving_average_goes_on_where_it_was(dataset, tmp_path):
    found = {}
    for name in ("whole", "killed"):
        callbacks = [Ema(decay=0.8), LastEpoch(tmp_path / name)]
        options = {"epochs": 2, "plugins": [AtomicCheckpoints()]}
        data = functools.partial(CropDataModule, dataset.root, batch_size=2)
        module, ckpt = module_of(), None
        if name == "killed":
            with pytest.raises(RuntimeError, match="killed"):
                train(module_of(), data(), tmp_path, callbacks=[*callbacks, Kill()], **options)
            callbacks, ckpt = [Ema(decay=0.8), LastEpoch(tmp_path / name)], tmp_path / name / "last.ckpt"
            torch.manual_seed(99)  # other weights to start from, which must not matter
            for parameter in module.parameters():
                nn.init.normal_(parameter)
        train(module, data(), tmp_path, callbacks=callbacks, ckpt=ckpt, **options)
        found[name] = vector(module.net)
    assert torch.equal(found["whole"], found["killed"])


def test_channels_last_and_mixed_precision_change_memory_and_not_the_result(dataset, tmp_path):
    found = {}
    for name, options, trainer in (
        ("plain", {}, {}),
        ("channels_last", {"channels_last": True}, {}),
        ("bf16", {}, {"precision": "bf16-mixed"}),
    ):
        module = module_of(**options)
        seen = []
        module.net.register_forward_pre_hook(lambda net, args, seen=seen: seen.append(args[0]))
        train(module, CropDataModule(dataset.root, batch_size=4), tmp_path, **trainer)
        found[name] = (vector(module.net), list(module.net.state_dict()), module, seen)
    plain, last = found["plain"], found["channels_last"]
    assert last[3][0].is_contiguous(memory_format=torch.channels_last)
    assert last[2].net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert plain[1] == last[1] == found["bf16"][1]
    torch.testing.assert_close(last[0], plain[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["bf16"][0], plain[0], rtol=0.05, atol=0.01)
    assert all(p.dtype == torch.float32 for p in found["bf16"][2].net.parameters())
    assert found["bf16"][2].validation.sum() == plain[2].validation.sum()


@pytest.mark.slow
def test_a_compiled_network_keeps_the_names_of_its_weights(dataset, tmp_path):
    plain, compiled = module_of(), module_of(compile=True)
    for module in (plain, compiled):
        train(module, CropDataModule(dataset.root, batch_size=4), tmp_path)
    assert compiled.net._compiled_call_impl is not None
    assert list(compiled.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(vector(compiled.net), vector(plain.net), rtol=1e-4, atol=1e-5)


def test_dropout_is_keyed_and_each_process_has_its_own(monkeypatch):
    draws = {}
    for rank in (0, 1):
        module = module_of(seed=5)
        monkeypatch.setattr(SegmentationModule, "global_rank", rank)
        monkeypatch.setattr(SegmentationModule, "current_epoch", 2)
        module.on_train_batch_start(None, 7)
        draws[rank] = torch.rand(3)
    state = np.random.SeedSequence([5, 2, 7]).generate_state(2)
    torch.manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)
    assert torch.equal(draws[0], torch.rand(3))  # the first process draws what a single one does
    assert not torch.equal(draws[0], draws[1])


# Several processes --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_have_the_loss_and_the_gradient_of_one(tmp_path):
    torch.manual_seed(0)
    x = torch.rand(5, 10, 8, 8)
    target = torch.randint(0, CLASSES, (5, 8, 8))
    target[0, :6] = 255  # processes differ in labelled pixels
    empty = target.clone()
    empty[1::2] = 255  # the second has none at all
    cases = {"even": (x, target), "one without labels": (x, empty)}
    torch.save(cases, tmp_path / "cases.pt")
    script = REPO / "tests" / "gloo_worker.py"
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    jobs = [
        subprocess.Popen([sys.executable, "-W", "ignore", str(script), str(rank), str(tmp_path)], env=environment)
        for rank in (0, 1)
    ]
    assert [job.wait(120) for job in jobs] == [0, 0]
    found = [torch.load(tmp_path / f"found{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, (images, truth) in cases.items():
        net, loss = tiny_net(), loss_of()
        value = loss(net(images), truth)
        value.backward()
        gradient = gradient_of(net)
        for mine in (found[0][name], found[1][name]):
            torch.testing.assert_close(mine["value"], value.detach())
            torch.testing.assert_close(mine["gradient"], gradient, rtol=1e-4, atol=1e-6)
            assert float(mine["set"]) == pytest.approx(float(value.detach()), rel=1e-5)
        assert torch.equal(found[0][name]["gradient"], found[1][name]["gradient"])
        assert torch.equal(found[0][name]["set"], found[1][name]["set"])
    for one in found:
        assert one["rest"]["rows"].tolist() == [0, 1, 1]
        assert one["rest"]["mean"].tolist() == [0, 0, 0]


def test_one_process_adds_nothing_up():
    sums = {"a": torch.ones(2)}
    assert joint.processes() == 1
    assert joint.for_training(sums) is sums
    assert joint.summed(sums) is sums
    assert joint.gathered([3]) == [3]


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK"])
def test_of_several_processes_the_first_speaks(monkeypatch, capsys, name):
    from cropseg.core.progress import say

    for rank in ("0", "1"):
        monkeypatch.setenv(name, rank)
        assert processes.is_first() == (rank == "0")
        say(f"from {rank}")
    assert capsys.readouterr().out.split("\n") == ["from 0", ""]


def test_ddp_shares_nothing_at_each_step(monkeypatch, tmp_path):
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        cfg = compose("train", ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"])
        made = instantiate(cfg.trainer)(default_root_dir=tmp_path, logger=False, enable_checkpointing=False)
    assert (made.world_size, made.global_rank) == (2, 0)
    assert made.strategy._ddp_kwargs == {"find_unused_parameters": False, "broadcast_buffers": False}
    assert made._accelerator_connector.use_distributed_sampler is False


def test_slurm_reads_the_job(monkeypatch):
    for name, value in {"SLURM_JOB_ID": "77", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"}.items():
        monkeypatch.setenv(name, value)
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        cfg = compose("train", ["trainer=slurm", "paths.runs=runs"], return_hydra_config=True)
    assert (cfg.trainer.devices, cfg.trainer.num_nodes, cfg.trainer.use_distributed_sampler) == (4, 2, False)
    HydraConfig.instance().set_config(cfg)
    assert cfg.hydra.run.dir == "runs/slurm_77_unet4gn"
    (environment,) = instantiate(cfg.trainer.plugins)
    assert environment.auto_requeue is False


def test_a_job_of_a_sweep_can_be_started_again_by_itself(monkeypatch):
    from cropseg import cli

    words = ["trainer=ddp", "seed=2"]
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "trainer=ddp", "seed=1,2"])
    for launcher, refused in (("basic", False), ("joblib", True)):
        with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
            cfg = compose("train", words, return_hydra_config=True)
        known = cfg.hydra
        known.runtime.output_dir, known.runtime.choices = "runs/sweep/1", {"hydra/launcher": launcher}
        known.overrides.task = words
        monkeypatch.setattr(cli.HydraConfig, "get", staticmethod(lambda known=known: known))
        if refused:
            with pytest.raises(ConfigError, match="joblib"):
                cli.stand_alone(cfg)
            continue
        cli.stand_alone(cfg)
        assert sys.argv == ["train.py", *words, "hydra.mode=RUN"]
        assert known.run.dir == "runs/sweep/1"
