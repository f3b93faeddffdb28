"""A neural network as a learner, and the predictor that it becomes."""

from __future__ import annotations

import functools
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import Logger
from torch import nn

from cropseg.core.checks import finite
from cropseg.core.errors import ConfigError, CropsegError
from cropseg.core.progress import say
from cropseg.data.datamodule import CropDataModule
from cropseg.data.fill import NODATA_RULES, NoData
from cropseg.learners import hardware, joint
from cropseg.learners.checkpoints import AtomicCheckpoints, LastEpoch
from cropseg.learners.folder import clear
from cropseg.learners.init import Init
from cropseg.learners.module import SegmentationModule
from cropseg.learners.network import NeuralPredictor, build_net, recipe_of
from cropseg.learners.options import options_of, refused_by_library
from cropseg.learners.tracking import announce, with_csv
from cropseg.learners.versions import versions
from cropseg.losses import Loss
from cropseg.metrics import Confusion
from cropseg.predictor import ModelSpec

PRECISIONS: Final = ("32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16")
"""What weights in 32 bits allow; the last three are other names of the first three."""


class NeuralLearner:
    """Learns a segmentation network.

    Args:
        net: Class of the network with its own arguments bound (``functools.partial``); bands and classes are added at
            ``fit`` as ``in_channels`` and ``num_classes`` (or ``classes``, whichever it takes).
        loss: What is minimised.
        optimizer: Makes the optimiser of given parameters.
        trainer: Makes Lightning's Trainer.
        scheduler: Makes the schedule of a given optimiser; None keeps the rate.
        callbacks: Lightning callbacks, by name.
        logger: Lightning loggers, by name.
        nodata: What the network sees where there is no data, :func:`cropseg.data.fill.model_input`.
        choose_by: What the checkpoint that becomes the run was kept by: the ``monitor`` of one of ``callbacks``.
        channels_last: Whether images and weights lie in memory channel by channel of a pixel, which tensor cores like.
        compile: Whether ``torch.compile`` makes the network faster, at the cost of some minutes at the start.
        init: Where the weights start; None leaves them as built.
        resume: Whether to go on from what a killed run left in the run folder, if it left anything.
        note: Said when training starts, such as that this is not the paper's size.
        seed: Of the weights and of dropout.
    """

    def __init__(
        self,
        net: functools.partial[nn.Module],
        loss: Loss,
        optimizer: Callable[..., torch.optim.Optimizer],
        trainer: Callable[..., L.Trainer],
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        callbacks: Mapping[str, Callback] | None = None,
        logger: Mapping[str, Logger] | None = None,
        nodata: NoData = "fill",
        choose_by: str = "val_loss",
        channels_last: bool = False,
        compile: bool = False,
        init: Init | None = None,
        resume: bool | None = False,
        note: str | None = None,
        seed: int = 0,
    ) -> None:
        if nodata not in NODATA_RULES:
            raise ConfigError("unknown rule for pixels without data", nodata, f"choose from {', '.join(NODATA_RULES)}")
        if not isinstance(loss, Loss):
            raise ConfigError(
                "a loss must say its sums (cropseg.losses.Loss)", type(loss).__name__, "choose one from conf/loss"
            )
        self.net = net
        self.loss = loss
        self.optimizer = optimizer
        self.trainer = trainer
        self.scheduler = scheduler
        self.callbacks = callbacks or {}
        self.logger = logger or {}
        self.nodata: NoData = nodata
        self.choose_by = choose_by
        self.channels_last = channels_last
        self.compile = compile
        self.init = init
        self.resume = bool(resume)
        self.note = note
        self.seed = seed

    def fit(self, data: CropDataModule, run_dir: Path) -> NeuralPredictor:
        """Train, choose the best checkpoint, and leave a finished run in ``run_dir``.

        Args:
            data: The dataset and the parts of its split.
            run_dir: Gets ``weights.pt``, ``spec.json``, ``validation.json``, ``hardware.json`` and what the trackers
                write.

        Returns:
            The predictor at the chosen checkpoint (the last epoch, if no callback keeps checkpoints), on the processor
            or the GPU, wherever Lightning would train.

        Raises:
            InputError: The dataset or a part of it is missing.
            ConfigError: Network, loss and dataset do not fit together, or Lightning refuses the options.
            TrainingError: A loss is infinite or no number.
        """
        run_dir = Path(run_dir)
        trackers = with_csv(self.logger, run_dir)
        if self.note:
            say(self.note)
        data.setup("fit")
        clear(run_dir)
        last = next((c for c in self.callbacks.values() if isinstance(c, LastEpoch)), None)
        if last is not None and not self.resume:
            last.path.unlink(missing_ok=True)
        left = last.path if last is not None and last.path.is_file() else None
        dataset = data.dataset
        recipe = recipe_of(self.net)
        L.seed_everything(self.seed, verbose=False)
        window = data.train_crop or dataset.spec.patch_size
        net = build_net(recipe, dataset.spec.bands, len(dataset.spec.taxonomy), window=window)
        init_from = self.init.apply(net, dataset.spec) if self.init else {}
        self.loss.resolve(data.train_counts())
        module = SegmentationModule(
            net,
            self.loss,
            dataset.spec.taxonomy,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            protocol=dataset.spec.protocol,
            nodata=self.nodata,
            seed=self.seed,
            channels_last=self.channels_last,
            compile=self.compile,
        )
        size = sum(p.numel() for p in net.parameters() if p.requires_grad)
        say(
            f"training {type(net).__name__} ({size:,} parameters) on {len(data.parts['train'])} patches of "
            f"{dataset.spec.name}, validating on {len(data.parts['val'])}"
        )
        with _quiet(), joint.disbanded_after():
            trainer = self._trainer(run_dir, trackers)
            announce(trainer.loggers, run_dir, dataset, data.split)
            started = time.perf_counter()
            try:
                trainer.fit(module, datamodule=data, ckpt_path=left, weights_only=True)
            except SystemExit as error:
                if error.code != 1:  # of a queue that wants the processor back (submitit), which starts this job again
                    raise
                # Lightning's answer to Ctrl-C, without a word.
                raise KeyboardInterrupt(_how_to_go_on(last, run_dir)) from error
            except (MisconfigurationException, ValueError, TypeError, ArithmeticError, RuntimeError) as error:
                # Some options are looked at when it is too late to ask, such as what early stopping goes by.
                named = isinstance(error, MisconfigurationException) or "conditioned on metric" in str(error)
                if not named and (
                    isinstance(error, RuntimeError | CropsegError) or not refused_by_library(error, __file__)
                ):
                    raise
                remedy = "see conf/trainer, conf/callbacks and conf/scheduler"
                raise ConfigError("training is refused", str(error), remedy) from error
        spent = None if left else time.perf_counter() - started
        confusion, epoch = _choose(trainer, module, self.choose_by)
        predictor = NeuralPredictor(
            net=net,
            spec=ModelSpec.of(
                dataset,
                data.split,
                loader="cropseg.learners.network.load",
                model={
                    "net": recipe,
                    "loss": self.loss.describe(),
                    "nodata": self.nodata,
                    "train_crop": data.train_crop,
                },
                versions=versions("torch", "lightning", "numpy"),
                patch_size=data.train_crop,
                init_from=init_from,
            ),
            confusion=confusion,
            epoch=epoch,
            protocol=dataset.spec.protocol,
        ).to(str(trainer.strategy.root_device))
        if trainer.is_global_zero:
            device = str(trainer.strategy.root_device)
            hardware.record(
                run_dir, device=device, processes=trainer.world_size, seconds=spent, epochs=trainer.current_epoch
            )
            predictor.save(run_dir)
        say(f"validation miou_present {predictor.validation_score:.4f} at epoch {epoch + 1}; the run is in {run_dir}")
        return predictor

    def _trainer(self, run_dir: Path, trackers: list[Logger]) -> L.Trainer:
        for name, callback in self.callbacks.items():
            if not isinstance(callback, Callback):  # an experiment sets options of one that callbacks=none left out
                remedy = "leave callbacks= out, or choose one that has it, such as callbacks=default"
                raise ConfigError(f"callbacks.{name} has options and no _target_", callback, remedy)
            if isinstance(callback, EarlyStopping) and callback.patience < 0:
                remedy = "give the validations without progress to wait for, 0 or more"
                raise ConfigError(f"callbacks.{name}.patience", callback.patience, remedy)
        bound = getattr(self.trainer, "keywords", {})
        if (precision := str(bound.get("precision") or PRECISIONS[0])) not in PRECISIONS:
            raise ConfigError("trainer.precision", precision, f"choose {', '.join(PRECISIONS)}")
        clip = bound.get("gradient_clip_val")
        if clip is not None and not (finite(clip) and clip >= 0):
            raise ConfigError("trainer.gradient_clip_val", clip, "give a number of at least 0; null clips nothing")
        if (steps := bound.get("accumulate_grad_batches", 1)) is not None and steps < 1:
            raise ConfigError("trainer.accumulate_grad_batches must be at least 1", steps, "1 accumulates nothing")
        options: dict[str, Any] = {"plugins": [*(bound.get("plugins") or ()), AtomicCheckpoints()]}
        if bound.get("enable_progress_bar") is None:
            options["enable_progress_bar"] = sys.stderr.isatty()
        with options_of("trainer", MisconfigurationException):
            trainer = self.trainer(
                # What is kept of an epoch, once the others have done with it.
                callbacks=sorted(self.callbacks.values(), key=lambda callback: isinstance(callback, LastEpoch)),
                logger=trackers,
                default_root_dir=run_dir,
                enable_checkpointing=any(hasattr(c, "best_model_path") for c in self.callbacks.values()),
                **options,
            )
        if bound.get("fast_dev_run"):
            # It switches checkpoints and trackers off, and would leave a run that counts as finished after one batch.
            raise ConfigError("trainer.fast_dev_run leaves no run", bound["fast_dev_run"], "use experiment=debug")
        if trainer.max_epochs is not None and not isinstance(trainer.max_epochs, int):
            raise ConfigError("epochs must be a whole number", trainer.max_epochs, "set epochs=24, say")
        monitors = [str(getattr(c, "monitor", None)) for c in trainer.checkpoint_callbacks]
        if monitors and self.choose_by not in monitors:
            raise ConfigError("choose_by must be what a checkpoint is kept by", self.choose_by, f"here: {monitors}")
        return trainer


def _how_to_go_on(last: LastEpoch | None, run_dir: Path) -> str:
    if last is None or not last.path.is_file():
        return f"no epoch was over, so training starts anew next time; what it left is in {run_dir}"
    return f"the same command with resume=auto goes on after the last whole epoch, in {run_dir}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back Lightning's advertising, and warnings about what is meant so."""
    logs = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # CropDataModule chooses the number of loader processes on purpose.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            # The module turns raw pixels into what its network sees; the data module leaves batches as they are.
            warnings.filterwarnings("ignore", message="You have overridden `on_(before|after)_batch_transfer`")
            # A run into the folder of an earlier one writes over its checkpoints.
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            # What is logged of an epoch is summed over processes before.
            warnings.filterwarnings("ignore", message="It is recommended to use `self.log")
            # A frozen encoder is in eval mode on purpose.
            warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
            # torch 2.15 has a new name for it, which earlier ones do not know (conf/trainer/ddp.yaml).
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            # Lightning 2.6 uses what torch 2.15 deprecates.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _choose(trainer: L.Trainer, module: SegmentationModule, choose_by: str) -> tuple[Confusion, int]:
    """Put the chosen checkpoint's weights into the module; its validation matrix and epoch."""
    best = {
        str(getattr(c, "monitor", None)): str(getattr(c, "best_model_path", "")) for c in trainer.checkpoint_callbacks
    }
    if best.get(choose_by):
        checkpoint = torch.load(best[choose_by], map_location="cpu", weights_only=True)
        module.load_state_dict(checkpoint["state_dict"])
        return checkpoint["val_confusion"].numpy(), int(checkpoint["epoch"])
    if module.validation is None:
        remedy = "set epochs above 0, and trainer.limit_val_batches and check_val_every_n_epoch so that one comes"
        raise ConfigError("training ended without a validation", None, remedy)
    return module.validation, trainer.current_epoch - 1
