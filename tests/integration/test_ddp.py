"""train.py on two processes against the same on one, as a user types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from factory import make_dataset

from cropseg.core.manifest import open_dataset
from cropseg.metrics import confusion_matrix
from cropseg.runs import open_run

REPO = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
WHOLE = ("trainer.limit_train_batches=1.0", "trainer.limit_val_batches=1.0")  # the experiment looks at two batches


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Ten patches to learn from, seven to validate: neither goes evenly into batches or processes."""
    folder = tmp_path_factory.mktemp("data") / "tiny"
    make_dataset(folder, n=17, size=32, parts={"train": 0.6, "val": 0.4}, nodata=True, ignored=True)
    return folder


def train(root, runs, *words, expect=0):
    """Run train.py, with dropout and whatever else differs by process left out; gives its folders and its output."""
    command = [sys.executable, str(REPO / "train.py"), "dataset=folder", f"dataset.root={root}", f"paths.runs={runs}"]
    command += ["experiment=debug", "model.net.bottleneck_dropout=0", *WHOLE, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=560, env=environment, cwd=runs.parent)
    assert done.returncode == expect, done.stderr
    return sorted(path.parent for path in runs.rglob(".hydra")), done


def labels_of(run, root):
    predictor = open_run(run).predictor
    dataset = open_dataset(root)
    rows = dataset.parts("location")["val"]
    return np.concatenate([predictor.labels(dataset.image(int(row))[None]) for row in rows])


def confusion_of(run, root):
    """The confusion matrix of a run's weights on the validation part, counted here in one process."""
    dataset = open_dataset(root)
    total = np.zeros((11, 11), np.int64)
    for row, found in zip(dataset.parts("location")["val"], labels_of(run, root), strict=True):
        truth = dataset.mask(int(row)).copy()
        truth[(dataset.image(int(row)) == 0).any(axis=0)] = 255
        total += confusion_matrix(truth, found, 11)
    return total


def test_two_processes_do_what_one_does_at_the_same_global_batch(root, tmp_path):
    two = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "dataset.batch_size=1")
    # Adam would make up to a whole step of a gradient that is nothing but rounding; plain descent leaves it as small.
    plain = ("optimizer._target_=torch.optim.SGD", "~optimizer.betas", "optimizer.lr=0.03")
    (both,), done = train(root, tmp_path / "two", *two, *plain)
    (alone,), _ = train(root, tmp_path / "one", "trainer=cpu", "dataset.batch_size=2", *plain)

    # One folder, one voice, each file once.
    assert done.stdout.count("the run is in") == 1
    assert "broadcast_buffers" not in done.stderr
    assert len((both / "metrics.csv").read_text().splitlines()) == 3
    assert json.loads((both / "identity.json").read_text())["state"] == "finished"

    # For the same weights, the integers of one process.
    kept = json.loads((both / "validation.json").read_text())
    assert kept["confusion"] == confusion_of(both, root).tolist()

    # Trained at equal global batch, weights and labels differ by the order of additions only.
    weights = [torch.load(run / "weights.pt", weights_only=True) for run in (both, alone)]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-4, atol=1e-6)
    assert (labels_of(both, root) != labels_of(alone, root)).mean() <= 1e-5
    tables = [
        np.genfromtxt(run / "metrics.csv", delimiter=",", names=True)[["train_loss", "val_loss"]].tolist()
        for run in (both, alone)
    ]
    np.testing.assert_allclose(tables[0], tables[1], rtol=1e-4)


def test_a_job_of_a_sweep_on_two_processes_goes_on(root, tmp_path):
    words = ("-m", "seed=1,2", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "resume=auto")
    train(root, tmp_path / "runs", *words)
    runs = sorted(path.parent for path in (tmp_path / "runs").rglob("spec.json"))
    assert [run.name for run in runs] == ["0_unet4gn_small", "1_unet4gn_small"]
    assert len(list((tmp_path / "runs").iterdir())) == 1  # no folders besides


def test_a_loss_that_is_no_number_stops_both(root, tmp_path):
    words = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "optimizer.lr=1e30", "epochs=3")
    (run,), done = train(root, tmp_path / "runs", *words, expect=2)
    kept = json.loads((run / "nonfinite.json").read_text())
    assert len(kept["ids"]) == len(kept["rows"]) == 4  # two patches of each process
    assert "error: the training loss is" in done.stderr
    assert not (run / "spec.json").exists()
