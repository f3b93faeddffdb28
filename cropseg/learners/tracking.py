"""What every tracker is told of a run, be it a network's or a forest's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cropseg import pictures
from cropseg.core.errors import ConfigError
from cropseg.core.manifest import Dataset
from cropseg.core.scene import UInt8Array, UInt16Array
from cropseg.core.taxonomy import Taxonomy
from cropseg.learners.hardware import machine
from cropseg.learners.loggers import CsvLogger, TakesPictures
from cropseg.learners.secrets import masked
from cropseg.learners.versions import git_state, versions
from cropseg.metrics import Confusion


class Tracker(Protocol):
    """What a run needs of one of Lightning's loggers."""

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        """Record what the run is."""
        ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Record scores."""
        ...

    def finalize(self, status: str) -> None:
        """Write out and close."""
        ...


def describe_run(run_dir: Path, dataset: Dataset, split: str) -> dict[str, Any]:
    """What a tracker must know to tell a run from others, as plain data.

    Returns:
        ``config``: the composed config, resolved where it can be, secrets masked; empty outside Hydra.
        ``data``: name, split, manifest's SHA-256 and whether the pixels are simulated.
        ``git``: ``commit`` and ``dirty`` (``yes``, ``no`` or ``unknown``). ``versions``: of packages. ``machine``: its
        processor, memory and system.
    """
    path = Path(run_dir) / ".hydra" / "config.yaml"
    spec = dataset.spec
    data = {"name": spec.name, "split": split, "manifest_digest": dataset.digest, "simulated": spec.simulated}
    return {
        "config": masked(_resolved(path)) if path.is_file() else {},
        "data": data,
        "git": git_state(),
        "versions": {name: found for name, found in versions("torch", "numpy").items() if name != "commit"},
        "machine": machine(),
    }


def announce(loggers: Iterable[Tracker], run_dir: Path, dataset: Dataset, split: str) -> None:
    """Tell each tracker what this run is, before anything else."""
    description = describe_run(run_dir, dataset, split)
    for logger in loggers:
        logger.log_hyperparams(description)


def with_csv(loggers: Mapping[str, Logger], run_dir: Path) -> list[Logger]:
    """The trackers, and ``metrics.csv`` even where none was asked for: reports and curves are read off it.

    Raises:
        ConfigError: One is no logger of Lightning's kind.
    """
    for name, logger in loggers.items():
        if not isinstance(logger, Logger):
            remedy = "choose one from conf/logger, or a _target_ that is a lightning.pytorch.loggers.Logger"
            raise ConfigError(f"logger.{name} is no logger", type(logger).__name__, remedy)
    chosen = list(loggers.values())
    return chosen if any(isinstance(one, CsvLogger) for one in chosen) else [CsvLogger(run_dir), *chosen]


def iou_names(taxonomy: Taxonomy) -> list[str]:
    """Names that the IoU of each class is logged under."""
    return [f"val_iou_{name.replace(' ', '_')}" for name in taxonomy.names]


def show_panel(
    loggers: Iterable[Tracker],
    run_dir: Path,
    dataset: Dataset,
    rows: Sequence[int],
    predict: Callable[[UInt16Array], UInt8Array],
    *,
    file: str,
    title: str,
    epoch: int,
    step: int,
) -> None:
    """Draw patches as image, truth and prediction.

    Args:
        loggers: Trackers; those that take pictures get it.
        run_dir: Gets ``panels/<file>.png``.
        dataset: Where the patches come from.
        rows: Rows of its manifest.
        predict: Labels (1, height, width) of raw pixels (1, bands, height, width).
        file: Name of the file.
        title: Stands above.
        epoch: Epoch to log it under.
        step: Step to log it under.
    """
    labels = np.concatenate([predict(dataset.image(row)[None]) for row in rows])
    _show(loggers, run_dir, file, "panel", pictures.panel(dataset, rows, labels, title), epoch, step)


def show_confusion(
    loggers: Iterable[Tracker],
    run_dir: Path,
    which: str,
    matrix: Confusion,
    dataset: Dataset,
    *,
    title: str,
    epoch: int,
    step: int,
) -> None:
    """Draw a validation's confusion matrix as ``panels/confusion_<which>.png``, and send it to trackers alike."""
    note = " (simulated)" if dataset.spec.simulated else ""
    pixels = pictures.confusion(matrix, dataset.spec.taxonomy.names, title + note)
    _show(loggers, run_dir, f"confusion_{which}", f"confusion_{which}", pixels, epoch, step)


def _show(
    loggers: Iterable[Tracker], run_dir: Path, file: str, name: str, pixels: UInt8Array, epoch: int, step: int
) -> None:
    pictures.write_png(Path(run_dir) / "panels" / f"{file}.png", pixels)
    for logger in loggers:
        if isinstance(logger, TakesPictures):
            logger.log_picture(name, pixels, epoch, step)


def _resolved(path: Path) -> Any:
    """A run's config; references that only a running Hydra can resolve stay as they are elsewhere."""
    config = OmegaConf.load(path)
    try:
        return OmegaConf.to_container(config, resolve=HydraConfig.initialized())
    except OmegaConfBaseException:
        return OmegaConf.to_container(config, resolve=False)
