"""Sweeps as a user types them: grids, Optuna, each launcher that runs here; killed, gone on with, and shown."""

import csv
import importlib.util
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from factory import make_dataset

from cropseg.learners.forest_learner import ForestLearner
from cropseg.runs import open_runs
from cropseg.sweeps.jobs import read_jobs, summarise

# SQLAlchemy is below 2 on purpose (pyproject.toml); the sweep says so itself where it imports Optuna first.
os.environ.setdefault("SQLALCHEMY_SILENCE_UBER_WARNING", "1")
ROOT = Path(__file__).resolve().parents[2]
FOREST = ("model=rf_spectral", "model.forest.n_estimators=2", "model.forest.n_jobs=1")
SEARCH = (
    *("search=optuna", "hydra.sweeper.n_trials=2", "model=rf_spectral", "model.forest.n_estimators=2"),
    *("model.forest.n_jobs=1", "model.forest.max_depth=range(1,1000)"),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "tiny", n=10, size=32)


@pytest.fixture
def words(dataset, tmp_path):
    return ("-m", "dataset=folder", f"dataset.root={dataset.root}", f"paths.runs={tmp_path / 'runs'}", "logger=csv")


@pytest.fixture
def train(words, tmp_path, monkeypatch):
    """Call train.py -m with the words of a command line; gives its exit code and the sweeps there are afterwards."""
    spec = importlib.util.spec_from_file_location("train_script", ROOT / "train.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.chdir(tmp_path)

    def call(*more):
        monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py"), *words, *more])
        code = 0
        try:
            script.main()
        except SystemExit as stopped:
            code = stopped.code
        return code, sorted(path.parent for path in (tmp_path / "runs").glob("*/sweep.json"))

    return call


@pytest.fixture
def fits(monkeypatch):
    """The seconds-free log of forests that were really fitted: their folder's name, in order."""
    seen = []
    original = ForestLearner.fit

    def fit(self, data, run_dir):
        seen.append(Path(run_dir).name)
        return original(self, data, run_dir)

    monkeypatch.setattr(ForestLearner, "fit", fit)
    return seen


def by_state(sweep):
    found = {}
    for job in read_jobs(sweep):
        found.setdefault(job.state, []).append(job.name)
    return found


def test_a_grid_with_a_failing_job_goes_on_and_is_shown(train, fits, capsys):
    grid = (*FOREST[::2], "model.forest.n_estimators=2,-3", "seed=1", "resume=auto")
    code, (sweep,) = train(*grid)
    assert code == 2
    assert by_state(sweep) == {"finished": ["0_rf_spectral"], "failed": ["1_rf_spectral"]}
    said = capsys.readouterr().err
    assert "job 1 (" in said
    assert "1_rf_spectral failed: model.forest is refused" in said
    assert said.strip().splitlines()[-1].startswith("error: 1 of 2 jobs failed")

    # The same command goes on in the same folder: what is finished is not done again, what failed is tried again.
    fits.clear()
    assert train(*grid) == (2, [sweep])
    assert fits == ["1_rf_spectral"]
    capsys.readouterr()
    summarise(str(sweep), sweep.parent)
    shown = capsys.readouterr()
    assert "1_rf_spectral failed: model.forest is refused" in shown.err
    rows = list(csv.DictReader((sweep / "sweep.csv").read_text().splitlines()))
    assert [row["state"] for row in rows] == ["finished", "failed"]
    assert [row["seeds_n"] for row in rows] == ["1", "0"]
    assert [row["model.forest.n_estimators"] for row in rows] == ["2", "-3"]
    assert (sweep / "sweep.png").read_bytes().startswith(b"\x89PNG")

    # Another grid is another sweep; a job that is finished already is taken over from where it lies.
    fits.clear()
    code, sweeps = train(*FOREST, "seed=1,2", "resume=auto")
    (other,) = set(sweeps) - {sweep}
    assert (code, fits) == (0, ["1_rf_spectral"])
    jobs = read_jobs(other)
    assert [job.folder.parent for job in jobs] == [sweep, other]
    assert {job.state for job in jobs} == {"finished"}
    assert [run.path for run in open_runs(str(other), sweep.parent)] == [jobs[0].folder, jobs[1].folder]
    capsys.readouterr()
    summarise(str(other), sweep.parent)
    assert "mean ± sample standard deviation" in capsys.readouterr().out
    rows = list(csv.DictReader((other / "sweep.csv").read_text().splitlines()))
    scores = [float(row["score"]) for row in rows]
    assert float(rows[0]["seeds_mean"]) == pytest.approx(statistics.mean(scores))
    assert float(rows[0]["seeds_sd"]) == pytest.approx(statistics.stdev(scores))
    assert [row["seeds_n"] for row in rows] == ["2", "2"]


def test_optuna_goes_on_with_the_trials_that_are_missing(train, fits, monkeypatch):
    import optuna

    counted = ForestLearner.fit

    def killed(self, data, run_dir):
        if len(fits) == 1:
            raise KeyboardInterrupt
        return counted(self, data, run_dir)

    monkeypatch.setattr(ForestLearner, "fit", killed)
    code, (sweep,) = train(*SEARCH)
    assert code == 130
    monkeypatch.setattr(ForestLearner, "fit", counted)
    fits.clear()
    assert train(*SEARCH, "resume=auto") == (0, [sweep])
    assert fits == ["1_rf_spectral"]  # the killed trial goes on in its own folder

    storage = f"sqlite:///{sweep / 'study.db'}"
    study = optuna.load_study(study_name="search", storage=storage)
    trials = study.get_trials()
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert trials[2].params == trials[1].params
    jobs = read_jobs(sweep)
    assert len(jobs) == 2
    assert {job.state for job in jobs} == {"finished"}
    assert study.best_value == max(job.score for job in jobs)

    fits.clear()
    assert train(*SEARCH, "resume=auto") == (0, [sweep])
    assert fits == []
    # More trials are the same search.
    more = [word.replace("n_trials=2", "n_trials=3") for word in SEARCH]
    assert train(*more, "resume=auto") == (0, [sweep])
    assert fits == ["after3_0_rf_spectral"]


def test_optuna_survives_trials_without_a_score_and_says_when_none_has_one(train, monkeypatch, capsys):
    scores = iter([math.nan, 0.5])

    class Scored:
        def __init__(self):
            self.validation_score = next(scores)

    monkeypatch.setattr(ForestLearner, "fit", lambda self, data, run_dir: Scored())
    code, (sweep,) = train(*SEARCH)
    assert code == 0
    assert "has no score" in capsys.readouterr().err
    assert "best_value: 0.5" in (sweep / "optimization_results.yaml").read_text()

    def broken(self, data, run_dir):
        raise FileNotFoundError(2, "No such file or directory", "band.npy")

    monkeypatch.setattr(ForestLearner, "fit", broken)
    code, _ = train(*SEARCH, "seed=5", "hydra.sweeper.n_trials=1")
    assert code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert sum("band.npy" in line and line.startswith("job ") for line in said) == 1
    assert said[-1].startswith("error: ")
    assert "no trial" in said[-1]


def test_a_search_that_would_minimise_is_refused(train, capsys):
    code, _ = train("hydra/sweeper=optuna", *FOREST, "seed=range(1,3)")
    assert code == 2
    assert "a sweep maximises validation miou_present" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_every_launcher_that_runs_here(words, tmp_path, launcher):
    more = (*FOREST[::2], "model.forest.n_estimators=2,-3", f"launcher={launcher}")
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", *words, *more], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    (file,) = (tmp_path / "runs").glob("*/sweep.json")
    assert by_state(file.parent) == {"finished": ["0_rf_spectral"], "failed": ["1_rf_spectral"]}
    assert "1_rf_spectral failed: model.forest is refused" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_killed_search_in_two_processes_goes_on(words, tmp_path):
    """kill -9 of the whole group in the middle; then the same command, and nothing that was finished runs again."""
    command = [sys.executable, str(ROOT / "train.py"), *words, *SEARCH, "launcher=joblib", "resume=auto"]
    command += ["hydra.sweeper.n_trials=6", "model.sampling.per_class=20000"]
    runs = tmp_path / "runs"
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 300
        while len(list(runs.glob("*/*/spec.json"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in runs.glob("*/*/spec.json")}
    assert 2 <= len(before) < 6
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    after = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in runs.glob("*/*/spec.json")}
    # A run that had its spec.json, and not yet its end on record, may be written once more.
    kept = [path for path in before if '"state": "finished"' in (path.parent / "identity.json").read_text()]
    assert kept
    again = [path for path in before if after[path] != before[path]]
    assert len(again) <= 2
    (file,) = runs.glob("*/sweep.json")
    jobs = read_jobs(file.parent)

    import optuna

    study = optuna.load_study(study_name="search", storage=f"sqlite:///{file.parent / 'study.db'}")
    complete = [trial for trial in study.get_trials() if trial.state.name == "COMPLETE"]
    assert len(complete) == 6
    # A trial that drew the value of an earlier one takes that one's score and has no folder of its own.
    assert [job.state for job in jobs] == ["finished"] * len({str(trial.params) for trial in complete})
