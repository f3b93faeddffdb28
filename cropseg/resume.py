"""Which run belongs to a config: so that a killed one goes on, and a finished one is not trained again.

A run writes ``identity.json`` into its folder at its start: the digest of its config, how far it is, and in the end its
score. The time stamp in the folder's name plays no part.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from cropseg.core import processes, storage
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.progress import say
from cropseg.learners.versions import git_state

FILE: Final = "identity.json"
PATIENCE: Final = 20.0
"""Seconds to wait for a lock: the loader processes of a killed run notice within some that it is gone."""

LEFT_OUT: Final = ("run_dir", "paths", "resume")
"""Top-level keys that say where things lie, and nothing of what is learned."""


def identity(cfg: DictConfig) -> str:
    """Hex SHA-256 of a composed config without what says where things lie; references stay unresolved."""
    return hashlib.sha256(json.dumps(_plain(cfg), sort_keys=True).encode()).hexdigest()


def find(runs: Path, wanted: str) -> Path | None:
    """The folder of the run with this identity: a finished one first, then the newest; None if there is none.

    Args:
        runs: Where runs lie, and one level deeper those of sweeps.
        wanted: From :func:`identity`.
    """
    found = []
    for path in (*runs.glob(f"*/{FILE}"), *runs.glob(f"*/*/{FILE}")):
        state = _state(path.parent)
        if state.get("identity") == wanted:
            found.append((_score(path.parent) is not None, path.stat().st_mtime_ns, str(path), path.parent))
    return max(found)[-1] if found else None


def begin(cfg: DictConfig) -> float | None:
    """Settle which folder the run goes into, before anything is instantiated.

    The folder stays locked until :func:`finish` or the end of the process, so that no second one trains into it.

    Args:
        cfg: The composed config; ``resume`` is None (always anew), ``auto`` or a run folder. ``run_dir`` is set to the
            folder of the run that goes on, and ``resume`` to whether one does.

    Returns:
        The stored validation score of an equal finished run, NaN where it has none; None where there is training to do.

    Raises:
        ConfigError: The folder named by ``resume`` holds a run of another config, or another process trains into it.
        InputError: It holds none.
    """
    if cfg.run_dir is None:
        raise ConfigError("option run_dir", "null", "give a folder, or leave it out")
    asked, fresh = cfg.resume, Path(cfg.run_dir).absolute()
    mine = identity(cfg)
    folder = None if asked is None else find(Path(cfg.paths.runs), mine) if asked == "auto" else _named(str(asked), cfg)
    score = None if folder is None else _score(folder)
    if folder is not None and score is not None and _other_data(folder, cfg):
        say(f"the dataset has changed since the equal run in {folder} was finished: training anew")
        folder = score = None
    cfg.resume = folder is not None
    target = fresh if folder is None else folder.absolute()
    cfg.run_dir = str(target)
    if target != fresh:
        _discard(fresh)
    if score is not None:
        say(f"this run is finished: {target}{_other_code(target)}")
        return score
    if processes.is_first():
        _lock(target)
        for path in (*target.glob(".*.part*"), *target.glob("checkpoints/.*.part*")):
            path.unlink()  # half written by a process that was killed
        if folder is None:
            # What an earlier run left in the same folder is nothing to go on from.
            for path in target.glob("checkpoints/*.ckpt"):
                path.unlink()
            state = {"identity": mine, "state": "begun", "score": None, "wandb_id": uuid.uuid4().hex[:8]}
            storage.write_json(target / FILE, state)
        else:
            say(f"going on in {target}")
    return None


def finish(cfg: DictConfig, score: float) -> float:
    """Note that the run is finished, with its validation score, and give the score back."""
    folder = Path(cfg.run_dir)
    stored = None if math.isnan(score) else score  # JSON has no NaN
    if processes.is_first():
        storage.write_json(folder / FILE, {**_state(folder), "state": "finished", "score": stored})
    release()
    return float(score)


def release() -> None:
    """Let go of the folder that :func:`begin` locked."""
    for lock in _locked:
        lock.release()
    _locked.clear()


_locked: list[FileLock] = []
"""Of the run that this process trains; the system lets go of it when the process is killed."""


def _lock(folder: Path) -> None:
    release()
    lock = FileLock(folder / "run.lock")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout as error:
        remedy = "wait for it, or train a run of its own: resume=null"
        raise ConfigError(f"another process is training into {folder}", None, remedy) from error
    _locked.append(lock)


def _other_data(folder: Path, cfg: DictConfig) -> bool:
    """Whether the dataset is there and is not the one that the finished run in ``folder`` learned from."""
    manifest = Path(str(cfg.dataset.root)) / "manifest.parquet"
    kept = storage.read_json(folder / "spec.json").get("manifest_digest")
    return manifest.is_file() and storage.sha256(manifest) != kept


def _other_code(folder: Path) -> str:
    """A remark if another commit trained the run; the score counts all the same."""
    kept, here = storage.read_json(folder / "spec.json").get("versions", {}).get("commit"), git_state()["commit"]
    same = "unknown" in (kept, here) or kept in (None, here)
    return "" if same else f" (by another commit of cropseg, {kept[:8]})"


def _named(asked: str, cfg: DictConfig) -> Path:
    """The folder that the user named, if its run has this config."""
    folder = Path(asked)
    if not (folder / FILE).is_file():
        raise InputError(f"no run to go on with in {folder}", None, "give the folder that train.py named, or auto")
    if _state(folder).get("identity") != identity(cfg):
        config = OmegaConf.load(folder / ".hydra" / "config.yaml")
        raise ConfigError(
            f"the run in {folder} has another config ({', '.join(differences(config, cfg))})",
            None,
            "give the same options as then, or resume=null for a new run",
        )
    return folder


def differences(old: Any, new: Any) -> list[str]:
    """Where two configs differ: ``key: old -> new``, without what says where things lie."""
    before, after = _flat(_plain(old)), _flat(_plain(new))
    keys = [key for key in {**before, **after} if before.get(key, ...) != after.get(key, ...)]
    return [f"{key}: {_shown(before, key)} -> {_shown(after, key)}" for key in sorted(keys)]


def _shown(values: Mapping[str, object], key: str) -> str:
    return json.dumps(values[key]) if key in values else "not set"


def _plain(cfg: Any) -> dict[str, Any]:
    whole = OmegaConf.to_container(cfg, resolve=False)
    return {str(key): value for key, value in dict(whole).items() if key not in LEFT_OUT}  # type: ignore[arg-type]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and value
        found.update(_flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return found


def _state(folder: Path) -> dict[str, Any]:
    return dict(storage.read_json(folder / FILE))


def _score(folder: Path) -> float | None:
    """The stored score of a finished run; None of one that is not."""
    state = _state(folder)
    if state.get("state") != "finished" or not (folder / "spec.json").is_file():
        return None
    return math.nan if state["score"] is None else float(state["score"])


def _discard(folder: Path) -> None:
    """Remove the folder that Hydra made for a run that goes on elsewhere, unless it holds more than Hydra's own.

    Where processes start side by side it stays: Hydra may be writing into it for another one.
    """
    if processes.side_by_side() or not folder.is_dir():
        return
    if all(path.name == ".hydra" or path.suffix == ".log" for path in folder.iterdir()):
        shutil.rmtree(folder, ignore_errors=True)
