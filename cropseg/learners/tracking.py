"""What every tracker is told of a run, be it a network's or a forest's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cropseg import pictures
from cropseg.core.manifest import Dataset
from cropseg.core.scene import UInt8Array
from cropseg.core.taxonomy import Taxonomy
from cropseg.learners.loggers import CsvLogger, TakesPictures
from cropseg.learners.versions import git_state, versions
from cropseg.metrics import Confusion

SECRET: Final = re.compile(r"passw|secret|token|credential|(api|access|private)_?key", re.IGNORECASE)
"""Names of options and of environment variables whose values go nowhere."""

MASK: Final = "***"


def describe_run(run_dir: Path, dataset: Dataset, split: str) -> dict[str, Any]:
    """What a tracker must know to tell a run from others, as plain data.

    Returns:
        ``config``: the composed config, resolved where it can be, secrets masked; empty outside Hydra.
        ``data``: name, split, manifest's SHA-256 and whether the pixels are simulated.
        ``git``: ``commit`` and ``dirty`` (``yes``, ``no`` or ``unknown``). ``versions``: of packages.
    """
    path = Path(run_dir) / ".hydra" / "config.yaml"
    spec = dataset.spec
    data = {"name": spec.name, "split": split, "manifest_digest": dataset.digest, "simulated": spec.simulated}
    return {
        "config": masked(_resolved(path)) if path.is_file() else {},
        "data": data,
        "git": git_state(),
        "versions": {name: found for name, found in versions("torch", "numpy").items() if name != "commit"},
    }


def announce(loggers: Iterable[Logger], run_dir: Path, dataset: Dataset, split: str) -> None:
    """Tell each tracker what this run is, before anything else."""
    description = describe_run(run_dir, dataset, split)
    for logger in loggers:
        logger.log_hyperparams(description)


def with_csv(loggers: Mapping[str, Logger], run_dir: Path) -> list[Logger]:
    """The trackers, and ``metrics.csv`` even where none was asked for: reports and curves are read off it."""
    chosen = list(loggers.values())
    return chosen if any(isinstance(one, CsvLogger) for one in chosen) else [CsvLogger(run_dir), *chosen]


def show(
    loggers: Iterable[object], run_dir: Path, file: str, name: str, pixels: UInt8Array, *, epoch: int, step: int
) -> None:
    """Write a picture to ``panels/<file>.png`` of the run folder, and send it to the trackers that take pictures."""
    pictures.write_png(Path(run_dir) / "panels" / f"{file}.png", pixels)
    for logger in loggers:
        if isinstance(logger, TakesPictures):
            logger.log_picture(name, pixels, epoch, step)


def show_confusion(
    loggers: Iterable[object],
    run_dir: Path,
    which: str,
    matrix: Confusion,
    taxonomy: Taxonomy,
    *,
    simulated: bool,
    epoch: int,
    at: int,
    step: int,
) -> None:
    """Draw the confusion matrix of the validation after ``epoch``, and log it ``at`` the running one.

    ``which`` of the validations it is, is ``best`` or ``last``.
    """
    note = " (simulated)" if simulated else ""
    title = f"validation, {which} epoch: {epoch + 1}{note}"
    pixels = pictures.confusion(matrix, taxonomy.names, title)
    show(loggers, run_dir, f"confusion_{which}", f"confusion_{which}", pixels, epoch=at, step=step)


def masked(values: Any) -> Any:
    """Plain data without secrets: hidden by an option's name, in an address, or as a value of the environment."""
    known = {value for name, value in os.environ.items() if SECRET.search(name) and len(value) >= 4}

    def hide(node: Any, secret: bool) -> Any:
        if isinstance(node, Mapping):
            return {str(key): hide(value, secret or bool(SECRET.search(str(key)))) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [hide(value, secret) for value in node]
        if node is None or (not secret and not isinstance(node, str)):
            return node
        if secret or any(value in node for value in known):
            return MASK
        return re.sub(r"(?<=://)[^/\s@]+@", f"{MASK}@", node)

    return hide(values, secret=False)


def _resolved(path: Path) -> Any:
    """A run's config; references that only a running Hydra can resolve stay as they are elsewhere."""
    config = OmegaConf.load(path)
    try:
        return OmegaConf.to_container(config, resolve=HydraConfig.initialized())
    except OmegaConfBaseException:
        return OmegaConf.to_container(config, resolve=False)
