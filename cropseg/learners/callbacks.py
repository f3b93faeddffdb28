"""What a person sees while a network learns, and how fast it does."""

from __future__ import annotations

import math
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging

from cropseg.core.checks import finite, whole
from cropseg.core.errors import ConfigError
from cropseg.core.progress import say
from cropseg.learners.module import SegmentationModule

WARM_UP = 3
"""First steps left out of the projection: they allocate memory and choose kernels."""


class Projection(Callback):
    """After some steps, or at the end of a shorter first epoch, say how long the whole run will take.

    Args:
        steps: Steps to measure, at most.
        hint: What to say besides on a machine without a GPU; None for nothing.
    """

    def __init__(self, steps: int = 20, hint: str | None = None) -> None:
        self.steps = max(steps, WARM_UP + 1)
        self.hint = hint
        self._seen = 0
        self._warm_up = 0.0
        self._spent = 0.0
        self._last = 0.0
        self._said = False

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock: what lies between two epochs is no step."""
        self._last = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on after a validation within an epoch."""
        self._last = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure, and speak once."""
        now = time.perf_counter()
        self._seen += 1
        if self._seen > WARM_UP:
            self._spent += now - self._last
        else:
            self._warm_up += now - self._last
        self._last = now
        if self._seen == self.steps:
            self._say(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Speak now, if the epoch was shorter than the steps to measure, and others follow."""
        if self._seen and trainer.max_epochs not in (None, trainer.current_epoch + 1):
            self._say(trainer)

    def _say(self, trainer: L.Trainer) -> None:
        if self._said or not trainer.is_global_zero:
            return
        self._said = True
        measured = self._seen - WARM_UP
        # An epoch of very few steps is all warm-up: a projection that is too long beats none.
        say(self._text(trainer, self._spent / measured if measured > 0 else self._warm_up / self._seen))
        if self.hint and trainer.strategy.root_device.type == "cpu":
            say(self.hint)

    def _text(self, trainer: L.Trainer, seconds: float) -> str:
        batches = int(trainer.num_training_batches)
        if trainer.max_epochs is None or trainer.max_epochs < 0:
            return f"{seconds:.2f} s a step, {human(seconds * batches)} an epoch of {batches} steps"
        # A validation step goes forward only: about a third of a training step.
        epoch = seconds * (batches + sum(int(n) for n in trainer.num_val_batches) / 3)
        return (
            f"{seconds:.2f} s a step: {trainer.max_epochs} epochs of {batches} steps take about "
            f"{human(epoch * trainer.max_epochs)}"
        )


class Ema(EMAWeightAveraging):
    """An exponential moving average of the weights, which is validated, kept and becomes the run.

    Args:
        decay: Share of the old average that stays at an update, at least 0 and below 1.
        update_every_n_steps: Optimiser steps between two updates.
        update_starting_at_step: First step that updates; None for the first of all.
        update_starting_at_epoch: First epoch whose end updates too; None for none.
        options: Of Lightning's callback.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(
        self,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        update_starting_at_epoch: int | None = None,
        **options: Any,
    ) -> None:
        if not finite(decay) or not 0 <= decay < 1:
            remedy = "use 0.999, less in a run of few steps"
            raise ConfigError("callbacks.ema.decay must be a number of at least 0 and below 1", decay, remedy)
        for name, value, least in (
            ("update_every_n_steps", update_every_n_steps, 1),
            ("update_starting_at_step", 0 if update_starting_at_step is None else update_starting_at_step, 0),
            ("update_starting_at_epoch", 0 if update_starting_at_epoch is None else update_starting_at_epoch, 0),
        ):
            if not whole(value) or value < least:
                raise ConfigError(f"callbacks.ema.{name} must be whole and at least {least}", value, f"set {least}")
        super().__init__(
            decay=decay,
            update_every_n_steps=update_every_n_steps,
            update_starting_at_step=update_starting_at_step,
            update_starting_at_epoch=update_starting_at_epoch,
            **options,
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse an average that would stay at the untrained weights, or at those after the first step.

        Raises:
            ConfigError: It would.
        """
        steps, epochs = trainer.estimated_stepping_batches, trainer.max_epochs or 0
        if not math.isfinite(steps) or epochs < 0:
            return
        last = (int(steps) - 1) // self.update_every_n_steps * self.update_every_n_steps
        by_steps = last >= (self.update_starting_at_step or 0) and (last > 0 or steps <= 1)
        by_epochs = self.update_starting_at_epoch is not None and self.update_starting_at_epoch < epochs
        if steps > 0 and not by_steps and not by_epochs:
            given = [self.update_every_n_steps, self.update_starting_at_step, self.update_starting_at_epoch]
            what = (
                "callbacks.ema: no update after the first step, with update_every_n_steps and both update_starting_at"
            )
            raise ConfigError(what, given, f"training has {int(steps)} steps: update more often, or begin earlier")


class EpochLine(Callback):
    """One line an epoch: losses, the score that sweeps maximise, learning rate, time."""

    def __init__(self) -> None:
        self._started = 0.0
        self._validated = False

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()
        self._validated = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that this epoch has validation scores of its own."""
        self._validated = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say the line."""
        if not trainer.is_global_zero:
            return
        found = trainer.callback_metrics if self._validated else {}  # Lightning keeps those of an earlier epoch
        shown = [f"{name} {float(found[name]):.4f}" for name in ("val_loss", "val_miou_present") if name in found]
        if isinstance(pl_module, SegmentationModule):
            shown.insert(0, f"train_loss {pl_module.train_loss.compute():.4f}")
            shown.append(f"lr {pl_module.rate:.2g}")
        took = human(time.perf_counter() - self._started)
        say("  ".join([f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", *shown, took]))


class Speed(Callback):
    """Logs how fast an epoch's training went, what an epoch took in all, and the most memory that a GPU held.

    ``epoch_seconds`` is the time since the last epoch's end, or since training started: compiling, validation,
    checkpoints and pictures are in it; they are not in the speed.
    ``patches_per_second`` counts the patches of all processes together. ``gpu_memory_gib`` is the peak of PyTorch's
    allocations on the first process's GPU since the last epoch's end, in GiB; on other devices it is not logged.
    """

    def __init__(self) -> None:
        self._patches = 0
        self._spent = 0.0
        self._since: float | None = None
        self._end = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the first epoch."""
        self._end = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting."""
        self._patches = 0
        self._spent = 0.0
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the patches of this process."""
        self._patches += len(batch["row"])

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self._stop(pl_module.device)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on, if this was a validation within an epoch."""
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._since = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch's speed; each process measures its own, of which trackers see the first's."""
        self._stop(pl_module.device)
        begun, self._end = self._end, time.perf_counter()
        found = {
            "patches_per_second": self._patches * trainer.world_size / self._spent,
            "epoch_seconds": self._end - begun,
        }
        if pl_module.device.type == "cuda":
            found["gpu_memory_gib"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        # Not by self.log: there is nothing to reduce over processes, which Lightning would warn of.
        for logger in trainer.loggers:
            logger.log_metrics({"epoch": trainer.current_epoch, **found}, step=max(trainer.global_step - 1, 0))

    def _stop(self, device: torch.device) -> None:
        if self._since is None:
            return
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the device is behind: once an epoch, wait for it
        self._spent += time.perf_counter() - self._since
        self._since = None


def human(seconds: float) -> str:
    """A duration for people: ``42 s``, ``3.5 min``, ``12 h``, ``4 days``."""
    for unit, length in (("days", 86400 * 2), ("h", 3600 * 2), ("min", 120)):
        if seconds >= length:
            amount = seconds / {"days": 86400, "h": 3600, "min": 60}[unit]
            return f"{amount:.0f} {unit}" if amount >= 10 else f"{amount:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
