"""What evaluating costs above the forward pass, and how memory grows with the number of patches.

    python benchmarks/evaluate.py [--patches 6] [--size 256] [--base 48] [--trees 100] [--repeats 5] [--device cpu]
    python benchmarks/evaluate.py --memory 10000 [--size 64]

Patches of random fields are written to a temporary folder, with their parcels. ``forward`` is ``predictor.labels`` on
images that are in memory already, in batches of two; ``evaluate`` is all of cropseg.evaluate.evaluate: reading, the
model, the confidence, and every count that is stored. Both are timed in turn in one process; the figure is the median
of the ratios of neighbours. The same ratio of processor time, which a busy machine disturbs less, comes beside it. The
weights are random: what a forward pass costs does not depend on them.

``--memory`` predicts so many patches with a model that costs nothing, and tells the highest memory of a process of its
own for a tenth of them and for all.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import shapely
import torch
from sklearn.ensemble import RandomForestClassifier

from cropseg.core import storage, taxonomy
from cropseg.core.bands import PAPER_BANDS
from cropseg.core.manifest import DatasetSpec, write_dataset
from cropseg.evaluate import EvaluationSet, evaluate
from cropseg.learners.forest import ForestPredictor
from cropseg.learners.network import NeuralPredictor, build_net
from cropseg.models.forest import Features
from cropseg.predictor import ModelSpec

BATCH = 2
CLASSES = taxonomy.load("eurocrops10")


def scene(random, size):
    """Image, mask and parcel numbers of fields of 16 x 16 pixels."""
    side = -(-size // 16)
    numbers = np.arange(side * side, dtype=np.uint32).reshape(side, side)
    numbers = numbers.repeat(16, 0).repeat(16, 1)[:size, :size]
    of = random.integers(0, len(CLASSES), numbers.max() + 1).astype(np.uint8)
    spectra = np.random.default_rng(0).uniform(300, 5000, (len(CLASSES), len(PAPER_BANDS)))
    mask = of[numbers]
    image = spectra[mask].transpose(2, 0, 1) + random.normal(0, 900, (len(PAPER_BANDS), size, size))
    return image.clip(1, 10_000).astype(np.uint16), mask, np.where(mask > 0, numbers + 1, 0).astype(np.uint32)


def write(root, patches, size, distinct):
    """A dataset of ``patches`` patches, side by side, over ``distinct`` different files."""
    random, files = np.random.default_rng(1), []
    for i in range(min(patches, distinct)):
        names = {kind: f"shards/{i}.{kind}.npy" for kind in ("image", "mask", "parcels")}
        for name, array in zip(names.values(), scene(random, size), strict=True):
            storage.write_array(root / name, array)
        files.append(names)
    rows = []
    for i in range(patches):
        lon, lat = 15 + i % 100 * 0.02, 48 + i // 100 * 0.02
        product = f"p{i // 1000}"
        rows.append({
            "id": f"s/r/{product}/{i}_0", **files[i % len(files)], "image_sha256": str(i), "mask_sha256": str(i),
            "subset": "s", "country": "XX", "roi": "r", "product": product,
            "datetime": datetime(2021, 5, 1, tzinfo=UTC), "tile": "33UXP", "crs": "EPSG:32633",
            "transform": [10.0, 0.0, 5e5 + 10 * size * (i % 100), 0.0, -10.0, 5.4e6 - 10 * size * (i // 100)],
            "height": size, "width": size, "nodata_fraction": 0.0, "foreground_fraction": 1.0,
            "scl_invalid_fraction": 0.0, "bright_fraction": 0.0, "clamped_fraction": 0.0, "counts": [0], "ignored": 0,
            "geometry": shapely.box(lon, lat, lon + 0.01, lat + 0.01).wkb,
        })  # fmt: skip
    parts = [{"id": row["id"], "part": "test", "group": row["id"]} for row in rows]
    write_dataset(root, DatasetSpec("bench", PAPER_BANDS, CLASSES, 10.0, size, True), rows, {"all": parts})
    return EvaluationSet("bench", str(root), "all")


def spec(model, size):
    return ModelSpec("cropseg.learners.network.load", model, PAPER_BANDS, CLASSES, 10.0, size, True, "other", "", "")


def network(base, size, device):
    torch.manual_seed(0)
    net = build_net({"_target_": "cropseg.models.unet4gn.UNet4LevelsGN", "base": base}, PAPER_BANDS, len(CLASSES))
    return NeuralPredictor(net, spec({"nodata": "fill"}, size), np.eye(len(CLASSES), dtype=np.int64), 0).to(device)


def forest(trees, size, context=(), windows=()):
    features, random = Features(PAPER_BANDS, context, windows), np.random.default_rng(2)
    image, mask, _ = scene(random, 512)
    chosen = random.choice(mask.size, 20_000, replace=False)
    model = RandomForestClassifier(trees, min_samples_leaf=3, n_jobs=-1, random_state=0)
    model.fit(features.compute(image)[chosen], mask.ravel()[chosen])
    return ForestPredictor(model, spec({"context": list(context), "windows": list(windows)}, size))


def seconds(call):
    """Time on the clock and time of all cores."""
    start = np.array([time.perf_counter(), time.process_time()])
    call()
    return np.array([time.perf_counter(), time.process_time()]) - start


def ratios(predictor, chosen, images, repeats):
    def forward():
        for start in range(0, len(images), BATCH):
            predictor.labels(images[start : start + BATCH])

    def whole():
        evaluate(predictor, chosen, BATCH)

    forward(), whole()
    pairs = [(seconds(forward), seconds(whole)) for _ in range(repeats)]
    return np.array([b / a for a, b in pairs]), np.median(pairs, axis=0)[:, 0]


class Free:
    """A model that costs nothing."""

    validation_score = 0.0

    def __init__(self, size):
        self.spec = spec({}, size)

    def classify(self, images):
        shape = (len(images), *images.shape[2:])
        return (images[:, 0] % len(CLASSES)).astype(np.uint8), np.full(shape, 0.5, np.float32)


def peak(patches, size):
    """Highest memory in MB of a process that evaluates so many patches."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), patches, size, 20)
        words = [sys.executable, __file__, "--peak", folder, "--size", str(size)]
        return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def main():
    options = argparse.ArgumentParser()
    for name, value in {"patches": 6, "size": 256, "base": 48, "trees": 100, "repeats": 5, "memory": 0}.items():
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--device", default="cpu")
    options.add_argument("--peak", help=argparse.SUPPRESS)
    told = options.parse_args()
    if told.peak:
        evaluate(Free(told.size), EvaluationSet("bench", told.peak, "all"), 8)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    if told.memory:
        few, many = (peak(n, told.size) for n in (told.memory // 10, told.memory))
        grown = (many - few) * 1024 / (told.memory - told.memory // 10)
        image = len(PAPER_BANDS) * told.size**2 * 2 / 1024
        print(f"highest memory: {told.memory // 10} patches {few:.0f} MB, {told.memory} patches {many:.0f} MB")
        print(f"{grown:.1f} kB a patch, of which the image alone has {image:.0f} kB")
        return
    with tempfile.TemporaryDirectory() as folder:
        chosen = write(Path(folder), told.patches, told.size, told.patches)
        images = np.stack([np.load(Path(folder) / f"shards/{i}.image.npy") for i in range(told.patches)])
        models = {
            f"unet4gn, base {told.base}": lambda: network(told.base, told.size, told.device),
            "spectral forest": lambda: forest(told.trees, told.size),
            "spatial forest": lambda: forest(told.trees, told.size, ("B04", "B08", "B11", "B12"), (5, 11)),
        }
        print(f"{told.patches} patches of {told.size} px, batches of {BATCH}, {torch.get_num_threads()} threads")
        for name, make in models.items():
            found, (forward, whole) = ratios(make(), chosen, images, told.repeats)
            print(
                f"{name:20s} forward {forward:6.2f} s, evaluate {whole:6.2f} s, "
                f"ratio {np.median(found[:, 0]):.3f} ({found[:, 0].min():.3f} … {found[:, 0].max():.3f}), "
                f"of processor time {np.median(found[:, 1]):.3f}"
            )


if __name__ == "__main__":
    main()
