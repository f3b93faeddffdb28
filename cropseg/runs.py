"""A finished run, opened again: its folder holds all that evaluation, prediction and report need.

- ``spec.json``: what it learned from, and who can load it (ModelSpec);
- ``weights.pt`` or ``forest.skops``: the weights, read by the loader that ``spec.json`` names;
- ``.hydra/config.yaml``: the config that made it;
- ``metrics.csv``: one or more rows an epoch (a forest has a single one);
- ``validation.json``: score and confusion matrix on the validation part;
- ``hardware.json``: what it was trained on, and how long (runs of earlier versions have none);
- ``evaluation/<key>.json``: Evaluation, one an evaluation set and way of predicting; beside it :mod:`cropseg.details`;
- ``evaluation/validation.reliability.json``: what confidence was worth on the validation part.
"""

from __future__ import annotations

import csv
import json
import math
import os
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import yaml
from omegaconf import DictConfig, OmegaConf

from cropseg import details
from cropseg.calibration import Reliability, read_validated
from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.progress import warn
from cropseg.details import Details
from cropseg.metrics import Protocol
from cropseg.predictor import ModelSpec, Predictor, latest_run
from cropseg.scores import Evaluation

MOVED: Final = {"cropseg.learners.neural.load": "cropseg.learners.network.load"}
"""Loaders that runs made by earlier versions name, and where they are now."""

NOT_OF_A_MODEL: Final = ("seed", "paths", "run_dir", "resume", "hydra")
"""Keys of a run's config in which two runs of one model may differ and be compared over seeds."""


WEIGHTS: Final = ("weights.pt", "forest.skops")
"""Files that hold the weights of a run, one or the other."""

BESIDE: Final = (".detail.json", ".reliability.json")
"""Ends of files that lie among the evaluations and are none."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: Its folder.
        spec: What it learned from.
        config: The config that made it, unresolved; empty if the folder has none.
        choices: Hydra's chosen option of each config group, such as ``{"model": "unet4gn"}``.
        history: Columns of ``metrics.csv`` by name, one value an epoch, NaN where not logged; empty without it.
        validation: Content of ``validation.json``; empty if there is none.
        evaluations: By :attr:`cropseg.scores.Evaluation.key`: the evaluation set, and how was predicted.
        results_in: Folder of the evaluations; None stands for ``evaluation`` in the run's folder.
    """

    path: Path
    spec: ModelSpec
    config: DictConfig
    choices: Mapping[str, str] = field(default_factory=dict)
    history: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    validation: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    results_in: Path | None = None

    @property
    def results(self) -> Path:
        """Folder that evaluations are stored in."""
        return self.path / "evaluation" if self.results_in is None else self.results_in

    @property
    def name(self) -> str:
        """Name of the folder, behind that of its sweep: jobs of two sweeps have the same."""
        path = self.path.resolve()
        return f"{path.parent.name}/{path.name}" if (path.parent / "multirun.yaml").is_file() else path.name

    @property
    def model(self) -> str:
        """The ``model`` option that was trained, or the folder's name where that is unknown."""
        return str(self.choices.get("model", self.name))

    @property
    def seed(self) -> int | None:
        """The seed it was trained with; None where its config does not tell."""
        seed = OmegaConf.select(self.config, "seed", default=None)
        return None if seed is None else int(seed)

    @cached_property
    def family(self) -> str:
        """Equal for runs that differ in nothing but their seed; empty where that cannot be told."""
        config = OmegaConf.to_container(self.config, resolve=False)
        rest = {str(k): v for k, v in config.items() if k not in NOT_OF_A_MODEL} if isinstance(config, dict) else {}
        known = [rest, self.model, self.spec.manifest_digest, self.spec.split]
        return json.dumps(known, sort_keys=True) if rest else ""

    @property
    def dataset_root(self) -> Path | None:
        """Folder of the training dataset: where it lay then, or where the run's config says now; it may be gone."""
        root = OmegaConf.select(self.config, "dataset.root", default=None)
        known = [Path(str(one)) for one in (self.spec.dataset_root, root) if one]
        there = [one for one in known if (one / "manifest.parquet").is_file()]
        return next(iter([*there, *known]), None)

    @property
    def loader(self) -> str:
        """Dotted name of the function that loads it, where that is now."""
        return MOVED.get(self.spec.loader, self.spec.loader)

    @cached_property
    def predictor(self) -> Predictor:
        """The trained model, loaded on first use.

        Raises:
            InputError: ``spec.json`` names no loader of cropseg, or the weights are missing or broken.
        """
        return _loader(self.loader, self.path)(self.path, self.spec)

    def release(self) -> None:
        """Let go of the loaded model; the next use loads it again. A forest takes a gigabyte."""
        self.__dict__.pop("predictor", None)

    def store(self, evaluation: Evaluation, found: Details | None = None) -> Path:
        """Write an evaluation into :attr:`results`, its details first, each file atomically; return its path."""
        path = self.results / f"{evaluation.key}.json"
        if found is None:
            details.remove(self.results, evaluation.key)
        else:
            details.write(self.results, evaluation.key, found, evaluation.confusion)
        storage.write_json(path, evaluation.to_dict())
        return path

    def validation_file(self, tta: str = "") -> Path:
        """Where the confidence on the validation part is kept, for one way of predicting."""
        return self.results / f"validation{f'+{tta}' if tta else ''}.reliability.json"

    def validated(self, tta: str = "") -> Mapping[Protocol, Reliability] | None:
        """Confidence on the validation part under each protocol; None where it was not computed."""
        found = read_validated(self.validation_file(tta))
        return None if found is None else found.reliability

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the file that holds its weights; empty where there is none."""
        files = [self.path] if self.path.is_file() else [self.path / name for name in WEIGHTS]
        return next((storage.sha256(file) for file in files if file.is_file()), "")

    def details(self, key: str) -> Details | None:
        """What is stored beside the evaluation ``key``; None for one that earlier versions made."""
        return details.read(self.results, key)


def open_run(path: str | Path) -> Run:
    """Open the folder of a finished run.

    Raises:
        InputError: It does not exist, is no run, or a file of it is broken.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"no such run: {path}", None, "give the folder that train.py named, or run=latest")
    if not (path / "spec.json").is_file():
        remedy = "training did not finish there, or this is another folder: give the one that train.py named"
        raise InputError(f"{path} is no finished run (spec.json is missing)", None, remedy)
    try:
        spec = ModelSpec.from_dict(storage.read_json(path / "spec.json"))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path / 'spec.json'} is not a model's", str(error), "train again") from error
    hydra = _config(path / ".hydra" / "hydra.yaml")
    choices = OmegaConf.select(hydra, "hydra.runtime.choices", default=None) or {}
    validation = path / "validation.json"
    return Run(
        path=path,
        spec=spec,
        config=_config(path / ".hydra" / "config.yaml"),
        choices={str(k): str(v) for k, v in choices.items()},
        history=read_history(path / "metrics.csv"),
        validation=_mapping(validation) if validation.is_file() else {},
        evaluations=stored(path / "evaluation"),
    )


def stored(folder: Path) -> dict[str, Evaluation]:
    """The evaluations of a folder by their key; what lies beside them is none."""
    files = sorted(file for file in folder.glob("*.json") if not file.name.endswith(BESIDE))
    return {file.stem: read_evaluation(file) for file in files}


def read_evaluation(path: Path) -> Evaluation:
    """Read a stored evaluation.

    Raises:
        InputError: The file is broken; it is named.
    """
    content = storage.read_json(path)
    try:
        return Evaluation.from_dict(content)
    except InputError as error:
        raise InputError(f"{path}: {error.what}", error.value, error.remedy) from error


def open_runs(run: object, folder: str | Path) -> list[Run]:
    """Open what the option ``run`` names: a path, ``latest``, or a list of them.

    The folder of a sweep stands for its finished jobs.

    Args:
        run: Value of the option.
        folder: Where runs lie; ``latest`` is the one there that finished last.

    Raises:
        ConfigError: Nothing was given.
        InputError: A run cannot be opened.
    """
    if run is None or run == "???":
        raise ConfigError("run is not set", None, "give run=latest or run=<folder that train.py named>")
    names = [str(run)] if isinstance(run, str | Path) else [str(one) for one in _listed(run)]
    if not names:
        raise ConfigError("run names nothing", names, "give run=latest or run=<folder that train.py named>")
    paths = [path for name in names for path in ([latest_run(Path(folder))] if name == "latest" else finished(name))]
    return [open_run(path) for path in dict.fromkeys(paths)]


def finished(path: str | Path) -> list[Path]:
    """The runs that a folder stands for: itself, or the finished jobs of a sweep by their number.

    Jobs of a sweep that did not finish are told of and left out.
    """
    path = Path(path)
    if (path / "spec.json").is_file():
        return [path]
    jobs = [one for one in path.glob("*") if (one / ".hydra").is_dir() or (one / "spec.json").is_file()]
    # A job that was finished before the sweep lies elsewhere, and its record says where (cropseg.sweeps.jobs).
    records = (Path(os.path.normpath(path / storage.read_json(one)["folder"])) for one in path.glob("jobs/*.json"))
    jobs += [one for one in dict.fromkeys(records) if one not in jobs and one.is_dir()]
    done = [one for one in jobs if (one / "spec.json").is_file()]
    if not done:
        return [path]
    if left := sorted(one.name for one in jobs if one not in done):
        warn(f"{path}: {len(left)} of {len(jobs)} jobs have not finished and are left out: {', '.join(left)}")
    return sorted(done, key=lambda one: (int((re.findall(r"^\d+", one.name) or [-1])[0]), one.name))


def seed_groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ in nothing but their seed, together; groups and their members as they come in ``runs``.

    Composed configs, training data and split are compared; where a run was written does not count. A run without a
    config is alone. Of two runs with the same config and seed, the second opens a group of its own, so that no seed
    counts twice in a mean.
    """
    groups: list[list[Run]] = []
    for run in runs:
        alike = (
            group for group in groups if group[0].family == run.family and all(one.seed != run.seed for one in group)
        )
        group = next(alike, None) if run.family and run.seed is not None else None
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    return groups


def open_one(run: object, folder: str | Path) -> Run:
    """Like :func:`open_runs`, for a command that takes a single run.

    Raises:
        ConfigError: Several were named.
    """
    runs = open_runs(run, folder)
    if len(runs) > 1:
        raise ConfigError("this command takes one run", [one.name for one in runs], "give run=<folder>")
    return runs[0]


def label(run: Run, runs: Sequence[Run]) -> str:
    """What a table calls a run: its model, with the folder's name where another run has the same model."""
    twins = [other for other in runs if other.model == run.model]
    if len(twins) <= 1:
        return run.model
    named = [other for other in twins if other.name == run.name]
    return f"{run.model} ({run.name if len(named) <= 1 else run.path})"


def read_history(path: Path) -> dict[str, npt.NDArray[np.float64]]:
    """Read ``metrics.csv``: the rows of an epoch are put together, the last value of each column counts.

    Returns:
        Columns by name, ``epoch`` ascending among them; empty if the file does not exist.
    """
    if not path.is_file():
        return {}
    epochs: dict[int, dict[str, float]] = {}
    names: dict[str, None] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values = {name: number for name, text in row.items() if (number := _number(text)) is not None}
            if "epoch" not in values:
                continue
            epochs.setdefault(int(values["epoch"]), {}).update(values)
            names.update(dict.fromkeys(values))
    return {
        name: np.array([epochs[epoch].get(name, math.nan) for epoch in sorted(epochs)], dtype=np.float64)
        for name in names
    }


def _number(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None


def _listed(run: object) -> list[Any]:
    return list(run) if isinstance(run, list | tuple) or OmegaConf.is_list(run) else [run]  # type: ignore[call-overload]


def _mapping(path: Path) -> Mapping[str, Any]:
    content = storage.read_json(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds no named values", None, "restore the file that train.py wrote")
    return content


def _config(path: Path) -> DictConfig:
    try:
        config = OmegaConf.load(path) if path.is_file() else OmegaConf.create()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no config", str(error), "restore the file that train.py wrote") from error
    if not isinstance(config, DictConfig):
        raise InputError(f"{path} is no config", None, "restore the file that train.py wrote")
    return config


def _loader(name: str, path: Path) -> Callable[[Path, ModelSpec], Predictor]:
    """The function called ``name``; only cropseg's own, since a run folder may come from a stranger."""
    remedy = f"restore {path / 'spec.json'}; only loaders that belong to cropseg are called"
    if not name.startswith("cropseg."):
        raise InputError("the run names a loader outside cropseg", name, remedy)
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError("the run names a loader that does not exist", name, remedy) from error
    # A dotted name can walk through an imported module: cropseg.runs.csv.reader is not ours. And what of
    # ours is not a loader is not called on a stranger's word.
    if getattr(found, "__name__", "") != "load" or not str(getattr(found, "__module__", "")).startswith("cropseg."):
        raise InputError("the run names no loader of cropseg", name, remedy)
    return found  # type: ignore[no-any-return]
