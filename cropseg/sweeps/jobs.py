"""The jobs of a sweep: what each was asked, how far it is, and its score.

A sweep is a folder with ``sweep.json`` (what was asked of it) and ``jobs/<name>.json``, one record a job, which names
the job's run folder: its own below the sweep, or an equal finished run found elsewhere by ``resume=auto``.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Final, Literal

from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.progress import say, table, warn
from cropseg.runs import open_run, seed_groups
from cropseg.scores import format_score

FILE: Final = "sweep.json"
RECORDS: Final = "jobs"
State = Literal["begun", "finished", "failed"]


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        name: Of its folder below the sweep.
        folder: Its run folder.
        overrides: Value of each key of its command line, as typed.
        state: ``begun`` is running now, or was killed.
        score: Validation ``miou_present`` at the chosen checkpoint; NaN unless finished with one.
        epoch: Of that checkpoint, counted from 1; None unless finished.
        error: Why it failed, in one line.
    """

    name: str
    folder: Path
    overrides: Mapping[str, str]
    state: State
    score: float = math.nan
    epoch: int | None = None
    error: str = ""


def record(sweep: Path, name: str, folder: Path, overrides: Sequence[str], state: State, error: str = "") -> None:
    """Write what is known of a job into the sweep's folder, atomically; several processes may do so at once."""
    kept = {"overrides": list(overrides), "state": state, "error": error}
    # Relative, so that runs can be copied to another machine.
    path = os.path.relpath(folder.absolute(), sweep.absolute())
    storage.write_json(sweep / RECORDS / f"{name}.json", {**kept, "folder": path})


def read_jobs(sweep: Path) -> list[Job]:
    """The jobs of a sweep in the order of their records; of several records of one run folder the newest.

    Raises:
        InputError: The folder is no sweep's, or a record is broken.
    """
    if not (sweep / FILE).is_file():
        raise InputError(f"{sweep} is no sweep's folder", None, "give the folder that train.py -m named, or latest")
    found: dict[Path, Job] = {}
    for path in sorted((sweep / RECORDS).glob("*.json"), key=lambda one: (one.stat().st_mtime_ns, one.name)):
        job = _read(sweep, path)
        found[job.folder] = job
    return sorted(found.values(), key=lambda job: _natural(job.name))


def latest_sweep(runs: Path) -> Path:
    """The sweep that began or went on last.

    Raises:
        InputError: There is none.
    """
    files = list(runs.glob(f"*/{FILE}"))
    if not files:
        raise InputError(f"no sweep in {runs}", None, "make one: python train.py -m seed=1,2")
    return max(files, key=lambda file: (file.stat().st_mtime_ns, str(file))).parent


def varied(jobs: Sequence[Job]) -> list[str]:
    """The keys that are not the same in all jobs, in the order of the command line."""
    keys = dict.fromkeys(key for job in jobs for key in job.overrides)
    return [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]


def over_seeds(jobs: Sequence[Job]) -> list[list[Job]]:
    """Finished jobs with a score whose runs differ in their seed alone, together; best mean first."""
    done = {job.folder: job for job in jobs if job.state == "finished" and not math.isnan(job.score)}
    groups = [[done[run.path] for run in group] for group in seed_groups([open_run(path) for path in done])]
    return sorted(groups, key=lambda group: -mean_sd(group)[0])


def mean_sd(jobs: Sequence[Job]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1; NaN for a single job) of the scores."""
    scores = [job.score for job in jobs]
    return fmean(scores), stdev(scores) if len(scores) > 1 else math.nan


def summarise(run: object, runs: str | Path, out: str | Path | None = None) -> None:
    """Print the table of a sweep and leave ``sweep.csv`` and ``sweep.png`` beside it.

    Args:
        run: Folder of the sweep, or ``latest``.
        runs: Where runs lie.
        out: Folder for both files; None: the sweep's.

    Raises:
        ConfigError: ``run`` is not one folder.
        InputError: It is no sweep's, or no job of it has been started.
    """
    if not isinstance(run, str | Path):
        raise ConfigError("sweep.py takes one sweep", run, "give run=latest or run=<folder that train.py -m named>")
    sweep = latest_sweep(Path(runs)) if run == "latest" else Path(run)
    jobs = read_jobs(sweep)
    if not jobs:
        raise InputError(f"no job of {sweep} has begun", None, "run the same command with resume=auto")
    keys = varied(jobs)
    ranked = sorted(jobs, key=lambda job: (math.isnan(job.score), -job.score if job.state == "finished" else 0.0))
    table(
        f"{sweep.name}: validation miou_present",
        ["job", *keys, "score", "epoch", "state"],
        [[job.name, *(_short(job.overrides.get(k, "")) for k in keys), *_result(job)] for job in ranked],
    )
    groups = over_seeds(jobs)
    if any(len(group) > 1 for group in groups):
        rest = [key for key in keys if key != "seed"]
        rows = [[*(_short(group[0].overrides.get(k, "")) for k in rest), *_spread(group)] for group in groups]
        table("over seeds: mean ± sample standard deviation", [*rest, "score", "sd", "n"], rows)
    for job in jobs:
        if job.state == "failed":
            warn(f"{job.name} failed: {job.error}")
    left = sum(job.state == "begun" for job in jobs)
    if left:
        say(f"{left} jobs have begun and not finished; if nothing runs now, the same command with resume=auto goes on")
    folder = Path(out) if out else sweep
    storage.write_bytes(folder / "sweep.csv", to_csv(jobs, keys, groups).encode())
    say(f"wrote {folder / 'sweep.csv'}")
    from cropseg.sweeps.plot import parallel_coordinates

    if keys and parallel_coordinates(jobs, keys, folder / "sweep.png"):
        say(f"wrote {folder / 'sweep.png'}")


def to_csv(jobs: Sequence[Job], keys: Sequence[str], groups: Sequence[Sequence[Job]]) -> str:
    """A row a job: values of ``keys``, score, epoch, state, and mean, sd and n over the seeds of its config."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ["score", "epoch", "state", "seeds_mean", "seeds_sd", "seeds_n", "error", "folder"]
    writer.writerow(["job", *keys, *columns])
    group_of = {job.folder: group for group in groups for job in group}
    for job in jobs:
        group = group_of.get(job.folder, [])
        spread = [*mean_sd(group), len(group)] if group else [math.nan, math.nan, 0]
        values = [job.overrides.get(key, "") for key in keys]
        cells = [job.name, *values, job.score, job.epoch, job.state, *spread, job.error, job.folder]
        writer.writerow(["" if cell is None or cell != cell else cell for cell in cells])
    return text.getvalue()


def _result(job: Job) -> list[str]:
    return [format_score(job.score) if job.state == "finished" else "", str(job.epoch or ""), job.state]


def _short(value: str) -> str:
    """A long decimal with four digits, for the table; the CSV has it as it was."""
    try:
        return f"{float(value):.4g}" if "." in value and len(value) > 8 else value
    except ValueError:
        return value


def _spread(group: Sequence[Job]) -> list[str]:
    mean, sd = mean_sd(group)
    return [format_score(mean), format_score(sd), str(len(group))]


def _read(sweep: Path, path: Path) -> Job:
    kept = storage.read_json(path)
    try:
        pairs = (str(word).partition("=") for word in kept["overrides"])
        overrides = {key.lstrip("+"): value for key, _, value in pairs}
        folder = Path(os.path.normpath(sweep / kept["folder"]))
        state, error = kept["state"], str(kept.get("error", ""))
    except (KeyError, TypeError) as problem:
        raise InputError(f"{path} is no record of a job", str(problem), "remove it, and resume the sweep") from problem
    # A run is finished when it says so: the sweep may have been killed before the record did.
    if state == "failed" or not (folder / "spec.json").is_file():
        return Job(path.stem, folder, overrides, "failed" if state == "failed" else "begun", error=error)
    validation = open_run(folder).validation
    score, epoch = validation.get("miou_present"), validation.get("epoch")
    return Job(
        path.stem,
        folder,
        overrides,
        "finished",
        math.nan if score is None else float(score),
        None if epoch is None else int(epoch) + 1,
    )


def _natural(name: str) -> tuple[int, str]:
    number = name.partition("_")[0]
    return (int(number) if number.isdigit() else 1 << 30, name)
