"""What a trained model is to those who use it: evaluation, prediction, report and other people's models alike."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cropseg.core import storage, taxonomy
from cropseg.core.errors import InputError, MismatchError
from cropseg.core.manifest import Dataset, DatasetSpec
from cropseg.core.scene import UInt8Array, UInt16Array
from cropseg.core.taxonomy import Taxonomy


@dataclass(frozen=True)
class ModelSpec:
    """What a run must remember of the data it learned from, stored as ``spec.json``.

    Attributes:
        loader: Dotted name of the function ``(folder: Path, spec: ModelSpec) -> Predictor``; always inside ``cropseg``.
        model: The model's own config as plain data, enough for ``loader`` to rebuild it.
        bands: Channel order it takes.
        taxonomy: Classes it gives.
        resolution: Pixel size in metres it was trained at.
        patch_size: Window in pixels it was trained on: the crop, where it was trained on crops of patches.
        simulated: Whether it learned from simulated pixels.
        dataset: Name of the training dataset.
        manifest_digest: SHA-256 of its manifest.
        split: Name of the split whose training part was used.
        versions: Package versions and git commit.
        dataset_root: Folder of the training dataset where it lay then; empty if not known.
        reading: How its products were read (``resampling``, ``boa_offset``), as far as the dataset tells.
        labels: How much of the training part's labels it saw, :func:`cropseg.data.few_labels.with_few_labels`; empty
            for all, uncounted.
        init_from: The run that its weights started from, :class:`cropseg.learners.init.Init`: ``run``, ``folder``,
            ``frozen`` and ``trained_on``, all that the weights had learned from before (``dataset``,
            ``manifest_digest``, ``split``, ``dataset_root`` of each); empty if it started afresh.
    """

    loader: str
    model: Mapping[str, Any]
    bands: tuple[str, ...]
    taxonomy: Taxonomy
    resolution: float
    patch_size: int
    simulated: bool
    dataset: str
    manifest_digest: str
    split: str
    versions: Mapping[str, str] = field(default_factory=dict)
    dataset_root: str = ""
    reading: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    init_from: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        split: str,
        *,
        loader: str,
        model: Mapping[str, Any],
        versions: Mapping[str, str],
        patch_size: int | None = None,
        init_from: Mapping[str, Any] | None = None,
    ) -> ModelSpec:
        """What a model remembers of ``dataset``; ``patch_size`` where it was trained on crops of the patches."""
        init_from = init_from or {}
        spec = dataset.spec
        return cls(
            loader=loader,
            model=model,
            bands=spec.bands,
            taxonomy=spec.taxonomy,
            resolution=spec.resolution,
            patch_size=patch_size or spec.patch_size,
            simulated=spec.simulated or bool(init_from.get("simulated")),
            dataset=spec.name,
            manifest_digest=dataset.digest,
            split=split,
            versions=versions,
            dataset_root=str(dataset.root.resolve()),
            reading=reading_of(spec),
            labels=dataset.labels,
            init_from=init_from,
        )

    @property
    def trained_on(self) -> tuple[Mapping[str, Any], ...]:
        """Everything that the weights learned from: this dataset first, then what they had learned from before."""
        mine = {key: str(getattr(self, key)) for key in ("dataset", "manifest_digest", "split", "dataset_root")}
        return (mine, *self.init_from.get("trained_on", ()))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``spec.json``."""
        return {**{k: v for k, v in asdict(self).items() if k != "taxonomy"}, "taxonomy": self.taxonomy.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelSpec:
        """Read back what :meth:`to_dict` gave."""
        rest = {k: v for k, v in data.items() if k not in ("taxonomy", "bands")}
        return cls(bands=tuple(data["bands"]), taxonomy=taxonomy.from_dict(data["taxonomy"]), **rest)

    def check_fits(self, data: DatasetSpec) -> None:
        """Refuse a dataset that this model cannot be asked about.

        Raises:
            MismatchError: Bands, classes or resolution differ.
        """
        mine = {
            "bands": list(self.bands),
            "classes": list(self.taxonomy.names),
            "resolution in metres": float(self.resolution),
        }
        theirs = {
            "bands": list(data.bands),
            "classes": list(data.taxonomy.names),
            "resolution in metres": float(data.resolution),
        }
        for what, value in mine.items():
            if value != theirs[what]:
                raise MismatchError(
                    f"the run has other {what} than dataset {data.name}",
                    _difference(value, theirs[what]),
                    "prepare the dataset with the run's configuration, or train on this one",
                )


def _difference(mine: Any, theirs: Any) -> dict[str, Any]:
    """What only the run has, and what only the dataset; all of both where no list, or only its order, differs."""
    if isinstance(mine, list) and set(mine) != set(theirs):
        mine, theirs = [one for one in mine if one not in theirs], [one for one in theirs if one not in mine]
    return {"run": mine, "dataset": theirs}


def reading_of(data: DatasetSpec) -> dict[str, str]:
    """How a dataset's products were read (``resampling``, ``boa_offset``), as far as it tells."""
    config = data.provenance.get("config")
    grid = config.get("grid") if isinstance(config, Mapping) else None
    known = grid if isinstance(grid, Mapping) else {}
    return {key: str(known[key]) for key in ("resampling", "boa_offset") if key in known}


def read_validation(folder: Path, classes: int) -> tuple[npt.NDArray[np.int64], int, Any]:
    """Confusion matrix, epoch and protocol of a run's ``validation.json``.

    Raises:
        InputError: The file is missing or broken, or its matrix is not over ``classes`` classes.
    """
    path = folder / "validation.json"
    kept = storage.read_json(path)
    try:
        confusion = np.array(kept["confusion"], dtype=np.int64)
        epoch, protocol = int(kept["epoch"]), kept.get("protocol", "all")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} does not hold a validation", str(error), "copy the run again") from error
    if confusion.shape != (classes, classes) or protocol not in ("all", "crop"):
        raise InputError(f"{path} is of another model", (confusion.shape, protocol), "copy the run again")
    return confusion, epoch, protocol


def latest_run(folder: Path) -> Path:
    """The run in ``folder`` (or one level deeper, where sweeps put theirs) that finished last.

    Raises:
        InputError: There is none.
    """
    specs = [*folder.glob("*/spec.json"), *folder.glob("*/*/spec.json")]
    if not specs:
        raise InputError(f"no finished run in {folder}", None, "train one: python train.py experiment=demo")
    return max(specs, key=lambda spec: (spec.stat().st_mtime_ns, str(spec))).parent


def most_probable(probabilities: npt.NDArray[np.float32]) -> tuple[UInt8Array, npt.NDArray[np.float32]]:
    """The class of the highest probability, of equal ones the lowest id, and that probability.

    Args:
        probabilities: float32 (n, classes, height, width).
    """
    best = probabilities.argmax(axis=1)
    found: npt.NDArray[np.float32] = np.take_along_axis(probabilities, best[:, None], axis=1)[:, 0]
    return best.astype(np.uint8), found


def classify(predictor: Predictor, images: UInt16Array) -> tuple[UInt8Array, npt.NDArray[np.float32] | None]:
    """Labels and their probability; of a predictor that cannot tell both in one pass, the labels alone."""
    own = getattr(predictor, "classify", None)
    return (predictor.labels(images), None) if own is None else own(images)


@dataclass(frozen=True)
class SideBySide:
    """How a predictor is best asked by several threads: what its method ``side_by_side(images)`` may tell.

    Attributes:
        pool: Threads that may ask it at the same time, and divide the cores between them.
        threads: How many there are.
        pixels: That an answer is best for: fewer images at a time if they are larger.
    """

    pool: Executor
    threads: int
    pixels: int

    def at_a_time(self, images: int, size: int) -> int:
        """How many of ``images`` patches, at least as many as threads, of ``size`` pixels' side a thread takes."""
        return max(1, min(images // self.threads, self.pixels // size**2))


class Predictor(Protocol):
    """A trained model.

    Images are uint16 (n, bands, height, width), reflectance × 10000, 0 = no data, in the order of ``spec.bands``.
    """

    @property
    def spec(self) -> ModelSpec:
        """What it learned from."""
        ...

    @property
    def validation_score(self) -> float:
        """``miou_present`` on the validation part at the chosen checkpoint: what sweeps maximise."""
        ...

    def probabilities(self, images: UInt16Array) -> npt.NDArray[np.float32]:
        """Class probabilities, float32 (n, classes, height, width), summing to 1; also where there is no data."""
        ...

    def labels(self, images: UInt16Array) -> UInt8Array:
        """The most probable class of each pixel, uint8 (n, height, width); never 255."""
        ...

    def classify(self, images: UInt16Array) -> tuple[UInt8Array, npt.NDArray[np.float32] | None]:
        """What :meth:`labels` gives, and its probability, float32 (n, height, width), in one pass over the images.

        None in place of the probability where the model has none.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the weights and ``spec.json`` into ``folder``, atomically."""
        ...
