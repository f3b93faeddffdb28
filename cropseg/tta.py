"""Test-time augmentation: a predictor that averages what another one says of the eight symmetries of a window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from cropseg.core.errors import ConfigError
from cropseg.core.scene import UInt8Array, UInt16Array
from cropseg.predictor import ModelSpec, Predictor, most_probable

Tta = Literal["d4"]
"""Kinds of test-time augmentation: ``d4``, the four rotations of a square with and without a reflection."""


@dataclass(frozen=True)
class Averaged:
    """A :class:`cropseg.predictor.Predictor`: the mean of another's class probabilities over eight views of a window.

    Each view is predicted, its probabilities are turned back, and the eight are averaged with equal weight. A model
    that does not care how a field lies, such as a forest on single pixels, gives the same with eight times the work.
    Windows need not be square: a quarter turn swaps height and width.

    Attributes:
        predictor: The model that is asked.
    """

    predictor: Predictor

    @property
    def spec(self) -> ModelSpec:
        """That of the model."""
        return self.predictor.spec

    @property
    def validation_score(self) -> float:
        """That of the model as it was trained, without augmentation."""
        return self.predictor.validation_score

    def probabilities(self, images: UInt16Array) -> npt.NDArray[np.float32]:
        """Mean class probabilities, float32 (n, classes, height, width), summing to 1."""
        classes = len(self.spec.taxonomy)
        # In double precision the sum of eight equal numbers is exact, so that equal views change nothing.
        total = np.zeros((len(images), classes, *images.shape[2:]), dtype=np.float64)
        for turns, mirrored in symmetries():
            seen = self.predictor.probabilities(np.ascontiguousarray(turn(images, turns, mirrored)))
            total += turn_back(seen, turns, mirrored)
        return (total / 8).astype(np.float32)

    def labels(self, images: UInt16Array) -> UInt8Array:
        """The class of the highest mean probability, uint8 (n, height, width)."""
        return self.classify(images)[0]

    def classify(self, images: UInt16Array) -> tuple[UInt8Array, npt.NDArray[np.float32]]:
        """What :meth:`labels` gives, and its mean probability, float32 (n, height, width)."""
        return most_probable(self.probabilities(images))

    def save(self, folder: Path) -> None:
        """Write the model that is asked; how it is asked is no part of a run."""
        self.predictor.save(folder)


def augmented(predictor: Predictor, tta: str | None) -> Predictor:
    """The predictor as the option ``tta`` wants it asked: itself for None, averaged over eight views for ``d4``.

    Raises:
        ConfigError: Another value.
    """
    check_tta(tta)
    return Averaged(predictor) if tta else predictor


def check_tta(tta: object) -> None:
    """Refuse what is no kind of test-time augmentation.

    Raises:
        ConfigError: ``tta`` is not None, empty or one of :data:`Tta`.
    """
    if tta is not None and tta != "" and tta not in get_args(Tta):
        raise ConfigError("tta", tta, f"choose {', '.join(get_args(Tta))} or null")


def symmetries() -> Iterator[tuple[int, bool]]:
    """The eight symmetries of a square: quarter turns, and whether left and right are swapped first."""
    for mirrored in (False, True):
        for turns in range(4):
            yield turns, mirrored


def turn(array: npt.NDArray[Any], turns: int, mirrored: bool) -> npt.NDArray[Any]:
    """A view of the last two axes mirrored, then turned by ``turns`` quarters."""
    return np.rot90(array[..., ::-1] if mirrored else array, turns, axes=(-2, -1))


def turn_back(array: npt.NDArray[Any], turns: int, mirrored: bool) -> npt.NDArray[Any]:
    """The inverse of :func:`turn`."""
    back = np.rot90(array, -turns, axes=(-2, -1))
    return back[..., ::-1] if mirrored else back
