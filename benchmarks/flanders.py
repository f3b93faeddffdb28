"""A forest trained on some parcels of the Flemish place and tested on others, beside the leak of a random pixel split.

    python benchmarks/flanders.py <folder of worldcereal> [--draws 5] [--trees 100] [--work <folder>]

Each draw deals the parcels anew (importer.seed) and grows another forest. The leak has as many pixels of each class in
every part, drawn one by one from the same parcels and dates; it differs in nothing else.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from cropseg.core.manifest import open_dataset
from cropseg.core.progress import table
from cropseg.learners.forest_learner import validate
from cropseg.metrics import scores

CONF = Path(__file__).resolve().parent.parent / "conf"
SPLITS = {"train": "parcels", "pixel_leak_train": "pixels"}


def learn(root, split, model, seed, trees, run_dir):
    """Train as ``python train.py model=… dataset=folder`` does; the predictor."""
    options = [f"model={model}", "logger=none", "dataset=folder", f"dataset.root={root}", f"dataset.split={split}"]
    options += [f"seed={seed}", f"run_dir={run_dir}", f"model.forest.n_estimators={trees}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", options)
    return instantiate(cfg.model).fit(instantiate(cfg.dataset), run_dir)


def measure(source, work, draws, trees):
    """Scores by model and split: lists over draws of :func:`cropseg.metrics.scores`, and each draw's parts."""
    found, sides = {}, []
    for seed in range(draws):
        data = work / f"draw{seed}"
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("importer/worldcereal", [f"+paths.real={source.parent}", f"+paths.data={data}"]).importer
        cfg.source, cfg.out, cfg.seed = str(source), str(data), seed
        sides.append(instantiate(cfg)["parts"])
        for model in ("rf_spectral", "rf_spatial"):
            for train, split in SPLITS.items():
                run = work / f"{model}_{split}_{seed}"
                predictor = learn(data / f"flanders_{train}", split, model, seed, trees, run)
                test = open_dataset(data / f"flanders_{train.replace('train', 'test')}")
                confusion = validate(predictor, test, np.arange(len(test)))
                found.setdefault((model, split), []).append(scores(confusion, test.spec.protocol))
    return found, sides


def show(found, sides):
    """Print parts and scores."""
    parts = ("train", "val", "test")
    for seed, draw in enumerate(sides):
        rows = [(name, *(f"{side[p]['pixels']} ({side[p]['parcels']})" for p in parts)) for name, side in draw.items()]
        table(f"draw {seed}: pixels a date (parcels)", ("class", *parts), rows)
    names = ("miou_present", "pixel_accuracy", "mean_class_accuracy")
    rows = []
    for (model, split), draws in found.items():
        cells = []
        for name in names:
            values = [draw[name] for draw in draws]
            cells.append(f"{np.mean(values):.3f} ({min(values):.3f} - {max(values):.3f})")
        rows.append((model, "disjoint by parcel" if split == "parcels" else "random pixels: a leak", *cells))
    table(f"mean (least - most) over {len(sides)} draws, crop-pixel protocol", ("model", "split", *names), rows)
    return rows


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--work", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        show(*measure(args.source.resolve(), args.work or Path(temporary), args.draws, args.trees))


if __name__ == "__main__":
    main()
