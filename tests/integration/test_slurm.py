"""train.py as jobs of a real Slurm of two nodes: several tasks, put into the queue again, and a sweep a job each."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm_support
import torch
from factory import make_dataset
from real import need

from cropseg.core.manifest import open_dataset
from cropseg.metrics import confusion_matrix
from cropseg.runs import open_run
from cropseg.sweeps.jobs import read_jobs

REPO = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
ON_CPU = ("trainer.accelerator=cpu", "trainer.precision=32-true")
EPOCHS = 12  # some seconds: what is stopped after the first is stopped before the last
JOB = """\
#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --mem=4000
#SBATCH --requeue --open-mode=append
srun {command}
"""


@pytest.fixture(scope="module")
def running():
    need(slurm_support.missing())
    with slurm_support.slurm() as found:
        found.environment["OMP_NUM_THREADS"] = "1"
        yield found


@pytest.fixture
def cluster(running):
    yield running
    running.clear()  # of what a failed test left


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Ten patches to learn from, seven to validate: the latter do not go evenly into two tasks."""
    folder = tmp_path_factory.mktemp("data") / "tiny"
    make_dataset(folder, n=17, size=32, parts={"train": 0.6, "val": 0.4}, nodata=True, ignored=True)
    return folder


def words(root, runs, *more):
    options = ["experiment=debug", "dataset=folder", f"dataset.root={root}", f"paths.runs={runs}", f"epochs={EPOCHS}"]
    whole = ["trainer.limit_train_batches=1.0", "trainer.limit_val_batches=1.0"]  # the experiment looks at two batches
    return [sys.executable, str(REPO / "train.py"), *options, *whole, *more]


def epochs_of(run):
    lines = (run / "metrics.csv").read_text().splitlines()
    return [int(line.split(",")[0]) for line in lines[1:]]


def await_epoch(runs, pattern, beyond=0):
    """Wait for a checkpoint of a whole epoch that was written after ``beyond``; when that was."""
    for _ in range(3000):
        with contextlib.suppress(FileNotFoundError):
            newest = max((path.stat().st_mtime_ns for path in runs.glob(f"{pattern}/checkpoints/last.ckpt")), default=0)
            if newest > beyond:
                return newest
        time.sleep(0.1)
    raise TimeoutError(f"no checkpoint in {runs}/{pattern}")


def at_once(cluster, job):
    """Start a job that waits its turn: Slurm lets two minutes pass before it starts one again."""
    cluster.wait(job, ["PENDING"])
    cluster.call("scontrol", "update", f"JobId={job}", "StartTime=now")


def recount(run, root):
    """The confusion matrix of a run's weights on the validation part, counted here in one process."""
    predictor, dataset = open_run(run).predictor, open_dataset(root)
    total = torch.zeros(11, 11, dtype=torch.int64)
    for row in dataset.parts("location")["val"]:
        image, truth = dataset.image(int(row)), dataset.mask(int(row)).copy()
        truth[(image == 0).any(axis=0)] = 255
        total += torch.as_tensor(confusion_matrix(truth, predictor.labels(image[None])[0], 11))
    return total.tolist()


def test_two_nodes_train_one_run_through_a_requeue_and_a_new_job(cluster, root, tmp_path):
    runs, log = tmp_path / "runs", tmp_path / "job.out"
    command = " ".join(words(root, runs, "trainer=slurm", "resume=auto", "dataset.batch_size=1", *ON_CPU))
    script = tmp_path / "job.sh"
    script.write_text(JOB.format(command=command))

    # Cancelled for good, sent again under another number, which is then put into the queue again.
    first = cluster.submit(script, f"--output={log}")
    begun = await_epoch(runs, "*")
    cluster.call("scancel", first)
    cluster.wait(first, ["CANCELLED"])
    second = cluster.submit(script, f"--output={log}")
    await_epoch(runs, "*", beyond=begun)
    cluster.call("scontrol", "requeue", second)
    at_once(cluster, second)
    assert cluster.wait(second, ["COMPLETED", "FAILED"]) == "COMPLETED", log.read_text()

    said = log.read_text()
    (run,) = (path.parent for path in runs.glob("*/spec.json"))
    assert run.name == f"slurm_{first}_unet4gn_small"
    assert said.count(f"going on in {run}") == 2
    assert said.count("the run is in") == 1  # one voice
    assert "Traceback" not in said.rpartition("going on in")[2]  # a task whose neighbour is killed may say so
    assert epochs_of(run) == list(range(EPOCHS))
    assert json.loads((run / "identity.json").read_text())["state"] == "finished"
    kept = json.loads((run / "validation.json").read_text())
    assert kept["confusion"] == recount(run, root)

    # Two tasks of Slurm are two processes of one machine that nothing stopped.
    ddp = words(root, tmp_path / "ddp", "trainer=ddp", "trainer.devices=2", "dataset.batch_size=1", *ON_CPU)
    subprocess.run(ddp, check=True, capture_output=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    (other,) = (path.parent for path in (tmp_path / "ddp").glob("*/spec.json"))
    weights = [torch.load(folder / "weights.pt", weights_only=True) for folder in (run, other)]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-4)

    # A third job of the same command has nothing left to do.
    third = cluster.submit(script, f"--output={log}")
    assert cluster.wait(third, ["COMPLETED", "FAILED"]) == "COMPLETED", log.read_text()
    assert "this run is finished" in log.read_text()[len(said) :]
    assert [path.parent for path in runs.glob("*/spec.json")] == [run]


def test_a_sweep_sends_a_job_for_each_and_one_that_is_preempted_goes_on(cluster, root, tmp_path):
    runs = tmp_path / "runs"
    limits = ("launcher=submitit_slurm", "hydra.launcher.gpus_per_node=0", "hydra.launcher.mem_gb=4")
    grid = ("trainer=cpu", "optimizer.lr=1e-3,1e30", "resume=auto", *limits, "hydra.launcher.cpus_per_task=1")
    command = words(root, runs, "-m", *grid)
    with (tmp_path / "sweep.log").open("w") as log:
        sweep = subprocess.Popen(command, env=cluster.environment, stdout=log, stderr=log, cwd=tmp_path)
        await_epoch(runs, "*/0_*")
        (array,) = {line.split("_")[0] for line in cluster.call("squeue", "-h", "-o", "%i").split()}
        job = f"{array}_0"
        cluster.call("scancel", "--signal=USR2", job)  # what Slurm sends before it takes a processor away
        at_once(cluster, job)
        assert sweep.wait(300) == 2
    said = (tmp_path / "sweep.log").read_text()
    assert said.strip().splitlines()[-1].startswith("error: 1 of 2 jobs failed")
    (folder,) = runs.iterdir()
    states = {one.name: one.state for one in read_jobs(folder)}
    assert states == {"0_unet4gn_small": "finished", "1_unet4gn_small": "failed"}
    out = (folder / ".submitit" / job / f"{job}_0_log.out").read_text()
    assert "going on in" in out
    assert "Traceback" not in (folder / ".submitit" / job / f"{job}_0_log.err").read_text()
    assert epochs_of(folder / "0_unet4gn_small") == list(range(EPOCHS))

    # The same command again trains nothing that is finished, and tries again what failed.
    weights = (folder / "0_unet4gn_small" / "weights.pt").stat().st_mtime_ns
    again = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert again.returncode == 2
    assert f"the sweep goes on in {folder}" in again.stdout + again.stderr
    assert {one.name: one.state for one in read_jobs(folder)} == states
    assert (folder / "0_unet4gn_small" / "weights.pt").stat().st_mtime_ns == weights
