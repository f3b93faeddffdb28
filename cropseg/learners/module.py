"""The network while it learns: one training step, one validation, and what is logged of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from cropseg.core.errors import TrainingError
from cropseg.core.labels import IGNORE
from cropseg.core.taxonomy import Taxonomy
from cropseg.data.augment import apply_symmetry
from cropseg.data.dataset import Sample
from cropseg.data.fill import NoData, model_input
from cropseg.learners import joint
from cropseg.learners.finite import FiniteLoss, Step
from cropseg.learners.network import winners
from cropseg.learners.options import options_of
from cropseg.losses import Loss, RunningLoss
from cropseg.metrics import Confusion, Protocol, scores

SCORES = ("miou", "miou_present", "miou_union", "miou_foreground", "pixel_accuracy", "mean_class_accuracy")
"""Scores of :func:`cropseg.metrics.scores` that are logged as ``val_<name>``."""


class SegmentationModule(L.LightningModule):
    """Training and validation of a segmentation network, in one process or in several.

    Over processes and batches sums are added up, never means: the value of a training step is that of its global batch
    (:func:`cropseg.learners.joint.for_training`), and validation adds integer confusion matrices and the loss's sums
    once, at its end. With ``accumulate_grad_batches=k`` a step's gradient is the mean of those of its k batches, each
    with its own normaliser.

    Args:
        net: Takes reflectance, float (N, bands, H, W), and gives logits (N, classes, H, W).
        loss: What is minimised.
        taxonomy: The classes.
        optimizer: Makes the optimiser of the parameters.
        scheduler: Makes the schedule of the optimiser, stepped after each epoch, a plateau after each that was
            validated, on ``val_loss``; None for none.
        protocol: Protocol of the dataset, for the scores.
        nodata: What the network sees where there is no data; such pixels are in no score, with ``fill`` in no loss.
        seed: Of dropout, drawn anew from (seed, epoch, batch, process).
        channels_last: Whether images and kernels lie in memory with their channels last.
        compile: Whether the network goes through ``torch.compile``; the names of its weights stay.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Loss,
        taxonomy: Taxonomy,
        *,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        protocol: Protocol = "all",
        nodata: NoData = "fill",
        seed: int = 0,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.net = net.to(memory_format=torch.channels_last) if channels_last else net
        if compile:
            self.net.compile()
        self.loss = loss
        self.taxonomy = taxonomy
        self.protocol = protocol
        self.nodata: NoData = nodata
        self.seed = seed
        self.validation: Confusion | None = None  # of the last validation
        self._optimizer = optimizer
        self._scheduler = scheduler
        self.train_loss = RunningLoss(loss)  # of the running epoch
        self.rate = float("nan")  # learning rate of the running epoch
        self._finite = FiniteLoss()
        self._val_loss = RunningLoss(loss)
        n = len(taxonomy)
        self._confusion = MulticlassConfusionMatrix(n, ignore_index=IGNORE, validate_args=False)
        # Logged beside our own under torchmetrics' name: its macro average is our miou_union.
        self._jaccard = MulticlassJaccardIndex(n, ignore_index=IGNORE, validate_args=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes, H, W) of reflectance (N, bands, H, W)."""
        logits: Tensor = self.net(x)
        return logits

    def on_before_batch_transfer(self, batch: Sample, dataloader_idx: int) -> dict[str, Any]:
        """Read on the processor what it would have to wait for once it is on the device."""
        return {**batch, "complete": bool(batch["complete"].all())}

    def on_after_batch_transfer(self, batch: Mapping[str, Any], dataloader_idx: int) -> dict[str, Tensor]:
        """Turn raw pixels into what the network sees, on its device: no-data rule, reflectance, symmetry.

        Returns:
            ``x`` float32 (N, bands, H, W), ``target`` int64 (N, H, W), ``row`` int64 (N,); in validation also
            ``valid``, bool (N, H, W), where there is data.
        """
        x, valid = model_input(batch["image"], self.nodata, batch["complete"])
        target = batch["mask"].long()
        if self.nodata == "fill":
            target = torch.where(valid, target, IGNORE)
        if self.training:
            x, target = apply_symmetry(x, batch["symmetry"]), apply_symmetry(target, batch["symmetry"])
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        found = {"x": x, "target": target, "row": batch["row"]}
        return found if self.training else {**found, "valid": valid}

    def on_train_epoch_start(self) -> None:
        """Remember the rate: at the end of an epoch some schedules have already moved on, others have not."""
        self.rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Key dropout by (seed, epoch, batch, process), so that it does not depend on what was drawn before."""
        key = [self.seed, self.current_epoch, batch_idx, self.global_rank]
        state = np.random.SeedSequence(key).generate_state(2)
        torch.manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch, of all processes together.

        Raises:
            TrainingError: It is infinite or no number, or was so in one of the last steps.
        """
        sums = joint.for_training(self.loss.sums(self(batch["x"]), batch["target"]))
        loss = self.loss.value(sums)
        self._finite.add(self.trainer, Step(self.current_epoch, batch_idx, loss.detach(), batch["row"]))
        self.train_loss.update(sums)
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the training loss, exact over the epoch's pixels, and the learning rate."""
        self._finite.look(self.trainer)
        self.log("train_loss", self.train_loss.compute())
        self.log("lr", self.rate)
        self.train_loss.reset()

    def on_validation_epoch_start(self) -> None:
        """No validation, and so no checkpoint, of weights that a loss has spoilt; the same network in each process."""
        self._finite.look(self.trainer)
        joint.share_buffers(self.net)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add one batch to the loss and the confusion matrix."""
        logits = self(batch["x"])
        self._val_loss.update(self.loss.sums(logits, batch["target"]))
        _, labels = winners(logits)
        # Scores leave out pixels without data whatever the rule, as evaluate.py does.
        truth = torch.where(batch["valid"], batch["target"], IGNORE)
        self._confusion.update(labels, truth)
        self._jaccard.update(labels, truth)

    def on_validation_epoch_end(self) -> None:
        """Log the loss over the whole part and every score, all read off one confusion matrix.

        Processes meet here for the first time since the validation began, so their parts may differ in length.

        Raises:
            TrainingError: The loss is infinite or no number. Neither plateau nor checkpoints could make use of it.
        """
        self._val_loss.sums = joint.summed(self._val_loss.sums)
        loss = self._val_loss.compute()
        if not math.isfinite(loss):
            remedy = "lower optimizer.lr, set trainer.gradient_clip_val=1, or train in trainer.precision=32-true"
            raise TrainingError(f"the validation loss of epoch {self.current_epoch + 1} is", loss, remedy)
        self.validation = self._confusion.compute().cpu().numpy()
        found = scores(self.validation, self.protocol)
        self.log("val_loss", loss, prog_bar=True)
        self.log_dict({f"val_{name}": found[name] for name in SCORES})
        self.log("val_jaccard_torchmetrics", self._jaccard.compute())
        names = (name.replace(" ", "_") for name in self.taxonomy.names)
        self.log_dict({f"val_iou_{name}": iou for name, iou in zip(names, found["iou"], strict=True)})
        self._val_loss.reset()
        self._confusion.reset()
        self._jaccard.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the confusion matrix of the validation that chose this checkpoint beside its weights."""
        if self.validation is not None:
            checkpoint["val_confusion"] = torch.from_numpy(self.validation)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, and its schedule on the validation loss.

        Raises:
            ConfigError: PyTorch refuses their arguments.
        """
        with options_of("optimizer"):
            optimizer = self._optimizer([p for p in self.net.parameters() if p.requires_grad])
        if self._scheduler is None:
            return {"optimizer": optimizer}
        with options_of("scheduler"):
            scheduler = self._scheduler(optimizer)
        schedule = {"scheduler": scheduler, "interval": "epoch", "monitor": "val_loss"}
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            schedule["frequency"] = self.trainer.check_val_every_n_epoch or 1  # it needs a validation to go by
        return {"optimizer": optimizer, "lr_scheduler": schedule}  # type: ignore[return-value]
