"""How far a model's confidence can be trusted: reliability, recalibration on the validation part, selective accuracy.

Confidence is the probability that the model gives the class it maps. Everything is read off a histogram of it, which
takes no more room for a million patches than for one. Its bins are so many that the numbers of bins in use (10, 15, 20,
…) are sums of whole ones, and of each bin the sum of the confidences is kept, so that a coarser diagram is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError
from cropseg.metrics import PROTOCOLS, Protocol

BINS: Final = 300
"""Bins of equal width over 0 … 1, the m-th being ((m - 1) / 300, m / 300]; 300 is a multiple of 10, 15 and 20."""

STEPS: Final = 2**24
"""Confidences are added up as whole multiples of 1 / STEPS, so that no order of the pixels changes a sum."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Diagram:
    """A reliability diagram: what was claimed, and what came true.

    Attributes:
        edges: Borders of the bins, (bins + 1,), 0 … 1.
        pixels: Pixels in each bin, (bins,).
        confidence: Mean confidence in each, NaN in an empty one.
        accuracy: Share of correct pixels in each, NaN in an empty one.
    """

    edges: Floats
    pixels: Ints
    confidence: Floats
    accuracy: Floats


@dataclass(frozen=True)
class Reliability:
    """Histogram of the confidence in the mapped class.

    Attributes:
        pixels: Pixels in each of the :data:`BINS` bins.
        correct: Of these, the correct ones.
        confidence: Sum of the confidences in each bin.
    """

    pixels: Ints
    correct: Ints
    confidence: Floats

    def __post_init__(self) -> None:
        """Check the numbers against each other."""
        if any(one.shape != (BINS,) for one in (self.pixels, self.correct, self.confidence)):
            raise InputError(f"a reliability histogram has {BINS} bins, not", self.pixels.shape, "evaluate again")
        if (self.correct < 0).any() or (self.correct > self.pixels).any():
            raise InputError("a reliability histogram has more correct pixels than pixels", None, "evaluate again")

    @property
    def total(self) -> int:
        """Pixels in all."""
        return int(self.pixels.sum())

    @property
    def accuracy(self) -> float:
        """Share of correct pixels; NaN without a pixel."""
        return float(self.correct.sum() / self.total) if self.total else float("nan")

    @property
    def claimed(self) -> float:
        """Mean confidence; NaN without a pixel."""
        return float(self.confidence.sum() / self.total) if self.total else float("nan")

    def diagram(self, bins: int = 10) -> Diagram:
        """The reliability diagram of Guo et al. (2017, arXiv 1706.04599, §2).

        Args:
            bins: Bins of equal width; a divisor of :data:`BINS`.

        Raises:
            ConfigError: It is none.
        """
        if bins < 1 or BINS % bins:
            raise ConfigError("bins of a reliability diagram", bins, f"choose a divisor of {BINS}, such as 10 or 15")
        pixels, correct, confidence = (
            one.reshape(bins, -1).sum(axis=1) for one in (self.pixels, self.correct, self.confidence)
        )
        return Diagram(np.linspace(0, 1, bins + 1), pixels, _ratio(confidence, pixels), _ratio(correct, pixels))

    def ece(self, bins: int = 15) -> float:
        """Expected calibration error: |accuracy - mean confidence| of each bin, weighted by its pixels.

        Guo et al. (2017), equation 3; 15 bins are theirs. NaN without a pixel.
        """
        found = self.diagram(bins)
        gaps = np.nan_to_num(np.abs(found.accuracy - found.confidence), nan=0.0)
        return float((gaps * found.pixels).sum() / self.total) if self.total else float("nan")

    def selective(self) -> tuple[Floats, Floats]:
        """Accuracy on the pixels of highest confidence, over how many of them are kept (risk-coverage, turned round).

        Returns:
            Coverage, ascending to 1, and the accuracy on that share of the pixels: one point a bin that holds pixels.
            Pixels of one bin come together.
        """
        held = np.flatnonzero(self.pixels)[::-1]
        pixels, correct = np.cumsum(self.pixels[held]), np.cumsum(self.correct[held])
        return pixels / max(self.total, 1), _ratio(correct, pixels)

    def accuracy_at(self, coverage: float) -> float:
        """Accuracy on the ``coverage`` of the pixels that the model is surest of; within a bin pixels count alike.

        Raises:
            ConfigError: ``coverage`` does not lie above 0 and up to 1.
        """
        if not 0 < coverage <= 1:
            raise ConfigError("coverage must lie above 0 and up to 1", coverage, "give 0.8 for four fifths")
        if not self.total:
            return float("nan")
        kept, accuracy = self.selective()
        return float(np.interp(coverage, [0.0, *kept], [0.0, *(kept * accuracy)]) / coverage)

    def to_dict(self) -> dict[str, list[float]]:
        """Plain data for JSON."""
        return {key: getattr(self, key).tolist() for key in ("pixels", "correct", "confidence")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Reliability:
        """Read back what :meth:`to_dict` gave.

        Raises:
            InputError: It is something else.
        """
        try:
            pixels, correct = (np.array(data[key], dtype=np.int64) for key in ("pixels", "correct"))
            return cls(pixels, correct, np.array(data["confidence"], dtype=np.float64))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError("not a reliability histogram", str(error), "evaluate again") from error


def recalibrated(test: Reliability, validation: Reliability) -> Reliability:
    """The histogram that ``test`` would have, had the confidence been mended by what the validation part told.

    The map from confidence to share of correct pixels is the isotonic regression over the validation's bins (Zadrozny
    and Elkan, 2002, doi:10.1145/775047.775151), weighted by their pixels: it never falls, so which pixels are surer
    than others is kept, but for ties. A bin that the validation did not reach gets what lies between its neighbours.
    Nothing of ``test`` is looked at to fit it.

    Args:
        test: Histogram to mend.
        validation: That of the validation part, under the same protocol.

    Raises:
        InputError: The validation part has no pixel.
    """
    from sklearn.isotonic import isotonic_regression

    known = np.flatnonzero(validation.pixels)
    if not known.size:
        raise InputError("the validation part has no pixel to calibrate on", None, "evaluate without recalibration")
    pixels = validation.pixels[known]
    claimed = validation.confidence[known] / pixels
    came_true = isotonic_regression(validation.correct[known] / pixels, sample_weight=pixels, y_min=0.0, y_max=1.0)
    held = np.flatnonzero(test.pixels)
    told = np.interp(test.confidence[held] / test.pixels[held], claimed, came_true)
    place = bins_of(told)
    pixels, correct = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    np.add.at(pixels, place, test.pixels[held])
    np.add.at(correct, place, test.correct[held])
    sums = np.bincount(place, weights=told * test.pixels[held], minlength=BINS).astype(np.float64)
    return Reliability(pixels, correct, sums)


@dataclass(frozen=True)
class Validated:
    """Confidence on the validation part, computed once a run, and what it was computed from.

    Attributes:
        manifest_digest: Of the training dataset.
        split: Its split, whose part ``val`` it is.
        weights: SHA-256 of the run's weights; empty where they are in no file.
        reliability: Under each protocol.
    """

    manifest_digest: str
    split: str
    weights: str
    reliability: Mapping[Protocol, Reliability]

    def is_of(self, manifest_digest: str, split: str, weights: str) -> bool:
        """Whether the same data and weights would give it again."""
        return bool(weights) and (manifest_digest, split, weights) == (self.manifest_digest, self.split, self.weights)


def write_validated(path: Path, found: Validated) -> None:
    """Write the histograms as JSON, atomically."""
    content = {"manifest_digest": found.manifest_digest, "split": found.split, "weights": found.weights}
    storage.write_json(path, {**content, **{key: one.to_dict() for key, one in found.reliability.items()}})


def read_validated(path: Path) -> Validated | None:
    """Read what :func:`write_validated` left; None if there is nothing.

    Raises:
        InputError: The file is broken.
    """
    if not path.is_file():
        return None
    content = storage.read_json(path)
    try:
        digest, split, weights = (str(content[key]) for key in ("manifest_digest", "split", "weights"))
        histograms: dict[Protocol, Reliability] = {key: Reliability.from_dict(content[key]) for key in PROTOCOLS}
        return Validated(digest, split, weights, histograms)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read", str(error), "remove it and evaluate again") from error


def bins_of(confidence: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int32]:
    """Number of the bin of each confidence, 0 … :data:`BINS` - 1."""
    scaled = np.multiply(confidence, BINS, dtype=np.float64)
    bins: npt.NDArray[np.int32] = np.ceil(scaled, out=scaled).astype(np.int32)
    bins -= 1
    np.clip(bins, 0, BINS - 1, out=bins)
    return bins


def _ratio(part: npt.NDArray[Any], whole: Ints) -> Floats:
    """``part / whole``, NaN where ``whole`` is 0."""
    found: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return found
