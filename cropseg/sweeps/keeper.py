"""What Hydra's sweepers and launchers leave open: jobs on record, failures that stop nothing, sweeps that go on.

Hydra calls :class:`Keeper` (``hydra.callbacks`` in ``conf/train.yaml``) with whatever sweeper and launcher are chosen.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import traceback
import warnings
from pathlib import Path
from typing import Any, Final

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from cropseg import cli, resume
from cropseg.core import storage
from cropseg.core.errors import ConfigError
from cropseg.core.progress import say, warn
from cropseg.sweeps import jobs

STUDY: Final = "study.db"
_ELSEWHERE: Final = ("resume=", "paths.", "hydra.sweep.", "hydra.sweeper.n_", "hydra.launcher.", "launcher=")
"""Words of a command line that say how and where a sweep runs, and not which jobs it has."""


class Keeper(Callback):
    """Keeps the books of a sweep; does nothing in a single run.

    - A job that fails is told of at once and recorded, and the other jobs go on. In the end the command exits
      with 2.
    - With ``resume=auto`` an equal sweep that was killed goes on in its folder: the jobs by their own identity
      (:mod:`cropseg.resume`), an Optuna study with the trials that are missing.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Settle the sweep's folder, and the study where there is one, before the sweeper is made."""
        with cli.one_line_errors(), read_write(config.hydra), open_dict(config.hydra):
            folder = _settle_folder(config)
            if "n_trials" in config.hydra.sweeper:
                _settle_study(config, folder)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Record that a job has begun."""
        if config.hydra.mode == RunMode.MULTIRUN:
            _record(config, Path(config.hydra.runtime.output_dir), "begun")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Record how a job ended; one that failed, or whose score is NaN, gives None and stops no sweeper.

        Hydra's grid stops at an exception, and its Optuna sweeper at NaN, but a trial that gives None has failed.
        """
        if config.hydra.mode != RunMode.MULTIRUN or job_return.cfg is None:
            return
        folder = Path(job_return.cfg.run_dir)  # train.py sets it where it goes on with an earlier run
        if job_return.status == JobStatus.COMPLETED:
            _record(config, folder, "finished")
            if math.isnan(float(job_return.return_value)):
                warn(f"{_job(config)} has no score: nothing in the validation part is labelled")
                job_return.return_value = None
            return
        error = job_return._return_value
        line = cli.explain(error)
        if line is None:
            warn("".join(traceback.format_exception(error)))
            line = " ".join(f"{type(error).__name__}: {error}".split())
        line = line.removeprefix("error: ")
        warn(f"{_job(config)} failed: {line}")
        _record(config, folder, "failed", line)
        job_return.status, job_return.return_value = JobStatus.COMPLETED, None

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Say what came of the sweep.

        Raises:
            SystemExit: A job failed.
        """
        folder = Path(config.hydra.sweep.dir)
        with cli.one_line_errors():
            found = jobs.read_jobs(folder)
            say(f"{len(found)} jobs; their table and picture: python sweep.py run={folder}")
            failed = [job for job in found if job.state == "failed"]
            for job in failed:
                warn(f"{job.name} failed: {job.error}")
            if failed:
                remedy = "what went wrong stands above; the same command with resume=auto tries them again"
                raise ConfigError(f"{len(failed)} of {len(found)} jobs failed", None, remedy)


def _settle_folder(config: DictConfig) -> Path:
    """The folder that the sweep goes into: that of an equal earlier one where it is to go on."""
    folder = Path(config.hydra.sweep.dir)
    mine = _identity(config)
    if OmegaConf.select(config, "resume") == "auto":
        files = [folder / jobs.FILE, *Path(config.paths.runs).glob(f"*/{jobs.FILE}")]
        equal = [file for file in files if file.is_file() and storage.read_json(file).get("identity") == mine]
        if equal:
            folder = max(equal, key=lambda file: file.stat().st_mtime_ns).parent
            _override(config, "hydra.sweep.dir", str(folder))
            say(f"the sweep goes on in {folder}")
    words = OmegaConf.to_container(config.hydra.overrides.task)
    storage.write_json(folder / jobs.FILE, {"identity": mine, "overrides": words})
    # Marks the folder of a sweep; not every sweeper writes it.
    storage.write_bytes(folder / "multirun.yaml", OmegaConf.to_yaml(config).encode())
    return folder


def _identity(config: DictConfig) -> str:
    """Hex SHA-256 of what decides on the jobs: the config that they share, and what varies."""
    shared = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    overrides = [*config.hydra.overrides.task, *config.hydra.overrides.hydra]
    words = sorted(word for word in overrides if not word.lstrip("+").startswith(_ELSEWHERE))
    params = OmegaConf.to_container(config.hydra.sweeper, resolve=False).get("params")  # type: ignore[union-attr]
    text = json.dumps([resume.identity(shared), words, params], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _settle_study(config: DictConfig, folder: Path) -> None:
    """Let Optuna go on with the study in ``folder``: the trials that are missing, unfinished ones first.

    Raises:
        ConfigError: The study would minimise, or has no number of trials at a time.
    """
    # Optuna 2.10, the last that Hydra's sweeper takes, needs SQLAlchemy 1.4, which would warn of its own successor.
    os.environ.setdefault("SQLALCHEMY_SILENCE_UBER_WARNING", "1")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    import optuna
    from optuna.trial import TrialState

    sweeper = config.hydra.sweeper
    if str(getattr(sweeper.direction, "name", sweeper.direction)) != "maximize":
        raise ConfigError(
            "a sweep maximises validation miou_present", str(sweeper.direction), "give search=optuna, or a file of it"
        )
    if sweeper.n_jobs < 1:
        raise ConfigError("hydra.sweeper.n_jobs must be at least 1", sweeper.n_jobs, "say how many trials at a time")
    sweeper.storage = sweeper.storage or f"sqlite:///{(folder / STUDY).absolute()}"
    sweeper.study_name = sweeper.study_name or "search"
    optuna.logging.set_verbosity(logging.WARNING)
    study = optuna.create_study(
        storage=sweeper.storage, study_name=sweeper.study_name, direction="maximize", load_if_exists=True
    )
    trials = study.get_trials()
    for trial in trials:
        if trial.state == TrialState.RUNNING:  # until it was killed
            study.tell(trial.number, state=TrialState.FAIL)
    complete = [trial.params for trial in trials if trial.state == TrialState.COMPLETE]
    missing = max(0, sweeper.n_trials - len(complete))
    again: list[dict[str, Any]] = []
    for trial in trials:
        if trial.state in (TrialState.RUNNING, TrialState.FAIL) and trial.params not in (*complete, *again):
            again.append(trial.params)
    waiting = sum(trial.state == TrialState.WAITING for trial in trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for params in again[: max(0, missing - waiting)]:
            study.enqueue_trial(params)
    if not trials:
        return
    say(f"{len(complete)} trials are finished, {missing} of {sweeper.n_trials} are missing")
    sweeper.n_trials = missing
    # Hydra counts jobs from 0 again: their folders must not be those of other trials.
    _override(config, "hydra.sweep.subdir", f"after{len(trials)}_" + _raw(config.hydra.sweep, "subdir"))
    # The sampler starts anew: with the same seed it would draw the same trials again.
    if OmegaConf.select(sweeper, "sampler.seed") is not None:
        sweeper.sampler.seed += len(trials)


def _override(config: DictConfig, key: str, value: str) -> None:
    """Set a value in the sweep's config and in those that launchers compose for each job from its overrides."""
    OmegaConf.update(config, key, value)
    escaped = value.replace("'", "\\'")
    config.hydra.overrides.hydra.append(f"{key}='{escaped}'")


def _raw(node: DictConfig, key: str) -> str:
    """A value with its references unresolved."""
    return str(OmegaConf.to_container(node, resolve=False)[key])  # type: ignore[index, call-overload]


def _record(config: DictConfig, folder: Path, state: jobs.State, error: str = "") -> None:
    words = list(config.hydra.overrides.task)
    name = Path(config.hydra.runtime.output_dir).name
    jobs.record(Path(config.hydra.sweep.dir), name, folder, words, state, error)


def _job(config: DictConfig) -> str:
    return f"job {config.hydra.job.num} ({' '.join(config.hydra.overrides.task)})"
