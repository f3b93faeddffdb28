"""Stand-ins for trained models, small and without training, and the run folders that hold them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from factory import spectra
from omegaconf import OmegaConf

from cropseg.core import storage, taxonomy
from cropseg.core.bands import PAPER_BANDS
from cropseg.core.manifest import Dataset
from cropseg.core.scene import Grid
from cropseg.predictor import ModelSpec
from cropseg.runs import Run


def spec_for(dataset: Dataset | None = None, **changes) -> ModelSpec:
    """What a model trained on the ``location`` split of ``dataset`` would remember."""
    values = {
        "loader": "cropseg.learners.forest.load",
        "model": {},
        "bands": PAPER_BANDS,
        "taxonomy": taxonomy.load("eurocrops10"),
        "resolution": 10.0,
        "patch_size": 32,
        "simulated": True,
        "dataset": "tiny",
        "manifest_digest": "0" * 64,
        "split": "location",
        "versions": {"cropseg": "0"},
    }
    if dataset is not None:
        values |= {"bands": dataset.spec.bands, "taxonomy": dataset.spec.taxonomy, "dataset": dataset.spec.name}
        values |= {"resolution": dataset.spec.resolution, "patch_size": dataset.spec.patch_size}
        values |= {"simulated": dataset.spec.simulated, "manifest_digest": dataset.digest}
    return ModelSpec(**{**values, **changes})


class Nearest:
    """Pixelwise: the class whose spectrum in tests.factory is nearest. Right up to the noise of the pixels."""

    validation_score = 0.5

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.seen: list[tuple[int, ...]] = []

    def probabilities(self, images):
        self.seen.append(images.shape)
        known = spectra(len(self.spec.taxonomy), len(self.spec.bands))
        distance = np.abs(images[:, None].astype(np.float32) - known[None, :, :, None, None]).mean(axis=2)
        weight = np.exp(-distance / 200)
        return (weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-30)).astype(np.float32)

    def labels(self, images):
        return self.probabilities(images).argmax(axis=1).astype(np.uint8)

    def save(self, folder: Path) -> None:
        storage.write_json(folder / "spec.json", self.spec.to_dict())


class Majority(Nearest):
    """Always one class."""

    def __init__(self, spec: ModelSpec, label: int = 0) -> None:
        super().__init__(spec)
        self.label = label

    def labels(self, images):
        self.seen.append(images.shape)
        return np.full((len(images), *images.shape[2:]), self.label, np.uint8)


class Hashed(Nearest):
    """Pixelwise and erratic: a class that depends on every band of the pixel, wrong nearly everywhere."""

    def probabilities(self, images):
        self.seen.append(images.shape)
        key = (images.astype(np.int64) * np.arange(1, images.shape[1] + 1)[None, :, None, None]).sum(axis=1)
        one_hot = np.eye(len(self.spec.taxonomy), dtype=np.float32)[key % len(self.spec.taxonomy)]
        return np.moveaxis(one_hot, -1, 1)


class ArrayScene:
    """A scene held in memory; remembers what was read."""

    def __init__(self, image, resolution: float = 10.0, bands=PAPER_BANDS) -> None:
        self.image = image
        self.name = "S2A_MSIL2A_20210601T100031_N0300_R122_T33UXP_20210601T120000"
        self.bands = tuple(bands)
        self.acquired = datetime(2021, 6, 1, 10, tzinfo=UTC)
        transform = (resolution, 0.0, 500000.0, 0.0, -resolution, 5400000.0)
        self.grid = Grid("EPSG:32633", transform, *image.shape[1:])
        self.reads = []

    def read(self, window):
        self.reads.append(window)
        rows, cols = window.slices
        assert rows.start >= 0
        assert cols.start >= 0
        assert rows.stop <= self.grid.height
        assert cols.stop <= self.grid.width
        return self.image[:, rows, cols].copy()


def make_run(path: Path, spec: ModelSpec, dataset: Dataset | None = None, model: str = "fake", **config) -> Path:
    """Write a run folder without weights."""
    content = {**({"dataset": {"root": str(dataset.root)}} if dataset else {}), **config}
    storage.write_bytes(path / ".hydra" / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(content)).encode())
    hydra = {"hydra": {"runtime": {"choices": {"model": model}}}}
    storage.write_bytes(path / ".hydra" / "hydra.yaml", OmegaConf.to_yaml(OmegaConf.create(hydra)).encode())
    storage.write_json(path / "validation.json", {"miou_present": 0.5, "confusion": [], "epoch": 1})
    storage.write_bytes(
        path / "metrics.csv",
        b"epoch,step,train_loss,val_loss,val_miou_present,lr\n0,9,,2.0,0.1,\n0,9,2.5,,,0.001\n1,19,,1.5,0.2,\n"
        b"1,19,1.6,,,0.0005\n",
    )
    storage.write_json(path / "spec.json", spec.to_dict())
    return path


def with_predictor(run: Run, predictor) -> Run:
    """The run with ``predictor`` in place of the weights that it lacks."""
    run.__dict__["predictor"] = predictor
    return run
