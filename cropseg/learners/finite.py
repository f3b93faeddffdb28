"""A training loss that is no number stops the run and names its patches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final, NamedTuple

import lightning as L
from torch import Tensor

from cropseg.core import processes, storage
from cropseg.core.errors import TrainingError
from cropseg.data.datamodule import CropDataModule
from cropseg.learners import joint

FILE: Final = "nonfinite.json"
EVERY: Final = 50
"""Steps between two looks at the losses on a GPU: a look makes the processor wait for it. On a CPU, each step."""

SHOWN: Final = 8
"""Patches that the message names; the file names all."""


class Step(NamedTuple):
    """What is kept of a step until its loss is looked at.

    Attributes:
        epoch: From 0.
        batch: Within the epoch, from 0.
        loss: Scalar, on the device.
        rows: Rows of the manifest, int64 (N,), on the device.
    """

    epoch: int
    batch: int
    loss: Tensor
    rows: Tensor


class FiniteLoss:
    """Keeps the last steps, and looks at their losses every so often: on a CPU at once, on a GPU every 50 steps.

    So a GPU is not made to wait at each step, and the step is named all the same. Weights are spoilt by then, but no
    checkpoint is: the module looks before each validation and at the end of each epoch too.
    """

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._before: Step | None = None  # the last step that was found right

    def add(self, trainer: L.Trainer, step: Step) -> None:
        """Keep a step, and look if it is time.

        Raises:
            TrainingError: A loss is infinite or no number.
        """
        self._steps.append(step)
        if len(self._steps) >= _every(step.loss):
            self.look(trainer)

    def look(self, trainer: L.Trainer) -> None:
        """Look at all losses since the last time.

        Raises:
            TrainingError: One is infinite or no number; ``nonfinite.json`` in the run folder holds the patches.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return
        for index, loss in enumerate(joint.values_of([step.loss for step in steps])):
            if not math.isfinite(loss):
                _stop(trainer, loss, steps[index], steps[index - 1] if index else self._before)
        self._before = steps[-1]


def _every(loss: Tensor) -> int:
    return 1 if loss.device.type == "cpu" else EVERY


def _stop(trainer: L.Trainer, loss: float, step: Step, before: Step | None) -> None:
    """Say which patches the batch had, in all processes together."""
    rows = joint.gathered(step.rows.tolist())
    earlier = joint.gathered(before.rows.tolist() if before else [])
    ids = _ids(trainer, rows)
    path = Path(trainer.default_root_dir) / FILE
    if processes.is_first():
        found = {
            "epoch": step.epoch,
            "batch": step.batch,
            "loss": str(loss),  # JSON has neither NaN nor infinity
            "rows": rows,
            "ids": ids,
            # The step before may have spoilt the weights with a loss that was still finite.
            "rows_before": earlier,
            "ids_before": _ids(trainer, earlier),
        }
        storage.write_json(path, found)
    trainer.strategy.barrier()  # or a process that is gone first takes the writing one with it
    raise TrainingError(
        f"the training loss is {loss} in epoch {step.epoch + 1}, step {step.batch + 1}, at patches",
        ids[:SHOWN] or rows[:SHOWN],
        f"lower optimizer.lr, set trainer.gradient_clip_val=1, or look at all {len(rows)} patches, named in {path}",
    )


def _ids(trainer: L.Trainer, rows: list[int]) -> list[str]:
    data = getattr(trainer, "datamodule", None)
    return [data.dataset.manifest["id"][row].as_py() for row in rows] if isinstance(data, CropDataModule) else []
