"""Going on where a killed training stood: what is kept of each epoch, and written so that a kill harms nothing.

Lightning's own last checkpoint is written in the middle of an epoch's end, before the schedule has moved on, and into
its place. Here it is written when all of the epoch is over, and takes the earlier one's place in one step.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback

from cropseg.core import storage
from cropseg.core.errors import InputError, MismatchError
from cropseg.learners.module import SegmentationModule

FILE: Final = "last.ckpt"

UNREADABLE: Final = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError)
"""What torch raises of a file that is cut off, or none of its own."""


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints flushed and in one step, and reads nothing of them but tensors and plain values."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``."""
        # Through memory: torch's own writing to a file hides the reason when the disk is full.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        storage.write_bytes(Path(path), content.getvalue())

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read what :meth:`save_checkpoint` wrote.

        Raises:
            InputError: The file is no checkpoint, or holds code.
        """
        try:
            found: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except UNREADABLE as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{path} is not a checkpoint", first, "remove it: training starts anew") from error
        return found


class LastEpoch(Callback):
    """Keeps ``last.ckpt``: all that training needs to go on after the last epoch that is wholly over.

    It is written before the next epoch's first step, and when training has ended: by then the schedule has moved on,
    the scores are logged, and the callbacks that stop early or keep the best have judged the epoch.

    Args:
        dirpath: Folder of the checkpoints.
    """

    def __init__(self, dirpath: str | Path) -> None:
        self.path = Path(dirpath) / FILE
        self._kept: int | None = None  # epochs that are over in the file
        self._saving: bool | None = None  # while the file is written: whether training has ended

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the epoch that is over."""
        if trainer.current_epoch not in (0, self._kept):
            self._save(trainer, ended=False)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the last one, and that it was the last."""
        self._save(trainer, ended=True)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add whether training has ended, and what it learned from."""
        if self._saving is None:
            return
        checkpoint["ended"] = self._saving
        checkpoint["manifest_digest"] = _digest(trainer)
        # Lightning has announced the next epoch, which is not begun in what is kept.
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts["ready"] = counts["started"] = counts["completed"]

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the file up: stop at once if training had ended, and find the best ones where the folder lies now.

        Raises:
            MismatchError: The dataset has changed.
        """
        digest = checkpoint.get("manifest_digest")
        if digest != _digest(trainer):
            remedy = "restore the dataset, or start anew: resume=null"
            raise MismatchError(f"the dataset is not the one that {self.path} was trained on", digest, remedy)
        self._kept = int(checkpoint["epoch"])
        trainer.should_stop = bool(checkpoint["ended"])
        if isinstance(pl_module, SegmentationModule) and "val_confusion" in checkpoint:
            pl_module.validation = checkpoint["val_confusion"].numpy()
        states = checkpoint["callbacks"]
        for name, state in states.items():
            if isinstance(state, Mapping) and isinstance(old := state.get("dirpath"), str):
                states[name] = _moved(state, old, str(self.path.parent))

    def _save(self, trainer: L.Trainer, *, ended: bool) -> None:
        self._saving = ended
        try:
            trainer.save_checkpoint(self.path)
        finally:
            self._saving = None
        self._kept = trainer.current_epoch


def _digest(trainer: L.Trainer) -> str | None:
    dataset = getattr(trainer.datamodule, "dataset", None)  # type: ignore[attr-defined]
    return None if dataset is None else str(dataset.digest)


def _moved(state: Any, old: str, new: str) -> Any:
    """``state`` with every path below ``old`` below ``new``."""
    if isinstance(state, str):
        return new + state[len(old) :] if state == old or state.startswith(f"{old}/") else state
    if isinstance(state, Mapping):
        return {_moved(key, old, new): _moved(value, old, new) for key, value in state.items()}
    return state
