"""Trackers: what Lightning's own lack, and pictures in each of them.

A run that goes on where it was killed logs an epoch again: each tracker finds that out from the first epoch that it is
told, and holds no step twice.
"""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from cropseg.core import storage
from cropseg.core.errors import ConfigError
from cropseg.core.progress import say
from cropseg.core.scene import UInt8Array
from cropseg.learners.options import options_of

IDENTITY: Final = "identity.json"
"""File of the run folder whose ``wandb_id`` is the run's name in trackers; it outlives a kill (cropseg.resume)."""


@runtime_checkable
class TakesPictures(Protocol):
    """A tracker that shows pictures."""

    def log_picture(self, name: str, pixels: UInt8Array, epoch: int, step: int) -> None:
        """Show ``pixels``, uint8 (height, width, 3), under ``name``."""
        ...


class CsvLogger(Logger):
    """``metrics.csv`` with one row an epoch.

    Lightning's CSVLogger writes training and validation of an epoch into two rows, and deletes its file when a run is
    taken up again. Here the rows before the first epoch that is logged are kept.

    Args:
        save_dir: The run folder.
    """

    def __init__(self, save_dir: str | Path) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.rows: dict[int, dict[str, Any]] = {}
        self._begun = False

    @property
    def name(self) -> str:
        """Of the tracker."""
        return "csv"

    @property
    def version(self) -> str:
        """None of its own: the run folder is the version."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder holds the config."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of their epoch, or of their step where they name no epoch."""
        epoch = int(metrics.get("epoch", step or 0))
        if not self._begun:
            self._begun = True
            self.rows = _rows_before(epoch, self.path)
        row = self.rows.setdefault(epoch, {"epoch": epoch})
        row["step"] = max(int(step or 0), int(row.get("step", 0)))
        row.update({name: float(value) for name, value in metrics.items() if name != "epoch"})
        self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write the file, atomically."""
        if not self._begun:
            return
        columns = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows[epoch] for epoch in sorted(self.rows))
        storage.write_bytes(self.path, text.getvalue().encode())


def _rows_before(epoch: int, path: Path) -> dict[int, dict[str, Any]]:
    """Rows of an earlier file by epoch, their cells as they stand; a run that starts anew keeps none."""
    if epoch == 0 or not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    return {int(row["epoch"]): row for row in rows if int(row["epoch"]) < epoch}


class TensorBoardRun(TensorBoardLogger):
    """TensorBoard, in ``tensorboard/`` of the run folder.

    Args:
        save_dir: The run folder.
    """

    def __init__(self, save_dir: str | Path) -> None:
        try:
            super().__init__(save_dir, name="tensorboard", version="", default_hp_metric=False)
        except ImportError as error:
            raise missing("tensorboard", "pip install tensorboard") from error
        self._begun = False
        self._step: int | None = None  # whose epoch is written
        self._waiting: list[tuple[str, UInt8Array, int]] = []  # pictures that came before any score

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write scalars; the epoch once for each step, though it comes with every part of what is logged of it."""
        self._begin(int(metrics.get("epoch", 0)), step or 0)
        super().log_metrics({k: v for k, v in metrics.items() if k != "epoch" or step != self._step}, step)
        self._step = step

    @rank_zero_only
    def log_picture(self, name: str, pixels: UInt8Array, epoch: int, step: int) -> None:
        """Show ``pixels``, uint8 (height, width, 3), under ``name``."""
        self._waiting.append((name, pixels, step))
        if self._begun:
            self._show()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write out and close."""
        self._show()
        super().finalize(status)

    def _show(self) -> None:
        for name, pixels, step in self._waiting:
            self.experiment.add_image(name, pixels, step, dataformats="HWC")
        self._waiting.clear()

    def _begin(self, epoch: int, step: int) -> None:
        """Say once from which step on earlier events of this folder are void: all of them, if the run is a new one."""
        if self._begun:
            return
        self._begun = True
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]

        start = step if epoch else 0
        writer = self.experiment.file_writer
        # Both events are what SummaryWriter(purge_step=…) writes; it would have to know the step when it is made.
        writer.add_event(Event(step=start, file_version="brain.Event:2"))
        writer.add_event(Event(step=start, session_log=SessionLog(status=SessionLog.START)))
        if not epoch and self.hparams:
            lines = yaml.safe_dump(dict(self.hparams), sort_keys=False).splitlines()
            text = "".join(f"    {line}\n" for line in lines)  # indented: Markdown's way to leave it as it is
            self.experiment.add_text("run", text, 0)
        self._show()


class WandbRun(WandbLogger):
    """Weights & Biases, offline unless asked; says where an offline run lies and how to send it.

    Args:
        save_dir: The run folder; the offline run lies in ``wandb/`` below it.
        project: Project name.
        offline: Whether nothing leaves this machine; needs no account.
        name: Name of the run; None lets W&B choose.
        group: Group of the run; None takes the folder's name of the sweep that it is a job of.
        id: The run's id at W&B; None takes the run folder's, so that a run that goes on stays the same one.

    Raises:
        ConfigError: W&B is missing, or takes no such name.
    """

    def __init__(
        self,
        save_dir: str | Path,
        project: str = "cropseg",
        offline: bool = True,
        name: str | None = None,
        group: str | None = None,
        id: str | None = None,
    ) -> None:
        # Imported when asked for: training runs where W&B is not installed.
        try:
            from wandb import Settings
            from wandb.errors import UsageError
        except ImportError as error:
            raise missing("wandb", "pip install wandb") from error
        # What matters of its output is said by finalize. Command line and address of the repository may hold secrets;
        # commit and config are logged by us.
        settings = Settings(silent=True, disable_git=True, x_disable_meta=True, save_code=False)
        with options_of("logger.wandb", UsageError):  # otherwise said at the first score, and not in one line
            Settings(project=project, run_name=name, run_group=group)
        super().__init__(
            name=name,
            save_dir=save_dir,
            project=project,
            offline=offline,
            group=group or sweep_name(),
            id=id or run_id(save_dir),
            settings=settings,
        )
        self._wandb_init.pop("anonymous")  # an option that W&B warns of whatever its value

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add values to the row of their epoch: W&B puts together what comes under one step."""
        epoch = int(metrics.get("epoch", 0))
        self.experiment.log({**metrics, "trainer/global_step": step or 0}, step=epoch)

    @rank_zero_only
    def log_picture(self, name: str, pixels: UInt8Array, epoch: int, step: int) -> None:
        """Show ``pixels``, uint8 (height, width, 3), under ``name``."""
        from wandb import Image

        self.log_metrics({name: Image(pixels), "epoch": epoch}, step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Finish the run, so that the next job of a sweep starts its own."""
        super().finalize(status)
        if self._experiment is None:
            return
        folder = Path(self.experiment.dir).parent
        self.experiment.finish(exit_code=0 if status == "success" else 1)
        self._experiment = None
        if self._offline:
            say(f"W&B run, offline: {folder} (send it with: wandb sync {folder})")


def sweep_name() -> str | None:
    """Name of the folder of the sweep that this process runs a job of; None outside one."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return Path(HydraConfig.get().sweep.dir).name


def run_id(run_dir: str | Path) -> str | None:
    """The id that a run folder gives its run in trackers; None if it gives none."""
    path = Path(run_dir) / IDENTITY
    found = storage.read_json(path).get("wandb_id") if path.is_file() else None
    return None if found is None else str(found)


def missing(package: str, remedy: str) -> ConfigError:
    """The error of a tracker whose package is not installed."""
    return ConfigError(f"logger={package} needs a package that is missing", package, remedy)
