"""How often each training patch is drawn, from the manifest's pixel counts alone: no file is read.

Patches are drawn with replacement from (seed, epoch), as many an epoch as there are; see
:class:`cropseg.data.dataset.EpochSampler`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cropseg.core.checks import finite
from cropseg.core.errors import ConfigError
from cropseg.core.labels import BACKGROUND


class PatchSampling(Protocol):
    """A rule of drawing."""

    def weights(self, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64] | None:
        """Weight of each patch of the training part.

        Args:
            counts: Labelled pixels, int64 (patches, classes).

        Returns:
            float64 (patches,), at least 0; only ratios count. None: each patch once an epoch, nothing is drawn.
        """
        ...


@dataclass(frozen=True)
class EachOnce:
    """Each patch once an epoch."""

    def weights(self, counts: npt.NDArray[np.int64]) -> None:
        """None: nothing is drawn."""
        return


@dataclass(frozen=True)
class ClassBalanced:
    """A class is drawn evenly, then a labelled pixel of it evenly, and its patch is taken.

    This is class-aware sampling (Shen, Lin and Huang 2016, "Relay backpropagation for effective learning of deep
    convolutional neural networks") with pixels for images: the weight of patch i is

        w_i = 1 / C · Σ_c n_ic / N_c,   N_c = Σ_i n_ic,

    over the C classes with a labelled pixel in the training part. Absent classes take no share. A patch without any
    label is never drawn.

    Attributes:
        background: Whether background is one of the classes; if not, patches of background alone are never drawn.
    """

    background: bool = True

    def __post_init__(self) -> None:
        """Check the switch."""
        if not isinstance(self.background, bool):
            raise ConfigError("sampling.background must be true or false", self.background, "set one of them")

    def weights(self, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Probability of each patch, float64 (patches,), summing to 1; zeros if nothing is labelled."""
        pixels = counts[:, 0 if self.background else BACKGROUND + 1 :].astype(np.float64)
        total = pixels.sum(axis=0)
        present = total > 0
        shares: npt.NDArray[np.float64] = (pixels[:, present] / total[present]).sum(axis=1)
        return shares / max(int(present.sum()), 1)


@dataclass(frozen=True)
class RareClass:
    """Patches that hold a rare class are drawn more often: repeat factor sampling.

    From LVIS (Gupta, Dollár and Girshick 2019, "LVIS: a dataset for large vocabulary instance segmentation"), with
    patches for images: with f_c the share of the training patches that hold class c,

        r_c = max(1, √(t / f_c)),   w_i = max of r_c over the classes c in patch i,

    and 1 for a patch without any label. Each patch of LVIS comes w_i times an epoch; here an epoch stays as long as it
    is and patches are drawn with probability w_i / Σ w. Absent classes have no factor.

    Attributes:
        threshold: t in 0 … 1: classes in a smaller share of the patches than this are oversampled.
        share: A patch holds a class if at least this share of its labelled pixels, above 0 and at most 1, is of it. A
            single pixel would do for LVIS; by that measure even rare crops stand in half of all patches.
    """

    threshold: float = 0.25
    share: float = 0.1

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, usual in (("threshold", 0.25), ("share", 0.1)):
            value = getattr(self, name)
            if not finite(value) or not 0 < value <= 1:
                what = f"sampling.{name} of rare-class sampling must be a number above 0 and at most 1"
                raise ConfigError(what, value, f"use {usual}")

    def weights(self, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Repeat factor of each patch, float64 (patches,), at least 1."""
        holds = (counts > 0) & (counts >= self.share * counts.sum(axis=1, keepdims=True))
        frequency = holds.mean(axis=0)
        factors = np.sqrt(self.threshold / np.where(frequency > 0, frequency, 1.0)).clip(min=1.0)
        found: npt.NDArray[np.float64] = np.where(holds, factors, 1.0).max(axis=1)
        return found
