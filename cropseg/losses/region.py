"""Losses of regions: overlap of predicted and true areas, class by class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cropseg.core.checks import finite, whole
from cropseg.core.errors import ConfigError
from cropseg.core.labels import BACKGROUND, IGNORE
from cropseg.losses.base import Loss, Sums, single


class _Overlap(Loss):
    """1 - a similarity of soft areas, mean over classes.

    The areas are summed over all labelled pixels of the batch (of the set, at validation), not image by image. A class
    without a labelled pixel there is left out of the mean: it has no overlap to learn from.

    Args:
        exclude: Class ids left out.
        smooth: Pixels added to numerator and denominator, ≥ 0.

    Raises:
        ConfigError: ``smooth`` is negative or no number, or ``exclude`` no list of class ids.
    """

    def __init__(self, exclude: Sequence[int], smooth: float) -> None:
        super().__init__()
        kind = type(self).__name__
        if not finite(smooth) or smooth < 0:
            raise ConfigError(f"smooth of {kind} must be a number of at least 0", smooth, "use 0")
        listed = isinstance(exclude, Iterable) and not isinstance(exclude, str)
        if not listed or not all(whole(c) for c in exclude):
            raise ConfigError(f"exclude of {kind} must be a list of class ids", exclude, "use [0], or [] for none")
        self.exclude = tuple(exclude)
        self.smooth = smooth

    def resolve(self, counts: npt.ArrayLike) -> None:
        """Check that the excluded classes exist and leave some, before anything is learned."""
        self._check(np.asarray(counts).shape[-1])

    def _check(self, classes: int) -> None:
        kind = type(self).__name__
        if any(not 0 <= c < classes for c in self.exclude):
            raise ConfigError(
                f"{kind} excludes a class that is not in 0 … {classes - 1}", self.exclude, "see conf/loss"
            )
        if len(set(self.exclude)) == classes:
            raise ConfigError(f"{kind} excludes all {classes} classes", self.exclude, "leave some, such as exclude=[0]")

    def sums(self, logits: Tensor, target: Tensor) -> Sums:
        """``overlap`` = Σ p·t, ``predicted`` = Σ p and ``true`` = Σ t of each class, (classes,) each."""
        classes = logits.shape[1]
        self._check(classes)
        p = single(logits).softmax(dim=1)
        ids = torch.arange(classes, device=target.device).view(1, -1, 1, 1)
        t = target[:, None] == ids  # bool (N, classes, H, W); 255 matches no class
        labelled = (target != IGNORE)[:, None]
        axes = (0, 2, 3)
        return {"overlap": (p * t).sum(axes), "predicted": (p * labelled).sum(axes), "true": t.sum(axes).to(p.dtype)}

    def value(self, sums: Sums) -> Tensor:
        """Mean of the losses over the present classes that are not excluded, 0 if there is none."""
        used = sums["true"] > 0
        used[list(self.exclude)] = False
        loss = self._of_class(sums["overlap"], sums["predicted"], torch.where(used, sums["true"], 1.0))
        return torch.where(used, loss, 0.0 * loss).sum() / used.sum().clamp(min=1)

    @abstractmethod
    def _of_class(self, overlap: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        """The loss of each class, (classes,), of its three areas in pixels; ``true`` is above 0."""


class Dice(_Overlap):
    """Soft Dice loss (Milletari et al., 2016): 1 - mean over classes of (2 Σ p·t + s) / (Σ p + Σ t + s).

    The sums run over all labelled pixels of the batch, not image by image. A class without a labelled pixel in the
    batch (in the set, at validation) is left out of the mean: it has no overlap to learn from. So the ratio always
    exists and the smoothing ``s`` may be 0. (smp divides by all classes, absent ones counting 0, and adds its smoothing
    to the overlap counted once.)

    Args:
        exclude: Class ids left out; background by default (§3.1).
        smooth: ``s``, in pixels, ≥ 0.
    """

    def __init__(self, exclude: Sequence[int] = (BACKGROUND,), smooth: float = 0.0) -> None:
        super().__init__(exclude, smooth)

    def _of_class(self, overlap: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        return 1 - (2 * overlap + self.smooth) / (predicted + true + self.smooth)


class Tversky(_Overlap):
    """Tversky loss (Salehi et al., 2017): mean over classes of (1 - T)^(1/γ), T = (TP + s) / (TP + α·FP + β·FN + s).

    TP = Σ p·t, FP = Σ p·(1 - t), FN = Σ (1 - p)·t over all labelled pixels, and absent classes left out, as for
    :class:`Dice`, which α = β = 0.5 and γ = 1 is. β above α asks for recall. γ above 1 is the focal Tversky loss
    (Abraham & Khan, 2019: 4/3), which looks longer at classes that overlap well. (smp takes the mean first and raises
    it to the power γ.)

    Args:
        alpha: Weight of false positives, ≥ 0.
        beta: Weight of false negatives, above 0.
        gamma: γ ≥ 1.
        exclude: Class ids left out; background by default, as in :class:`Dice`.
        smooth: ``s``, in pixels, ≥ 0.

    Raises:
        ConfigError: An option is out of its range.
    """

    def __init__(
        self,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 1.0,
        exclude: Sequence[int] = (BACKGROUND,),
        smooth: float = 0.0,
    ) -> None:
        super().__init__(exclude, smooth)
        if not all(finite(value) for value in (alpha, beta, gamma)) or alpha < 0 or beta <= 0 or gamma < 1:
            raise ConfigError(
                "Tversky takes numbers: alpha of at least 0, beta above 0, gamma of at least 1",
                {"alpha": alpha, "beta": beta, "gamma": gamma},
                "use 0.3, 0.7 and 1",
            )
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma

    def _of_class(self, overlap: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        missed = self.alpha * (predicted - overlap) + self.beta * (true - overlap)
        loss = 1 - (overlap + self.smooth) / (overlap + missed + self.smooth)
        if self.gamma == 1:
            return loss
        # The root has no slope at 0, where there is nothing left to learn.
        return loss.clamp(min=torch.finfo(loss.dtype).tiny) ** (1 / self.gamma)


class Lovasz(Loss):
    """Lovász-softmax (Berman et al., 2018): the Jaccard loss, extended so that it has a slope everywhere.

    For each image and each class with a labelled pixel in it, Σ errors · increments of the Jaccard loss, errors
    |t - p| of the labelled pixels in falling order; then the mean over the image's classes, background among them.
    Classes absent from the image are left out, images without a labelled pixel too. (smp fails on such images.)

    The loss is one of images, so that it can be added up: Σ over images / number of images.
    """

    def __init__(self) -> None:
        super().__init__()

    def sums(self, logits: Tensor, target: Tensor) -> Sums:
        """``jaccard`` = Σ of the images' losses and ``images`` = number of those with a labelled pixel, scalars."""
        classes = logits.shape[1]
        p = single(logits).softmax(dim=1).flatten(2)
        flat = target.flatten(1)
        ids = torch.arange(classes, device=target.device).view(1, -1, 1)
        true = flat[:, None] == ids  # bool (N, classes, pixels)
        present = true.any(dim=2)
        image, class_id = present.nonzero(as_tuple=True)  # only these pairs are sorted
        t, labelled = true[image, class_id], (flat != IGNORE)[image]
        errors = (t.to(p.dtype) - p[image, class_id]).abs() * labelled
        # Ignored pixels come last, where they change no one's increment, with error 0.
        order = torch.where(labelled, errors.detach(), -1.0).argsort(dim=1, descending=True)
        steps = _increments(t.gather(1, order).to(p.dtype))
        losses = (errors.gather(1, order) * steps).sum(dim=1)
        share = 1 / present.sum(dim=1).clamp(min=1).to(p.dtype)
        return {"jaccard": (losses * share[image]).sum(), "images": present.any(dim=1).sum().to(p.dtype)}

    def value(self, sums: Sums) -> Tensor:
        """Mean over the images that have a labelled pixel, 0 if there is none."""
        return sums["jaccard"] / sums["images"].clamp(min=1)


def _increments(true: Tensor) -> Tensor:
    """What each pixel adds to the Jaccard loss when it is counted wrong after those before it.

    Args:
        true: 1 where the pixel is of the class, else 0, float (pairs, pixels), in the order of falling error.
    """
    found = true.cumsum(dim=1)
    total = found[:, -1:]
    seen = torch.arange(1, true.shape[1] + 1, device=true.device, dtype=true.dtype)
    jaccard = 1 - (total - found) / (total + seen - found)
    return torch.diff(jaccard, dim=1, prepend=torch.zeros_like(total))
