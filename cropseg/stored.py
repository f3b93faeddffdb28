"""What lies stored of models, found and read without loading one: for tables over thousands of evaluations.

Configs are read with the C parser of YAML and without OmegaConf, which would take ten times as long.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cropseg.core import storage
from cropseg.core.errors import InputError
from cropseg.predictor import latest_run
from cropseg.runs import BESIDE, NOT_OF_A_MODEL, finished, read_evaluation
from cropseg.scores import Evaluation


@dataclass(frozen=True)
class Entry:
    """What lies stored of one model.

    Attributes:
        path: Folder of the run, or of the evaluations of a model or a map that is no run of ours.
        name: Name of the folder, behind that of its sweep.
        model: The ``model`` option that was trained; the name where that is unknown.
        seed: Its seed; None if unknown.
        family: Equal for runs that differ in nothing but their seed; empty if that cannot be told.
        evaluations: What it was scored on.
    """

    path: Path
    name: str
    model: str
    seed: int | None
    family: str
    evaluations: tuple[Evaluation, ...]


def find(paths: Sequence[str | Path], runs: str | Path = ".") -> list[Path]:
    """Folders with stored evaluations: of runs, of sweeps' finished jobs, and ``<name>.evaluation``.

    Args:
        paths: Folders of these kinds, folders that hold such, ONNX files or maps that were scored, or ``latest``.
        runs: Where runs lie; ``latest`` is the one there that finished last.

    Raises:
        InputError: One holds nothing of the kind.
    """
    found: list[Path] = []
    for one in paths:
        path = latest_run(Path(runs)) if str(one) == "latest" else Path(one)
        if path.is_file():
            path = path.with_name(f"{path.stem}.evaluation")
        if path.name == "evaluation" and _holds(path.parent):
            path = path.parent
        if not path.is_dir():
            raise InputError(f"no such folder: {path}", None, "give runs, sweeps, or the folder that holds them")
        below = [path] if _holds(path) else _below(path) or [path] * bool(_files(path))
        if not below:
            remedy = "evaluate a run first: python evaluate.py run=<folder>"
            raise InputError(f"{path} holds no stored evaluation", None, remedy)
        found += below
    return list({path.resolve(): path for path in found}.values())


def _holds(path: Path) -> bool:
    """Whether a folder is a run, or holds the evaluations of what is none."""
    return (path / "spec.json").is_file() or (path.suffix == ".evaluation" and bool(_files(path)))


def _below(path: Path, depth: int = 2) -> list[Path]:
    if (path / "multirun.yaml").is_file() or (path / "jobs").is_dir():
        return [one for one in finished(path) if _holds(one)]
    if depth == 0:
        return []
    children = sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))
    return [found for child in children for found in ([child] if _holds(child) else _below(child, depth - 1))]


def _files(folder: Path) -> list[Path]:
    """Files of evaluations in a folder of results."""
    found = (one for one in folder.glob("*.json") if not one.name.endswith(BESIDE) and not one.name.startswith("."))
    ours = folder.name == "evaluation" or folder.suffix == ".evaluation"
    return sorted(one for one in found if ours or _is_evaluation(one))


def _is_evaluation(path: Path) -> bool:
    """Whether a JSON file in a folder of any name is one of ours, or broken: others may lie there too."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return True  # reading it says what is wrong
    return isinstance(content, dict) and {"confusion", "classes", "set"} <= content.keys()


def read(path: Path) -> Entry:
    """Read what lies in one folder of :func:`find`.

    Raises:
        InputError: A file is broken; it is named.
    """
    run = (path / "spec.json").is_file()
    evaluations = tuple(read_evaluation(file) for file in _files(path / "evaluation" if run else path))
    if not run:
        name = path.name.removesuffix(".evaluation")
        return Entry(path, name, name, None, "", evaluations)
    absolute = path.absolute()
    swept = (absolute.parent / "multirun.yaml").is_file()
    name = f"{absolute.parent.name}/{absolute.name}" if swept else absolute.name
    config, hydra = (_yaml(path / ".hydra" / f"{what}.yaml") for what in ("config", "hydra"))
    choices: Any = hydra
    for key in ("hydra", "runtime", "choices"):
        choices = choices.get(key) if isinstance(choices, dict) else None
    choices = choices if isinstance(choices, dict) else {}
    model, seed = str(choices.get("model", name)), config.get("seed")
    rest = {str(key): value for key, value in config.items() if key not in NOT_OF_A_MODEL}
    family = ""
    if rest and isinstance(seed, int):
        spec = storage.read_json(path / "spec.json")
        try:
            family = json.dumps([rest, model, spec["manifest_digest"], spec["split"]], sort_keys=True, default=str)
        except (KeyError, TypeError) as error:
            raise InputError(f"{path / 'spec.json'} is not a model's", str(error), "train again") from error
    return Entry(path, name, model, seed if isinstance(seed, int) else None, family, evaluations)


def _yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise InputError(f"{path} is no YAML", " ".join(str(error).split()), "restore what train.py wrote") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is no config", None, "restore what train.py wrote")
    return content


def group(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries that differ in nothing but their seed, together, as :func:`cropseg.runs.seed_groups` does."""
    groups: list[list[Entry]] = []
    of_family: dict[str, list[list[Entry]]] = {}
    for entry in entries:
        known = of_family.setdefault(entry.family, []) if entry.family else []
        fitting = next((group for group in known if all(one.seed != entry.seed for one in group)), None)
        if fitting is None:
            fitting = []
            groups.append(fitting)
            known.append(fitting)
        fitting.append(entry)
    return groups
