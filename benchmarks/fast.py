"""Validation score against time: ``experiment=fast`` beside the paper's setting, over seeds, on simulated pixels.

    python benchmarks/fast.py <dataset folder> <out folder> [--seeds 0 1 2] [--epochs 40] [--fast-epochs 40]
                              [--both key=value …] [--fast key=value …]

The paper's setting is 32-bit floats, eager, two patches a step; the other is ``conf/experiment/fast.yaml``. Both have
the same network, loss, augmentation, patches and schedule. ``--both`` overrides options of both, ``--fast`` of the
second alone. On a processor, where bf16 is emulated and compiling does not pay:

    --both model=unet4gn_small model.net.base=8 dataset.train_crop=64
    --fast model.compile=false model.channels_last=false trainer.precision=32-true dataset.batch_size=8
           optimizer.lr=2e-3

A run that was killed goes on when the same command is given again, and a finished one is not trained again. Time is
the sum of ``epoch_seconds``: validation, compiling and checkpoints are in it. The target of a comparison is the score
that every run reaches: the lowest of the runs' best. Written are ``score.png`` (``curves.py x=minutes mean=true``)
and the table that is printed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cropseg.core.progress import say, table, warn  # noqa: E402
from cropseg.curves import SECONDS, draw  # noqa: E402
from cropseg.runs import open_run  # noqa: E402
from cropseg.scores import SIMULATED_NOTE  # noqa: E402

SCORE = "val_miou_present"


def train(args, name, epochs, overrides):
    """The runs of one setting, a seed each."""
    runs = []
    for seed in args.seeds:
        folder = Path(args.out) / f"{name}_{seed}"
        command = [
            sys.executable, str(ROOT / "train.py"), "dataset=folder", f"dataset.root={args.dataset}",
            f"seed={seed}", f"epochs={epochs}", "resume=auto", f"paths.runs={args.out}", f"hydra.run.dir={folder}",
            *overrides, *args.both, *(args.fast if name == "fast" else []),
        ]  # fmt: skip
        subprocess.run(command, check=True, cwd=ROOT)
        runs.append(open_run(folder))
    return runs


def minutes_to(run, target):
    """Minutes until the end of the first epoch whose score is at least ``target``."""
    first = int(np.flatnonzero(run.history[SCORE] >= target)[0])
    return float(run.history[SECONDS][: first + 1].sum() / 60)


def spread(values, digits):
    return f"{statistics.fmean(values):.{digits}f} ({min(values):.{digits}f} … {max(values):.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder of a prepared dataset")
    parser.add_argument("out", type=Path, help="folder of the runs, the picture and the table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--fast-epochs", type=int, help="default: as many as the paper's setting")
    parser.add_argument("--both", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--fast", nargs="*", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    args.dataset, args.out = args.dataset.resolve(), args.out.resolve()
    settings = {
        "paper": train(args, "paper", args.epochs, ["dataset.batch_size=2"]),
        "fast": train(args, "fast", args.fast_epochs or args.epochs, ["experiment=fast"]),
    }
    runs = [run for group in settings.values() for run in group]
    target = min(float(np.nanmax(run.history[SCORE])) for run in runs)
    rows = []
    for name, group in settings.items():
        best = [float(np.nanmax(run.history[SCORE])) for run in group]
        rows.append([
            name,
            spread([float(np.median(run.history["patches_per_second"])) for run in group], 1),
            spread([float(run.history[SECONDS].sum() / 60) for run in group], 1),
            spread(best, 3),
            spread([minutes_to(run, target) for run in group], 1),
        ])  # fmt: skip
    columns = ["setting", "patches/s", "minutes in all", "best validation mIoU present", f"minutes to {target:.3f}"]
    table(f"{len(args.seeds)} seeds, mean (lowest … highest)", columns, rows)
    draw(runs, args.out / "score.png", formats=["png"], miou="miou_present", mean=True, x="minutes")
    if any(run.spec.simulated for run in runs):
        warn(SIMULATED_NOTE)
    say(f"runs: {args.out}")


if __name__ == "__main__":
    main()
