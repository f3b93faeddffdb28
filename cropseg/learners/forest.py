"""A trained Random Forest as a predictor, loaded from a file that is no pickle and is checked before it is walked."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal

import joblib
import numpy as np
import numpy.typing as npt
import skops.io
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier
from skops.io.exceptions import UntrustedTypesFoundException

from cropseg.core import cores, storage
from cropseg.core.errors import InputError
from cropseg.core.scene import UInt8Array, UInt16Array
from cropseg.metrics import Confusion, scores
from cropseg.models.forest import Features
from cropseg.predictor import ModelSpec, SideBySide, read_validation

FILE: Final = "forest.skops"

TRUSTED: Final = ("sklearn.tree._tree.Tree",)
"""The one type in the file that skops does not trust by itself: its node indices are checked in :func:`check_trees`."""

BLOCK: Final = 65_536
"""Pixels that go through all trees at once on one core; with small blocks each tree is fetched into the cache anew."""

BATCH: Final = 262_144
"""Pixels whose features are held in memory at once: 27 MB for 26 features."""


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
        jobs = cores.share() or self._jobs()
        with ThreadPoolExecutor(jobs) as pool:
            for first in range(0, len(images), step):
                x = np.concatenate([self.features.compute(image) for image in images[first : first + step]])
                block = max(1, min(BLOCK, -(-len(x) // jobs)))
                blocks = (x[start : start + block] for start in range(0, len(x), block))
                yield first, np.concatenate(list(pool.map(self._vote, blocks)))

    def side_by_side(self, images: int) -> SideBySide | None:
        """Threads that may ask it about so many images at the same time; None if one would have all there is."""
        jobs = self._jobs()
        threads = cores.number(images, jobs)
        return SideBySide(cores.threads(threads, jobs), threads, BLOCK) if threads > 1 else None

    def _jobs(self) -> int:
        return int(joblib.effective_n_jobs(self.forest.n_jobs))

    def _vote(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        total = np.zeros((len(x), len(self.forest.classes_)))
        for tree in self.forest.estimators_:
            total += tree.predict_proba(x, check_input=False)
        total /= len(self.forest.estimators_)
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
