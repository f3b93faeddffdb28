"""Random Forests as a learner: scikit-learn's forest on pixels drawn class by class, and the predictor it becomes."""

from __future__ import annotations

import functools
import os
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol

import joblib
import numpy as np
import numpy.typing as npt
import skops.io
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier
from skops.io.exceptions import UntrustedTypesFoundException

from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.labels import IGNORE
from cropseg.core.manifest import Dataset, Part
from cropseg.core.progress import say, table, track, warn
from cropseg.core.scene import UInt8Array, UInt16Array
from cropseg.learners import hardware
from cropseg.learners.folder import clear
from cropseg.learners.options import options_of
from cropseg.learners.versions import versions
from cropseg.metrics import Confusion, confusion_matrix, scores
from cropseg.models.forest import Features, Samples, Sampling, draw, valid_pixels
from cropseg.pictures import choose_patches
from cropseg.predictor import ModelSpec, SideBySide, read_validation

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

FILE: Final = "forest.skops"

TRUSTED: Final = ("sklearn.tree._tree.Tree",)
"""The one type in the file that skops does not trust by itself: its node indices are checked in :func:`check_trees`."""

BLOCK: Final = 65_536
"""Pixels that go through all trees at once on one core; with small blocks each tree is fetched into the cache anew."""

BATCH: Final = 262_144
"""Pixels whose features are held in memory at once: 27 MB for 26 features."""


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
            The predictor, as :func:`load` would give it.

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


class ForestPredictor:
    """A trained forest; see :class:`cropseg.predictor.Predictor`.

    Blocks of pixels are spread over the cores, and each block goes through the trees one after the other. The sum of
    their votes has one order, therefore, and the result is the same on any number of cores; scikit-learn spreads the
    trees instead, and adds their votes as they come.

    Args:
        forest: Fitted on the classes that occurred in training.
        spec: What it learned from.
        confusion: Of the validation part; zeros if not known.
        protocol: Of the validation score.
    """

    def __init__(
        self,
        forest: RandomForestClassifier,
        spec: ModelSpec,
        confusion: Confusion | None = None,
        protocol: Literal["all", "crop"] = "all",
    ) -> None:
        classes = len(spec.taxonomy)
        self.forest = forest
        self.spec = spec
        self.confusion = np.zeros((classes, classes), np.int64) if confusion is None else confusion
        self.protocol = protocol
        self.features = self.features_of(spec)
        if forest.n_features_in_ != len(self.features.names):
            raise InputError(
                f"the forest was trained on {forest.n_features_in_} features, its spec.json describes",
                len(self.features.names),
                "the two files are not of one run: train again",
            )

    @staticmethod
    def features_of(spec: ModelSpec) -> Features:
        """The features that a run's forest was trained on."""
        return Features(spec.bands, tuple(spec.model["context"]), tuple(spec.model["windows"]))

    @property
    def validation_score(self) -> float:
        """``miou_present`` on the validation part."""
        return float(scores(self.confusion, self.protocol)["miou_present"])

    def probabilities(self, images: UInt16Array) -> npt.NDArray[np.float32]:
        """Class probabilities, float32 (n, classes, height, width); 0 for classes that training did not hold."""
        n, height, width = self._checked(images)
        result = np.zeros((n, len(self.spec.taxonomy), height * width), np.float32)
        for first, votes in self._votes(images):
            part = votes.reshape(-1, height * width, votes.shape[1])
            result[first : first + len(part), self.forest.classes_] = np.moveaxis(part, 1, 2)
        return result.reshape(n, -1, height, width)

    def labels(self, images: UInt16Array) -> UInt8Array:
        """The most probable class of each pixel, uint8 (n, height, width); of equal ones the lowest id."""
        n, height, width = self._checked(images)
        result = np.empty((n, height, width), np.uint8)
        for first, votes in self._votes(images):
            part = self.forest.classes_[votes.argmax(axis=1)].reshape(-1, height, width)
            result[first : first + len(part)] = part
        return result

    def classify(self, images: UInt16Array) -> tuple[UInt8Array, npt.NDArray[np.float32]]:
        """What :meth:`labels` gives, and the share of the votes that it got, float32 (n, height, width)."""
        n, height, width = self._checked(images)
        labels, confidence = np.empty((n, height, width), np.uint8), np.empty((n, height, width), np.float32)
        for first, votes in self._votes(images):
            best = votes.argmax(axis=1)
            part = self.forest.classes_[best].reshape(-1, height, width)
            labels[first : first + len(part)] = part
            confidence[first : first + len(part)] = votes[np.arange(len(best)), best].reshape(part.shape)
        return labels, confidence

    def save(self, folder: Path) -> None:
        """Write ``forest.skops`` (deflated, no pickle), ``validation.json``, ``importances.json`` and ``spec.json``."""
        with storage.atomic_path(folder / FILE) as path:
            skops.io.dump(self.forest, path, compression=zipfile.ZIP_DEFLATED)
        ranked = zip(self.features.names, self.forest.feature_importances_.tolist(), strict=True)
        storage.write_json(
            folder / "importances.json",
            {"kind": "mean decrease in impurity", "features": [{"name": n, "importance": v} for n, v in ranked]},
        )
        score = self.validation_score
        storage.write_json(
            folder / "validation.json",
            {
                "miou_present": None if np.isnan(score) else score,  # JSON has no NaN
                "confusion": self.confusion.tolist(),
                "epoch": 0,
                "protocol": self.protocol,
            },
        )
        storage.write_json(folder / "spec.json", self.spec.to_dict())

    def _checked(self, images: UInt16Array) -> tuple[int, int, int]:
        """Number, height and width of the images."""
        if images.ndim != 4 or images.shape[1] != len(self.spec.bands):
            raise InputError(
                f"images must be (n, {len(self.spec.bands)}, height, width), bands {', '.join(self.spec.bands)}",
                images.shape,
                "read them with the run's bands",
            )
        return images.shape[0], images.shape[2], images.shape[3]

    def _votes(self, images: UInt16Array) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
        """Mean vote of the trees, in batches of whole images.

        Yields:
            Number of the batch's first image, and float64 (pixels of the batch, classes of the forest).
        """
        size = images.shape[-2] * images.shape[-1]
        step = max(1, BATCH // max(size, 1))
        jobs = 1 if getattr(_here, "alone", False) else self._jobs()
        with ThreadPoolExecutor(jobs) as pool:
            for first in range(0, len(images), step):
                x = np.concatenate([self.features.compute(image) for image in images[first : first + step]])
                block = max(1, min(BLOCK, -(-len(x) // jobs)))
                blocks = (x[start : start + block] for start in range(0, len(x), block))
                yield first, np.concatenate(list(pool.map(self._vote, blocks)))

    def side_by_side(self) -> SideBySide | None:
        """Threads that may ask it at the same time; None if the forest keeps to one core."""
        jobs = self._jobs()
        return SideBySide(_pool(jobs), jobs, BLOCK) if jobs > 1 else None

    def _jobs(self) -> int:
        return int(joblib.effective_n_jobs(self.forest.n_jobs))

    def _vote(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        total = np.zeros((len(x), len(self.forest.classes_)))
        for tree in self.forest.estimators_:
            total += tree.predict_proba(x, check_input=False)
        total /= len(self.forest.estimators_)
        return total


_here = threading.local()
"""Tells a thread that it is one of :func:`_pool`, and has one core."""


@functools.cache
def _pool(threads: int) -> Executor:
    """Threads that each keep a forest to one core, for the life of the process."""

    def alone() -> None:
        _here.alone = True

    return ThreadPoolExecutor(threads, thread_name_prefix="forest", initializer=alone)


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not live on in a forked process


def validate(predictor: ForestPredictor, dataset: Dataset, rows: npt.NDArray[np.int64]) -> Confusion:
    """Confusion matrix of a predictor over patches, one in memory at a time; pixels without data are left out."""
    classes = len(dataset.spec.taxonomy)
    total = np.zeros((classes, classes), np.int64)
    for row in track(rows.tolist(), "validating", len(rows)):
        image = dataset.image(row)
        truth = np.where(valid_pixels(image), dataset.mask(row), np.uint8(IGNORE))
        total += confusion_matrix(truth, predictor.labels(image[None])[0], classes)
    return total


def load(folder: Path, spec: ModelSpec) -> ForestPredictor:
    """Load the forest of a finished run.

    Raises:
        InputError: A file is missing or broken, or holds anything but a forest.
    """
    path = folder / FILE
    try:
        forest = skops.io.load(path, trusted=list(TRUSTED))
    except FileNotFoundError as error:
        raise InputError(f"no such file: {path}", None, "the run was not finished: train it again") from error
    except UntrustedTypesFoundException as error:
        raise InputError(
            f"{path} holds types that a forest does not have", str(error), "do not use this file"
        ) from error
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, EOFError) as error:
        raise InputError(
            f"{path} cannot be read", str(error), "copy it again from its source, or train again"
        ) from error
    if not isinstance(forest, RandomForestClassifier):
        raise InputError(f"{path} does not hold a forest", type(forest).__name__, "train again")
    check_trees(forest, path)
    if not np.isin(forest.classes_, np.arange(len(spec.taxonomy))).all():
        raise InputError(f"{path} gives classes that the run's taxonomy lacks", forest.classes_.tolist(), "train again")
    confusion, _, protocol = read_validation(folder, len(spec.taxonomy))
    return ForestPredictor(forest, spec, confusion, protocol)


def check_trees(forest: RandomForestClassifier, path: Path) -> None:
    """Refuse node indices that would make scikit-learn's compiled code read out of bounds or walk in circles.

    scikit-learn follows them unchecked. In a sound tree a child stands after its parent and inside the table.

    Raises:
        InputError: The file was damaged or forged.
    """
    for number, estimator in enumerate(forest.estimators_):
        if not isinstance(estimator, DecisionTreeClassifier):
            raise InputError(f"{path} holds a broken tree, number", number, "do not use this file; train again")
        tree = estimator.tree_
        nodes = np.arange(tree.node_count)
        inner = tree.children_left != -1
        left, right, feature = tree.children_left[inner], tree.children_right[inner], tree.feature[inner]
        sound = (
            len(nodes) > 0
            and all(((child > nodes[inner]) & (child < len(nodes))).all() for child in (left, right))
            and ((feature >= 0) & (feature < forest.n_features_in_)).all()
            and tree.n_features == forest.n_features_in_
            and tree.value.shape == (len(nodes), 1, len(forest.classes_))
        )
        if not sound:
            raise InputError(f"{path} holds a broken tree, number", number, "do not use this file; train again")


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
