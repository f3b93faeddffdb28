"""Trackers that Lightning's own do not quite cover."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from cropseg.core import storage
from cropseg.core.errors import ConfigError
from cropseg.core.progress import say


class CsvLogger(Logger):
    """``metrics.csv`` with one row an epoch.

    Lightning's CSVLogger writes training and validation of an epoch into two rows, and deletes its file when a run is
    taken up again.

    Args:
        save_dir: The run folder.
    """

    def __init__(self, save_dir: str | Path) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.rows: dict[int, dict[str, float]] = {}

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

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of their epoch, or of their step where they name no epoch."""
        epoch = int(metrics.get("epoch", step or 0))
        row = self.rows.setdefault(epoch, {"epoch": epoch})
        row["step"] = max(int(step or 0), int(row.get("step", 0)))
        row.update({name: float(value) for name, value in metrics.items() if name != "epoch"})
        self.save()

    def save(self) -> None:
        """Write the file, atomically."""
        columns = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows[epoch] for epoch in sorted(self.rows))
        storage.write_bytes(self.path, text.getvalue().encode())


class WandbRun(WandbLogger):
    """Weights & Biases, offline unless asked; says where an offline run lies and how to send it.

    Args:
        save_dir: The run folder; the offline run lies in ``wandb/`` below it.
        project: Project name.
        offline: Whether nothing leaves this machine; needs no account.
        name: Name of the run; None lets W&B choose.
        group: Group of the run, such as a sweep's name.
    """

    def __init__(
        self,
        save_dir: str | Path,
        project: str = "cropseg",
        offline: bool = True,
        name: str | None = None,
        group: str | None = None,
    ) -> None:
        # Imported when asked for: training runs where W&B is not installed.
        try:
            from wandb import Settings
        except ImportError as error:
            raise ConfigError("logger=wandb needs a package that is missing", "wandb", "pip install wandb") from error
        quiet = Settings(silent=True)  # what matters of its output is said by finalize
        super().__init__(name=name, save_dir=save_dir, project=project, offline=offline, group=group, settings=quiet)

    def finalize(self, status: str) -> None:
        """Finish the run, so that the next job of a sweep starts its own."""
        super().finalize(status)
        if self._experiment is None:
            return
        folder = Path(self.experiment.dir).parent
        self.experiment.finish(exit_code=0 if status == "success" else 1)
        if self._offline:
            say(f"W&B run, offline: {folder} (send it with: wandb sync {folder})")
