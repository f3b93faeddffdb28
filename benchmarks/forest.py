"""Prediction with a forest run against RandomForestClassifier.predict on the same features.

    python benchmarks/forest.py [--trees 100] [--pixels 100000] [--patches 4] [--size 256] [--repeats 7]

Pixels of random spectra with noise. Both are given the same features, computed before, and are timed in turn in one
process, each going first every other time; the figure is the median of the ratios of neighbours, so that what else the
machine does weighs on both. The same ratio of processor time, which a busy machine disturbs less, and the cost of
computing the features come beside it.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from cropseg.core import taxonomy
from cropseg.core.bands import PAPER_BANDS
from cropseg.learners.forest import ForestPredictor
from cropseg.predictor import ModelSpec

MODELS = {"rf_spectral": ((), ()), "rf_spatial": (("B04", "B08", "B11", "B12"), (5, 11))}


def spec(context, windows):
    classes = taxonomy.load("eurocrops10")
    model = {"context": context, "windows": windows}
    return ModelSpec("cropseg.learners.forest.load", model, PAPER_BANDS, classes, 10.0, 256, True, "random", "", "")


def fields(random, n, size):
    """Patches of fields of 16 x 16 pixels, and their classes."""
    labels = random.integers(0, 11, (n, size // 16, size // 16)).repeat(16, axis=1).repeat(16, axis=2)
    spectra = random.uniform(300, 5000, (11, len(PAPER_BANDS)))
    noise = random.normal(0, 900, (*labels.shape, len(PAPER_BANDS)))
    images = (spectra[labels] + noise).clip(1, 10_000).astype(np.uint16)
    return np.ascontiguousarray(np.moveaxis(images, 3, 1)), labels


class Known:
    """Features that were computed before, by the address of the image, in the place of a predictor's own."""

    def __init__(self, images, tables):
        self.tables = {image.ctypes.data: table for image, table in zip(images, tables, strict=True)}

    def compute(self, image):
        return self.tables[image.ctypes.data]


def seconds(call):
    """Time on the clock and time of all cores."""
    start = np.array([time.perf_counter(), time.process_time()])
    call()
    return np.array([time.perf_counter(), time.process_time()]) - start


def compare(trees, pixels, patches, size, repeats):
    """By model: ratios of our labels to scikit-learn's predict on the same features, and seconds."""
    random = np.random.default_rng(0)
    images, labels = fields(random, patches, size)
    found = {}
    for model, (context, windows) in MODELS.items():
        forest = RandomForestClassifier(
            trees, max_depth=24, min_samples_leaf=3, bootstrap=True, max_samples=0.8, n_jobs=-1, random_state=0
        )
        predictor_spec = spec(context, windows)
        features = ForestPredictor.features_of(predictor_spec)
        tables = [features.compute(image) for image in images]
        x = np.concatenate(tables)
        drawn = random.choice(len(x), min(pixels, len(x)), replace=False)
        forest.fit(x[drawn], labels.reshape(-1)[drawn])
        predictor = ForestPredictor(forest, predictor_spec)
        if not (predictor.labels(images).reshape(-1) == forest.predict(x)).all():
            raise SystemExit(f"{model}: the labels differ from scikit-learn's")
        computing = [seconds(lambda f=features: [f.compute(image) for image in images])[0] for _ in range(repeats)]
        predictor.features = Known(images, tables)
        calls = {"theirs": lambda f=forest, x=x: f.predict(x), "ours": lambda p=predictor: p.labels(images)}
        times = {name: [] for name in calls}
        for turn in range(repeats):
            for name in sorted(calls, reverse=turn % 2 == 1):
                times[name].append(seconds(calls[name]))
        ratios = np.array(times["ours"]) / np.array(times["theirs"])
        found[model] = {
            "ratio": np.median(ratios[:, 0]),
            "range": (ratios[:, 0].min(), ratios[:, 0].max()),
            "cores_ratio": np.median(ratios[:, 1]),
            "predict_s": np.median(np.array(times["theirs"])[:, 0]),
            "features_s": np.median(computing),
        }
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--pixels", type=int, default=100_000)
    parser.add_argument("--patches", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    for model, row in compare(**vars(args)).items():
        low, high = row["range"]
        print(
            f"{model}: {row['ratio']:.3f} x RandomForestClassifier.predict on the same features (median of "
            f"{args.repeats}, {low:.2f} to {high:.2f}), {row['cores_ratio']:.3f} x its processor time; "
            f"predict takes {row['predict_s']:.2f} s for {args.patches} patches, features {row['features_s']:.2f} s"
        )


if __name__ == "__main__":
    main()
