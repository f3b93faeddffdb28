"""Several devices predict together: each takes its share of a batch, on a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from cropseg.core.errors import ConfigError
from cropseg.core.scene import UInt8Array, UInt16Array
from cropseg.predictor import ModelSpec, Predictor, classify

Found = TypeVar("Found")

AUTO: Final = "auto"
"""As many as there are."""


class Shared:
    """A :class:`cropseg.predictor.Predictor` over copies of one model, which share each batch as evenly as can be.

    Args:
        copies: The model on each device.
    """

    def __init__(self, copies: Sequence[Predictor]) -> None:
        self._copies = tuple(copies)
        self._pool = ThreadPoolExecutor(len(self._copies), thread_name_prefix="devices")

    @property
    def spec(self) -> ModelSpec:
        """That of the model."""
        return self._copies[0].spec

    @property
    def validation_score(self) -> float:
        """That of the model."""
        return self._copies[0].validation_score

    def probabilities(self, images: UInt16Array) -> npt.NDArray[np.float32]:
        """Class probabilities, float32 (n, classes, height, width)."""
        return np.concatenate(self._each(lambda copy, part: copy.probabilities(part), images))

    def labels(self, images: UInt16Array) -> UInt8Array:
        """The most probable class of each pixel, uint8 (n, height, width)."""
        return np.concatenate(self._each(lambda copy, part: copy.labels(part), images))

    def classify(self, images: UInt16Array) -> tuple[UInt8Array, npt.NDArray[np.float32] | None]:
        """What :meth:`labels` gives, and its probability, float32 (n, height, width); None where there is none."""
        labels, confidence = zip(*self._each(classify, images), strict=True)
        sure = [one for one in confidence if one is not None]
        return np.concatenate(labels), np.concatenate(sure) if len(sure) == len(labels) else None

    def save(self, folder: Path) -> None:
        """Write the model; how it is asked is no part of a run."""
        self._copies[0].save(folder)

    def _each(self, ask: Callable[[Predictor, UInt16Array], Found], images: UInt16Array) -> list[Found]:
        parts = np.array_split(images, min(len(images), len(self._copies)) or 1)
        return list(self._pool.map(ask, self._copies, parts))


def shared(predictor: Predictor, devices: int | str) -> Predictor:
    """The predictor as the option ``devices`` wants it asked: itself for 1, spread over several for more.

    Args:
        predictor: The model.
        devices: How many; ``auto``: all GPUs where it lies on one, else 1.

    Raises:
        ConfigError: ``devices`` is neither, there are fewer, or the model cannot be copied.
    """
    check_devices(devices)
    copies = getattr(predictor, "copies", None)
    if devices == 1 or (devices == AUTO and copies is None):
        return predictor
    if copies is None:
        remedy = "devices=1; a forest takes all cores by itself"
        raise ConfigError("only a network of ours can be copied onto several devices, devices", devices, remedy)
    found = copies(None if devices == AUTO else devices)
    return Shared(found) if len(found) > 1 else predictor


def check_devices(devices: object) -> None:
    """Refuse what is no number of devices.

    Raises:
        ConfigError: ``devices`` is neither a whole number from 1 on nor ``auto``.
    """
    if devices != AUTO and (not isinstance(devices, int) or isinstance(devices, bool) or devices < 1):
        raise ConfigError("devices", devices, "give a whole number from 1 on, or auto: all GPUs")
