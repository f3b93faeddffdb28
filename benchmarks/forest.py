"""Prediction with a forest run against RandomForestClassifier.predict on the same features.

    python benchmarks/forest.py [--trees 100] [--pixels 100000] [--size 256] [--repeats 5]

Both are measured in turn in one process, on pixels of random spectra; the least time of each counts. The ratio says
what our way around the trees costs; the cost of the features is printed beside it.
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


def spec(context, windows):
    classes = taxonomy.load("eurocrops10")
    model = {"context": context, "windows": windows}
    return ModelSpec("cropseg.learners.forest.load", model, PAPER_BANDS, classes, 10.0, 256, True, "random", "", "")


def patches(random, n, size):
    """Fields of random spectra with noise, and their classes."""
    fields = random.integers(0, 11, (n, size // 16, size // 16))
    labels = fields.repeat(16, axis=1).repeat(16, axis=2)
    spectra = random.uniform(300, 5000, (11, len(PAPER_BANDS)))
    noise = random.normal(0, 900, (*labels.shape, len(PAPER_BANDS)))
    images = (spectra[labels] + noise).clip(1, 10_000).astype(np.uint16)
    return np.ascontiguousarray(np.moveaxis(images, 3, 1)), labels


def best(call, repeats):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def compare(trees, pixels, size, repeats, n=4):
    """Ratio by model of our labels over scikit-learn's predict, features left out, and with them."""
    random = np.random.default_rng(0)
    images, labels = patches(random, n, size)
    found = {}
    for model, context, windows in (("rf_spectral", (), ()), ("rf_spatial", ("B04", "B08", "B11", "B12"), (5, 11))):
        forest = RandomForestClassifier(
            trees, max_depth=24, min_samples_leaf=3, bootstrap=True, max_samples=0.8, n_jobs=-1, random_state=0
        )
        described = spec(context, windows)
        features = ForestPredictor.features_of(described)
        x = np.concatenate([features.compute(image) for image in images])
        drawn = random.choice(len(x), min(pixels, len(x)), replace=False)
        forest.fit(x[drawn], labels.reshape(-1)[drawn])
        predictor = ForestPredictor(forest, described)
        predictor.labels(images[:1])
        theirs = best(lambda forest=forest, x=x: forest.predict(x), repeats)
        whole = best(lambda predictor=predictor: predictor.labels(images), repeats)
        computing = best(lambda features=features: [features.compute(image) for image in images], repeats)
        found[model] = {"ratio": (whole - computing) / theirs, "with_features": whole / theirs, "seconds": theirs}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--pixels", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    for model, row in compare(args.trees, args.pixels, args.size, args.repeats).items():
        print(
            f"{model}: {row['ratio']:.2f} x RandomForestClassifier.predict on the same features "
            f"({row['with_features']:.2f} x with computing them; predict takes {row['seconds']:.2f} s)"
        )


if __name__ == "__main__":
    main()
