"""Trackers: what Lightning's own lack, and pictures in each of them.

A run that goes on where it was killed logs an epoch again: each tracker finds that out from the first epoch that it is
told, and holds no step twice.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import yaml
from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError, SourceError
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
            raise _missing("tensorboard", "pip install tensorboard") from error
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
            raise _missing("wandb", "pip install wandb") from error
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


class MlflowRun(MLFlowLogger):
    """MLflow, in a local sqlite database without a server; or on a server, if told its address.

    Args:
        folder: Gets ``mlflow.db`` and ``artifacts/``; one for all runs, so that they stand side by side.
        save_dir: The run folder; its name is the run's.
        experiment: MLflow's name for a collection of runs.
        uri: Address of a tracking server instead of ``folder``.

    Raises:
        ConfigError: MLflow is missing, or takes no such name or address.
        SourceError: The server does not answer.
        InputError: The database is broken, or of another version of MLflow.
    """

    def __init__(
        self, folder: str | Path, save_dir: str | Path, experiment: str = "cropseg", uri: str | None = None
    ) -> None:
        # Nothing leaves this machine unless asked.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        if experiment is None or not str(experiment).strip():
            shown = "null" if experiment is None else experiment
            raise ConfigError("logger.mlflow.experiment is no name", shown, "leave it out for cropseg")
        experiment = str(experiment)
        try:
            from mlflow.exceptions import MlflowException
        except ImportError as error:
            raise _missing("mlflow", "pip install 'cropseg[mlflow]'") from error
        self.folder = None if uri else Path(folder).absolute()
        run = Path(save_dir).absolute()
        tags = {"cropseg.run_dir": str(run)}
        if own := run_id(run):
            tags["cropseg.id"] = own
        if group := sweep_name():
            tags["cropseg.sweep"] = group
        self._logged: set[tuple[str, int]] = set()
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        if uri:
            with _asked_once(uri):
                super().__init__(experiment, run.name, tracking_uri=uri, tags=tags)
                self._mlflow_client.get_experiment_by_name(experiment)
            return
        store = Path(folder).absolute()
        with storage.storage_errors(store):
            store.mkdir(parents=True, exist_ok=True)
        database = store / "mlflow.db"
        # Jobs of a sweep and processes of one training may come at the same time; the tables are made once.
        with FileLock(store / "mlflow.lock"), _opening(database):
            if not database.exists():
                _make_database(database)
            super().__init__(experiment, run.name, tracking_uri=f"sqlite:///{database}", tags=tags)
            if self._mlflow_client.get_experiment_by_name(experiment) is None:
                with options_of("logger.mlflow.experiment", MlflowException):
                    self._mlflow_client.create_experiment(experiment, (store / "artifacts").as_uri())

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Log the run's description, as parameters and whole as an artifact."""
        if self._take_up():
            return
        super().log_hyperparams(params)
        self.experiment.log_dict(self.run_id, params if isinstance(params, dict) else vars(params), "run.json")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values, but for those that this run holds already for this step."""
        self._take_up()
        step = step or 0
        new = {name: float(value) for name, value in metrics.items() if (name, step) not in self._logged}
        if new:
            super().log_metrics(new, step)
        self._logged.update((name, step) for name in new)

    @rank_zero_only
    def log_picture(self, name: str, pixels: UInt8Array, epoch: int, step: int) -> None:
        """Show ``pixels``, uint8 (height, width, 3), under ``name``."""
        self._take_up()
        self.experiment.log_image(self.run_id, pixels, key=name, step=step)

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Finish the run, and say how to look at it."""
        if not self._initialized:
            return
        super().finalize(status)
        if self.folder is not None:
            address = f"sqlite:///{self.folder / 'mlflow.db'}"
            say(f"MLflow run {self.run_id} (look at it with: mlflow ui --backend-store-uri {address})")

    def _take_up(self) -> bool:
        """Go on with the run of this folder's id, if it was begun before; whether that is so."""
        own = (self.tags or {}).get("cropseg.id")
        if not self._initialized and self._run_id is None and own is not None:
            client = self._mlflow_client
            experiment = client.get_experiment_by_name(self._experiment_name)
            wanted = f"tags.\"cropseg.id\" = '{own}'"
            found = client.search_runs([experiment.experiment_id], wanted) if experiment is not None else []
            if found:
                self._run_id = found[0].info.run_id
                client.update_run(self._run_id, status="RUNNING")
                for name in found[0].data.metrics:
                    history = client.get_metric_history(self._run_id, name)
                    self._logged.update((name, point.step) for point in history)
                return True
        return bool(self._logged)


def _make_database(path: Path) -> None:
    """Make MLflow's tables, under another name until all are there: MLflow cannot go on with a part of them."""
    from mlflow.store.tracking import sqlalchemy_store

    kind: Any = sqlalchemy_store.SqlAlchemyStore
    for left in path.parent.glob(f".{path.stem}.*.part*"):  # of a run that was killed meanwhile
        left.unlink(missing_ok=True)
    with storage.atomic_path(path) as temporary:
        store = kind(f"sqlite:///{temporary}", (path.parent / "artifacts").as_uri())
        store.engine.dispose()


@contextmanager
def _opening(database: Path) -> Iterator[None]:
    """Turn MLflow's refusal of a database or of what is asked of it into one line."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        remedy = "move it away, or give another logger.mlflow.folder: a new one is made"
        raise InputError(f"MLflow cannot use {database}", _first_line(error), remedy) from error


@contextmanager
def _asked_once(uri: str) -> Iterator[None]:
    """Ask a server without MLflow's minutes of trying again, and turn its refusal into one line."""
    from mlflow.exceptions import MlflowException, RestException
    from sqlalchemy.exc import SQLAlchemyError

    patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    ours = {name: value for name, value in patience.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    except (MlflowException, SQLAlchemyError, ImportError, OSError, ValueError) as error:
        shown, reason = re.sub(r"(?<=://)[^/\s@]+@", "", uri), _first_line(error)
        if not uri.startswith(("http://", "https://")):
            remedy = "give http://<host>:<port> of a server, or leave it out for a local database"
            raise ConfigError(f"logger.mlflow.uri={shown} is refused", reason, remedy) from error
        if isinstance(error, RestException) or "failed with error code" in str(error):
            remedy = "check logger.mlflow.experiment, and the login in MLFLOW_TRACKING_USERNAME and _PASSWORD or _TOKEN"
            raise ConfigError(f"the MLflow server at {shown} refuses", reason, remedy) from error
        remedy = "start the server there, or leave logger.mlflow.uri out for a local database"
        raise SourceError(f"no MLflow server answers at logger.mlflow.uri={shown}", reason, remedy) from error
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _first_line(error: Exception) -> str:
    """The beginning of what a library says, without a login in an address."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"(?<=://)[^/\s@]+@", "", text)[:200]


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


def _missing(package: str, remedy: str) -> ConfigError:
    return ConfigError(f"logger={package} needs a package that is missing", package, remedy)
