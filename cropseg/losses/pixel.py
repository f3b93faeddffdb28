"""Losses that are weighted means over pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from cropseg.core.checks import finite
from cropseg.core.errors import ConfigError
from cropseg.core.labels import IGNORE
from cropseg.core.progress import say
from cropseg.losses.base import Loss, Sums, single
from cropseg.losses.weights import FORMULAS, Formula, compute, name_of


class _ClassWeighted(Loss):
    """A loss with a weight for each class.

    Args:
        weights: A weight ≥ 0 for each class; a formula or its name in :mod:`cropseg.losses.weights`, computed from the
            training part by :meth:`resolve`; None weighs all alike.

    Raises:
        ConfigError: A weight is no number or negative, all are 0, or there is no such formula.
    """

    weights: Tensor | None

    def __init__(self, weights: Sequence[float] | str | Formula | None = None) -> None:
        super().__init__()
        if isinstance(weights, str):
            if weights not in FORMULAS:
                raise ConfigError("no such formula for class weights", weights, f"choose from {', '.join(FORMULAS)}")
            weights = FORMULAS[weights]
        self.formula = weights if callable(weights) else None
        self.register_buffer("weights", None, persistent=False)
        if weights is not None and not callable(weights):
            if not isinstance(weights, Iterable):
                remedy = f"give a list with a number a class, null, or one of {', '.join(FORMULAS)}"
                raise ConfigError("class weights of a loss must be a list", weights, remedy)
            numbers = list(weights)
            if not all(finite(weight) and weight >= 0 for weight in numbers) or max(numbers, default=0) == 0:
                raise ConfigError("class weights must be numbers of at least 0, one above it", numbers, "see conf/loss")
            self.weights = torch.tensor(numbers, dtype=torch.float32)

    def resolve(self, counts: npt.ArrayLike) -> None:
        """Compute the weights, if a formula was given, and say them."""
        if self.formula is None:
            return
        weights = compute(self.formula, counts)
        self.weights = torch.tensor(weights, dtype=torch.float32)
        absent = ", ".join(str(c) for c, weight in enumerate(weights) if weight == 0)
        rest = f"; 0 for classes without a pixel there: {absent}" if absent else ""
        shown = ", ".join(f"{weight:.3g}" for weight in weights)
        say(f"class weights of {type(self).__name__}, {name_of(self.formula)} of the training part: {shown}{rest}")

    def class_weights(self, logits: Tensor) -> Tensor:
        """A weight for each class of ``logits`` (N, classes, H, W), in their type and place.

        Raises:
            ConfigError: There are weights for another number of classes, or a formula was not computed.
        """
        classes = logits.shape[1]
        if self.weights is None:
            if self.formula is not None:
                raise ConfigError(
                    "class weights by a formula need the training part's counts",
                    name_of(self.formula),
                    "call loss.resolve(counts) first",
                )
            return torch.ones(classes, device=logits.device, dtype=logits.dtype)
        if len(self.weights) != classes:
            raise ConfigError(
                f"the loss has class weights for {len(self.weights)} classes, the dataset has",
                classes,
                "give one weight a class in loss, or weights=null",
            )
        return self.weights.to(logits)


class CrossEntropy(_ClassWeighted):
    """Class-weighted cross-entropy, Σ w·nll / Σ w over labelled pixels (PyTorch's ``reduction="mean"``).

    Args:
        weights: A weight ≥ 0 for each class (Table 4); or a formula or its name in :mod:`cropseg.losses.weights`,
            computed from the training part by :meth:`resolve`; None weighs all alike.
    """

    def sums(self, logits: Tensor, target: Tensor) -> Sums:
        """``nll`` = Σ w·nll and ``weight`` = Σ w, scalars."""
        logits = single(logits)
        weights = self.class_weights(logits)
        nll = functional.cross_entropy(logits, target, weights, ignore_index=IGNORE, reduction="sum")
        return {"nll": nll, "weight": _weight_of(target, weights).sum()}

    def value(self, sums: Sums) -> Tensor:
        """Σ w·nll / Σ w, 0 without labelled pixels."""
        return sums["nll"] / torch.where(sums["weight"] > 0, sums["weight"], 1.0)


class Focal(_ClassWeighted):
    """Focal loss (Lin et al., Focal Loss for Dense Object Detection, 2017), Σ w·(1 - p)^γ·nll / Σ w.

    p is the softmax probability of the pixel's true class, nll = -log p, w the weight of that class (the paper's α).
    The paper divides by the number of anchors assigned to an object; every labelled pixel has a class here, so the
    divisor is the sum of weights, as for :class:`CrossEntropy`, which γ = 0 is. (smp's multi-class focal loss is
    another: the mean of one sigmoid against the rest for each class.)

    Args:
        gamma: γ ≥ 0: how much less a pixel counts the surer it is.
        weights: As for :class:`CrossEntropy`.

    Raises:
        ConfigError: ``gamma`` is negative or no number.
    """

    def __init__(self, gamma: float = 2.0, weights: Sequence[float] | str | Formula | None = None) -> None:
        super().__init__(weights)
        if not finite(gamma) or gamma < 0:
            raise ConfigError("gamma of the focal loss must be a number of at least 0", gamma, "use 2")
        self.gamma = gamma

    def sums(self, logits: Tensor, target: Tensor) -> Sums:
        """``focal`` = Σ w·(1 - p)^γ·nll and ``weight`` = Σ w, scalars."""
        logits = single(logits)
        weight = _weight_of(target, self.class_weights(logits))
        nll = functional.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
        # 1 - p without cancellation. Below γ = 1 the power has no slope at 0, where a sure pixel's nll is 0 anyway.
        unsure = (-torch.expm1(-nll)).clamp(min=torch.finfo(logits.dtype).tiny)
        return {"focal": (weight * unsure**self.gamma * nll).sum(), "weight": weight.sum()}

    def value(self, sums: Sums) -> Tensor:
        """Σ w·(1 - p)^γ·nll / Σ w, 0 without labelled pixels."""
        return sums["focal"] / torch.where(sums["weight"] > 0, sums["weight"], 1.0)


def _weight_of(target: Tensor, weights: Tensor) -> Tensor:
    """The weight of each pixel's class, (N, H, W); 0 where the target is 255."""
    labelled = target != IGNORE
    return weights[torch.where(labelled, target, 0)] * labelled
