"""MLflow as a tracker: a database that several processes may open, and a server that may not answer."""

from __future__ import annotations

import logging
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError, SourceError
from cropseg.core.progress import say
from cropseg.core.scene import UInt8Array
from cropseg.learners.loggers import missing, run_id, sweep_name
from cropseg.learners.options import options_of
from cropseg.learners.secrets import without_login


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
            raise missing("mlflow", "pip install 'cropseg[mlflow]'") from error
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
        shown, reason = without_login(uri), _first_line(error)
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
    return without_login(text)[:200]
