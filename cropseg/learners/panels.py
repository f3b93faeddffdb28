"""Pictures of what a network has learned so far, for people who watch it learn."""

from __future__ import annotations

import functools
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from cropseg import pictures
from cropseg.core.checks import whole
from cropseg.core.errors import ConfigError
from cropseg.core.manifest import Dataset
from cropseg.core.scene import UInt8Array, UInt16Array
from cropseg.data.datamodule import CropDataModule
from cropseg.data.fill import model_input
from cropseg.learners.module import SegmentationModule
from cropseg.learners.network import winners
from cropseg.learners.tracking import show_confusion, show_panel
from cropseg.metrics import Confusion


class Panels(Callback):
    """Draws the same few validation patches again and again: image, truth, prediction; in the end also confusions.

    Pictures go to ``panels/`` of the run folder and to every tracker that takes them. The patches are chosen by their
    labels alone. Only the first process draws, and none waits for it.

    Args:
        run_dir: The run folder.
        patches: Patches to draw; 0 draws none.
        every: Epochs between two drawings; the last epoch is always drawn.

    Raises:
        ConfigError: A number is too small, or not whole.
    """

    def __init__(self, run_dir: str | Path, patches: int = 4, every: int = 10) -> None:
        for name, value, least in (("patches", patches, 0), ("every", every, 1)):
            if not whole(value) or value < least:
                remedy = f"set a whole number, {least} or more"
                raise ConfigError(f"callbacks.panels.{name}", value, remedy)
        self.run_dir = Path(run_dir)
        self.patches = patches
        self.every = every
        self._drawn = -1

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, with the weights that were validated, where it is this epoch's turn."""
        if trainer.sanity_checking:
            return
        last = trainer.max_epochs == trainer.current_epoch + 1
        if last or (trainer.current_epoch + 1) % self.every == 0:
            self._draw(trainer, pl_module, trainer.current_epoch)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the last epoch, if training ended before its time, and the confusion matrices of validation."""
        epoch = trainer.current_epoch - 1  # Lightning has counted on
        self._draw(trainer, pl_module, epoch)
        dataset = _dataset(trainer)
        if not trainer.is_global_zero or dataset is None or not isinstance(pl_module, SegmentationModule):
            return
        last = None if pl_module.validation is None else (pl_module.validation, epoch)
        for which, found in (("best", _best(trainer)), ("last", last)):
            if found is not None:
                matrix, of = found
                title = f"validation, {which} epoch: {of + 1}"
                step = _step(trainer)
                show_confusion(
                    trainer.loggers, self.run_dir, which, matrix, dataset, title=title, epoch=epoch, step=step
                )

    def _draw(self, trainer: L.Trainer, module: L.LightningModule, epoch: int) -> None:
        dataset = _dataset(trainer)
        wanted = self.patches and epoch > self._drawn and trainer.is_global_zero
        if not wanted or dataset is None or not isinstance(module, SegmentationModule):
            return
        self._drawn = epoch
        part = trainer.datamodule.parts["val"].tolist()  # type: ignore[attr-defined]
        learning = module.training
        module.eval()
        try:
            show_panel(
                trainer.loggers,
                self.run_dir,
                dataset,
                pictures.choose_patches(dataset, part, self.patches),
                functools.partial(_labels, trainer, module),
                file=f"epoch_{epoch + 1:03d}",
                title=f"epoch {epoch + 1}",
                epoch=epoch,
                step=_step(trainer),
            )
        finally:
            module.train(learning)


def _labels(trainer: L.Trainer, module: SegmentationModule, images: UInt16Array) -> UInt8Array:
    """Labels, uint8 (n, height, width), as validation would give them."""
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        x, _ = model_input(torch.from_numpy(images).to(module.device), module.nodata)
        labels: UInt8Array = winners(module(x))[1].cpu().numpy()
    return labels


def _best(trainer: L.Trainer) -> tuple[Confusion, int] | None:
    """Validation matrix and epoch of the checkpoint with the lowest validation loss; None where none is kept."""
    for callback in trainer.checkpoint_callbacks:
        path = str(getattr(callback, "best_model_path", ""))
        if path and getattr(callback, "monitor", None) == "val_loss":
            # Mapped, not read: the weights beside the matrix are not wanted.
            kept = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return kept["val_confusion"].numpy().copy(), int(kept["epoch"])
    return None


def _dataset(trainer: L.Trainer) -> Dataset | None:
    data = trainer.datamodule  # type: ignore[attr-defined]
    return data.dataset if isinstance(data, CropDataModule) else None


def _step(trainer: L.Trainer) -> int:
    """The step that Lightning logs an epoch's end under."""
    return max(trainer.global_step - 1, 0)
