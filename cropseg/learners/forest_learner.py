"""Random Forests as a learner: scikit-learn's forest on pixels drawn class by class (§3.3)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier

from cropseg.core.errors import ConfigError, InputError
from cropseg.core.labels import IGNORE
from cropseg.core.manifest import Dataset, Part
from cropseg.core.progress import say, table, track, warn
from cropseg.learners import hardware
from cropseg.learners.folder import clear
from cropseg.learners.forest import ForestPredictor
from cropseg.learners.options import options_of
from cropseg.learners.versions import versions
from cropseg.metrics import Confusion, confusion_matrix, scores
from cropseg.models.forest import Features, Samples, Sampling, draw, valid_pixels
from cropseg.pictures import choose_patches
from cropseg.predictor import ModelSpec

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


class TrainingData(Protocol):
    """What a forest needs of a data module."""

    split: str

    def setup(self, stage: str | None = None) -> None:
        """Open the dataset, once."""
        ...

    @property
    def dataset(self) -> Dataset:
        """The dataset, opened."""
        ...

    @property
    def parts(self) -> Mapping[Part, npt.NDArray[np.int64]]:
        """Row numbers of the manifest by part."""
        ...

    def train_weights(self) -> npt.NDArray[np.float64] | None:
        """How often each training patch is to be drawn; None for no such rule."""
        ...


class ForestLearner:
    """Learns a Random Forest from pixels (§3.3).

    Args:
        forest: An unfitted forest; a clone of it is fitted, so that a learner can be used again.
        sampling: How many pixels are drawn, and the seed of it.
        context: Bands whose surroundings are features too; none for the spectral forest.
        windows: Window sizes in pixels for ``context``.
        logger: Lightning loggers by name; they get the validation scores.

    Raises:
        ConfigError: ``forest`` is another kind of model, or ``context`` or ``windows`` no list.
    """

    def __init__(
        self,
        forest: RandomForestClassifier,
        sampling: Sampling,
        context: Sequence[str] = (),
        windows: Sequence[int] = (),
        logger: Mapping[str, Logger] | None = None,
    ) -> None:
        if not isinstance(forest, RandomForestClassifier):
            kind = type(forest)
            remedy = "use sklearn.ensemble.RandomForestClassifier"
            raise ConfigError("model.forest is no forest of classes", f"{kind.__module__}.{kind.__qualname__}", remedy)
        for name, value in (("context", context), ("windows", windows)):
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise ConfigError(f"model.{name} of the forest must be a list", value, "[] for none")
        self.forest = forest
        self.sampling = sampling
        self.context = tuple(context)
        self.windows = tuple(windows)
        self.logger = logger or {}

    def fit(self, data: TrainingData, run_dir: Path) -> ForestPredictor:
        """Train, validate, and leave a finished run in ``run_dir``.

        Args:
            data: The dataset and the parts of its split; only ``train`` is learned from and only ``val`` scored on.
            run_dir: Gets ``forest.skops``, ``spec.json``, ``validation.json``, ``importances.json``, ``hardware.json``,
                ``metrics.csv``.

        Returns:
            The predictor, as :func:`cropseg.learners.forest.load` would give it.

        Raises:
            InputError: The training or the validation part is empty, or holds too few classes.
            ConfigError: The features do not fit the dataset's bands, or a tracker is none.
        """
        # Imported here: a forest predicts without Lightning.
        from cropseg.learners.tracking import with_csv

        loggers = with_csv(self.logger, run_dir)
        data.setup("fit")
        dataset, parts = data.dataset, data.parts
        clear(run_dir)
        if data.train_weights() is not None:
            remedy = "leave sampling= out; model.sampling says how pixels are drawn"
            raise ConfigError("sampling is for networks: a forest draws its pixels class by class", None, remedy)
        for part in ("train", "val"):
            if len(parts[part]) == 0:
                raise InputError(f"split {data.split} of {dataset.root} has no patch in part", part, "prepare it again")
        features = Features(dataset.spec.bands, self.context, self.windows)
        started = time.perf_counter()
        samples = draw(dataset, parts["train"], features, self.sampling)
        _show(samples, dataset.spec.taxonomy.names)
        with options_of("model.forest"):
            forest = clone(self.forest).fit(samples.x, samples.y)
        spent = time.perf_counter() - started
        spec = ModelSpec.of(
            dataset,
            data.split,
            loader="cropseg.learners.forest.load",
            model={
                "context": list(self.context),
                "windows": list(self.windows),
                "sampling": {**asdict(self.sampling), "pixels": samples.pixels, "patches": samples.patches},
                "forest": {"class": type(forest).__name__, **forest.get_params()},
            },
            versions=versions("numpy", "scikit-learn", "skops"),
        )
        predictor = ForestPredictor(forest, spec, protocol=dataset.spec.protocol)
        predictor.confusion = validate(predictor, dataset, parts["val"])
        hardware.record(run_dir, seconds=spent)
        predictor.save(run_dir)
        self._log(predictor, data, run_dir, loggers)
        say(f"validation miou_present {predictor.validation_score:.4f}; the run is in {run_dir}")
        return predictor

    def _log(self, predictor: ForestPredictor, data: TrainingData, run_dir: Path, loggers: Sequence[Logger]) -> None:
        """Tell every tracker all at once, so that no run of theirs is left open by a training that failed."""
        from cropseg.learners.tracking import announce, iou_names, show_confusion, show_panel

        dataset = data.dataset
        found = scores(predictor.confusion, dataset.spec.protocol)
        logged = {f"val_{name}": value for name, value in found.items() if isinstance(value, float)}
        logged |= zip(iou_names(dataset.spec.taxonomy), found["iou"], strict=True)
        announce(loggers, run_dir, dataset, data.split)
        for logger in loggers:
            logger.log_metrics({"epoch": 0.0, **logged}, step=0)
        shown = choose_patches(dataset, data.parts["val"].tolist(), 4)
        title = "validation"
        show_panel(loggers, run_dir, dataset, shown, predictor.labels, file="validation", title=title, epoch=0, step=0)
        show_confusion(loggers, run_dir, "best", predictor.confusion, dataset, title=title, epoch=0, step=0)
        for logger in loggers:
            logger.finalize("success")


def validate(predictor: ForestPredictor, dataset: Dataset, rows: npt.NDArray[np.int64]) -> Confusion:
    """Confusion matrix of a predictor over patches, one in memory at a time; pixels without data are left out."""
    classes = len(dataset.spec.taxonomy)
    total = np.zeros((classes, classes), np.int64)
    for row in track(rows.tolist(), "validating", len(rows)):
        image = dataset.image(row)
        truth = np.where(valid_pixels(image), dataset.mask(row), np.uint8(IGNORE))
        total += confusion_matrix(truth, predictor.labels(image[None])[0], classes)
    return total


def _show(samples: Samples, names: Sequence[str]) -> None:
    """Tell how many pixels of each class were drawn, and which classes the training part lacks."""
    table(
        f"{len(samples.y)} training pixels",
        ("class", "pixels", "patches"),
        zip(names, samples.pixels, samples.patches, strict=True),
    )
    absent = samples.absent(names)
    if absent:
        warn(f"the training part has no pixel of: {', '.join(absent)}; the forest cannot predict them")
    say("fitting the forest")
