"""train.py, killed for good at moments of chance, ends with the same bits as if nothing had happened."""

import csv
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from factory import make_dataset

REPO = Path(__file__).resolve().parents[2]
EPOCHS = 12
KILLS = 2

TIMES = ("patches_per_second", "epoch_seconds")


def start(root, runs, *words):
    command = [sys.executable, str(REPO / "train.py"), "experiment=debug", "dataset=folder", f"dataset.root={root}"]
    command += [f"epochs={EPOCHS}", "logger=[csv,tensorboard]", "trainer=cpu", f"paths.runs={runs}", *words]
    with (runs.parent / "log.txt").open("a") as log:
        return subprocess.Popen(command, cwd=REPO, stdout=log, stderr=log)


def kept(runs):
    """When the last checkpoint of any run was written."""
    return max((path.stat().st_mtime_ns for path in runs.glob("*/checkpoints/last.ckpt")), default=0)


def epochs_of(run):
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


@pytest.mark.slow
def test_kill_minus_nine_at_any_moment_changes_no_bit(tmp_path):
    root = make_dataset(tmp_path / "data", n=8, size=32).root
    whole, killed = tmp_path / "whole" / "runs", tmp_path / "killed" / "runs"
    for runs in (whole, killed):
        runs.mkdir(parents=True)
    assert start(root, whole, "resume=null").wait() == 0
    chance = random.Random(0)
    for _ in range(KILLS):
        before = kept(killed)
        process = start(root, killed, "resume=auto")
        while kept(killed) == before and process.poll() is None:
            time.sleep(0.02)
        time.sleep(chance.uniform(0.0, 0.5))
        process.kill()
        process.wait()
    assert start(root, killed, "resume=auto").wait() == 0
    (run,), (expected,) = killed.iterdir(), whole.iterdir()  # one folder, whatever the time stamps
    assert (killed.parent / "log.txt").read_text().count("going on in") >= 1
    states = [torch.load(folder / "weights.pt", weights_only=True) for folder in (run, expected)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
    assert (run / "validation.json").read_text() == (expected / "validation.json").read_text()
    assert epochs_of(run) == epochs_of(expected)
    assert len(epochs_of(run)) == EPOCHS
    state = json.loads((run / "identity.json").read_text())
    assert state["state"] == "finished"
    assert state["score"] == json.loads((run / "validation.json").read_text())["miou_present"]

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    steps = [event.step for event in events.Scalars("val_loss")]
    assert len(steps) == EPOCHS
    assert steps == sorted(set(steps))
