"""What the root scripts share: composing the config, and turning errors into one line and an exit code."""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from cropseg import overrides
from cropseg.core import processes
from cropseg.core.errors import ConfigError, CropsegError, TrainingError
from cropseg.core.progress import warn

Task = Callable[[DictConfig], Any]


def command(config_name: str) -> Callable[[Task], Callable[[], Any]]:
    """Make a root script's main function a Hydra command over ``conf/`` beside the script.

    An error that the user can mend becomes one line on standard error and exit code 2; anything else is a defect and
    keeps its traceback.

    Args:
        config_name: Name of the root config in ``conf/``.
    """

    def decorate(task: Task) -> Callable[[], Any]:
        conf = Path(inspect.getfile(task)).resolve().parent / "conf"

        @functools.wraps(task)
        def job(cfg: DictConfig) -> Any:
            # Hydra adds a line of its own to what a job raises. In a sweep it names the job, so it may.
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                refuse_latest(cfg)
                stand_alone(cfg)
                return task(cfg)
            with one_line_errors():
                return task(cfg)

        @functools.wraps(task)
        def run() -> Any:
            sys.argv = flags_first(sys.argv)
            # Hydra prints and swallows errors of its own unless told not to; we print them, in one line.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            with one_line_errors():
                overrides.check(conf, config_name, sys.argv[1:])
                return hydra.main(version_base="1.3", config_path=str(conf), config_name=config_name)(job)()

        return run

    return decorate


def refuse_latest(cfg: DictConfig) -> None:
    """Refuse a job of a sweep that would start from the weights of the job before it.

    Raises:
        ConfigError: ``init_from`` is ``latest``.
    """
    if cfg.get("init_from") == "latest":
        remedy = "give the run's folder: after the first job of a sweep, latest is that job"
        raise ConfigError("init_from in a sweep", "latest", remedy)


def stand_alone(cfg: DictConfig) -> None:
    """Let what starts this script again with the same words run this job of a sweep alone, in this job's folder.

    That is how Lightning starts the other processes of a training.

    Raises:
        ConfigError: The job runs in a process that is not this script, so that it cannot be started again.
    """
    hydra_config = HydraConfig.get()
    launcher = hydra_config.runtime.choices["hydra/launcher"]
    strategy = OmegaConf.select(cfg, "trainer.strategy._target_", default="")
    if launcher != "basic" and "DDP" in strategy and "SLURM_JOB_ID" not in os.environ:
        remedy = "leave launcher= out, so that jobs run one after another, or use trainer=default"
        raise ConfigError("trainer=ddp cannot start its processes under this launcher", launcher, remedy)
    # An experiment may be a sweep of its own accord; what is started again is one job of it.
    sys.argv = [*sys.argv[:1], *hydra_config.overrides.task, "hydra.mode=RUN"]
    with read_write(hydra_config):  # type: ignore[arg-type]
        hydra_config.run.dir = hydra_config.runtime.output_dir


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print what the user can mend as one line and exit; let a defect of ours through with its traceback."""
    try:
        yield
    except (CropsegError, HydraException, OmegaConfBaseException, OSError, ValueError, KeyboardInterrupt) as error:
        if isinstance(error, TrainingError) and not processes.is_first():
            sys.exit(0)  # all processes stop for it together; the first says so, and its exit code counts
        line = explain(error)
        if line is None:
            raise
        warn(line)
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else CropsegError.exit_code)


def flags_first(words: list[str]) -> list[str]:
    """``-m`` moved to the front: Hydra takes overrides in one piece only, and people write ``a=1 -m b=1,2``."""
    flags = [word for word in words[1:] if word in ("-m", "--multirun")]
    return [*words[:1], *flags, *(word for word in words[1:] if word not in flags)]


def explain(error: BaseException) -> str | None:
    """One line for an error that the user can mend; None for a defect of ours.

    Hydra wraps what a constructor raises, so causes are searched for a :class:`CropsegError` first.
    """
    link: BaseException | None = error
    seen: set[int] = set()  # chains can be circular where a library raises an old error again
    while link is not None and id(link) not in seen:
        if isinstance(link, CropsegError):
            return f"error: {' '.join(_said(link).split())}"
        seen.add(id(link))
        link = link.__cause__ or link.__context__
    if isinstance(error, KeyboardInterrupt):
        return f"stopped: {str(error) or 'what is finished is kept; run the same command to go on'}"
    if str(error) in ("Record does not exist.", "No trials are completed yet."):  # Optuna's; each job has said why
        return "error: no trial of the search has a score; the same command with resume=auto tries them again"
    if str(error).startswith("Config group override must be"):  # Hydra's word for scheduler=null
        return "error: a config group takes the name of one of the files in conf/<group>/, not null"
    if isinstance(error, ValueError) and not isinstance(error, HydraException | OmegaConfBaseException | OSError):
        return None
    # Hydra's MissingConfigException is an OSError too, and the user's to mend.
    if isinstance(error, OSError) and not isinstance(error, HydraException) and not (error.filename or error.errno):
        return None
    if isinstance(error, HydraException | OmegaConfBaseException) and _is_defect(error):
        return None
    if isinstance(error, MissingMandatoryValue) and error.full_key:
        return f"error: {error.full_key} is not set. give {error.full_key}=… (see the option's YAML in conf/)"
    text = " ".join(str(error).split()).partition(" Config search path:")[0]
    text = text.replace(" Available options", ". Available options")
    # Hydra's hint makes a misspelt option a new one, which nobody reads.
    text = re.sub(r" To append to your config use \S+", "", text)
    remedy = "" if isinstance(error, OSError) else " (see the option's YAML in conf/, or run with --help)"
    return f"error: {text}{remedy}"


def _said(error: CropsegError) -> str:
    """What an error says; PyTorch makes one that crossed from a loader's process into the text of its traceback."""
    text = str(error).strip()
    return text.splitlines()[-1].partition(": ")[2] if text.startswith("Caught ") else text


def _is_defect(error: BaseException) -> bool:
    """Whether a constructor that Hydra called failed for a reason that is not the user's."""
    if str(error).startswith("Error locating target"):
        return False
    cause = error.__cause__
    if type(cause).__name__ == "MisconfigurationException":  # Lightning's, which is not imported here: it takes seconds
        return False
    return cause is not None and not isinstance(cause, HydraException | OmegaConfBaseException | OSError | TypeError)


def refuse_unused(cfg: DictConfig, user: str, groups: Iterable[str]) -> None:
    """Refuse a group that is set although ``cfg[user]`` does not refer to it.

    Args:
        cfg: The composed config.
        user: The group that uses the others by interpolation, such as ``model``.
        groups: Groups that may be used, such as ``loss``.

    Raises:
        ConfigError: Naming the group.
    """
    text = OmegaConf.to_yaml(cfg[user], resolve=False)
    for group in groups:
        if cfg.get(group) not in (None, False) and f"${{{group}}}" not in text and f"${{{group}." not in text:
            raise ConfigError(f"{group} is set but {user} does not use it", None, f"leave {group}= out of the command")
